package xfrm

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// Overlays that come and go one by one leave what the whole list would be, and
// the next process finds the same; at each message every packet is decided by
// the list before or after.
func TestOverlaysOneByOne(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	s := situationOf(1)
	s.overlays, s.sas = nil, s.sas[:1]
	k, dir := newKernel(), t.TempDir()
	e := s.begin(t, k, dir)
	w := &watch{t: t, k: k}
	for range 30 {
		w.packets = append(w.packets, randomPacket(r))
	}
	for n := range 150 {
		w.where = fmt.Sprint("change ", n)
		before, after := slices.Clone(e.overlays), randomChange(r, s.filters, e.overlays, n)
		w.expect(e, [2][]sadb.Filter{s.filters, before}, [2][]sadb.Filter{s.filters, after})
		k.done = w.look
		if err := changeOverlays(e, before, after); err != nil {
			t.Fatal(w.where, err)
		}
		k.done = nil
		w.expect(e, [2][]sadb.Filter{s.filters, e.overlays})
		w.look()
		w.exact(e)
		if n%10 == 9 {
			e = k.open(t, dir)
			w.expect(e, [2][]sadb.Filter{s.filters, after})
			w.look()
			w.exact(e)
			if again := plan(e.have, e.policiesOf(e.list)); len(again) > 0 || len(e.overlays) != len(after) {
				t.Fatalf("%s: the next process would change %d policies, and has %d overlays of %d", w.where, len(again), len(e.overlays), len(after))
			}
		}
	}
	if k.messages > 3500 {
		t.Errorf("%d messages", k.messages)
	}
}

// randomChange returns overlays of which one has come, gone or changed.
func randomChange(r *rand.Rand, filters, overlays []sadb.Filter, n int) []sadb.Filter {
	out := slices.Clone(overlays)
	if len(out) > 0 && (len(out) > 10 || r.IntN(3) == 0) {
		i := r.IntN(len(out))
		return slices.Delete(out, i, i+1)
	}
	o := randomFilter(r, 0)
	o.ID, o.Expires = sadb.FilterID(fmt.Sprint("o", n)), now().Add(time.Hour)
	switch r.IntN(4) {
	case 0: // below all
	case 1:
		parent := filters[r.IntN(len(filters))]
		o.Parent, o.Selector.Remote = parent.ID, sadb.Addr(exampleAddr(byte(n)))
	default:
		parent := filters[r.IntN(len(filters))]
		o.Parent, o.Selector = parent.ID, parent.Selector
	}
	return append(out, o)
}

// changeOverlays makes a driver's overlays others, one by one.
func changeOverlays(e *engine, before, after []sadb.Filter) error {
	for _, o := range before {
		if !slices.Contains(after, o) {
			if err := e.removeFilter(o.ID); err != nil {
				return err
			}
		}
	}
	for _, o := range after {
		if !slices.Contains(before, o) {
			if err := e.putFilter(o); err != nil {
				return err
			}
		}
	}
	return nil
}

// An overlay among thousands of filters costs its own messages, and the book one
// small page.
func TestAnOverlayCostsItsGroupOnly(t *testing.T) {
	k, dir := newKernel(), t.TempDir()
	var filters []sadb.Filter
	for i := range 2000 {
		f := between("", exampleAddr(0))
		f.ID, f.Selector.RemotePorts = sadb.FilterID(fmt.Sprint("f", i)), sadb.Port(uint16(i+1))
		filters = append(filters, f)
	}
	e := situation{filters: filters}.begin(t, k, dir)
	was := k.messages
	if err := e.putFilter(overlayOf(filters, "f1000", "o", sadb.Action{Kind: sadb.Permit})); err != nil {
		t.Fatal(err)
	}
	if n := k.messages - was; n != 3 {
		t.Errorf("%d messages, want one for each direction and one for the table", n)
	}
	p, err := e.book.loadFilters()
	if err != nil || len(p.Overlays) != 1 || len(p.Filters) != 2000 || p.Edition != e.edition {
		t.Errorf("the book has %d overlays of %d filters: %v", len(p.Overlays), len(p.Filters), err)
	}
}

// ESP of a bundle is never in force without the policy that wants AH around it,
// in whatever order the halves come and go.
func TestHalfABundleCarriesNothing(t *testing.T) {
	k := newKernel()
	s := situationOf(1)
	s.overlays, s.sas = nil, nil
	e := s.begin(t, k, t.TempDir())
	esp, ah := testSA(sadb.Out, sadb.ESP, 0x7001), testSA(sadb.Out, sadb.AH, 0x7002)
	esp.Bundle, ah.Bundle = ah.ID, esp.ID
	k.done = func() {
		if _, there := k.states[esp.ID]; !there {
			return
		}
		best := wire.Policy{Priority: priorityBottom}
		for _, p := range k.policies {
			if p.Dir == wire.Out && p.Priority < best.Priority && meets(p.Selector, packet{src: esp.Src, dst: esp.ID.Dst, proto: sadb.TCP}) {
				best = p
			}
		}
		if len(best.Templates) != 2 {
			t.Fatalf("message %d: ESP alone may carry packets: %+v", k.messages, best.Templates)
		}
	}
	for _, order := range [][]sadb.SA{{ah, esp}, {esp, ah}} {
		for _, sa := range order {
			if err := e.addSA(sa); err != nil {
				t.Fatal(err)
			}
		}
		for _, sa := range order {
			if err := e.deleteSA(sa.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
}
