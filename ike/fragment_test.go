package ike

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/iketest"
	"ipsecagent/ike/wire"
)

// fatTicket is a ticket whose token is as large as one with many groups.
type fatTicket struct{ *ticket }

func (f fatTicket) Start(r auth.Request) (auth.Session, error) {
	s, err := f.ticket.Start(r)
	if err != nil {
		return nil, err
	}
	return &fatSession{s.(*ticketSession)}, nil
}

type fatSession struct{ *ticketSession }

func (s *fatSession) Token(in []byte) ([]byte, error) {
	out, err := s.ticketSession.Token(in)
	if s.initiator && in == nil && err == nil {
		out = append(out, bytes.Repeat([]byte{0x5a}, 6000)...)
		s.sent = out
	}
	return out, err
}

// largeTokens is two hosts whose message 3 has more than 6000 bytes, on a
// network that passes no datagram above a size.
func largeTokens(t *testing.T, seed uint64, passes int) (*world, *host, *host) {
	w := newWorld(t, seed)
	w.net.SetPath(iketest.Path{Delay: 10 * time.Millisecond})
	a := w.bareHost(v4[0], 1, fatTicket{newTicket("host/a")})
	b := w.bareHost(v4[1], 2, fatTicket{newTicket("host/b")})
	b.m.Handle(w.now, SetPolicy{policyOf(kerberosOffer(t), responderQuick(t))})
	a.m.Handle(w.now, Initiate{Request: 1, Local: a.addr, Remote: b.addr, Main: kerberosOffer(t), Quick: quickOffer(t, a.addr, b.addr)})
	for n := range 300 {
		w.net.OnNth(w.at(a), w.at(b), n+1, func(data []byte) []byte {
			if len(data) > passes {
				return nil
			}
			return data
		})
	}
	return w, a, b
}

func TestLargeMessagesGoInFragments(t *testing.T) {
	w, a, b := largeTokens(t, 1, pieceIPv4)
	w.run(time.Second)
	w.checkPaired(a, b)
	if n := len(b.m.assembler.waiting) + b.m.assembler.bytes; n != 0 {
		t.Errorf("%d fragments are kept", n)
	}
}

// TestFragmentsGetSmallerAfterSilence: a path with the smallest MTU passes
// them in the end.
func TestFragmentsGetSmallerAfterSilence(t *testing.T) {
	w, a, b := two(t, 1)
	a.m.startMain(w.now, path{w.at(a), w.at(b)}, mainOffer(t))
	w.run(time.Second)
	s := a.m.established()[0]
	data := make([]byte, 1100)
	h := s.header(wire.QuickMode, 7)
	h.Version = wire.Version1
	copy(data, h.Append(nil, len(data)-wire.HeaderLen))
	a.sent = nil
	a.m.repeat(w.now, &repeater{path: s.path, data: data, limit: maxSends, until: w.now.Add(giveUp), over: func(time.Time) {}})
	w.run(20 * time.Second)
	small := 0
	for i, d := range a.sent {
		if i < smallAfter && len(d) != len(data) || i >= smallAfter && len(d) > pieceSmall {
			t.Errorf("datagram %d has %d bytes", i, len(d))
		}
		if len(d) <= pieceSmall {
			small++
		}
	}
	if small == 0 {
		t.Error("no small fragments")
	}
}

func TestFragmentsOverABadNetwork(t *testing.T) {
	for seed := range uint64(60) {
		w, a, b := largeTokens(t, seed, pieceIPv4)
		w.net.SetPath(iketest.Path{Loss: 0.05, Duplicate: 0.2, Reorder: 0.2, Late: 30 * time.Millisecond, Delay: 20 * time.Millisecond})
		w.run(300 * time.Second)
		if err := paired(a, b); err != nil {
			t.Errorf("seed %d: %v %+v", seed, err, a.failed)
		}
	}
}

// TestPeerThatTakesNoFragments gets messages whole.
func TestPeerThatTakesNoFragments(t *testing.T) {
	w, a, b := largeTokens(t, 1, 1<<20)
	strip(t, w, a, b, vidFragments)
	w.run(2 * time.Second)
	w.checkPaired(a, b)
	for _, data := range a.sent {
		if data[16] == byte(wire.FragmentPayload) {
			t.Fatal("a fragment was sent")
		}
	}
}

