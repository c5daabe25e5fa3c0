package ike

import (
	"testing"
	"time"

	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// TestFirstPacketConfirms: message 3 is lost for good, but the initiator uses
// the pair.
func TestFirstPacketConfirms(t *testing.T) {
	w, a, b := two(t, 1)
	w.net.DropNth(w.at(a), w.at(b), 5) // message 3 of quick mode
	w.net.DropNth(w.at(b), w.at(a), 5, 6, 7, 8, 9, 10, 11, 12)
	w.ask(a, b, 1)
	w.run(time.Second)
	if len(a.established) != 1 || len(b.established) != 0 {
		t.Fatalf("a %d, b %d", len(a.established), len(b.established))
	}
	for id, sa := range b.sas {
		if sa.Dir == sadb.In {
			b.m.Handle(w.now, Used{id})
		}
	}
	w.run(300 * time.Second)
	w.checkPaired(a, b)
	if len(b.failed) != 0 {
		t.Errorf("failed %+v", b.failed)
	}
}

// TestLostConfirmationEndsBothHalves: message 3 and every packet are lost. The
// responder gives up and says so, and the initiator does not keep half a pair.
func TestLostConfirmationEndsBothHalves(t *testing.T) {
	w, a, b := two(t, 1)
	for n := 5; n < 40; n++ {
		w.net.DropNth(w.at(a), w.at(b), n)
	}
	w.ask(a, b, 1)
	w.run(200 * time.Second)
	if len(b.failed) != 1 || len(b.sas) != 0 || len(b.ended) != 1 || len(a.ended) != 1 || len(a.sas) != 0 {
		t.Errorf("a: %+v %v, b: %+v %+v %v", a.ended, a.sas, b.failed, b.ended, b.sas)
	}
}

// TestOrderAcrossBothHosts: the responder's inbound association is in force
// before message 2 leaves, the initiator's before message 3.
func TestOrderAcrossBothHosts(t *testing.T) {
	w, a, b := two(t, 1)
	b.m.Handle(w.now, SetPolicy{b.m.policy})
	w.ask(a, b, 1)
	w.run(65 * time.Millisecond)
	if len(a.m.quicks) != 1 {
		t.Fatal("not in quick mode")
	}
	b.hold = true
	sent := len(b.sent)
	w.run(60 * time.Millisecond)
	if len(b.sent) != sent {
		t.Error("message 2 left before the SPI was there")
	}
	for len(b.held) > 0 { // SPI, then the inbound association
		if len(b.sent) != sent {
			t.Error("message 2 left before the inbound association was in force")
		}
		held := b.held
		b.held = nil
		held[0]()
		w.flush()
	}
	if len(b.sent) != sent+1 || len(b.sas) != 1 {
		t.Fatalf("sent %d, %d associations", len(b.sent)-sent, len(b.sas))
	}
	a.hold = true
	sent = len(a.sent)
	w.run(15 * time.Millisecond)
	if len(a.held) != 1 || len(a.sent) != sent {
		t.Fatalf("message 3 left before the inbound association was in force (%d held)", len(a.held))
	}
	a.held[0]()
	a.held = a.held[1:]
	w.flush()
	if len(a.sent) != sent+1 || len(a.held) != 1 || len(a.established) != 0 {
		t.Errorf("after the inbound association: sent %d, held %d", len(a.sent)-sent, len(a.held))
	}
	b.hold = false
	a.release(w)
	w.run(time.Second)
	w.checkPaired(a, b)
}

// TestInitiatorThatStartedAnewLeavesNoFailure: under an old ISAKMP SA the
// answers are lost until the initiator makes a new one. What the responder had
// begun goes without being called a failure, and without ending the pair.
func TestInitiatorThatStartedAnewLeavesNoFailure(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Minute)
	for n := range 40 {
		w.net.OnNth(w.at(b), w.at(a), n+5, func(data []byte) []byte {
			if data[18] == byte(wire.QuickMode) && len(a.m.SAs()) == 1 {
				return nil
			}
			return data
		})
	}
	w.ask2(a, b, 2, mainOffer(t), 80)
	w.run(300 * time.Second)
	if len(a.failed)+len(b.failed) != 0 || len(a.m.SAs()) != 2 || len(a.established) != 2 || len(b.m.quicks) != 0 {
		t.Errorf("failed %+v %+v, %d ISAKMP SAs, %d pairs", a.failed, b.failed, len(a.m.SAs()), len(a.established))
	}
	w.checkPaired(a, b)
}
