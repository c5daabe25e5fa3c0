package xfrm

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// setFilters puts a whole SPD in force.
func (e *engine) setFilters(filters []sadb.Filter) error {
	if err := checkFilters(filters); err != nil {
		return err
	}
	if err := e.facts.allow(filters); err != nil {
		return err
	}
	was := e.own
	if err := e.readOwn(); err != nil {
		return err
	}
	if err := e.lookAgain(); err != nil {
		return err
	}
	if e.swept && !e.suspect && slices.Equal(filters, e.filters) && slices.Equal(was, e.own) {
		return nil // all of it is in force
	}
	stay, ended := surviving(e.overlays, e.filters, filters)
	blind := e.blind
	e.blind = false
	if err := e.enforce(slices.Clone(filters), stay); err != nil {
		e.blind, e.own = blind, was
		return err
	}
	e.report(ended)
	return e.sweep()
}

// known reports whether a filter is in force or has associations.
func (e *engine) known() func(sadb.FilterID) bool {
	ids := make(map[sadb.FilterID]bool, len(e.filters))
	for _, f := range e.filters {
		ids[f.ID] = true
	}
	for _, o := range e.overlays {
		ids[o.ID] = true
	}
	for id := range e.sas.byRoot {
		ids[id] = true
	}
	return func(id sadb.FilterID) bool { return ids[id] }
}

// enforce composes a list, puts it in force and remembers it: in the book
// first, so that no policy is in force that the book does not know.
func (e *engine) enforce(filters, overlays []sadb.Filter) error {
	if e.blind {
		return fmt.Errorf("what is in force cannot be told (%s is damaged or gone): it stays until the next policy", e.book.dir)
	}
	l, err := e.compose(filters, overlays)
	if err != nil {
		return err
	}
	if err := e.book.saveFilters(e.page(filters, overlays, l)); err != nil {
		return err
	}
	before := sadb.Splice(e.filters, e.overlays)
	if err := e.table.Apply(sadb.Splice(filters, overlays)); err != nil {
		e.stray()
		return errors.Join(err, e.book.saveFilters(e.page(e.filters, e.overlays, e.list)))
	}
	if err := e.apply(l); err != nil {
		return errors.Join(err, e.table.Apply(before), e.book.saveFilters(e.page(e.filters, e.overlays, e.list)))
	}
	e.filters, e.overlays, e.astray = filters, overlays, false
	known := e.known()
	e.reqids.keep(known)
	maps.DeleteFunc(e.carried, func(id sadb.FilterID, _ tally) bool { return !known(id) })
	return nil
}

// lookAgain reads what the kernel has, if a change has failed: the next is to
// begin with what is there, not with what the answers said.
func (e *engine) lookAgain() error {
	if !e.astray {
		return nil
	}
	have, err := e.inForce()
	if err == nil {
		e.have = have
	}
	return err
}

// reshape puts the list in force anew after an association has come or gone,
// if that can change the shape of a filter.
func (e *engine) reshape(a *association) error {
	if special(a) || slices.ContainsFunc(e.sas.byRoot[a.root], special) {
		return e.regroup(e.groupOf(a.root), e.overlays)
	}
	return nil
}

// groupOf returns the group that a filter or overlay is the root of.
func (e *engine) groupOf(root sadb.FilterID) sadb.FilterID {
	for _, it := range e.list.byRoot[root] {
		return it.group
	}
	return root
}

// putFilter adds an overlay or replaces that of the same ID.
func (e *engine) putFilter(f sadb.Filter) error {
	if err := e.checkOverlay(f); err != nil {
		return err
	}
	i := slices.IndexFunc(e.overlays, func(o sadb.Filter) bool { return o.ID == f.ID })
	overlays := append(without(e.overlays, f.ID), f)
	var err error
	if f.Expires.IsZero() || i >= 0 && (e.overlays[i].Expires.IsZero() || e.overlays[i].Parent != f.Parent) {
		err = e.enforce(e.filters, overlays)
	} else {
		err = e.regroup(f.Parent, overlays)
	}
	if err != nil {
		e.unneeded(f.ID)
	}
	return err
}

