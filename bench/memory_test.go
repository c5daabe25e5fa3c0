package bench

import (
	"bytes"
	"crypto/rand"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"ipsecagent/auth"
	"ipsecagent/auth/psk"
	"ipsecagent/driver/esp"
	"ipsecagent/ike"
	"ipsecagent/sadb"
)

// What a peer may cost, in bytes: established with one main mode and one pair
// of associations, everything that the agent's and the data path's side keep of
// them included; half-open as responder.
const (
	maxEstablished = 8 << 10
	maxHalfOpen    = 2 << 10
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// host is a Machine with somebody beside it who grants everything and keeps
// what an agent and a data path would.
type host struct {
	t    testing.TB
	m    *ike.Machine
	spi  sadb.SPI
	book *sadb.Book
	in   []*esp.Inbound
	out  []*esp.Outbound
}

func newHost(t testing.TB) *host {
	t.Helper()
	ring, err := psk.Parse("benchmark", []byte("a preshared key of the benchmark 0617"))
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, book: sadb.NewBook(),
		m: ike.New(ike.Config{Rand: rand.Reader, Auth: []auth.Authenticator{psk.New(ring)}})}
	main, quick := offers(t)
	h.m.Handle(epoch, ike.SetPolicy{Policy: ike.Policy{
		Main: func(ike.MainQuery) (ike.MainOffer, error) { return main, nil },
		Quick: func(q ike.QuickQuery) (ike.QuickOffer, error) {
			o := quick
			o.Selector = q.Selector
			return o, nil
		},
	}})
	return h
}

func offers(t testing.TB) (ike.MainOffer, ike.QuickOffer) {
	t.Helper()
	suite, err := sadb.ParseISAKMPSuite("aes256-sha256-ecp256")
	if err != nil {
		t.Fatal(err)
	}
	quick, err := sadb.ParseSuite("esp-aes256gcm")
	if err != nil {
		t.Fatal(err)
	}
	return ike.MainOffer{Suites: []sadb.ISAKMPSuite{suite}, Auth: []auth.Requirement{{Method: auth.PSK}}},
		ike.QuickOffer{Filter: "benchmark", Proposals: []sadb.Proposal{{Suites: []sadb.Suite{quick},
			Lifetime: sadb.Limits{Time: time.Hour, Bytes: 100 << 30}}}}
}

// take has a host take an input and answers what it asks; what it sends is
// returned.
func (h *host) take(in ike.Input) []ike.Send {
	h.m.Handle(epoch, in)
	var sent []ike.Send
	for o, ok := h.m.Poll(); ok; o, ok = h.m.Poll() {
		switch o := o.(type) {
		case ike.Send:
			sent = append(sent, o)
		case ike.Work:
			h.m.Handle(epoch, ike.WorkDone{ID: o.ID, Result: o.Run()})
		case ike.ReserveSPI:
			h.spi++
			h.m.Handle(epoch, ike.SPIReserved{ID: o.ID, SPI: 0x1000 + h.spi})
		case ike.Install:
			h.install(o.SA)
			h.m.Handle(epoch, ike.Installed{ID: o.ID})
		case ike.Established:
			h.book.Put(o.Pair)
		case ike.Failed:
			h.t.Fatalf("%s: %s", o.Step, o.Reason)
		}
	}
	return sent
}

func (h *host) install(sa sadb.SA) {
	var err error
	if sa.Dir == sadb.In {
		var in *esp.Inbound
		in, err = esp.NewInbound(sa)
		h.in = append(h.in, in)
	} else {
		var out *esp.Outbound
		out, err = esp.NewOutbound(sa)
		h.out = append(h.out, out)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// talk carries datagrams between two hosts until nobody says anything more.
func talk(a, b *host, sent []ike.Send) {
	for from, to := a, b; len(sent) > 0; from, to = to, from {
		var answers []ike.Send
		for _, s := range sent {
			answers = append(answers, to.take(toward(s))...)
		}
		sent = answers
	}
}

func here() netip.Addr       { return netip.AddrFrom4([4]byte{10, 78, 0, 1}) }
func there(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 79, byte(n / 250), byte(1 + n%250)}) }
func wish(t testing.TB, local, remote netip.Addr) ike.Initiate {
	main, quick := offers(t)
	quick.Selector = sadb.Selector{}.Narrow(local, remote)
	return ike.Initiate{Request: 1, Local: local, Remote: remote, Main: main, Quick: quick}
}

