package ike

import (
	"testing"
	"time"

	"ipsecagent/ike/iketest"
	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

func TestDeadPeerIsFound(t *testing.T) {
	for name, dpd := range map[string]bool{"R-U-THERE": true, "renewal": false} {
		w, a, b := two(t, 1)
		w.ask(a, b, 1)
		w.run(time.Minute)
		for _, s := range a.m.sas {
			s.dpd = dpd
		}
		w.net.SetPath(iketest.Path{Loss: 1})
		for range 3 { // said again, it changes nothing
			a.m.Handle(w.now, Silent{a.newestPair().ID})
			w.run(time.Second)
		}
		if len(a.ended) != 0 {
			t.Errorf("%s: ended at once", name)
		}
		w.run(200 * time.Second)
		if len(a.ended) != 1 || a.ended[0].Reason != peerDead || len(a.m.pairs) != 0 {
			t.Errorf("%s: ended %+v, %d ISAKMP SAs", name, a.ended, len(a.m.sas))
		}
		if dpd && (len(a.m.sas) != 0 || len(a.m.mains) != 0) {
			t.Errorf("%s: %d ISAKMP SAs", name, len(a.m.sas))
		}
	}
}

// TestLivingPeerStays: asked on a bad network, by either end, again and again.
func TestLivingPeerStays(t *testing.T) {
	for seed := range uint64(20) {
		w, a, b := two(t, seed)
		w.ask(a, b, 1)
		w.run(time.Minute)
		w.net.SetPath(iketest.Path{Loss: 0.15, Duplicate: 0.2, Reorder: 0.2, Delay: 20 * time.Millisecond, Late: 300 * time.Millisecond})
		for i := range 20 {
			h := []*host{a, b}[i%2]
			before := len(h.sent)
			h.m.Handle(w.now, Silent{h.newestPair().ID})
			w.flush()
			if len(h.sent) != before+1 {
				t.Fatalf("seed %d: %d datagrams", seed, len(h.sent)-before)
			}
			w.run(30 * time.Second)
			if len(h.m.sas) == 0 {
				t.Fatalf("seed %d: %+v %+v", seed, a.mains, b.mains)
			}
			if h.m.established()[0].probe != nil {
				w.run(30 * time.Second)
			}
		}
		w.checkPaired(a, b)
		if len(a.ended)+len(b.ended) != 0 {
			t.Errorf("seed %d: %+v %+v", seed, a.ended, b.ended)
		}
	}
}

// TestProbeNumbersGoUp: an old question, sent again under another message ID,
// and one for another ISAKMP SA get no answer.
func TestProbeNumbersGoUp(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Minute)
	sa := a.m.established()[0]
	answers := func(send func()) int {
		before := len(b.sent)
		send()
		w.run(time.Second)
		return len(b.sent) - before
	}
	for i, c := range []struct {
		sequence uint32
		want     int
	}{{0, 1}, {0, 0}, {7, 1}, {6, 0}, {7, 0}, {8, 1}, {1 << 31, 1}} {
		if n := answers(func() { a.m.sendProbe(w.now, sa, wire.RUThere, c.sequence) }); n != c.want {
			t.Errorf("question %d, number %d: %d answers", i, c.sequence, n)
		}
	}
	for name, n := range map[string]wire.Notify{
		"short number":  {Protocol: wire.ProtoISAKMP, SPI: append(sa.icookie[:], sa.rcookie[:]...), Data: []byte{255, 255, 255}},
		"other cookies": {Protocol: wire.ProtoISAKMP, SPI: make([]byte, 16), Data: []byte{255, 255, 255, 255}},
		"protocol":      {Protocol: wire.ProtoESP, SPI: append(sa.icookie[:], sa.rcookie[:]...), Data: []byte{255, 255, 255, 255}},
	} {
		n.DOI, n.Type = 1, wire.RUThere
		p := wire.Payload{Type: wire.NotifyPayload, Body: n.Append(nil)}
		if answers(func() { a.m.sendInformational(w.now, sa, 1, p) }) != 0 {
			t.Errorf("%s: answered", name)
		}
	}
}

// TestDeletesAreAcknowledged: one that is lost is repeated, one whose answer is
// lost too, and no more often than needed. A forged answer does not count.
func TestDeletesAreAcknowledged(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Second)
	toB, toA := w.net.Counts(w.at(a), w.at(b)).Sent, w.net.Counts(w.at(b), w.at(a)).Sent
	w.net.DropNth(w.at(a), w.at(b), toB+1)
	w.net.DropNth(w.at(b), w.at(a), toA+1)
	w.net.OnNth(w.at(b), w.at(a), toA+2, func(data []byte) []byte {
		data[len(data)-1] ^= 1
		return data
	})
	a.m.Handle(w.now, Close{Pair: a.newestPair().ID, Reason: "test"})
	w.run(time.Minute)
	if len(b.ended) != 1 || len(b.m.pairs) != 0 {
		t.Errorf("ended %+v", b.ended)
	}
	if out, back := w.net.Counts(w.at(a), w.at(b)).Sent-toB, w.net.Counts(w.at(b), w.at(a)).Sent-toA; out != 4 || back != 3 {
		t.Errorf("%d deletes and %d answers", out, back)
	}
	if s := a.m.established()[0]; len(s.deletions) != 0 {
		t.Errorf("%d are still repeated", len(s.deletions))
	}
}