// halfWay is a responder that waits for message 3, and the header to reach it.
func halfWay(t *testing.T) (*world, *host, *host, wire.Header) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(15 * time.Millisecond)
	for _, x := range b.m.mains {
		return w, a, b, x.header()
	}
	t.Fatal("nothing is half-open")
	return nil, nil, nil, wire.Header{}
}

func (h *host) fragmentFrom(w *world, from netip.AddrPort, head wire.Header, f wire.Fragment) {
	data := wire.AppendClear(nil, head, []wire.Payload{{Type: wire.FragmentPayload, Body: f.Append(nil)}})
	h.m.Handle(w.now, Packet{Local: w.at(h), Remote: from, Data: data})
}

// TestFragmentsAreBounded: whatever comes, little is kept, nothing of who has
// not returned a cookie, and nothing for long.
func TestFragmentsAreBounded(t *testing.T) {
	w, a, b, head := halfWay(t)
	kept := func() int { return b.m.assembler.bytes }
	for name, h := range map[string]wire.Header{
		"unknown cookies": {ICookie: [8]byte{1}, RCookie: [8]byte{2}, Version: wire.Version1, Exchange: wire.MainMode},
		"no cookie yet":   {ICookie: head.ICookie, Version: wire.Version1, Exchange: wire.MainMode},
	} {
		b.fragmentFrom(w, w.at(a), h, wire.Fragment{ID: 1, Number: 1, Data: make([]byte, 500)})
		if kept() != 0 {
			t.Errorf("%s: %d bytes are kept", name, kept())
		}
	}
	b.fragmentFrom(w, netip.MustParseAddrPort("192.0.2.99:500"), head, wire.Fragment{ID: 1, Number: 1, Data: make([]byte, 500)})
	if kept() != 0 {
		t.Error("from another address")
	}
	for id := range uint16(1000) {
		b.fragmentFrom(w, w.at(a), head, wire.Fragment{ID: id, Number: uint8(id%32) + 1, Data: make([]byte, 9000)})
	}
	if n := len(b.m.assembler.waiting); n != 1 || kept() != 9000 {
		t.Errorf("%d messages wait, %d bytes", n, kept())
	}
	for n := uint8(1); n <= 32; n++ {
		b.fragmentFrom(w, w.at(a), head, wire.Fragment{ID: 5000, Number: n, Data: make([]byte, 9000)})
	}
	if kept() > wire.MaxAssembled {
		t.Errorf("%d bytes are kept", kept())
	}
	b.fragmentFrom(w, w.at(a), head, wire.Fragment{ID: 6000, Number: 1, Data: make([]byte, 900)})
	w.run(80 * time.Second)
	if len(b.m.assembler.waiting) != 0 || kept() != 0 {
		t.Errorf("%d messages wait, %d bytes", len(b.m.assembler.waiting), kept())
	}
	w.checkPaired(a, b)
}

// TestFragmentsOfManyPeers: what all hold together is bounded.
func TestFragmentsOfManyPeers(t *testing.T) {
	w, _, b := two(t, 1)
	for n := range uint64(2 * maxAssemblies) {
		from, data := message1From(t, n)
		b.m.Handle(w.now, Packet{Local: w.at(b), Remote: from, Data: data})
	}
	for _, x := range b.m.mains {
		for n := range uint8(7) {
			b.fragmentFrom(w, x.remote, x.header(), wire.Fragment{ID: 1, Number: n + 1, Data: make([]byte, 9000)})
		}
	}
	if n := len(b.m.assembler.waiting); n > maxAssemblies || b.m.assembler.bytes > maxAssembledBytes {
		t.Errorf("%d messages, %d bytes", n, b.m.assembler.bytes)
	}
}

// TestFragmentsThatContradict: the set is dropped, and a genuine one still
// makes it.
func TestFragmentsThatContradict(t *testing.T) {
	for name, fs := range map[string][]wire.Fragment{
		"another content":     {{ID: 1, Number: 1, Data: []byte("a")}, {ID: 1, Number: 1, Data: []byte("b")}},
		"two last ones":       {{ID: 1, Number: 3, Last: true, Data: []byte("a")}, {ID: 1, Number: 2, Last: true, Data: []byte("b")}},
		"one behind the last": {{ID: 1, Number: 2, Last: true, Data: []byte("a")}, {ID: 1, Number: 3, Data: []byte("b")}},
		"last before another": {{ID: 1, Number: 3, Data: []byte("a")}, {ID: 1, Number: 2, Last: true, Data: []byte("b")}},
		"no message":          {{ID: 1, Number: 1, Last: true, Data: []byte("a")}},
	} {
		w, a, b, head := halfWay(t)
		for _, f := range fs {
			b.fragmentFrom(w, w.at(a), head, f)
		}
		if len(b.m.assembler.waiting) != 0 || b.m.assembler.bytes != 0 {
			t.Errorf("%s: kept", name)
		}
		w.run(2 * time.Second)
		w.checkPaired(a, b)
	}
}