// removeFilter ends an overlay.
func (e *engine) removeFilter(id sadb.FilterID) error {
	i := slices.IndexFunc(e.overlays, func(o sadb.Filter) bool { return o.ID == id })
	if i < 0 {
		return nil
	}
	return e.end(e.overlays[i])
}

// end takes an overlay out of force.
func (e *engine) end(o sadb.Filter) error {
	if o.Expires.IsZero() {
		return e.enforce(e.filters, without(e.overlays, o.ID))
	}
	return e.regroup(o.Parent, without(e.overlays, o.ID))
}

// expire ends overlays whose time has come. The kernel does so too, later by
// less than a second, and when this process is gone.
func (e *engine) expire(at time.Time) {
	for _, o := range slices.Clone(e.overlays) {
		if o.Expires.IsZero() || at.Before(o.Expires) {
			continue
		}
		if err := e.end(o); err != nil {
			e.cfg.Log.Error("end a temporary filter whose time has come", "filter", o.ID, "error", err)
			e.retry = at.Add(retryAfter)
			return
		}
		e.report([]sadb.Filter{o})
	}
}

func (e *engine) report(ended []sadb.Filter) {
	for _, o := range ended {
		e.emit(driver.FilterEnded{ID: o.ID})
	}
}

func without(overlays []sadb.Filter, id sadb.FilterID) []sadb.Filter {
	return slices.DeleteFunc(slices.Clone(overlays), func(o sadb.Filter) bool { return o.ID == id })
}

// surviving splits overlays: those that stand below all filters and those whose
// parent is there with the same selector stay.
func surviving(overlays, before, after []sadb.Filter) (stay, ended []sadb.Filter) {
	was, is := selectorsByID(before), selectorsByID(after)
	for _, o := range overlays {
		now, there := is[o.Parent]
		if o.Parent == "" || there && now == was[o.Parent] {
			stay = append(stay, o)
		} else {
			ended = append(ended, o)
		}
	}
	return stay, ended
}

func selectorsByID(filters []sadb.Filter) map[sadb.FilterID]sadb.Selector {
	m := make(map[sadb.FilterID]sadb.Selector, len(filters))
	for _, f := range filters {
		m[f.ID] = f.Selector
	}
	return m
}

// checkFilters refuses what this driver does not enforce.
func checkFilters(filters []sadb.Filter) error {
	if len(filters) > maxFilters {
		return fmt.Errorf("%d filters: at most %d", len(filters), maxFilters)
	}
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
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("filter %s (%s): "+format, append([]any{f.ID, f.Name}, args...)...)
	}
	switch {
	case f.ID == "" || len(f.ID) > 64:
		return refuse("its ID has not 1 to 64 bytes")
	case f.Action.Kind > sadb.Negotiate:
		return refuse("unknown action %s", f.Action.Kind)
	case f.Dir == 0 || f.Dir&^sadb.Both != 0:
		return refuse("no direction")
	case f.Selector.Remote.IsMe() && !f.Selector.Local.IsMe():
		return refuse("its remote side is Me: write it the other way round")
	case f.Action.Kind != sadb.Negotiate:
		return nil
	case f.Mode == sadb.Tunnel && f.Action.AllowClear:
		return refuse("a tunnel does not fall back to clear")
	case f.Mode == sadb.Tunnel && !f.TunnelRemote.IsValid():
		return refuse("its tunnel has no other end")
	case f.Action.ClearDelay != 0:
		return refuse("a delay before clear traffic (%s) is kept by an overlay, not by the kernel driver", f.Action.ClearDelay)
	}
	return nil
}

// checkOverlay refuses what cannot be an overlay of what is in force.
func (e *engine) checkOverlay(f sadb.Filter) error {
	switch {
	case f.Parent == "" && f.Expires.IsZero():
		return fmt.Errorf("it has neither a parent nor an end")
	case f.Parent != "" && !slices.ContainsFunc(e.filters, func(g sadb.Filter) bool { return g.ID == f.Parent }):
		return fmt.Errorf("its parent %s is not in force", f.Parent)
	case slices.ContainsFunc(e.filters, func(g sadb.Filter) bool { return g.ID == f.ID }):
		return fmt.Errorf("a filter of the policy has the same ID")
	case !f.Expires.IsZero() && !now().Before(f.Expires):
		return fmt.Errorf("it expired at %s", f.Expires)
	}
	return checkFilter(f)
}
