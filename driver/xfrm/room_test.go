package xfrm

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ipsecagent/driver"
	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// climb moves a list in force to the highest priorities that there are.
func (e *engine) climb(t *testing.T) {
	t.Helper()
	l, err := e.compose(e.filters, e.overlays)
	if err != nil {
		t.Fatal(err)
	}
	priorities := make([]uint32, len(l.items))
	for i := range priorities {
		priorities[i] = priorityTop + 1 + uint32(i)
	}
	l.stand(priorities)
	if err := e.book.saveFilters(e.page(e.filters, e.overlays, l)); err != nil {
		t.Fatal(err)
	}
	if err := e.apply(l); err != nil {
		t.Fatal(err)
	}
}

// crowded is a situation whose next list has new filters between two others.
func crowded(seed uint64) situation {
	s, r := situationOf(seed), rand.New(rand.NewPCG(seed, 9))
	for i := range 5 {
		s.after = slices.Insert(slices.Clone(s.after), 1, randomFilter(r, 30+i))
	}
	s.after = distinct(s.after)
	return s
}

// When there are no priorities left above what is in force, all of it is put in
// force below, as often as need be, and at each message every packet is decided
// by the list before or after.
func TestPrioritiesNeverRunOut(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 22))
	lowered := 0
	for seed := range uint64(12) {
		s := crowded(seed)
		k, dir := newKernel(), t.TempDir()
		e := s.begin(t, k, dir)
		w := &watch{t: t, k: k, where: "no room above"}
		for range 25 {
			w.packets = append(w.packets, randomPacket(r))
		}
		e.climb(t)
		w.expect(e, [2][]sadb.Filter{s.filters, s.overlays}, [2][]sadb.Filter{s.after, s.overlays})
		k.done = w.look
		if err := e.setFilters(s.after); err != nil {
			t.Fatal(err)
		}
		k.done = nil
		w.expect(e, [2][]sadb.Filter{s.after, s.overlays})
		w.look()
		w.exact(e)
		if e.list.items[0].priority > priorityFirst {
			lowered++
		}
		e.climb(t)
		closes := overlayOf(s.after, s.after[len(s.after)-1].ID, "closes", sadb.Action{})
		if err := e.putFilter(closes); err != nil {
			t.Fatal(err)
		}
		next := k.open(t, dir)
		if again := plan(next.have, next.policiesOf(next.list)); len(again) > 0 {
			t.Errorf("the next process would change %d policies", len(again))
		}
	}
	if lowered < 6 {
		t.Errorf("only %d of 12 lists had to be lowered", lowered)
	}
}

// A process that dies while a list is put in force below leaves what the next
// finds its way from.
func TestDeathWhileAListIsLowered(t *testing.T) {
	lower := operation{"SetFilters", func(e *engine, s situation) error { return e.setFilters(s.after) }}
	for n := 1; n < 200; n += 7 {
		s := crowded(1)
		k, dir := newKernel(), t.TempDir()
		e := s.begin(t, k, dir)
		e.climb(t)
		r := rand.New(rand.NewPCG(uint64(n), 5))
		w := &watch{t: t, k: k, where: "death while a list is lowered"}
		for range 25 {
			w.packets = append(w.packets, randomPacket(r))
		}
		k.die = k.messages + n
		died := !lives(t, func() error { return lower.do(e, s) })
		w.expect(e, append(goals(lower, s), [2][]sadb.Filter{s.filters, s.overlays})...)
		w.look()
		w.recover(dir, s.after, 1+r.IntN(12))
		if !died {
			return
		}
	}
	t.Error("it does not end")
}

// Filters are added at one place of a list ten thousand times.
func TestTenThousandAtOnePlace(t *testing.T) {
	var in []uint32
	for n := range 11000 {
		slots := make([]slot, len(in), len(in)+1)
		for i, p := range in {
			slots[i].now = p
		}
		if n >= 1000 {
			slots = slices.Insert(slots, 500, slot{})
		} else {
			slots = append(slots, slot{})
		}
		out, ok := prioritise(slots)
		if !ok {
			out = spread(len(slots))
		}
		if len(out) != n+1 || !slices.IsSorted(out) || out[0] <= priorityTop || out[n] >= priorityBottom {
			t.Fatalf("%d priorities", len(out))
		}
		in = out
	}
}

// The notice of an end that crossed its renewal ends nothing.
func TestAnEndThatCrossedItsRenewal(t *testing.T) {
	for _, lost := range []bool{false, true} { // the renewed policy, too
		k := newKernel()
		s := situationOf(1)
		s.sas = nil
		e := s.begin(t, k, t.TempDir())
		taken(e)
		i := slices.IndexFunc(e.list.items, func(it *item) bool { return it.filter.ID == "pair" })
		old := e.have[keyOf(e.list.items[i].policies[0])]
		delete(k.policies, keyOf(old)) // at its time
		o := s.overlays[0]
		o.Expires = o.Expires.Add(time.Hour)
		if err := e.putFilter(o); err != nil {
			t.Fatal(err)
		}
		if lost {
			delete(k.policies, keyOf(old))
		}
		e.handle(wire.PolicyExpire{Policy: old, Hard: true})
		e.tick(now())
		for _, ev := range taken(e) {
			if f, ok := ev.(driver.FilterEnded); ok {
				t.Errorf("%s has ended", f.ID)
			}
		}
		if _, there := k.policies[keyOf(old)]; !there || !alike(k.policies, e.have) || len(e.overlays) != 1 {
			t.Errorf("renewed, and then lost %v: the policy is there %v, all is known %v, %d overlays", lost, there, alike(k.policies, e.have), len(e.overlays))
		}
	}
}

// With the book of filters lost and that of associations there, no association
// counts as a filter's that its state does not serve, and none of those states
// carries what it was not made for.
func TestAssociationsOfOtherRequestIDs(t *testing.T) {
	k, dir := newKernel(), t.TempDir()
	e := k.open(t, dir)
	lab := situationOf(1).filters[0]
	first := lab
	first.ID, first.Selector.Proto = "first", sadb.TCP
	if err := e.setFilters([]sadb.Filter{first, lab}); err != nil {
		t.Fatal(err)
	}
	sa := testSA(sadb.Out, sadb.ESP, 0x9001)
	sa.Record = "of the pair"
	if err := e.addSA(sa); err != nil {
		t.Fatal(err)
	}
	was := k.states[sa.ID].ReqID
	if a := k.open(t, dir).find(sa.ID); a == nil || a.SA.Record != sa.Record {
		t.Error("an association of its filter was not adopted, or not what is written down of it")
	}
	if err := e.book.write(filtersFile, "damaged"); err != nil {
		t.Fatal(err)
	}
	e = k.open(t, dir)
	if err := e.setFilters([]sadb.Filter{lab, first}); err != nil {
		t.Fatal(err)
	}
	if len(e.sas.byID) != 0 || len(k.states) != 0 || e.reqids.id("lab") == was || e.reqids.id("first") == was {
		t.Errorf("%d associations, %d states, request IDs %#x and %#x, the state's %#x", len(e.sas.byID), len(k.states), e.reqids.id("lab"), e.reqids.id("first"), was)
	}
}
