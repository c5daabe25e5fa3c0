package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"ipsecagent/sadb"
)

// How much work it may be to find the filters that never decide.
const (
	maxCompared = 20_000_000 // pairs of filters looked at
	maxPieces   = 256        // into which the traffic of one filter is cut
	maxNamed    = 3          // filters that a finding names
)

// traffic is what a filter takes; two with the same take the same packets.
type traffic struct {
	selector    sadb.Selector
	dir         sadb.Directions
	connections sadb.ConnectionType
}

func trafficOf(f *CompiledFilter) traffic { return traffic{f.Selector, f.Dir, f.Connections} }

// cover finds, for each filter in turn, those before it that meet it.
type cover struct {
	filters []CompiledFilter
	spaces  []space
	first   map[traffic]int
	// toOne are the filters seen so far whose remote side is one address,
	// others the rest, as indices in order.
	toOne  map[netip.Addr][]int
	others []int
	budget int
}

// filters finds filters that never decide and those that Windows would put in no
// order.
func (l *linter) filters() {
	c := &cover{filters: l.compiled.Filters, spaces: spacesOf(l.compiled.Filters), first: map[traffic]int{}, toOne: map[netip.Addr][]int{}, budget: maxCompared}
	for i := range c.filters {
		l.compare(c, i)
		c.take(i)
		if c.budget <= 0 {
			l.add(Finding{Code: FoundNotCompared, Severity: NoteSeverity, Problem: Problem{Path: "filterLists",
				Message: fmt.Sprintf("the filters from the %dth on, in the order of decision, are not compared with those before them: there are too many", i+2)},
				Object: fmt.Sprintf("policy %q", l.policy.Name), Do: "use fewer filters for sets of addresses"})
			return
		}
	}
}

func (c *cover) take(i int) {
	c.first[trafficOf(&c.filters[i])] = i
	if one, ok := c.filters[i].Selector.Remote.Single(); ok {
		c.toOne[one] = append(c.toOne[one], i)
		return
	}
	c.others = append(c.others, i)
}

// before returns the filters before the i-th that may share traffic with it.
func (c *cover) before(i int) []int {
	f := &c.filters[i]
	if one, ok := f.Selector.Remote.Single(); ok {
		return c.merged(c.toOne[one])
	}
	all := make([]int, i)
	for j := range all {
		all[j] = j
	}
	return all
}

// merged joins others and the given indices, in order.
func (c *cover) merged(same []int) []int {
	all := slices.Concat(c.others, same)
	slices.Sort(all)
	return all
}

// compare says what the filters before the i-th leave of it.
func (l *linter) compare(c *cover, i int) {
	f := &c.filters[i]
	if j, ok := c.first[trafficOf(f)]; ok {
		l.same(f, &c.filters[j])
		return
	}
	before := c.before(i)
	c.budget -= len(before) + 1
	meets := slices.DeleteFunc(before, func(j int) bool { return f.Dir&c.filters[j].Dir == 0 || !c.spaces[i].meets(&c.spaces[j]) })
	if by, covered := c.covered(i, meets); covered {
		l.shadowed(c, f, by)
		return
	}
	for _, j := range meets {
		if g := &c.filters[j]; samePlace(f, g) && treatmentOf(f) != treatmentOf(g) {
			l.aboutFilter(FoundOverlap, WarningSeverity, f, "make one of the two narrower: Windows leaves their order undefined",
				"shares traffic with %s and is as specific, but the one says %s, the other %s; here %s decides", filterName(g), g.Action, f.Action, g.Action)
		}
	}
}

// samePlace reports whether nothing but their actions orders two filters.
func samePlace(f, g *CompiledFilter) bool {
	return f.Weight-actionWeight(f.Action.Kind) == g.Weight-actionWeight(g.Action.Kind)
}

// same reports two filters of the same traffic.
func (l *linter) same(f, g *CompiledFilter) {
	if treatmentOf(f) == treatmentOf(g) {
		l.aboutFilter(FoundDuplicate, WarningSeverity, f, "remove one of the two", "is there twice: %s does the same", filterName(g))
		return
	}
	if samePlace(f, g) {
		l.aboutFilter(FoundConflict, ErrorSeverity, f, "decide for one: Windows leaves the order of such filters undefined",
			"never decides: %s has the same traffic and says %s, this one %s", filterName(g), treatmentOf(g).against(treatmentOf(f)), treatmentOf(f).against(treatmentOf(g)))
		return
	}
	l.aboutFilter(FoundShadowed, WarningSeverity, f, "remove it, or the other one", "never decides: %s has the same traffic and stands before it", filterName(g))
}

// covered reports whether the filters of meets take all traffic of the i-th, and
// which of them take any.
func (c *cover) covered(i int, meets []int) (by []int, covered bool) {
	for _, d := range []sadb.Directions{sadb.Out, sadb.In} {
		if c.filters[i].Dir&d == 0 {
			continue
		}
		for family := range c.spaces[i] {
			used, ok := c.coveredIn(i, meets, d, family)
			if !ok {
				return nil, false
			}
			by = append(by, used...)
		}
	}
	slices.Sort(by)
	return slices.Compact(by), len(by) > 0
}

// coveredIn is covered for one direction and family.
func (c *cover) coveredIn(i int, meets []int, d sadb.Directions, family int) (by []int, covered bool) {
	whole := c.spaces[i][family]
	if whole == nil {
		return nil, true
	}
	left := []region{*whole}
	for _, j := range meets {
		s := c.spaces[j][family]
		if s == nil || c.filters[j].Dir&d == 0 || !slices.ContainsFunc(left, func(r region) bool { return r.meets(s) }) {
			continue
		}
		by = append(by, j)
		c.budget -= len(left)
		left = without(left, s)
		if len(left) == 0 {
			return by, true
		}
		if len(left) > maxPieces {
			return nil, false
		}
	}
	return nil, false
}

// shadowed reports a filter whose traffic others take.
func (l *linter) shadowed(c *cover, f *CompiledFilter, by []int) {
	var names []string
	alike := true
	for _, j := range by {
		g := &c.filters[j]
		alike = alike && treatmentOf(g) == treatmentOf(f)
		if len(names) < maxNamed {
			names = append(names, filterName(g)+" ("+g.Action.String()+")")
		}
	}
	if more := len(by) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	if alike {
		l.aboutFilter(FoundRedundant, NoteSeverity, f, "remove it, or keep it for readers", "decides nothing that is not decided alike before it: %s", strings.Join(names, "; "))
		return
	}
	l.aboutFilter(FoundShadowed, WarningSeverity, f, "remove it, or make those before it narrower", "never decides (%s): all its traffic is taken before it by %s", f.Action, strings.Join(names, "; "))
}
