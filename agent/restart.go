package agent

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/driver"
	"ipsecagent/ike"
	"ipsecagent/policy"
	"ipsecagent/sadb"
)

const (
	// renewEvery spaces what a restart makes anew.
	renewEvery = 100 * time.Millisecond
	// renewAfter is about how long the first of it waits.
	renewAfter = 2 * time.Second
	// retireAfter is how long a pair stays that another one replaces.
	retireAfter = time.Minute
)

// start puts in force what is assigned, or leaves the driver as it is where
// that cannot be known.
func (a *Agent) start(now time.Time) {
	a.event(now, control.EventAgentStarted, "info", "the agent has started", map[string]string{"version": a.cfg.Version})
	a.readHost(now)
	a.reportLost(now, a.unconfirmed)
	if a.cfg.Directory == nil && a.domain != nil { // this host takes none any more
		a.domain = nil
		a.keepDirectory(nil)
	}
	as, _, known, _ := a.decided()
	if !known {
		a.lookAtLibrary(now)
		a.startUnknown(now)
		return
	}
	if err := a.reload(now, "started"); err != nil && a.inForce.state == 0 {
		a.startRestored(now, as, err)
	}
}

// startUnknown starts a host on which nothing was ever assigned or unassigned,
// or that has lost the memory of it. What an earlier process enforced then
// stays: to open it is for the administrator to say.
func (a *Agent) startUnknown(now time.Time) {
	state, err := a.driverState()
	if err == nil && len(state.Filters) == 0 && a.cfg.Remembered == "" {
		c, _ := a.prepare(assignment{}, policy.Assignment{State: policy.None})
		if err = a.put(now, c, "started"); err == nil {
			return
		}
	}
	words := "the data path enforces filters of an earlier agent, but nothing is known to be assigned: they stay as they are until you assign or unassign a policy"
	switch {
	case err != nil:
		words = "what the data path enforces is not known: " + err.Error()
	case a.cfg.Remembered != "":
		words = fmt.Sprintf("policy %q was in force on this host, but nothing is known to be assigned: what is in force, boot filters too, stays as it is until you assign or unassign a policy", a.cfg.Remembered)
	}
	a.held = words
	a.problem("policy", words)
	a.event(now, control.EventAgent, "warning", words, nil)
}

// startRestored puts the kept copy of the assigned policy in force after its
// source failed with cause.
func (a *Agent) startRestored(now time.Time, as assignment, cause error) {
	last := a.last
	if as.From == fromDirectory { // whatever it assigned then
		last = a.domain
		if last != nil {
			as.Name = last.Name
		}
	}
	if last == nil || last.Name != as.Name || last.Auth != as.Auth || last.Compat != as.Compat || a.lost != "" {
		a.held = "the policy that is assigned cannot be put in force, and there is no kept copy of it: what the data path enforces stays as it is"
		return
	}
	got, err := a.source.restore(last)
	if err == nil {
		var c candidate
		if c, err = a.prepare(as, got); err == nil {
			err = a.put(now, c, "the kept copy, its source does not load")
		}
	}
	if err != nil {
		cause = errors.Join(cause, fmt.Errorf("nor was its kept copy put in force: %w", err))
	}
	a.reject(now, as.Name, cause)
}

// reportDamage says that the state file was set aside.
func (a *Agent) reportDamage(now time.Time, aside string) {
	words := "the state file was damaged and is set aside as " + aside + ": assign the policy again"
	a.problem("state", words)
	a.event(now, control.EventAgent, "error", words, nil)
}

func (a *Agent) driverState() (driver.State, error) {
	ctx, cancel := a.driverContext()
	defer cancel()
	state, err := a.cfg.Driver.State(ctx)
	if err == nil {
		a.carries = abilities{state.Name, state.Suites, state.ModeTunnel}
	}
	return state, err
}

