package xfrm

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/driver"
	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// The kernel says once that an association is beyond its soft limit. If that is
// lost it is found again, or nothing would renew the association; and said once.
func TestASoftExpiryThatWasLost(t *testing.T) {
	k := newKernel()
	s := situationOf(2)
	s.overlays, s.sas = nil, s.sas[:1]
	s.sas[0].Lifetime = sadb.Lifetime{Soft: sadb.Limits{Bytes: 1000}, Hard: sadb.Limits{Bytes: 2000, Time: time.Hour}}
	e := s.begin(t, k, t.TempDir())
	taken(e)
	st := k.states[s.sas[0].ID]
	st.Use.Bytes, st.Use.Packets = 1500, 15
	k.states[s.sas[0].ID] = st
	want := driver.Event(driver.Expire{ID: s.sas[0].ID})
	e.tick(now())
	if ev := taken(e); slices.Contains(ev, want) {
		t.Errorf("nothing was lost, and it is said again: %v", ev)
	}
	e.handle(overrun{"x"})
	e.tick(now())
	if ev := taken(e); !slices.Contains(ev, want) {
		t.Errorf("no soft expiry in %v", ev)
	}
	e.handle(overrun{"x"})
	e.tick(now())
	if ev := taken(e); len(ev) != 1 {
		t.Errorf("the soft expiry was said, and after another loss there is %v", ev)
	}
}

// More associations than there is room for are beyond their soft limits: each is
// said once, and then there is rest.
func TestMoreSoftExpiriesThanRoom(t *testing.T) {
	k := newKernel()
	s := situationOf(2)
	s.overlays, s.sas = nil, s.sas[:1]
	s.sas[0].Lifetime.Soft.Packets = 10
	for i := range 9 {
		sa := s.sas[0]
		sa.ID.SPI += sadb.SPI(i) + 1
		s.sas = append(s.sas, sa)
	}
	e := s.begin(t, k, t.TempDir())
	for id, st := range k.states {
		st.Use.Packets = 15
		k.states[id] = st
	}
	e.out = make(chan driver.Event, 4)
	e.handle(overrun{"x"})
	said, rounds := map[sadb.SAID]int{}, 0
	for e.suspect || e.lost {
		if rounds++; rounds > 10 {
			t.Fatal("it does not end")
		}
		e.tick(now())
		for _, ev := range taken(e) {
			if ev, ok := ev.(driver.Expire); ok {
				said[ev.ID]++
			}
		}
	}
	for _, sa := range s.sas {
		if said[sa.ID] != 1 {
			t.Errorf("the end of %s is said %d times", sa.ID, said[sa.ID])
		}
	}
}

// A soft expiry that found no room may be the last event for long: it is found
// again as soon as there is room, and a Resync says what happened.
func TestASoftExpiryThatFoundNoRoom(t *testing.T) {
	k := newKernel()
	s := situationOf(2)
	s.overlays, s.sas = nil, s.sas[:1]
	s.sas[0].Lifetime = sadb.Lifetime{Soft: sadb.Limits{Bytes: 1000}, Hard: sadb.Limits{Bytes: 2000, Time: time.Hour}}
	e := s.begin(t, k, t.TempDir())
	st := k.states[s.sas[0].ID]
	st.Use.Bytes, st.Use.Packets = 1500, 15
	k.states[s.sas[0].ID] = st
	e.out = make(chan driver.Event, 2)
	e.emit(driver.Used{})
	e.emit(driver.Used{})
	e.handle(wire.Expire{State: st})
	e.tick(now())
	taken(e)
	e.tick(now())
	ev := taken(e)
	if len(ev) != 2 || ev[1] != driver.Event(driver.Expire{ID: st.ID}) {
		t.Fatalf("events %v, want a Resync and the soft expiry", ev)
	}
	if _, ok := ev[0].(driver.Resync); !ok {
		t.Errorf("events %v: nothing says that some were lost", ev)
	}
}

// The notice of a hard limit may come when a new association has the name of the
// one that it is about: the new one stays.
func TestAHardExpiryOfANamesake(t *testing.T) {
	k := newKernel()
	s := situationOf(2)
	s.overlays, s.sas = nil, s.sas[:1]
	e := s.begin(t, k, t.TempDir())
	old := k.states[s.sas[0].ID]
	old.Use.Added = now().Add(-time.Hour)
	delete(k.states, old.ID) // the kernel ended it, the notice waits in the feed
	if err := e.addSA(s.sas[0]); err != nil {
		t.Fatal(err)
	}
	e.handle(wire.Expire{State: old, Hard: true})
	e.tick(now().Add(2 * retryAfter))
	if _, there := k.states[old.ID]; there && e.find(old.ID) == nil {
		t.Error("the new association is in the kernel and in nobody's account")
	}
	delete(k.states, old.ID)
	e.handle(wire.Expire{State: old, Hard: true})
	if e.find(old.ID) != nil {
		t.Error("it has ended, and counts as in force")
	}
}

