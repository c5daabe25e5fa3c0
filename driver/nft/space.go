package nft

import (
	"cmp"
	"math"
	"slices"

	"ipsecagent/sadb"
)

// layer orders the sets of a chain: that of a lower number is looked up first.
// Numbers have gaps, so that another fits between two.
type layer int64

const (
	top    layer = 0 // above all
	bottom layer = math.MaxInt64
	gap    layer = 1 << 32
)

// entry is a filter in force with its place in the list.
type entry struct {
	filter *sadb.Filter
	pos    int
	boxes  []*placed
	kept   bool // while a list is compared with the next
}

// placed is a box of a filter with its place in the sets.
type placed struct {
	box
	entry *entry
	space *space
	slot  *slot
}

// slot is one set in each chain of a space: boxes of one layer and one shape.
// Within a layer no two boxes of different filters overlap, and of two filters
// that do the earlier is in a layer above. A layer may have several slots of one
// shape.
type slot struct {
	layer  layer
	shape  shape
	serial int
	boxes  int
	// doomed are the keys of elements that a change in progress takes out: no
	// new one may stand in their place before they are gone.
	doomed map[string]bool
}

// refuses reports whether a box cannot come into the slot now. Ranges must not
// overlap those on their way out; which do is not worth finding out.
func (s *slot) refuses(x *box, v6 bool) bool {
	if len(s.doomed) == 0 {
		return false
	}
	from, _ := x.key(s.shape, family(v6))
	return s.shape.has(ranges) || s.doomed[string(from)]
}

// space is the boxes of one direction and family. No packet is in two.
type space struct {
	dir    sadb.Directions
	v6     bool
	fields [fieldTries]trie
	slots  []*slot // as they are looked up
	last   int     // no box that is here has a higher place in the list
}

// The fields that boxes are found by; a box is kept under the first that it is
// particular about.
const (
	byRemote = iota
	byLocal
	byLocalPort
	byRemotePort
	fieldTries
)

func (x *box) fieldKeys() [fieldTries]key {
	k := [fieldTries]key{byRemote: addrKey(x.remote), byLocal: addrKey(x.local)}
	if x.kind == portFields {
		k[byLocalPort], k[byRemotePort] = portKey(x.a), portKey(x.b)
	}
	return k
}

// home says under which field a box is kept.
func home(keys [fieldTries]key) int {
	return max(0, slices.IndexFunc(keys[:], func(k key) bool { return k.bits > 0 }))
}

func (s *space) put(x *placed) {
	keys := x.fieldKeys()
	at := home(keys)
	s.fields[at].add(keys[at], x)
	x.slot.boxes++
	s.last = max(s.last, x.entry.pos)
}

func (s *space) take(x *placed) {
	keys := x.fieldKeys()
	at := home(keys)
	s.fields[at].remove(keys[at], x)
	x.slot.boxes--
}

// overlapping calls f for the boxes of other filters that overlap x, below
// nodes for which enter holds.
func (s *space) overlapping(x *placed, enter func(*node) bool, want func(*placed) bool, f func(*placed)) {
	for i, k := range x.fieldKeys() {
		s.fields[i].root.search(k, enter, func(y *placed) {
			if y.entry != x.entry && want(y) && x.overlaps(&y.box) {
				f(y)
			}
		})
	}
}

// above returns the lowest layer in which an earlier filter overlaps x.
func (s *space) above(x *placed) layer {
	found := top
	s.overlapping(x,
		func(n *node) bool { return n.high > found },
		func(y *placed) bool { return y.slot.layer > found && y.entry.pos < x.entry.pos },
		func(y *placed) { found = y.slot.layer })
	return found
}

// below returns the highest layer in which a later filter overlaps x.
func (s *space) below(x *placed) layer {
	found := bottom
	if s.last < x.entry.pos {
		return found
	}
	s.overlapping(x,
		func(n *node) bool { return n.low < found },
		func(y *placed) bool { return y.slot.layer < found && y.entry.pos > x.entry.pos },
		func(y *placed) { found = y.slot.layer })
	return found
}

// later returns the boxes of later filters that overlap x and are not below a
// layer.
func (s *space) later(x *placed, l layer) []*placed {
	var all []*placed
	s.overlapping(x,
		func(n *node) bool { return n.low <= l },
		func(y *placed) bool { return y.slot.layer <= l && y.entry.pos > x.entry.pos },
		func(y *placed) { all = append(all, y) })
	return all
}

// place gives a box its slot: below the earlier filters that overlap it, above
// the later ones, which move down where there is no room. It returns those that
// have to move; they are out of the space.
func (s *space) place(x *placed, serial func() int) (moving []*placed) {
	up, down := s.above(x), s.below(x)
	slot := s.choose(&x.box, up, down)
	if slot == nil {
		l, room := between(up, down)
		if !room {
			slot = s.choose(&x.box, up, bottom)
			l, _ = between(up, bottom)
		}
		if slot == nil {
			slot = s.newSlot(l, x.shape(), serial())
		}
	}
	x.slot = slot
	if slot.layer >= down {
		moving = s.later(x, slot.layer)
		for _, y := range moving {
			s.take(y)
		}
	}
	s.put(x)
	return moving
}

// choose returns the first slot for a box strictly between two layers.
func (s *space) choose(x *box, up, down layer) *slot {
	shape := x.shape()
	for _, t := range s.slots {
		if up < t.layer && t.layer < down && t.shape == shape && !t.refuses(x, s.v6) {
			return t
		}
	}
	return nil
}

// between returns a layer strictly between two; false: there is none.
func between(up, down layer) (layer, bool) {
	if l := up + gap; l < down {
		return l, true
	}
	l := up + (down-up)/2
	return l, l > up && l < down
}

func (s *space) newSlot(l layer, sh shape, serial int) *slot {
	t := &slot{layer: l, shape: sh, serial: serial}
	at, _ := slices.BinarySearchFunc(s.slots, t, compareSlots)
	s.slots = slices.Insert(s.slots, at, t)
	return t
}

func compareSlots(a, b *slot) int {
	return cmp.Or(cmp.Compare(a.layer, b.layer), cmp.Compare(a.shape, b.shape), cmp.Compare(a.serial, b.serial))
}