// TestDeletesToOthers: a peer that is not known to answer is told a few times.
func TestDeletesToOthers(t *testing.T) {
	w, a, b := two(t, 1)
	b.m.anonymous = true
	w.ask(a, b, 1)
	w.run(time.Second)
	sent := len(b.sent)
	a.m.Handle(w.now, Close{Pair: a.newestPair().ID, Reason: "test"})
	w.run(time.Minute)
	if len(b.ended) != 1 || len(b.sent) != sent {
		t.Errorf("ended %+v, %d answers", b.ended, len(b.sent)-sent)
	}
}

// TestDeletesWithoutEffect: of what is not there, of this host's own inbound
// association, twice in one message.
func TestDeletesWithoutEffect(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Second)
	w.ask2(a, b, 2, mainOffer(t), 80)
	w.run(time.Second)
	s, p := a.m.established()[0], a.established[0].Pair
	remove := func(spis ...sadb.SPI) {
		var raw [][]byte
		for _, spi := range spis {
			raw = append(raw, spiBytes(spi))
		}
		d := wire.Delete{DOI: 1, Protocol: wire.ProtoESP, SPIs: raw}
		a.m.sendInformational(w.now, s, 1, wire.Payload{Type: wire.DeletePayload, Body: d.Append(nil)})
		w.run(time.Second)
	}
	remove(0x7777)
	remove(p.Out[0].SPI) // is the peer's to delete
	if len(b.ended) != 0 {
		t.Fatalf("ended %+v", b.ended)
	}
	remove(0x7777, p.In[0].SPI, p.In[0].SPI, p.Out[0].SPI)
	remove(p.In[0].SPI)
	if len(b.ended) != 1 || len(b.m.pairs) != 1 {
		t.Errorf("ended %+v", b.ended)
	}
	remove(a.established[1].Pair.In[0].SPI)
	if len(b.ended) != 2 {
		t.Errorf("ended %+v", b.ended)
	}
}

// TestDeletesGoBeforeTheirISAKMPSA: everything with a peer is closed on a bad
// network. The peer keeps no pair.
func TestDeletesGoBeforeTheirISAKMPSA(t *testing.T) {
	for seed := range uint64(100) {
		w, a, b := two(t, seed)
		w.ask(a, b, 1)
		w.run(time.Second)
		w.ask2(a, b, 2, mainOffer(t), 80)
		w.run(time.Second)
		w.net.SetPath(iketest.Path{Loss: 0.2, Duplicate: 0.2, Reorder: 0.3, Delay: 20 * time.Millisecond, Late: 300 * time.Millisecond})
		a.m.Handle(w.now, Close{Main: true, Reason: "test"})
		w.run(time.Minute)
		if len(a.m.pairs)+len(b.m.pairs)+len(a.m.sas) != 0 || len(b.ended) != 2 {
			t.Errorf("seed %d: %d and %d pairs, %d and %d ISAKMP SAs", seed, len(a.m.pairs), len(b.m.pairs), len(a.m.sas), len(b.m.sas))
		}
	}
}

// TestNothingIsSentUnderAnISAKMPSAThatIsOver: a question behind the delete of
// its own ISAKMP SA, in one message, has no keys left to be answered with.
func TestNothingIsSentUnderAnISAKMPSAThatIsOver(t *testing.T) {
	w, a, b := two(t, 1)
	b.m.anonymous = true // and sends no delete of its own accord
	w.ask(a, b, 1)
	w.run(time.Second)
	s := a.m.established()[0]
	cookies := append(s.icookie[:], s.rcookie[:]...)
	over := wire.Delete{DOI: wire.DOIIPsec, Protocol: wire.ProtoISAKMP, SPIs: [][]byte{cookies}}
	ask := wire.Notify{DOI: wire.DOIIPsec, Protocol: wire.ProtoISAKMP, Type: wire.RUThere, SPI: cookies, Data: []byte{0, 0, 0, 1}}
	const id = 0x1234
	payloads := withHash(func(raw []byte) []byte { return s.keys.Hash1(id, raw) }, []wire.Payload{
		{Type: wire.DeletePayload, Body: over.Append(nil)}, {Type: wire.NotifyPayload, Body: ask.Append(nil)}})
	data, _, err := seal(s.keys, s.header(wire.Informational, id), s.keys.ExchangeIV(s.last, id), payloads)
	if err != nil {
		t.Fatal(err)
	}
	before := len(b.sent)
	a.m.send(s.path, data)
	w.run(time.Second)
	if len(b.m.sas) != 0 || len(b.sent) != before {
		t.Errorf("%d ISAKMP SAs are left, %d answers", len(b.m.sas), len(b.sent)-before)
	}
}
