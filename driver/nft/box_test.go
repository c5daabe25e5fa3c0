package nft

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"ipsecagent/sadb"
)

// TestLayers: whatever is changed in whatever order, no two boxes of different
// filters of one layer overlap, of two that do the earlier filter is in the
// layer above, and the change says exactly what moved.
func TestLayers(t *testing.T) {
	for seed := range uint64(200) {
		w := world{rand.New(rand.NewPCG(seed, 1))}
		l := newLayout("e")
		there := map[string]bool{}
		list := w.filters()
		for round := range 8 {
			c := l.update(slices.Clone(list))
			layersHold(t, l, fmt.Sprintf("seed %d, round %d", seed, round))
			carriedOut(t, l, c, there)
			list = w.edit(list, round)
		}
	}
}

// layersHold compares every two boxes.
func layersHold(t *testing.T, l *layout, at string) {
	t.Helper()
	all := map[*space][]*placed{}
	for _, e := range l.entries {
		for _, x := range e.boxes {
			all[x.space] = append(all[x.space], x)
		}
	}
	for _, list := range all {
		for i, x := range list {
			for _, y := range list[:i] {
				if x.entry != y.entry && x.overlaps(&y.box) && y.slot.layer >= x.slot.layer {
					t.Fatalf("%s: filter %d in layer %d, filter %d in layer %d overlap", at, y.entry.pos, y.slot.layer, x.entry.pos, x.slot.layer)
				}
			}
		}
	}
}

// carriedOut applies a change to the elements that are there, and compares them
// with the layout. No element may be added where one is.
func carriedOut(t *testing.T, l *layout, c *change, there map[string]bool) {
	t.Helper()
	name := func(x *placed) string {
		from, to := x.key(x.slot.shape, family(x.space.v6))
		if !x.slot.shape.has(ranges) {
			to = nil
		}
		return fmt.Sprintf("%d %x-%x", x.slot.serial, from, to)
	}
	for _, x := range c.add {
		if there[name(x)] {
			t.Fatalf("element %s is added twice", name(x))
		}
		there[name(x)] = true
	}
	for _, x := range c.remove {
		if !there[name(x)] {
			t.Fatalf("element %s is removed and not there", name(x))
		}
		delete(there, name(x))
		x.slot.doomed = nil
	}
	boxes := 0
	for _, e := range l.entries {
		for _, x := range e.boxes {
			if boxes++; !there[name(x)] {
				t.Fatalf("element %s is missing", name(x))
			}
		}
	}
	if boxes != len(there) {
		t.Fatalf("%d elements for %d boxes", len(there), boxes)
	}
}

// edit changes a list: filters go, come, change and move.
func (w world) edit(list []sadb.Filter, round int) []sadb.Filter {
	list = slices.Clone(list)
	for i := range 1 + w.IntN(4) {
		at := w.IntN(len(list) + 1)
		f := sadb.Filter{ID: sadb.FilterID(fmt.Sprintf("new%d.%d", round, i)), Selector: w.selector(), Dir: pick(w, sadb.Out, sadb.In, sadb.Both), Action: require}
		switch {
		case w.IntN(3) == 0 || at == len(list):
			list = slices.Insert(list, at, f)
		case w.IntN(3) == 0 && len(list) > 1:
			list = slices.Delete(list, at, at+1)
		case w.IntN(2) == 0:
			list[at].Action = pick(w, block, permit, request)
		default:
			to := w.IntN(len(list))
			list[at], list[to] = list[to], list[at]
		}
	}
	return list
}

// TestBoxesCover: the boxes of a selector cover what it matches, each packet
// once.
func TestBoxesCover(t *testing.T) {
	w := world{rand.New(rand.NewPCG(1, 1))}
	for range 3000 {
		s := w.selector()
		byFamily := map[bool][]box{false: boxes(sadb.Filter{Selector: s}, false), true: boxes(sadb.Filter{Selector: s}, true)}
		for range 20 {
			me := w.IntN(2) == 0
			f := w.flow(func(netip.Addr) bool { return me })
			n := 0
			for _, x := range byFamily[f.Local.Is6()] {
				if x.holds(f) {
					n++
				}
			}
			if want := s.Matches(f); want && n != 1 || !want && n != 0 {
				t.Fatalf("%s is in %d boxes of %s", f.Remote, n, s)
			}
		}
	}
}

// holds is what the kernel does with a box.
func (x *box) holds(f sadb.Flow) bool {
	within := func(s span, v uint16) bool { return s.from <= v && v <= s.to }
	if !x.local.Matches(f.Local, f.LocalMe) || !x.remote.Matches(f.Remote, f.RemoteMe) || !within(x.proto, uint16(f.Proto)) {
		return false
	}
	switch x.kind {
	case portFields:
		return within(x.a, f.LocalPort) && within(x.b, f.RemotePort)
	case icmpFields:
		return within(x.a, uint16(f.ICMPType)) && within(x.b, uint16(f.ICMPCode))
	}
	return true
}