// heap returns the bytes in use after a collection.
func heap() int {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC() // what the first one only found to be free
	runtime.ReadMemStats(&stats)
	return int(stats.HeapAlloc)
}

// perPeer returns by how much the heap grows with each of n peers.
func perPeer(n int, meet func(n int)) int {
	before := heap()
	for i := range n {
		meet(i)
	}
	return (heap() - before) / n
}

// TestMemoryOfEstablishedPeers measures right after the handshakes, when the
// answers to messages that may be repeated are still kept.
func TestMemoryOfEstablishedPeers(t *testing.T) {
	const peers = 1000
	for name, meet := range map[string]func(h *host, n int){
		"responder": func(h *host, n int) {
			other := newHost(t)
			talk(other, h, other.take(wish(t, there(n), here())))
		},
		"initiator": func(h *host, n int) { talk(h, newHost(t), h.take(wish(t, here(), there(n)))) },
	} {
		h := newHost(t)
		got := perPeer(peers, func(n int) { meet(h, n) })
		if len(h.in) != peers || len(h.out) != peers || len(h.m.SAs()) != peers {
			t.Fatalf("%s: %d inbound and %d outbound associations, %d ISAKMP SAs", name, len(h.in), len(h.out), len(h.m.SAs()))
		}
		t.Logf("figure: %s: %d bytes per established peer", name, got)
		if got > maxEstablished {
			t.Errorf("%s: an established peer takes %d bytes, at most %d are wanted", name, got, maxEstablished)
		}
		runtime.KeepAlive(h)
	}
}

// TestMemoryOfHalfOpenPeers has as many peers fall silent at each stage as the
// table takes: after their first message, beyond which it answers with cookies
// alone, once they have got our half of the key exchange, and with a proof that
// cannot be read. No average is taken: a flood would go for the stage that costs
// the most.
func TestMemoryOfHalfOpenPeers(t *testing.T) {
	for stage, of := range map[string]struct {
		peers int
		reach func(h *host, n int)
	}{
		"message 1": {500, func(h *host, n int) { halfOpen(h, n, 1) }},
		"message 3": {1024, func(h *host, n int) { halfOpen(h, n, 2) }},
		"message 5": {1024, func(h *host, n int) {
			damaged := halfOpen(h, n, 2)
			damaged.Data[28] ^= 1 // the first byte behind the header
			h.take(damaged)
		}},
	} {
		h := newHost(t)
		got := perPeer(of.peers, func(n int) { of.reach(h, n) })
		if n := len(h.m.SAs()); n != 0 {
			t.Fatalf("%d peers are not half-open any more", n)
		}
		t.Logf("figure: %d bytes per half-open peer after %s", got, stage)
		if got > maxHalfOpen {
			t.Errorf("after %s a half-open peer takes %d bytes, at most %d are wanted", stage, got, maxHalfOpen)
		}
		runtime.KeepAlive(h)
	}
}

// halfOpen has a new peer go as far with h as so many answers, and returns what
// it would say next.
func halfOpen(h *host, n, answers int) ike.Packet {
	other := newHost(h.t)
	sent := other.take(wish(h.t, there(n), here()))
	for range answers {
		answered := h.take(toward(sent[0]))
		if len(answered) != 1 {
			h.t.Fatalf("%s was not answered", there(n))
		}
		if rcookie := answered[0].Data[8:16]; bytes.Equal(rcookie, make([]byte, 8)) {
			h.t.Fatalf("%s was answered by a cookie alone", there(n))
		}
		sent = other.take(toward(answered[0]))
	}
	return toward(sent[0])
}

// toward is a datagram as its receiver gets it.
func toward(s ike.Send) ike.Packet { return ike.Packet{Local: s.Remote, Remote: s.Local, Data: s.Data} }