// A host without IPv6 takes no state of IPv6, which says nothing of its suites.
func TestSuitesOfAHostWithoutIPv6(t *testing.T) {
	k := newKernel()
	both := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	all, err := k.engine("").link.suites(both)
	if err != nil || len(all) == 0 || len(k.states) != 0 {
		t.Fatalf("%d suites, %d states left, %v", len(all), len(k.states), err)
	}
	k.noIPv6 = true
	if none, err := k.engine("").link.suites(both); err != nil || len(none) != 0 {
		t.Errorf("IPv6 asked for: %d suites, %v", len(none), err)
	}
	if got, err := k.engine("").link.suites(both[:1]); err != nil || len(got) != len(all) {
		t.Errorf("IPv6 not asked for: %d suites of %d, %v", len(got), len(all), err)
	}
}

// What the kernel refuses for now has not ended by itself.
func TestAbandonSaysWhatItCouldNotEnd(t *testing.T) {
	for number, fails := range map[unix.Errno]bool{unix.ENOENT: false, unix.ENOMEM: true} {
		k := newKernel()
		s := situationOf(2)
		s.overlays, s.sas = nil, nil
		e := s.begin(t, k, t.TempDir())
		k.fail, k.number = k.messages+1, number
		if err := e.endWaiting(waiting(e, "lab")); (err != nil) != fails {
			t.Errorf("%v: error %v", number, err)
		}
	}
}

// The traffic of a temporary filter is the peer's choice: none leaves its request
// ID behind, whichever way it ends or comes to nothing.
func TestRequestIDsOfTemporaryFilters(t *testing.T) {
	k := newKernel()
	s := situationOf(2)
	s.overlays, s.sas = nil, nil
	e := s.begin(t, k, t.TempDir())
	refused := func(f func() error) error {
		k.fail, k.number = k.messages+1, unix.ENOSYS
		defer func() { k.fail = 0 }()
		if err := f(); err == nil {
			t.Fatal("the kernel has refused nothing")
		}
		e.tick(now().Add(2 * retryAfter)) // puts right what has failed
		return nil
	}
	sa := testSA(sadb.In, sadb.ESP, 0x9001)
	for what, steps := range map[string]func(sadb.Filter) []error{
		"it ends": func(o sadb.Filter) []error { return []error{e.putFilter(o), e.removeFilter(o.ID)} },
		"it ends before its association": func(o sadb.Filter) []error {
			return []error{e.putFilter(o), e.addSA(sa), e.removeFilter(o.ID), e.deleteSA(sa.ID)}
		},
		"it ends after it": func(o sadb.Filter) []error {
			return []error{e.putFilter(o), e.addSA(sa), e.deleteSA(sa.ID), e.removeFilter(o.ID)}
		},
		"an association it ended before":  func(sadb.Filter) []error { return []error{e.addSA(sa), e.deleteSA(sa.ID)} },
		"an association that was refused": func(sadb.Filter) []error { return []error{refused(func() error { return e.addSA(sa) })} },
		"it was refused":                  func(o sadb.Filter) []error { return []error{refused(func() error { return e.putFilter(o) })} },
		"its end was refused": func(o sadb.Filter) []error {
			return []error{e.putFilter(o), refused(func() error { return e.removeFilter(o.ID) }), e.removeFilter(o.ID)}
		},
		"it is too much": func(o sadb.Filter) []error {
			o.Selector.LocalPorts, o.Selector.RemotePorts = sadb.Ports{From: 1, To: 65534}, sadb.Ports{From: 1, To: 65534}
			o.Selector.Remote = sadb.Range(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.14"))
			if e.putFilter(o) == nil {
				t.Fatal("it is in force")
			}
			return nil
		},
		"it ends after a change that failed": func(o sadb.Filter) []error {
			errs := []error{e.putFilter(o)}
			e.stray()
			return append(errs, e.removeFilter(o.ID))
		},
	} {
		n := len(e.reqids.of)
		for i := range 3 {
			o := between(sadb.FilterID(fmt.Sprint(what, i)), exampleAddr(byte(i)))
			o.Expires = now().Add(time.Minute)
			sa.Filter = o.ID
			for _, err := range steps(o) {
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
		}
		if len(e.reqids.of) > n || len(e.reqids.taken) > n {
			t.Errorf("%s: %d request IDs are kept (%d numbers), %d before", what, len(e.reqids.of), len(e.reqids.taken), n)
		}
	}
}
