package drivertest

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// Foreign is something another program does to what a driver has made.
type Foreign struct {
	Command string // words between spaces
	// Tampered is how the event begins to name what was restored; "": nothing
	// of the driver's goes.
	Tampered string
	// Within is how long restoring may take; 0: it is not measured.
	Within time.Duration
	// Associations says that the associations go, and Expire tells.
	Associations bool
	// Undo is the command that takes it back; until then traffic may stand
	// still. "": there is none.
	Undo string
}

// Leaks is the leak test of drivers that carry packets. Two hosts secure
// everything and flood each other while other programs act on one of them.
// Nothing but ESP may leave; afterwards the driver has said what happened to its
// own things, and traffic is carried again.
func Leaks(t *testing.T, h Harness) {
	for _, name := range h.Sample {
		if !slices.ContainsFunc(leakTests(), func(c namedTest) bool { return c.name == name }) {
			t.Fatalf("there is no test %q to sample", name)
		}
	}
	for _, c := range leakTests() {
		if h.Sample != nil && !full() && !slices.Contains(h.Sample, c.name) {
			continue
		}
		t.Run(c.name, func(t *testing.T) { c.run(newSecured(t, h)) })
	}
	t.Run("what is ours is removed", func(t *testing.T) {
		r := newSecured(t, h)
		for _, f := range h.Foreign {
			if !t.Run(f.Command, func(t *testing.T) { r.on(t).foreign(f) }) {
				return // the hosts are not what the next test takes them for
			}
		}
	})
}

func leakTests() []namedTest {
	return []namedTest{
		{"nft flush ruleset", flushRuleset},
		{"sockets bound to the device", boundToDevice},
		{"link-local addresses", linkLocal},
		{"destination NAT to the peer", destinationNAT},
		{"Docker", docker},
		{"systemd-networkd", networkd},
		{"an address goes and comes", addressReturns},
		{"another address", anotherAddress},
		{"addresses used at once", addressesAtOnce},
		{"another MTU", anotherMTU},
		{"link down and up", linkDown},
		{"filters replaced", filtersReplaced},
	}
}

// newSecured returns two hosts that require security for all their traffic and
// have associations for that between them.
func newSecured(t *testing.T, h Harness) *rig {
	r := newRig(t, h)
	r.spi = 0x1000
	r.alice.set(r.alice.everything()...)
	r.bob.set(r.bob.everything()...)
	r.connect()
	r.carries()
	return r
}

// on returns the same hosts for a test within the test.
func (r *rig) on(t *testing.T) *rig {
	s := *r
	s.T = t
	s.alice, s.bob = &end{Host: r.alice.Host, r: &s}, &end{Host: r.bob.Host, r: &s}
	return &s
}

func (e *end) ns() namespace { return namespace(e.NS) }

func (e *end) peer() *end {
	if e == e.r.alice {
		return e.r.bob
	}
	return e.r.alice
}

// everything returns filters that require security: for the peer's addresses
// "v4" and "v6", and for whatever else "rest".
func (e *end) everything() []sadb.Filter {
	return []sadb.Filter{
		whole("v4", sadb.Addr(e.peer().V4)),
		whole("v6", sadb.Addr(e.peer().V6)),
		whole("rest", sadb.AnyAddrs()),
	}
}

// whole returns a filter that requires security for all traffic with addresses.
func whole(id sadb.FilterID, remote sadb.Addrs) sadb.Filter {
	return sadb.Filter{ID: id, Name: "all traffic: " + string(id), Dir: sadb.Both, Action: require(),
		Selector: sadb.Selector{Local: sadb.Me(), Remote: remote}}
}

// connect installs associations between the hosts, both ways and for both
// families, inbound ends first. They take the traffic from those before.
func (r *rig) connect() {
	r.Helper()
	for _, from := range []*end{r.alice, r.bob} {
		for _, id := range []sadb.FilterID{"v4", "v6"} {
			r.pair(from, from.peer(), r.serving(from, id))
		}
	}
}

// serving returns a new outbound association of a host for "v4" or "v6".
func (r *rig) serving(from *end, id sadb.FilterID) sadb.SA {
	r.spi++
	src, dst := from.V4, from.peer().V4
	if id == "v6" {
		src, dst = from.V6, from.peer().V6
	}
	return associationOf(id, r.spi, src, dst)
}

// associationOf returns an outbound association for all traffic of two
// addresses. Its keys follow from its SPI.
func associationOf(id sadb.FilterID, spi sadb.SPI, src, dst netip.Addr) sadb.SA {
	suite := sadb.Suite{Proto: sadb.ESP, Encryption: sadb.AESGCM, KeyBits: 128}
	return sadb.SA{ID: sadb.SAID{Dst: dst, Proto: sadb.ESP, SPI: spi}, Src: src, Dir: sadb.Out, Suite: suite,
		EncKey: keyFor(spi, suite.EncKeyLen()), Replay: 1024, Filter: id, Pair: 77,
		Selector: sadb.Selector{}.Narrow(src, dst), Lifetime: sadb.Lifetime{Hard: sadb.Limits{Time: time.Hour}}}
}

// foreign runs a command under a flood and wants what it removed to come back.
func (r *rig) foreign(f Foreign) {
	r.underFlood(func() {
		r.alice.ns().run(r.T, f.Command)
		at := time.Now()
		if f.Tampered != "" {
			r.restored(f.Tampered)
		}
		if d := time.Since(at); f.Within != 0 && d > f.Within {
			r.Errorf("restored after %s", d)
		}
		if f.Associations {
			await(r.alice, "Expire of an association", func(e driver.Expire) bool { return e.Hard })
			r.connect()
		}
		if f.Undo != "" {
			time.Sleep(r.Silence) // the flood goes on
			r.alice.ns().run(r.T, f.Undo)
		}
		r.carries()
	})
}

// restored waits until alice's driver says that it has restored something.
func (r *rig) restored(what string) {
	r.Helper()
	await(r.alice, "Tampered with "+what, func(e driver.Tampered) bool {
		if !e.Restored {
			r.Errorf("%s is not restored", e.What)
		}
		return strings.HasPrefix(e.What, what)
	})
}

// filtersReplaced changes the list again and again: the filters that decide
// change their places, others come and go.
func filtersReplaced(r *rig) {
	r.underFlood(func() {
		for i := range 100 {
			extra := whole(sadb.FilterID(rune('a'+i%7)), sadb.Addr(netip.AddrFrom4([4]byte{10, 77, 1, byte(i)})))
			list := r.alice.everything()
			r.alice.set(slices.Insert(list, i%len(list), extra)...)
		}
	})
	r.carries()
}
