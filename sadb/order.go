package sadb

// Splice puts overlays into the ordered filters: each directly above its
// parent, those without a parent below every filter. Of the overlays of one
// parent those that may let packets pass in clear stand below those that may
// not: a narrow association's traffic stays secured under a wide soft one.
// Among equals the newer (the later in the slice) stands above. An overlay
// whose parent is not there is left out; it decides for connections of its
// parent's type only.
func Splice(filters, overlays []Filter) []Filter {
	closed, open := map[FilterID][]Filter{}, map[FilterID][]Filter{}
	for i := len(overlays) - 1; i >= 0; i-- {
		o := overlays[i]
		above := closed
		if o.Action.opens() {
			above = open
		}
		above[o.Parent] = append(above[o.Parent], o)
	}
	out := make([]Filter, 0, len(filters)+len(overlays))
	for _, f := range filters {
		for _, o := range append(closed[f.ID], open[f.ID]...) {
			o.Connections = f.Connections
			out = append(out, o)
		}
		out = append(out, f)
	}
	out = append(out, closed[""]...)
	return append(out, open[""]...)
}

// Decide returns the first filter that matches a packet with headers f in
// direction d; ok is false when none does and the packet passes unmodified.
func Decide(filters []Filter, f Flow, d Directions) (decided Filter, ok bool) {
	for _, e := range filters {
		if e.Matches(f, d) {
			return e, true
		}
	}
	return Filter{}, false
}
