package ike

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"ipsecagent/ike/wire"
)

// namedFlood is a responder with a small table, a peer that its policy names,
// and a world that sends it first messages.
type namedFlood struct {
	*world
	a, b *host
	n    uint64
}

func newNamedFlood(t *testing.T, named netip.Prefix) *namedFlood {
	w, a, b := two(t, 1)
	p := policyOf(mainOffer(t), responderQuick(t))
	p.Main = func(q MainQuery) (MainOffer, error) {
		o := mainOffer(t)
		o.Named = named.Contains(q.Remote)
		return o, nil
	}
	b.m.Handle(w.now, SetPolicy{p})
	b.m.halfOpen = newHalfOpen(400)
	a.m.anonymous = true // returns no cookie but in message 3
	return &namedFlood{world: w, a: a, b: b}
}

// strangers send first messages, and go on to message 3 if they are where they
// say they are.
func (f *namedFlood) strangers(many int, real bool) {
	for range many {
		f.n++
		from, data := message1From(f.t, f.n)
		h, _, err := wire.ParseHeader(f.answer(from, data))
		if err != nil {
			f.t.Fatalf("first message %d was not answered: %v", f.n, err)
		}
		if real {
			f.answer(from, wire.AppendClear(nil, h, []wire.Payload{
				{Type: wire.KEPayload, Body: bytes.Repeat([]byte{9}, 64)}, {Type: wire.NoncePayload, Body: make([]byte, 32)}}))
		}
	}
}

// answer has the responder take a datagram, beside what goes on in the world.
func (f *namedFlood) answer(from netip.AddrPort, data []byte) (answer []byte) {
	m := f.b.m
	m.Handle(f.now, Packet{Local: f.at(f.b), Remote: from, Data: data})
	for o, ok := m.Poll(); ok; o, ok = m.Poll() {
		switch o := o.(type) {
		case Work:
			m.Handle(f.now, WorkDone{o.ID, o.Run()})
		case Send:
			answer = o.Data
		}
	}
	return answer
}

// TestNamedPeerComesThroughAFlood: of forged addresses and of real ones, which
// return the cookie, whether its own has come back yet or not.
func TestNamedPeerComesThroughAFlood(t *testing.T) {
	for stage, reached := range map[string]time.Duration{"message 1": 15 * time.Millisecond, "message 3": 35 * time.Millisecond} {
		f := newNamedFlood(t, netip.MustParsePrefix("192.0.2.1/32"))
		f.ask(f.a, f.b, 1)
		f.run(reached)
		f.strangers(2*f.b.m.halfOpen.size, false)
		f.strangers(2*f.b.m.halfOpen.size, true)
		f.run(400 * time.Millisecond) // before anything is repeated
		if err := paired(f.a, f.b); err != nil {
			t.Errorf("after %s: %v", stage, err)
		}
	}
}

// TestNamedAddressesForged: whoever knows which addresses policy names can push
// out what none of them has gone on with, and no more.
func TestNamedAddressesForged(t *testing.T) {
	f := newNamedFlood(t, netip.MustParsePrefix("0.0.0.0/0"))
	f.ask(f.a, f.b, 1)
	f.run(35 * time.Millisecond)
	f.strangers(2*f.b.m.halfOpen.size, false)
	f.run(400 * time.Millisecond)
	f.checkPaired(f.a, f.b)
}

// TestNamedShareIsBounded: the crowd keeps what is not the named peers', and
// gives way to them within that.
func TestNamedShareIsBounded(t *testing.T) {
	f := newNamedFlood(t, netip.MustParsePrefix("10.1.0.0/16"))
	h := f.b.m.halfOpen
	f.strangers(2*h.size, false)
	if h.crowd.list.Len() != h.size {
		t.Fatalf("the crowd has %d of %d places", h.crowd.list.Len(), h.size)
	}
	f.n = 1 << 16
	f.strangers(2*h.size, false)
	f.strangers(2*h.size, true)
	// The last one has just moved from the one to the other.
	if named, returned := h.named.list.Len(), h.namedReturned.list.Len(); named != h.size/4-1 || returned != h.size/4 || h.crowd.list.Len() != h.size/2 {
		t.Errorf("of %d places the crowd has %d, the named peers %d and %d", h.size, h.crowd.list.Len(), named, returned)
	}
	if len(f.b.m.mains) != h.len() {
		t.Errorf("%d exchanges", len(f.b.m.mains))
	}
}

// TestNamedPeersAreComputedForFirst: the key exchange with a peer that policy
// names does not wait behind those of all that return a cookie.
func TestNamedPeersAreComputedForFirst(t *testing.T) {
	for named, low := range map[string]bool{"192.0.2.1/32": false, "192.0.2.9/32": true} {
		f := newNamedFlood(t, netip.MustParsePrefix(named))
		var first *Work
		f.watch = func(h *host, o Output) {
			if work, ok := o.(Work); ok && h == f.b && first == nil {
				first = &work
			}
		}
		f.ask(f.a, f.b, 1)
		f.run(time.Second)
		f.checkPaired(f.a, f.b)
		if first.Low != low || first.Unproven == low {
			t.Errorf("%s is named, and the work is %+v", named, first)
		}
		if n := f.b.m.strangers.total + f.b.m.provers.total + len(f.b.m.strangers.waiting) + len(f.b.m.provers.waiting); n != 0 {
			t.Errorf("%d pieces of work are still counted", n)
		}
	}
}
