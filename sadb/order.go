package sadb

// Splice puts overlays into the ordered filters: each directly above its
// parent, the newer of two overlays of one parent (the later in the slice)
// above the older, those without a parent below every filter. An overlay whose
// parent is not there is left out.
func Splice(filters, overlays []Filter) []Filter {
	above := map[FilterID][]Filter{}
	for _, o := range overlays {
		above[o.Parent] = append([]Filter{o}, above[o.Parent]...)
	}
	out := make([]Filter, 0, len(filters)+len(overlays))
	for _, f := range filters {
		out = append(out, above[f.ID]...)
		out = append(out, f)
	}
	return append(out, above[""]...)
}

// Decide returns the first filter that matches a packet with headers f in
// direction d; ok is false when none does and the packet passes unmodified.
func Decide(filters []Filter, f Flow, d Directions) (decided Filter, ok bool) {
	for _, e := range filters {
		if e.Dir&d != 0 && e.Selector.Matches(f) {
			return e, true
		}
	}
	return Filter{}, false
}
