package test

import (
	"crypto/rand"
	"net/netip"
	"testing"
	"time"

	"ipsecagent/auth"
	"ipsecagent/auth/psk"
	"ipsecagent/ike"
	"ipsecagent/sadb"
)

// Honest peers that live in the test: IKE machines behind a tap, each with an
// address of its own.

// stranger is one of them.
type stranger struct {
	addr   netip.Addr
	m      *ike.Machine
	begun  time.Time
	main   time.Time // when the main mode was made
	pairs  []time.Time
	failed []ike.Failed
	proved bool // it has sent its proof
	spi    sadb.SPI
}

// crowd is all of them.
type crowd struct {
	t       *testing.T
	wire    *tap
	members map[netip.Addr]*stranger
	main    ike.MainOffer
	quick   ike.QuickOffer
	auth    auth.Authenticator
	other   func(datagram)      // takes what is for nobody
	hold    func(ike.Send) bool // keeps a datagram back
}

func newCrowd(t *testing.T, wire *tap, c combination, key string) *crowd {
	t.Helper()
	main, err := sadb.ParseISAKMPSuite(c.main)
	if err != nil {
		t.Fatal(err)
	}
	quick, err := sadb.ParseSuite(c.method)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := psk.Parse("test", []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return &crowd{t: t, wire: wire, members: map[netip.Addr]*stranger{}, auth: psk.New(ring), other: func(datagram) {},
		main: ike.MainOffer{Suites: []sadb.ISAKMPSuite{main}, Lifetime: 8 * time.Hour, Auth: []auth.Requirement{{Method: auth.PSK}}},
		quick: ike.QuickOffer{Filter: "test", Proposals: []sadb.Proposal{{Suites: []sadb.Suite{quick},
			Lifetime: sadb.Limits{Time: time.Hour, Bytes: 1 << 40}}}}}
}

// join adds a peer that asks for a pair of associations at once.
func (c *crowd) join(addr netip.Addr) *stranger {
	s := &stranger{addr: addr, begun: time.Now(), spi: 0x1000}
	s.m = ike.New(ike.Config{Rand: rand.Reader, Auth: []auth.Authenticator{c.auth}})
	s.m.Handle(s.begun, ike.SetPolicy{Policy: ike.Policy{
		Main: func(ike.MainQuery) (ike.MainOffer, error) { return c.main, nil },
		Quick: func(q ike.QuickQuery) (ike.QuickOffer, error) {
			o := c.quick
			o.Selector = q.Selector
			return o, nil
		},
	}})
	c.members[addr] = s
	c.ask(s, 1)
	return s
}

// ask has a peer ask for a pair.
func (c *crowd) ask(s *stranger, request uint64) {
	quick := c.quick
	quick.Selector = sadb.Selector{Local: sadb.Addr(s.addr), Remote: sadb.Addr(c.wire.us)}
	s.m.Handle(time.Now(), ike.Initiate{Request: request, Local: s.addr, Remote: c.wire.us, Main: c.main, Quick: quick})
	c.drain(s)
}

// run lets them all go on until a condition holds; false: not within d.
func (c *crowd) run(d time.Duration, until func() bool) bool {
	for deadline := time.Now().Add(d); ; {
		if until() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		if p, ok := c.wire.receive(5 * time.Millisecond); ok {
			c.deliver(p)
		}
		now := time.Now()
		for _, s := range c.members {
			if at := s.m.Deadline(); !at.IsZero() && !at.After(now) {
				s.m.Tick(now)
				c.drain(s)
			}
		}
	}
}

// deliver takes a datagram to whom it is for.
func (c *crowd) deliver(p datagram) {
	s := c.members[p.to.Addr()]
	if s == nil {
		c.other(p)
		return
	}
	s.m.Handle(time.Now(), ike.Packet{Local: p.to, Remote: p.from, Data: p.data})
	c.drain(s)
}

// drain does what a peer's machine asks for, and grants everything.
func (c *crowd) drain(s *stranger) {
	for o, ok := s.m.Poll(); ok; o, ok = s.m.Poll() {
		now := time.Now()
		switch o := o.(type) {
		case ike.Send:
			s.proved = s.proved || len(o.Data) > 19 && o.Data[19]&1 != 0 // encrypted
			if c.hold == nil || !c.hold(o) {
				c.wire.send(o.Local, o.Remote.Port(), o.Data)
			}
		case ike.Work:
			s.m.Handle(now, ike.WorkDone{ID: o.ID, Result: o.Run()})
		case ike.ReserveSPI:
			s.spi++
			s.m.Handle(now, ike.SPIReserved{ID: o.ID, SPI: s.spi})
		case ike.Install:
			s.m.Handle(now, ike.Installed{ID: o.ID})
		case ike.Established:
			s.pairs = append(s.pairs, now)
		case ike.Failed:
			s.failed = append(s.failed, o)
		case ike.MainMode:
			if o.Ended == "" {
				s.main = now
			}
		}
	}
}

// paired counts the peers among some that have a pair.
func paired(some []*stranger) int {
	n := 0
	for _, s := range some {
		if len(s.pairs) > 0 {
			n++
		}
	}
	return n
}
