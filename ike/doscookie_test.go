package ike

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"ipsecagent/ike/wire"
)

// TestCookieOfABusyWindows: message 1 goes out once more with the cookie in the
// place of the responder's; the answer carries it too. A second cookie, one of
// the wrong length and one that comes later change nothing.
func TestCookieOfABusyWindows(t *testing.T) {
	w, a, b := two(t, 1)
	cookie := []byte("busy now")
	h := wire.Header{}
	w.net.OnNth(w.at(a), w.at(b), 1, func(data []byte) []byte {
		h, _, _ = wire.ParseHeader(data)
		for _, c := range [][]byte{cookie[:7], cookie, []byte("another!")} {
			n := wire.Notify{DOI: 1, Protocol: wire.ProtoISAKMP, Type: wire.DoSCookie, Data: c}
			a.m.Handle(w.now, Packet{Local: w.at(a), Remote: w.at(b), Data: wire.AppendClear(nil,
				wire.Header{ICookie: h.ICookie, Version: wire.Version1, Exchange: wire.Informational},
				[]wire.Payload{{Type: wire.NotifyPayload, Body: n.Append(nil)}})})
		}
		return nil
	})
	w.net.OnNth(w.at(a), w.at(b), 2, func(data []byte) []byte {
		if !bytes.Equal(data[8:16], cookie) || !bytes.Equal(data[:8], h.ICookie[:]) {
			t.Errorf("message 1 came again as %x", data[:16])
		}
		clear(data[8:16]) // our responder has not made it
		return data
	})
	w.ask(a, b, 1)
	w.run(2 * time.Second)
	w.checkPaired(a, b)
	if len(a.sent) < 2 || w.net.Counts(w.at(a), w.at(b)).Sent > 6 {
		t.Errorf("%d datagrams", w.net.Counts(w.at(a), w.at(b)).Sent)
	}
}

// TestResponderUnderLoad: a peer that knows how is answered by a cookie, of
// which nothing is kept, and comes in with it; it is not pushed out by those
// that have shown nothing. Others come in too. A cookie of another host, for
// another offer, or guessed, is none.
func TestResponderUnderLoad(t *testing.T) {
	for _, stranger := range []bool{false, true} {
		w, a, b := two(t, 1)
		a.m.anonymous = stranger
		flood := func(begin, end int) {
			for n := begin; n < end; n++ {
				from, data := message1From(t, uint64(n))
				b.m.Handle(w.now, Packet{Local: w.at(b), Remote: from, Data: data})
			}
			for o, ok := b.m.Poll(); ok; o, ok = b.m.Poll() {
				if s, send := o.(Send); send && len(s.Data) > 200 {
					t.Fatalf("%d bytes", len(s.Data))
				}
			}
		}
		flood(0, crowdedAt+1)
		w.ask(a, b, 1)
		w.run(5 * time.Millisecond)
		w.run(10 * time.Millisecond)
		if stranger {
			w.run(2 * time.Second)
			w.checkPaired(a, b)
			continue
		}
		if n := len(b.m.mains); n != crowdedAt+1 || len(b.sent) != 1 {
			t.Fatalf("%d exchanges, %d answers", n, len(b.sent))
		}
		w.run(20 * time.Millisecond) // message 1 with the cookie
		if n := b.m.halfOpen.crowdReturned.list.Len(); n != 1 {
			t.Fatalf("%d exchanges of peers that have returned a cookie", n)
		}
		flood(10_000, 10_000+2*defaultHalfOpen)
		w.run(2 * time.Second)
		w.checkPaired(a, b)
		with := slices.Clone(a.sent[1])
		forged := func(name string, from netip.AddrPort, data []byte) {
			before := len(b.m.mains)
			b.m.Handle(w.now, Packet{Local: w.at(b), Remote: from, Data: data})
			if len(b.m.mains) != before {
				t.Errorf("%s is taken", name)
			}
		}
		with[0] ^= 1
		forged("a cookie for another initiator's cookie", w.at(a), with)
		with[0] ^= 1
		forged("a cookie of another host", netip.MustParseAddrPort("192.0.2.77:500"), with)
	}
}

// TestCookiesAge: what proved an address proves it for two epochs at most, also
// where nobody has asked for a cookie since.
func TestCookiesAge(t *testing.T) {
	for _, c := range []struct {
		after time.Duration
		taken bool
	}{{cookieEpoch - time.Second, true}, {2*cookieEpoch - time.Second, true}, {2*cookieEpoch + time.Second, false}, {24 * time.Hour, false}} {
		w, a, b := two(t, 1)
		w.ask(a, b, 1)
		w.run(time.Second)
		first := slices.Clone(a.sent[0])
		h, body, err := wire.ParseHeader(first)
		if err != nil {
			t.Fatal(err)
		}
		chain, err := wire.ParseChain(h.Next, body)
		if err != nil {
			t.Fatal(err)
		}
		sa, _ := chain.Find(wire.SAPayload)
		first[0] ^= 1 // of an exchange that b does not know
		h.ICookie[0] ^= 1
		cookie := b.m.cookies.responder(path{w.at(b), w.at(a)}, h.ICookie, sa)[0]
		copy(first[8:16], cookie[:])
		b.m.Handle(w.now.Add(c.after), Packet{Local: w.at(b), Remote: w.at(a), Data: first})
		if taken := b.m.halfOpen.len() == 1; taken != c.taken {
			t.Errorf("after %s: taken %t", c.after, taken)
		}
	}
}
