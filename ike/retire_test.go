package ike

import (
	"testing"
	"time"

	"ipsecagent/sadb"
)

// TestOldPairStaysIfTheNewOneEnds: the new pair ends before the old one has
// made way for it. The old one carries on, and can be renewed again.
func TestOldPairStaysIfTheNewOneEnds(t *testing.T) {
	ends := map[string]func(w *world, a, b *host){
		"hard limit":   func(w *world, a, b *host) { a.m.Handle(w.now, Gone{a.newestPair().ID}) },
		"closed":       func(w *world, a, b *host) { a.m.Handle(w.now, Close{Pair: a.newestPair().ID, Reason: "test"}) },
		"peer's limit": func(w *world, a, b *host) { b.m.Handle(w.now, Gone{b.newestPair().ID}) },
	}
	for name, end := range ends {
		w, a, b := two(t, 1)
		w.ask(a, b, 1)
		w.run(time.Second)
		old := a.newestPair()
		a.m.Handle(w.now, Rekey{old.ID})
		w.run(time.Second)
		end(w, a, b)
		w.run(2 * presumed)
		if a.m.pairs[old.ID] == nil || len(a.m.pairs) != 1 || len(b.m.pairs) != 1 {
			t.Errorf("%s: %d and %d pairs, ended %+v", name, len(a.m.pairs), len(b.m.pairs), a.ended)
			continue
		}
		a.m.Handle(w.now, Rekey{old.ID})
		w.run(time.Second)
		if len(a.established) != 3 || a.newestPair().Replaces != old.ID {
			t.Errorf("%s: the pair is not renewed again", name)
		}
		w.run(2 * presumed)
		if a.m.pairs[old.ID] != nil || len(a.m.pairs) != 1 || len(a.m.inbound) != 1 {
			t.Errorf("%s: at the end there are %d pairs", name, len(a.m.pairs))
		}
	}
}

// TestRetiredPairTakesItsPredecessorAlong: a pair that is replaced before it
// has carried anything leaves no older one behind.
func TestRetiredPairTakesItsPredecessorAlong(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	for range 3 {
		w.run(time.Second)
		a.m.Handle(w.now, Rekey{a.newestPair().ID})
	}
	w.run(time.Second)
	if len(a.established) != 4 || len(a.ended) != 0 {
		t.Fatalf("%d pairs, ended %+v", len(a.established), a.ended)
	}
	w.traffic(a, a.newestPair())
	w.run(2 * quiet)
	if len(a.m.pairs) != 1 || len(b.m.pairs) != 1 || a.m.pairs[a.newestPair().ID] == nil {
		t.Errorf("%d and %d pairs are left", len(a.m.pairs), len(b.m.pairs))
	}
	w.checkPaired(a, b)
}

// TestPeersRenewalLeavesOursAlone: the pair that the peer made in place of one
// ends while our own renewal of that one is on its way. It stays the only one.
func TestPeersRenewalLeavesOursAlone(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Second)
	old := a.newestPair()
	a.hold = true
	a.m.Handle(w.now, Rekey{old.ID})
	w.flush()
	a.m.forgetPair(&pairState{pair: sadb.Pair{ID: 7, Replaces: old.ID}})
	a.m.Handle(w.now, Rekey{old.ID})
	a.release(w)
	w.run(time.Second)
	if len(a.established) != 2 {
		t.Errorf("%d pairs were made, there must be one renewal", len(a.established))
	}
}

// TestOldPairWaitsForTheResponder: message 3 of a renewal is lost for a minute.
// The responder sends on the old pair all that time, so the initiator keeps it.
func TestOldPairWaitsForTheResponder(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Second)
	old := a.newestPair()
	sent := w.net.Counts(w.at(a), w.at(b)).Sent
	for n := range 40 { // all but message 1
		w.net.OnNth(w.at(a), w.at(b), sent+2+n, func(data []byte) []byte {
			if w.now.Sub(epoch) > time.Minute {
				return data
			}
			return nil
		})
	}
	a.m.Handle(w.now, Rekey{old.ID})
	for range 110 {
		w.run(time.Second)
		id, ok := b.outbound()
		if _, there := a.sas[id]; !ok || !there {
			t.Fatalf("after %s the responder sends on %v, which the initiator does not have", w.now.Sub(epoch), id)
		}
	}
	w.run(time.Minute)
	if len(a.m.pairs) != 1 || len(b.m.pairs) != 1 || a.m.pairs[a.newestPair().ID] == nil || a.newestPair().ID == old.ID {
		t.Errorf("%d and %d pairs are left", len(a.m.pairs), len(b.m.pairs))
	}
}

// TestPeerWithoutRounds: a peer that does not say rounds, another product, may
// go on with the old pair after it has renewed it; that one stays until a
// packet comes on the new one.
func TestPeerWithoutRounds(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Second)
	for _, s := range b.m.sas {
		s.agent = false
	}
	b.m.Handle(w.now, Rekey{b.newestPair().ID})
	w.run(time.Minute)
	if len(a.ended) != 0 {
		t.Errorf("ended %+v", a.ended)
	}
	w.traffic(a, a.newestPair())
	w.run(2 * quiet)
	if len(a.ended) != 1 {
		t.Errorf("ended %+v", a.ended)
	}
}

// TestPeerThatPrefersAnotherPair: two pairs were made at once with a peer of
// another kind, which sends on the one that this host ranks lower. Both stay.
func TestPeerThatPrefersAnotherPair(t *testing.T) {
	w, a, b := two(t, 1)
	b.m.anonymous = true
	w.ask(a, b, 1)
	w.run(time.Second)
	w.ask(a, b, 2)
	w.run(time.Second)
	for _, p := range b.m.pairs {
		b.m.timers.stop(p.retire) // it has its own way
	}
	first, second := a.established[0].Pair, a.established[1].Pair
	w.traffic(a, first) // the first packet comes on the older one
	w.run(2 * presumed)
	if len(a.ended) != 0 || !second.Outranks(first) {
		t.Errorf("ended %+v", a.ended)
	}
	w.traffic(a, second)
	w.run(2 * quiet)
	if len(a.ended) != 1 || a.ended[0].Pair != first.ID {
		t.Errorf("ended %+v", a.ended)
	}
}
