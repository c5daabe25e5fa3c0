package policy

import (
	"net/netip"
	"slices"

	"ipsecagent/sadb"
)

// How much work it may be to compare how two policies treat traffic, and how
// much of the outcome is kept.
const (
	maxLooked  = 30_000_000 // filters looked at
	maxChanges = 1000
)

// FlowChange is traffic that two policies treat differently.
type FlowChange struct {
	// Traffic is what a filter of one of the two covers, Dir the directions.
	Traffic     sadb.Selector
	Connections sadb.ConnectionType
	Dir         sadb.Directions
	// Before and After are the treatments in words.
	Before, After string
	// Partly: not all of Traffic; more specific filters decide about the rest.
	Partly bool
	// Example is a packet of it.
	Example Question
}

// flowDiffer compares how two lists of filters treat traffic.
type flowDiffer struct {
	old, new diffSide
	budget   int
	found    []FlowChange
	more     int
	at       map[FlowChange]int // by what it says, without example
}

// diffSide is one of two policies compared.
type diffSide struct {
	filters []CompiledFilter
	spaces  []space
	words   []treatment
	// toOne are the filters whose remote side is one address, others the
	// rest, as indices in order.
	toOne  map[netip.Addr][]int
	others []int
}

func diffSideOf(c *Compiled) diffSide {
	s := diffSide{filters: c.Filters, spaces: spacesOf(c.Filters), words: make([]treatment, len(c.Filters)), toOne: map[netip.Addr][]int{}}
	for i := range c.Filters {
		s.words[i] = treatmentOf(&c.Filters[i])
		if one, ok := c.Filters[i].Selector.Remote.Single(); ok {
			s.toOne[one] = append(s.toOne[one], i)
		} else {
			s.others = append(s.others, i)
		}
	}
	return s
}

// cell is traffic of one direction and family.
type cell struct {
	region region
	dir    sadb.Directions
	family int
}

// diffFlows returns the traffic that two policies treat differently, how many
// more changes there are, and whether all of it was compared. Only what a filter
// covers that stands in one of the two alone can be treated differently: what is
// left decides in the same order.
func diffFlows(a, b *Compiled) (found []FlowChange, more int, whole bool) {
	d := &flowDiffer{old: diffSideOf(a), new: diffSideOf(b), budget: maxLooked, at: map[FlowChange]int{}}
	done := compared{toOne: map[netip.Addr][]cell{}}
	for _, f := range d.changed() {
		for _, dir := range []sadb.Directions{sadb.Out, sadb.In} {
			for family, r := range spaceOf(&f.Filter) {
				if r == nil || f.Dir&dir == 0 {
					continue
				}
				here := cell{*r, dir, family}
				if d.root(f, here, done.near(f)); d.budget <= 0 {
					return d.found, d.more, false
				}
				done.add(f, here)
			}
		}
	}
	return d.found, d.more, true
}

// compared are the cells that were compared: those of filters whose remote side
// is one address by that, and all.
type compared struct {
	toOne       map[netip.Addr][]cell
	others, all []cell
}

func (c *compared) add(f *CompiledFilter, here cell) {
	c.all = append(c.all, here)
	if one, ok := f.Selector.Remote.Single(); ok {
		c.toOne[one] = append(c.toOne[one], here)
		return
	}
	c.others = append(c.others, here)
}

// near returns those that may share traffic with a filter.
func (c *compared) near(f *CompiledFilter) []cell {
	if one, ok := f.Selector.Remote.Single(); ok {
		return slices.Concat(c.toOne[one], c.others)
	}
	return c.all
}

