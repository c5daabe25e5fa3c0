package xfrm

import (
	"errors"
	"slices"

	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// A group is what stands in the list for one filter, in one piece: overlays of
// it, shapes of its associations, itself; the group "" is the overlays below all
// filters. A change of overlays that expire concerns nothing but their group, so
// that it costs as much as the group and not as the list. (An overlay that does
// not expire may make filters of its selector superfluous, see shadowed.)

// regroup puts a list in force that differs from the one in force in the
// overlays or shapes of one group alone.
func (e *engine) regroup(group sadb.FilterID, overlays []sadb.Filter) error {
	begin, end, ok := e.list.span(group)
	if e.blind || e.astray || !ok {
		return e.enforce(e.filters, overlays)
	}
	part, ok := e.composeGroup(group, overlays, begin, end)
	if !ok {
		return e.enforce(e.filters, overlays)
	}
	if err := e.book.saveGroup(e.groupPage(group, overlays, part.items)); err != nil {
		return err
	}
	was := e.list.items[begin:end]
	forget := func() error { return e.book.saveGroup(e.groupPage(group, e.overlays, was)) }
	before := sadb.Splice(e.filters, e.overlays)
	if err := e.table.Apply(sadb.Splice(e.filters, overlays)); err != nil {
		e.stray()
		return errors.Join(err, forget())
	}
	if err := e.carry(plan(e.haveOf(was), part.policies())); err != nil {
		return errors.Join(err, e.table.Apply(before), forget())
	}
	ended := slices.DeleteFunc(slices.Clone(e.overlays), func(o sadb.Filter) bool {
		return slices.ContainsFunc(overlays, func(stays sadb.Filter) bool { return stays.ID == o.ID })
	})
	e.overlays = overlays
	e.replace(begin, end, part)
	for _, o := range ended {
		e.unneeded(o.ID)
	}
	return nil
}

// unneeded takes the request ID of a filter back that is in force no more and
// has no association: peers choose the traffic of temporary ones.
func (e *engine) unneeded(root sadb.FilterID) {
	if len(e.list.byRoot[root]) == 0 && len(e.sas.byRoot[root]) == 0 {
		e.reqids.drop(root)
	}
}

// span returns where the items of a group stand, false if it has none.
func (l *list) span(group sadb.FilterID) (begin, end int, ok bool) {
	begin = slices.IndexFunc(l.items, func(it *item) bool { return it.group == group })
	if begin < 0 {
		return len(l.items), len(l.items), group == "" // the last one
	}
	end = begin
	for end < len(l.items) && l.items[end].group == group {
		end++
	}
	return begin, end, true
}

// composeGroup makes a group anew that takes the place of items begin to end;
// false when there is no room for it.
func (e *engine) composeGroup(group sadb.FilterID, overlays []sadb.Filter, begin, end int) (*list, bool) {
	var filters []sadb.Filter
	if i := slices.IndexFunc(e.filters, func(f sadb.Filter) bool { return f.ID == group }); i >= 0 {
		filters = e.filters[i : i+1]
	}
	filters = sadb.Splice(filters, overlaysOf(group, overlays))
	part := e.itemsOf(filters, e.seenAbove(begin, filters))
	slots, err := e.fill(part)
	if err != nil {
		return nil, false
	}
	top, bottom := uint32(priorityTop), uint32(priorityBottom)
	if begin > 0 {
		top = e.list.items[begin-1].priority
	}
	if end < len(e.list.items) {
		bottom = e.list.items[end].priority
	}
	priorities, ok := fit(slots, top, bottom)
	if ok {
		part.stand(priorities)
	}
	return part, ok
}

// seenAbove returns which selectors of filters the items above a place decide.
func (e *engine) seenAbove(place int, filters []sadb.Filter) map[sadb.Selector]sadb.Directions {
	seen := map[sadb.Selector]sadb.Directions{}
	for _, it := range e.list.items[:place] {
		for i := range filters {
			if it.shape == nil && it.filter.Selector == filters[i].Selector {
				shadowed(seen, it.filter)
			}
		}
	}
	return seen
}

func overlaysOf(group sadb.FilterID, overlays []sadb.Filter) []sadb.Filter {
	return slices.DeleteFunc(slices.Clone(overlays), func(o sadb.Filter) bool { return o.Parent != group })
}

// haveOf returns what the kernel has of some items.
func (e *engine) haveOf(items []*item) map[key]wire.Policy {
	out := map[key]wire.Policy{}
	for _, it := range items {
		for _, p := range it.policies {
			if is, there := e.have[keyOf(p)]; there {
				out[keyOf(p)] = is
			}
		}
	}
	return out
}

// replace puts a part in the place of items begin to end of the list in force.
func (e *engine) replace(begin, end int, part *list) {
	for _, it := range e.list.items[begin:end] {
		delete(e.places, it.name)
		delete(e.list.byRoot, it.root)
		for _, p := range it.policies {
			delete(e.list.byKey, keyOf(p))
		}
	}
	e.list.items = slices.Replace(e.list.items, begin, end, part.items...)
	for _, it := range part.items {
		e.places[it.name] = standing{it.priority, it.variant}
		e.list.byRoot[it.root] = append(e.list.byRoot[it.root], it)
		for _, p := range it.policies {
			e.list.byKey[keyOf(p)] = it
		}
	}
}

// policies returns those of all items, in order.
func (l *list) policies() []wire.Policy {
	var all []wire.Policy
	for _, it := range l.items {
		all = append(all, it.policies...)
	}
	return all
}
