package user

import (
	"fmt"
	"slices"
	"time"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// setFilters puts a whole SPD in force, said by its difference from the list
// of number base: first in the table, then for the workers. On an error
// everything stays as it was.
func (e *engine) setFilters(base uint64, runs []stretch) error {
	if base != 0 && base != e.base {
		return fmt.Errorf("set filters: a change of list %d, and list %d is in force: set them again", base, e.base)
	}
	if base != 0 && unchanged(runs, len(e.filters)) {
		return nil
	}
	var before []sadb.Filter
	if base != 0 {
		before = e.filters
	}
	filters, err := compose(before, runs)
	if err != nil {
		return fmt.Errorf("set filters: %w", err)
	}
	if err := checkFilters(filters); err != nil {
		return fmt.Errorf("set filters: %w", err)
	}
	overlays, ended := surviving(e.overlays, e.filters, filters)
	if err := e.enforce(filters, overlays); err != nil {
		return fmt.Errorf("set filters: %w", err)
	}
	e.base++
	for _, o := range ended {
		e.emit(driver.FilterEnded{ID: o.ID})
	}
	return nil
}

// checkFilters refuses what this driver does not enforce.
func checkFilters(filters []sadb.Filter) error {
	seen := map[sadb.FilterID]bool{}
	for _, f := range filters {
		switch {
		case seen[f.ID]:
			return fmt.Errorf("filter %s (%s) is there twice", f.ID, f.Name)
		case f.Overlay():
			return fmt.Errorf("filter %s (%s) is an overlay of %s: it comes by PutFilter", f.ID, f.Name, f.Parent)
		}
		if err := checkFilter(f); err != nil {
			return err
		}
		seen[f.ID] = true
	}
	return nil
}

func checkFilter(f sadb.Filter) error {
	switch {
	case f.Action.Kind > sadb.Negotiate:
		return fmt.Errorf("filter %s (%s): unknown action %s", f.ID, f.Name, f.Action.Kind)
	case f.Dir == 0 || f.Dir&^sadb.Both != 0:
		return fmt.Errorf("filter %s (%s): no direction", f.ID, f.Name)
	case f.Mode == sadb.Tunnel && f.Action.Kind == sadb.Negotiate && f.Action.AllowClear:
		return fmt.Errorf("filter %s (%s): a tunnel does not fall back to clear", f.ID, f.Name)
	case f.Action.ClearDelay != 0:
		return fmt.Errorf("filter %s (%s): a delay before clear traffic (%s) is not enforced by the userspace driver: set it to 0", f.ID, f.Name, f.Action.ClearDelay)
	}
	return nil
}

// surviving splits overlays: those that stand below all filters and those whose
// parent is there as before stay.
func surviving(overlays, before, after []sadb.Filter) (stay, end []sadb.Filter) {
	selector, same := map[sadb.FilterID]sadb.Selector{}, map[sadb.FilterID]bool{"": true}
	for _, o := range overlays {
		same[o.Parent] = o.Parent == ""
	}
	for _, f := range before {
		if _, parent := same[f.ID]; parent {
			selector[f.ID] = f.Selector
		}
	}
	for _, f := range after {
		if was, ok := selector[f.ID]; ok {
			same[f.ID] = was == f.Selector
		}
	}
	for _, o := range overlays {
		if same[o.Parent] {
			stay = append(stay, o)
		} else {
			end = append(end, o)
		}
	}
	return stay, end
}

// putFilter adds an overlay or replaces the one of the same ID.
func (e *engine) putFilter(ws []wireFilter) error {
	if len(ws) != 1 {
		return fmt.Errorf("put filter: %d filters in the request, not one", len(ws))
	}
	f, err := ws[0].filter()
	if err != nil {
		return fmt.Errorf("put filter: %w", err)
	}
	if err := e.checkOverlay(f); err != nil {
		return fmt.Errorf("put filter: %w", err)
	}
	overlays := append(without(e.overlays, f.ID), f)
	if err := e.enforce(e.filters, overlays); err != nil {
		return fmt.Errorf("put filter %s: %w", f.ID, err)
	}
	e.due(f.Expires)
	return nil
}

func (e *engine) checkOverlay(f sadb.Filter) error {
	switch {
	case indexOf(e.filters, f.ID) >= 0:
		return fmt.Errorf("filter %s (%s) is no overlay: it comes by SetFilters", f.ID, f.Name)
	case f.Parent != "" && indexOf(e.filters, f.Parent) < 0:
		return fmt.Errorf("filter %s (%s): its parent %s is not in force", f.ID, f.Name, f.Parent)
	case f.Parent == "" && f.Expires.IsZero():
		return fmt.Errorf("filter %s (%s) has neither a parent nor an end", f.ID, f.Name)
	}
	return checkFilter(f)
}

func indexOf(filters []sadb.Filter, id sadb.FilterID) int {
	return slices.IndexFunc(filters, func(f sadb.Filter) bool { return f.ID == id })
}

// without returns a copy of filters that lacks id.
func without(filters []sadb.Filter, id sadb.FilterID) []sadb.Filter {
	return slices.DeleteFunc(slices.Clone(filters), func(f sadb.Filter) bool { return f.ID == id })
}

func (e *engine) removeFilter(id sadb.FilterID) error {
	if indexOf(e.filters, id) >= 0 {
		return fmt.Errorf("remove filter %s: it is no overlay: SetFilters without it", id)
	}
	if indexOf(e.overlays, id) < 0 {
		return nil
	}
	if err := e.enforce(e.filters, without(e.overlays, id)); err != nil {
		return fmt.Errorf("remove filter %s: %w", id, err)
	}
	return nil
}

// endOverlays takes out the overlays whose time is over.
func (e *engine) endOverlays(now time.Time) {
	var stay, over []sadb.Filter
	for _, o := range e.overlays {
		if o.Expires.IsZero() || now.Before(o.Expires) {
			stay = append(stay, o)
			e.due(o.Expires)
		} else {
			over = append(over, o)
		}
	}
	if len(over) == 0 {
		return
	}
	if err := e.enforce(e.filters, stay); err != nil {
		e.log.Error("cannot end temporary filters; they stay in force", "error", err)
		e.due(now.Add(retryDelay))
		return
	}
	for _, o := range over {
		e.emit(driver.FilterEnded{ID: o.ID})
	}
}

// enforce puts filters and overlays in force. The table comes first: what it
// steers before the workers know the filter goes to the engine, which by then
// does.
func (e *engine) enforce(filters, overlays []sadb.Filter) error {
	all := sadb.Splice(filters, overlays)
	if err := e.table.Apply(all); err != nil {
		return err
	}
	base := e.spd.base
	if !base.of(filters) {
		base = newPeerIndex(filters)
	}
	e.filters, e.overlays, e.spd = filters, overlays, splicedSPD(base, all)
	e.wait.prune(e.spd)
	snap := *e.sh.snap.Load()
	snap.spd = e.spd
	e.sh.snap.Store(&snap)
	e.rebind()
	return nil
}