// changed returns the filters that only one of the two has, each traffic once,
// the most specific first.
func (d *flowDiffer) changed() []*CompiledFilter {
	type place struct {
		id      sadb.FilterID // orders filters of one weight
		traffic traffic
		weight  int
		words   treatment
	}
	at := func(s *diffSide, i int) place {
		return place{s.filters[i].ID, trafficOf(&s.filters[i]), s.filters[i].Weight, s.words[i]}
	}
	count := map[place]int{}
	for i := range d.old.filters {
		count[at(&d.old, i)]++
	}
	for i := range d.new.filters {
		count[at(&d.new, i)]--
	}
	seen := map[traffic]bool{}
	var all []*CompiledFilter
	for _, s := range []*diffSide{&d.old, &d.new} {
		for i := range s.filters {
			f := &s.filters[i]
			if count[at(s, i)] != 0 && !seen[trafficOf(f)] {
				seen[trafficOf(f)] = true
				all = append(all, f)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b *CompiledFilter) int { return b.Weight - a.Weight })
	return all
}

// root compares the traffic of one changed filter, without what was compared for
// those before it.
func (d *flowDiffer) root(f *CompiledFilter, whole cell, done []cell) {
	left := []region{whole.region}
	for i := range done {
		d.budget--
		if done[i].dir != whole.dir || done[i].family != whole.family || !done[i].region.meets(&whole.region) {
			continue
		}
		if left = without(left, &done[i].region); len(left) > maxPieces {
			left = []region{whole.region} // compared twice rather than in crumbs
			break
		}
	}
	same := len(left) != 1 || left[0] != whole.region
	first := len(d.found)
	for _, r := range left {
		same = d.compare(f, cell{r, whole.dir, whole.family}, d.old.near(f), d.new.near(f)) || same
	}
	for i := first; same && i < len(d.found); i++ {
		d.found[i].Partly = true
	}
}

// near returns the filters that may share traffic with one, in order.
func (s *diffSide) near(f *CompiledFilter) []int {
	all := s.others
	if one, ok := f.Selector.Remote.Single(); ok {
		all = slices.Concat(all, s.toOne[one])
		slices.Sort(all)
		return all
	}
	all = make([]int, len(s.filters))
	for i := range all {
		all[i] = i
	}
	return all
}

// compare looks for differences in a cell and reports whether some of it is
// treated alike. The two lists are the filters that may meet it, in order.
func (d *flowDiffer) compare(f *CompiledFilter, c cell, old, new []int) (same bool) {
	old, oldDecides := d.narrowed(&d.old, c, old)
	new, newDecides := d.narrowed(&d.new, c, new)
	if d.budget <= 0 {
		return true
	}
	if oldDecides && newDecides {
		return d.decided(f, c, old, new)
	}
	s, by := &d.old, old
	if oldDecides {
		s, by = &d.new, new
	}
	inside, outside := c.region.minus(s.spaces[by[0]][c.family])
	same = d.compare(f, cell{inside, c.dir, c.family}, old, new)
	for _, r := range outside {
		same = d.compare(f, cell{r, c.dir, c.family}, old, new) || same
	}
	return same
}

// narrowed returns those of the filters that meet a cell, and whether one filter,
// or none, decides about all of it.
func (d *flowDiffer) narrowed(s *diffSide, c cell, filters []int) (left []int, decides bool) {
	d.budget -= len(filters) + 1
	for _, i := range filters {
		r := s.spaces[i][c.family]
		if r == nil || s.filters[i].Dir&c.dir == 0 || !r.meets(&c.region) {
			continue
		}
		left = append(left, i)
		if r.contains(&c.region) {
			break // nothing behind it decides
		}
	}
	return left, len(left) == 0 || s.spaces[left[0]][c.family].contains(&c.region)
}

// decided compares a cell about which one filter, or none, decides on each side.
func (d *flowDiffer) decided(f *CompiledFilter, c cell, old, new []int) (same bool) {
	before, after := d.old.treatment(old), d.new.treatment(new)
	if before == after {
		return true
	}
	change := FlowChange{Traffic: f.Selector, Connections: f.Connections, Before: before.against(after), After: after.against(before)}
	example := c.region.packet(c.dir, families()[c.family])
	i, again := d.at[change]
	switch {
	case again && i < 0: // counted
	case again:
		d.found[i].Dir |= c.dir
		if plainness(example) > plainness(d.found[i].Example) {
			d.found[i].Example = example
		}
	case len(d.found) >= maxChanges:
		d.at[change] = -1
		d.more++
	default:
		d.at[change] = len(d.found)
		change.Dir, change.Example = c.dir, example
		d.found = append(d.found, change)
	}
	return false
}

// plainness says how well a packet reads as an example: what it is first, then
// with whom.
func plainness(q Question) int {
	v6 := q.Flow.Remote.Is6()
	plain := 2 * familiarity(q.Flow.Proto, v6)
	if _, other := examples(v6); q.Flow.Remote == other {
		plain++
	}
	return plain
}

func familiarity(p uint8, v6 bool) int {
	switch {
	case p == sadb.TCP:
		return 3
	case p == sadb.UDP:
		return 2
	case p == sadb.ICMP && v6 || p == sadb.ICMPv6 && !v6:
		return 0 // no packet of this world
	}
	return 1
}

func (s *diffSide) treatment(by []int) treatment {
	if len(by) == 0 {
		return treatmentOf(nil)
	}
	return s.words[by[0]]
}
