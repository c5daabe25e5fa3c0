package nft

import (
	"cmp"
	"slices"

	"ipsecagent/sadb"
)

// layout is where the filters in force stand in the table. It changes with the
// list: what stays keeps its place, so that a change costs in proportion to
// what changes.
type layout struct {
	epoch   string // part of all names: nothing made before is mistaken for ours
	entries []*entry
	byID    map[sadb.FilterID]*entry
	spaces  []*space
	chains  map[string]*chain // of single filters, by name
	tunnels int               // filters of tunnel mode
	via     bool              // what is forwarded is looked at
	serials int
	built   int // slots when it was made anew
}

// chain is what packets in clear of one filter go through.
type chain struct {
	rules []rule
	users int // boxes whose verdict is to go there
}

// change is what a new list asks of the kernel.
type change struct {
	add, remove []*placed // boxes that were and are not there, with their slots
	gone        []sadb.FilterID
	made        int // slots of a higher serial number are new
}

func newLayout(epoch string) *layout {
	l := &layout{epoch: epoch, byID: map[sadb.FilterID]*entry{}, chains: map[string]*chain{}}
	for _, dir := range []sadb.Directions{sadb.Out, sadb.In} {
		for _, v6 := range []bool{false, true} {
			l.spaces = append(l.spaces, &space{dir: dir, v6: v6})
		}
	}
	return l
}

// alike reports whether the table is the same for two filters.
func alike(f, g *sadb.Filter) bool {
	return f.ID == g.ID && f.Selector == g.Selector && f.Dir == g.Dir && f.Connections == g.Connections &&
		f.Action == g.Action && f.Mode == g.Mode && f.TunnelLocal == g.TunnelLocal && f.TunnelRemote == g.TunnelRemote
}

// update makes filters, which are valid, the list and returns what it changes.
func (l *layout) update(filters []sadb.Filter) *change {
	c := &change{made: l.serials}
	entries := l.keep(filters)
	for _, e := range l.entries {
		if !e.kept {
			l.drop(e, c)
		}
		e.kept = false
	}
	if len(l.entries) > 0 {
		for _, s := range l.spaces {
			s.last = len(filters)
		}
	}
	var fresh []*placed
	for i := range filters {
		e := entries[i]
		if e == nil {
			e = l.enter(&filters[i])
			fresh = append(fresh, e.boxes...)
		}
		e.filter, e.pos, entries[i] = &filters[i], i, e
	}
	l.entries = entries
	c.gone = slices.DeleteFunc(c.gone, func(id sadb.FilterID) bool { return l.byID[id] != nil })
	l.place(fresh, c)
	return c
}

// keep marks the entries that stay as they are and returns them in their new
// places: those whose filter is there again, in an order among them as before.
func (l *layout) keep(filters []sadb.Filter) []*entry {
	entries := make([]*entry, len(filters))
	stays := func(i, j int) bool {
		e := l.entries[i]
		if e.kept = alike(e.filter, &filters[j]); e.kept {
			entries[j] = e
		}
		return e.kept
	}
	short := min(len(l.entries), len(filters))
	begin, end := 0, 0
	for begin < short && stays(begin, begin) {
		begin++
	}
	for end < short-begin && stays(len(l.entries)-1-end, len(filters)-1-end) {
		end++
	}
	l.keepBetween(filters[begin:len(filters)-end], entries[begin:])
	return entries
}

// keepBetween does keep's work for the part of the list that is not as it was.
func (l *layout) keepBetween(filters []sadb.Filter, entries []*entry) {
	var again []*entry
	at := map[*entry]int{}
	for i := range filters {
		if e := l.byID[filters[i].ID]; e != nil && alike(e.filter, &filters[i]) {
			again, at[e] = append(again, e), i
		}
	}
	for _, e := range ascending(again) {
		e.kept, entries[at[e]] = true, e
	}
}

// ascending returns a longest part of a list whose places ascend.
func ascending(list []*entry) []*entry {
	if slices.IsSortedFunc(list, comparePlaces) {
		return list
	}
	var ends []int // ends[n]: where the best run of n+1 ends
	before := make([]int, len(list))
	for i, e := range list {
		n, _ := slices.BinarySearchFunc(ends, e, func(j int, e *entry) int { return comparePlaces(list[j], e) })
		before[i] = -1
		if n > 0 {
			before[i] = ends[n-1]
		}
		ends = append(ends[:n], append([]int{i}, ends[min(n+1, len(ends)):]...)...)
	}
	var out []*entry
	for i := ends[len(ends)-1]; i >= 0; i = before[i] {
		out = append(out, list[i])
	}
	return out
}

func comparePlaces(a, b *entry) int { return cmp.Compare(a.pos, b.pos) }

// drop takes a filter out.
func (l *layout) drop(e *entry, c *change) {
	for _, x := range e.boxes {
		x.space.take(x)
		c.doom(x)
	}
	if tunnelled(*e.filter) {
		l.tunnels--
	}
	delete(l.byID, e.filter.ID)
	c.gone = append(c.gone, e.filter.ID)
}

// doom notes that the element of a box goes. The box is out of its space.
func (c *change) doom(x *placed) {
	if x.slot.doomed == nil {
		x.slot.doomed = map[string]bool{}
	}
	from, _ := x.key(x.slot.shape, family(x.space.v6))
	x.slot.doomed[string(from)] = true
	old := *x
	c.remove = append(c.remove, &old)
}

// enter makes the entry of a new filter, its boxes not placed yet.
func (l *layout) enter(f *sadb.Filter) *entry {
	e := &entry{filter: f}
	for _, s := range l.spaces {
		if f.Dir&s.dir == 0 {
			continue
		}
		for _, b := range boxes(*f, s.v6) {
			e.boxes = append(e.boxes, &placed{box: b, entry: e, space: s})
		}
	}
	if tunnelled(*f) {
		l.tunnels++
	}
	l.byID[f.ID] = e
	return e
}

// place gives boxes their slots, from the first of the list to the last. Boxes
// that have to make room are of later filters, so that their turn comes.
func (l *layout) place(boxes []*placed, c *change) {
	for len(boxes) > 0 {
		x := boxes[0]
		boxes = boxes[1:]
		moving := x.space.place(x, l.serial)
		for _, y := range moving {
			c.doom(y)
		}
		if len(moving) > 0 {
			boxes = merged(boxes, moving)
		}
		c.add = append(c.add, x)
	}
}

// merged returns two lists as one in the order of the filters.
func merged(a, b []*placed) []*placed {
	all := slices.Concat(a, b)
	slices.SortStableFunc(all, func(x, y *placed) int { return comparePlaces(x.entry, y.entry) })
	return all
}

func (l *layout) serial() int {
	l.serials++
	return l.serials
}