// settle takes over, once, what an earlier process has left: pairs that store,
// driver and policy agree on are adopted and renewed, pairs that the driver
// has lost are made anew; what else is in force and ours goes.
func (a *Agent) settle(now time.Time) {
	if a.settled {
		return
	}
	state, err := a.driverState()
	if err != nil {
		a.event(now, control.EventAgent, "error", "what is in force from an earlier process cannot be read: "+err.Error(), nil)
		return
	}
	a.settled = true
	a.knowOverlays(now, state)
	there := associations(state)
	a.takeRecords(now, state, there)
	at := now.Add(jitter(renewAfter))
	for _, p := range a.book.All() {
		main, quick, ok := a.inForce.snapshot.offersFor(p, methodOf(p))
		switch {
		case !ok: // sweep ends it
			continue
		case whole(p, there):
			a.adoptPair(now, at, ike.Adopt{Pair: p, Main: main, Quick: quick})
		default:
			a.remake(now, at, p)
		}
		at = at.Add(renewEvery)
	}
	a.remakeOrphans(now, at, state)
	a.removeOrphans(now, state)
	a.shortenUnserved(now)
}

// takeRecords books what the driver carries whole and the store does not know:
// the former agent ended before it could write the pair down.
func (a *Agent) takeRecords(now time.Time, state driver.State, there map[sadb.SAID]sadb.SA) {
	for _, s := range state.SAs {
		if _, known := a.book.Get(s.SA.Pair); known || s.SA.Record == "" {
			continue
		}
		p, err := parseRecord(s.SA.Record)
		if err != nil {
			a.event(now, control.EventAgent, "warning", fmt.Sprintf("what was written down about %s cannot be read, it is negotiated anew: %v", s.SA.ID, err), nil)
			continue
		}
		if whole(p, there) {
			a.book.Put(p)
			a.proven.put(plain(p.Remote), now)
			a.bookChanged(now)
		}
	}
}

// remakeOrphans has made anew what the driver carries and no pair accounts
// for: half of a bundle, or what has no record that can be read.
func (a *Agent) remakeOrphans(now, at time.Time, state driver.State) {
	for _, s := range state.SAs {
		sa := s.SA
		if _, known := a.book.Get(sa.Pair); known || sa.Dir != sadb.Out {
			continue
		}
		response := a.inForce.snapshot.response != nil && responseOffer(a.inForce.snapshot.response, sa.Selector).Filter == sa.Filter
		a.remake(now, at, sadb.Pair{Filter: sa.Filter, Local: sa.Src, Remote: sa.ID.Dst, Selector: sa.Selector,
			Since: s.Added, Lifetime: sa.Lifetime.Hard, DefaultResponse: response})
		at = at.Add(renewEvery)
	}
}

func associations(state driver.State) map[sadb.SAID]sadb.SA {
	there := make(map[sadb.SAID]sadb.SA, len(state.SAs))
	for _, s := range state.SAs {
		there[bare(s.SA.ID)] = s.SA
	}
	return there
}

// bare returns id without the zone of a link-local address.
func bare(id sadb.SAID) sadb.SAID {
	id.Dst = plain(id.Dst)
	return id
}

// whole reports whether every association of a pair is there and is what the
// pair says.
func whole(p sadb.Pair, there map[sadb.SAID]sadb.SA) bool {
	for _, id := range slices.Concat(p.In, p.Out) {
		if sa, ok := there[bare(id)]; !ok || sa.Pair != p.ID || sa.Filter != p.Filter || sa.Selector != p.Selector {
			return false
		}
	}
	return len(p.In) > 0 && len(p.Out) > 0
}

// adoptPair takes a pair of an earlier process over and has it renewed: its
// keys and its ISAKMP SA are not known here.
func (a *Agent) adoptPair(now, at time.Time, in ike.Adopt) {
	p := in.Pair
	a.adopted[p.ID] = true
	a.cfg.IKE.Submit(in)
	a.protect(now, p)
	a.event(now, control.EventAdopted, "info", fmt.Sprintf("association with %s taken over from the earlier agent: %s", p.Remote, p.Flow), a.pairFields(p))
	if a.newest(p).ID != p.ID {
		a.timers.at(now.Add(retireAfter), func(now time.Time) { a.retire(now, p.ID) })
		return
	}
	a.rekeying[p.ID] = true
	a.timers.at(at, func(now time.Time) { a.rekey(now, p.ID) })
}