// TestQuickModeInFragmentsOfMainMode: strongSwan's fragments say main mode and
// message ID 0, even those of a quick mode.
func TestQuickModeInFragmentsOfMainMode(t *testing.T) {
	w, a, b := two(t, 1)
	cut := 0
	for n := range 6 {
		w.net.OnNth(w.at(a), w.at(b), n+1, func(data []byte) []byte {
			h, _, err := wire.ParseHeader(data)
			if err != nil || h.Exchange != wire.QuickMode {
				return data
			}
			cut++
			h.Exchange, h.MessageID = wire.MainMode, 0
			half := len(data) / 2
			b.fragmentFrom(w, w.at(a), h, wire.Fragment{ID: uint16(n), Number: 1, Data: data[:half]})
			b.fragmentFrom(w, w.at(a), h, wire.Fragment{ID: uint16(n), Number: 2, Last: true, Data: data[half:]})
			return nil
		})
	}
	w.ask(a, b, 1)
	w.run(2 * time.Second)
	w.checkPaired(a, b)
	if cut != 2 {
		t.Errorf("%d messages were cut", cut)
	}
}

// TestNestedFragments: a fragment in fragments is refused, as is a message for
// somebody else.
func TestNestedFragments(t *testing.T) {
	w, a, b, head := halfWay(t)
	inner := wire.AppendClear(nil, head, []wire.Payload{{Type: wire.FragmentPayload, Body: wire.Fragment{ID: 2, Number: 1, Last: true, Data: []byte("x")}.Append(nil)}})
	other := head
	other.RCookie[0] ^= 1
	for _, whole := range [][]byte{inner, wire.AppendClear(nil, other, []wire.Payload{{Type: wire.NoncePayload, Body: make([]byte, 16)}})} {
		b.fragmentFrom(w, w.at(a), head, wire.Fragment{ID: 1, Number: 1, Last: true, Data: whole})
	}
	w.run(2 * time.Second)
	if b.dropped["fragments that make a message of another exchange"] != 2 {
		t.Errorf("%v", b.dropped)
	}
	w.checkPaired(a, b)
}

// FuzzFragments feeds the machine with fragments in any order.
func FuzzFragments(f *testing.F) {
	f.Add(uint64(1), []byte("\x01\x01\x00abc\x01\x02\x01def"))
	f.Add(uint64(2), bytes.Repeat([]byte{1, 2, 1, 9}, 40))
	f.Fuzz(func(t *testing.T, seed uint64, script []byte) {
		m := New(Config{Rand: randomFrom(seed)})
		m.policy = policyOf(mainOffer(t), QuickOffer{})
		x := &mainMode{path: path{netip.MustParseAddrPort("192.0.2.1:500"), netip.MustParseAddrPort("192.0.2.2:500")},
			icookie: [8]byte{1}, rcookie: [8]byte{2}, step: awaitMessage3}
		m.mains[x.key()] = x
		r := rand.New(rand.NewPCG(seed, 0))
		for i := 0; i+3 < len(script); i += 4 {
			fragment := wire.Fragment{ID: uint16(script[i] % 3), Number: script[i+1], Last: script[i+2]&1 != 0, Data: make([]byte, 1+int(script[i+3])*r.IntN(40))}
			data := wire.AppendClear(nil, x.header(), []wire.Payload{{Type: wire.FragmentPayload, Body: fragment.Append(nil)}})
			m.Handle(epoch, Packet{Local: x.local, Remote: x.remote, Data: data})
			if len(m.assembler.waiting) > 1 || m.assembler.bytes > wire.MaxAssembled || m.assembler.bytes < 0 {
				t.Fatalf("%d messages, %d bytes", len(m.assembler.waiting), m.assembler.bytes)
			}
		}
	})
}
