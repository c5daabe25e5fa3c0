package xfrm

import (
	"fmt"
	"slices"

	"ipsecagent/sadb"
)

// shape is the protocols that the newest association of a filter for some
// traffic has, where they are not ESP alone. A template says the protocol, so
// that such an association needs policies of its own above its filter's.
type shape struct {
	selector sadb.Selector
	protos   []sadb.Proto // inner first
	dir      sadb.Directions
}

// special reports whether an association is not ESP alone.
func special(a *association) bool {
	return a.SA.ID.Proto != sadb.ESP || a.SA.Bundle != (sadb.SAID{})
}

// shapesOf returns the shapes of a filter's associations, oldest first.
func shapesOf(sas []*association) (out []shape) {
	for _, a := range sas {
		s := shape{a.SA.Selector, protosOf(a.SA), a.SA.Dir}
		out = slices.DeleteFunc(out, func(t shape) bool { return t.selector == s.selector && t.dir == s.dir })
		if special(a) {
			out = append(out, s)
		}
	}
	return out
}

// protosOf returns what is applied to the traffic of an association.
func protosOf(sa sadb.SA) []sadb.Proto {
	if sa.Bundle != (sadb.SAID{}) {
		return []sadb.Proto{sadb.ESP, sadb.AH}
	}
	return []sadb.Proto{sa.ID.Proto}
}

// shaped returns the item of a shape above a filter or an overlay of it; false
// where the two have no traffic in common that one selector could say.
func (it *item) shaped(s shape) (*item, bool) {
	sel := s.selector
	switch {
	case it.filter.Dir&s.dir == 0:
		return nil, false
	case widened(it.filter.Selector, sel).Contains(sel):
	case sel.Contains(it.filter.Selector):
		sel = it.filter.Selector
	default:
		return nil, false
	}
	out := *it
	out.filter.Selector, out.shape, out.dirs = sel, s.protos, s.dir
	out.name = fmt.Sprintf("%s|%s|%s", it.name, s.dir, s.selector)
	return &out, true
}

// widened returns f with Me replaced by any: an association's own side is an
// address of this host.
func widened(f, sa sadb.Selector) sadb.Selector {
	if f.Local.IsMe() && !sa.Local.IsMe() {
		f.Local = sadb.AnyAddrs()
	}
	return f
}
