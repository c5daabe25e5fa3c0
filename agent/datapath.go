package agent

import (
	"errors"
	"fmt"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/sadb"
)

// reconnectEvery is how soon a lost data path is asked for again.
const reconnectEvery = 2 * time.Second

// enforceAgain brings the driver to what is in force: events were lost, or the
// data path began anew.
func (a *Agent) enforceAgain(now time.Time) {
	if a.inForce.state == 0 {
		return
	}
	if err := a.setFilters(a.inForce.compiled); err != nil {
		a.reject(now, a.inForce.name, fmt.Errorf("the data path did not take the filters again: %w", err))
		a.retryLater(now, retryDriver)
		return
	}
	a.putOverlays(now)
	state, err := a.driverState()
	if err != nil {
		a.event(now, control.EventAgent, "error", "the state of the data path cannot be read: "+err.Error(), nil)
		return
	}
	there := associations(state)
	at := now
	for _, p := range a.book.All() {
		if whole(p, there) {
			continue
		}
		a.endPair(now, p.ID, ending{reason: "the data path has lost it", tell: true})
		a.remake(now, at, p)
		at = at.Add(renewEvery)
	}
	a.removeOrphans(now, state)
}

// guard puts the temporary filters into a new data path, which takes them only
// above filters that are there. The first filters it gets therefore require
// security for what the temporary ones keep secured: nothing of that may leave
// in clear in between. An error is met again by enforceAgain.
func (a *Agent) guard(now time.Time) {
	if a.inForce.state == 0 || len(a.overlays) == 0 {
		return
	}
	ctx, cancel := a.driverContext()
	defer cancel()
	if err := a.cfg.Driver.SetFilters(ctx, a.guarded()); err != nil {
		a.event(now, control.EventAgent, "warning", "the new data path did not take the first filters: "+err.Error(), nil)
		return
	}
	a.putOverlays(now)
}

// putOverlays gives the driver every temporary filter again, the soft ones last
// and only where all above them are there: none of the traffic they also cover
// may leave in clear for want of what keeps it secured.
func (a *Agent) putOverlays(now time.Time) {
	naked := map[sadb.FilterID]bool{}
	for id, o := range a.overlays {
		if o.kind != softOverlay && !a.putAgain(now, id, o) {
			naked[o.filter.Parent] = true
		}
	}
	for id, o := range a.overlays {
		switch {
		case o.kind != softOverlay:
		case naked[o.filter.Parent]:
			a.removeOverlay(now, id)
		default:
			a.putAgain(now, id, o)
		}
	}
}

// putAgain gives the driver a temporary filter again and forgets it if that
// fails; one that is over has not failed.
func (a *Agent) putAgain(now time.Time, id sadb.FilterID, o overlay) bool {
	over := o.filter.Expires.Before(now)
	if !over && a.putOverlay(now, o) == nil {
		return true
	}
	delete(a.overlays, id)
	return over
}

// guarded returns the filters with security required wherever a temporary
// filter requires it for a part of the traffic.
func (a *Agent) guarded() []sadb.Filter {
	spd := enforced(a.inForce.compiled.SPD())
	secured := map[sadb.FilterID]bool{}
	for id, o := range a.overlays {
		switch o.kind {
		case securedOverlay:
			secured[o.filter.Parent] = true
		case responseOverlay:
			f := o.filter
			f.ID, f.Expires = sadb.NewFilterID("guard", string(id)), time.Time{}
			spd = append(spd, f)
		}
	}
	for i := range spd {
		if secured[spd[i].ID] {
			spd[i].Action = sadb.Action{Kind: sadb.Negotiate}
		}
	}
	return spd
}

// loseDriver begins to ask for a new data path.
func (a *Agent) loseDriver(now time.Time, why string) error {
	a.cfg.Driver.Close()
	if a.cfg.Reconnect == nil {
		return errors.New("agent: run: " + why)
	}
	a.lost = why
	a.problem("data path", why+": what must be secured is dropped until it is back")
	a.event(now, control.EventDataPathLost, "error", why+"; what must be secured is dropped until it is back", nil)
	a.reconnect()
	return nil
}

func (a *Agent) reconnect() {
	ctx, connect, answers := a.ctx, a.cfg.Reconnect, a.joined
	go func() {
		d, err := connect(ctx)
		answers <- joined{d, err}
	}()
}

// joinDriver goes on with a new data path.
func (a *Agent) joinDriver(now time.Time, j joined) {
	if j.err != nil {
		a.problem("data path", a.lost+", and does not come back: "+j.err.Error())
		a.timers.at(now.Add(reconnectEvery), func(time.Time) { a.reconnect() })
		return
	}
	a.cfg.Driver, a.lost = j.driver, ""
	a.problem("data path", "")
	a.event(now, control.EventDataPathBack, "info", "the data path is back", nil)
	a.guard(now)
	a.enforceAgain(now)
	if a.inForce.state == 0 || a.inForce.rejected != "" || a.behind {
		a.behind = false
		a.reload(now, "the data path is back")
	}
}