// newest returns the pair that carries what p carries on both ends, if several
// can.
func (a *Agent) newest(p sadb.Pair) (newest sadb.Pair) {
	for _, q := range a.book.All() {
		if q.Filter == p.Filter && q.Selector == p.Selector && (newest.ID == 0 || q.Outranks(newest)) {
			newest = q
		}
	}
	return newest
}

// retire ends a pair that was replaced before the earlier agent ended and
// would have gone soon.
func (a *Agent) retire(now time.Time, id sadb.PairID) {
	if p, ok := a.book.Get(id); ok && a.newest(p).ID != id {
		a.endPair(now, id, ending{reason: "a newer pair carries its traffic", tell: true})
	}
}

// remake has a pair made anew that the driver has lost: the peer still holds
// its half and would send into the void.
func (a *Agent) remake(now, at time.Time, p sadb.Pair) {
	if _, ok := a.book.Remove(p.ID); ok {
		a.bookChanged(now)
	}
	if newer := a.newest(p); newer.ID != 0 && newer.Outranks(p) {
		return
	}
	key := talkKey{p.Filter, p.Selector}
	if a.talks.byKey[key] != nil || pairEnds(p).Before(now) || !a.roomFor(now, true) {
		return
	}
	t := &talk{key: key, local: p.Local, remote: p.Remote, since: now, why: "its former association is gone", wanted: true, response: p.DefaultResponse}
	a.talks.add(t, true)
	a.later(t, at)
}

// remakeUnder has a pair that policy no longer wants made anew as policy wants
// it now, if another filter secures its traffic: the peer would otherwise wait
// for this host, and this host for traffic.
func (a *Agent) remakeUnder(now, at time.Time, p sadb.Pair) {
	offer, err := a.inForce.snapshot.quick(queryFor(p, methodOf(p)))
	if err != nil || offer.DefaultResponse && !p.DefaultResponse {
		return
	}
	p.Filter, p.Selector, p.DefaultResponse = offer.Filter, offer.Selector, offer.DefaultResponse
	a.remake(now, at, p)
}

// removeOrphans ends associations of ours that no pair accounts for.
func (a *Agent) removeOrphans(now time.Time, state driver.State) {
	known := map[sadb.SAID]bool{}
	for _, h := range a.halves {
		for _, id := range h.ids {
			known[bare(id)] = true
		}
	}
	for _, p := range a.book.All() {
		for _, id := range slices.Concat(p.In, p.Out) {
			known[bare(id)] = true
		}
	}
	for _, s := range state.SAs {
		if !known[bare(s.SA.ID)] {
			a.deleteSAs(now, []sadb.SAID{s.SA.ID})
		}
	}
}

// knowOverlays books the temporary filters of an earlier process.
func (a *Agent) knowOverlays(now time.Time, state driver.State) {
	for _, s := range state.Filters {
		f := s.Filter
		o := overlay{kind: securedOverlay, filter: f, since: now, why: "since before the agent was started anew"}
		o.local, _ = f.Selector.Local.Single()
		o.remote, _ = f.Selector.Remote.Single()
		switch {
		case f.Parent == "" && f.Expires.IsZero():
			continue // of the policy
		case f.Parent == "":
			o.kind = responseOverlay
		case f.Action.Kind == sadb.Permit:
			o.kind = softOverlay
		}
		a.overlays[f.ID] = o
	}
}

// shortenUnserved lets the grace begin for what keeps traffic secured without
// a pair that could carry it.
func (a *Agent) shortenUnserved(now time.Time) {
	for _, o := range a.overlays {
		filter := o.filter.Parent
		if o.kind == responseOverlay {
			filter = o.filter.ID
		}
		a.unprotect(now, sadb.Pair{Filter: filter, Selector: o.filter.Selector}, grace)
	}
}
