package agent

import (
	"fmt"
	"net/netip"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/driver"
	"ipsecagent/policy"
	"ipsecagent/sadb"
)

const (
	// grace is how long traffic that was secured stays required after its
	// last association ended.
	grace = 30 * time.Second
	// shortGrace is as much where the peer itself has ended the association: no
	// attacker can, and the peer may go on in clear if policy lets it.
	shortGrace = drainTime
	// softLifetime is how long traffic goes in clear before a negotiation is
	// tried again (the model's soft association).
	softLifetime = 5 * time.Minute
	// responseWait is how long the temporary filter of the default response
	// rule stands before its associations are whole.
	responseWait = 150 * time.Second
	// maxResponses is how many temporary filters one peer may make.
	maxResponses = 16
	// maxOverlays bounds them all, maxSoft the soft ones: what strangers can
	// bring about leaves room for what keeps traffic secured.
	maxOverlays = 16384
	maxSoft     = maxOverlays / 4 * 3
	// returnedFor is how long a return to clear is listed.
	returnedFor = time.Hour
)

// overlayKind is why a temporary filter stands.
type overlayKind string

const (
	// securedOverlay: secured once, so required now.
	securedOverlay overlayKind = "secured"
	// softOverlay: in clear, because the negotiation failed and policy
	// allows it.
	softOverlay overlayKind = "soft"
	// responseOverlay: the temporary filter of the default response rule.
	responseOverlay overlayKind = "default response"
)

// overlay is a temporary filter that this agent has put into the driver.
type overlay struct {
	kind          overlayKind
	filter        sadb.Filter
	local, remote netip.Addr
	since         time.Time
	why           string
}

// returned is traffic that was secured by the default response rule and goes
// in clear again.
type returned struct {
	overlay
	at time.Time
}

// putOverlay gives an overlay to the driver. One of the same ID keeps its
// beginning.
func (a *Agent) putOverlay(now time.Time, o overlay) error {
	former, again := a.overlays[o.filter.ID]
	if !again && len(a.overlays) >= maxOverlays {
		return fmt.Errorf("there are %d temporary filters already", maxOverlays)
	}
	ctx, cancel := a.driverContext()
	defer cancel()
	if err := a.cfg.Driver.PutFilter(ctx, o.filter); err != nil {
		return err
	}
	o.since = now
	if again {
		o.since = former.since
	}
	a.overlays[o.filter.ID] = o
	return nil
}

func (a *Agent) removeOverlay(now time.Time, id sadb.FilterID) {
	ctx, cancel := a.driverContext()
	defer cancel()
	if err := a.cfg.Driver.RemoveFilter(ctx, id); err != nil {
		a.event(now, control.EventAgent, "warning", "the data path did not remove a temporary filter: "+err.Error(), map[string]string{"filter": string(id)})
		return
	}
	delete(a.overlays, id)
}

// overlayFor returns an overlay above f for the traffic sel with a pair of
// hosts.
func overlayFor(kind overlayKind, f sadb.Filter, sel sadb.Selector, expires time.Time) overlay {
	o := overlay{kind: kind}
	o.local, _ = sel.Local.Single()
	o.remote, _ = sel.Remote.Single()
	o.filter = sadb.Filter{ID: sadb.NewFilterID(string(kind), string(f.ID), sel.String()), Name: f.Name, Selector: sel,
		Dir: sadb.Both, Mode: f.Mode, TunnelLocal: f.TunnelLocal, TunnelRemote: f.TunnelRemote, Parent: f.ID, Expires: expires}
	return o
}

// protect keeps the traffic of a pair that is whole secured until the pair's
// end and a grace: what may begin in clear, or flow in clear, stops being so
// once the peer has shown that it can do better.
func (a *Agent) protect(now time.Time, p sadb.Pair) {
	o, ok := a.protection(p)
	if !ok {
		return
	}
	if err := a.putOverlay(now, o); err != nil {
		a.cutSoft(now, p) // nothing would stand above it
		a.event(now, control.EventAgent, "error", fmt.Sprintf("traffic with %s is secured, but the data path does not keep it so: %v", p.Remote, err),
			map[string]string{"peer": p.Remote.String()})
	}
}

// protection returns the temporary filter that keeps the traffic of a pair
// secured; ok is false where its own filter does, or lets all of it pass in
// clear and only reports it.
func (a *Agent) protection(p sadb.Pair) (o overlay, ok bool) {
	expires := pairEnds(p).Add(grace)
	if p.DefaultResponse {
		return a.responseFilter(p, expires), a.inForce.snapshot.response != nil
	}
	f, ok := a.inForce.snapshot.filter(p.Filter)
	if !ok || f.Report != nil || !f.Action.AllowClear && !f.Action.PassThrough {
		return overlay{}, false
	}
	o = overlayFor(securedOverlay, f.Filter, p.Selector, expires)
	o.filter.Action = sadb.Action{Kind: sadb.Negotiate}
	return o, true
}

// protectAll has each pair protected as the policy that has just been put in
// force wants it.
func (a *Agent) protectAll(now time.Time) {
	for _, p := range a.book.All() {
		o, ok := a.protection(p)
		if was, there := a.overlays[o.filter.ID]; ok && (!there || was.filter.Action != o.filter.Action) {
			a.protect(now, p)
		}
	}
}

// pairEnds returns when the pair's hard lifetime is over.
func pairEnds(p sadb.Pair) time.Time {
	life := p.Lifetime.Time
	if life <= 0 {
		life = 8 * time.Hour
	}
	return p.Since.Add(life)
}

// unprotect lets the grace begin after the last pair of some traffic ended.
func (a *Agent) unprotect(now time.Time, p sadb.Pair, after time.Duration) {
	if a.serves(p) {
		return
	}
	for _, o := range a.overlays {
		if o.kind == softOverlay || o.filter.Selector != p.Selector || o.filter.Parent != p.Filter && o.filter.ID != p.Filter {
			continue
		}
		o.filter.Expires = now.Add(after)
		if err := a.putOverlay(now, o); err != nil {
			a.event(now, control.EventAgent, "warning", "the data path did not shorten a temporary filter: "+err.Error(), nil)
		}
	}
}

// serves reports whether another pair carries the traffic of p.
func (a *Agent) serves(p sadb.Pair) bool {
	for _, q := range a.book.All() {
		if q.ID != p.ID && q.Filter == p.Filter && q.Selector == p.Selector {
			return true
		}
	}
	return false
}

// responseFilter is the temporary filter of the default response rule: below
// every filter of the policy, exactly the traffic of the pair, required; under a
// policy in report mode it may pass in clear, too.
func (a *Agent) responseFilter(p sadb.Pair, expires time.Time) overlay {
	report := a.inForce.compiled != nil && a.inForce.compiled.ReportOnly
	return overlay{kind: responseOverlay, local: plain(p.Local), remote: plain(p.Remote),
		filter: sadb.Filter{ID: p.Filter, Name: defaultResponseTag, Selector: p.Selector, Dir: sadb.Both,
			Action: sadb.Action{Kind: sadb.Negotiate, AllowClear: report, PassThrough: report}, Mode: p.Mode, Expires: expires}}
}

// respond puts the temporary filter of the default response rule in force,
// before the first association of a pair.
func (a *Agent) respond(now time.Time, p sadb.Pair) error {
	if a.inForce.snapshot.response == nil {
		return fmt.Errorf("the default response rule is not active any more")
	}
	expires := now.Add(responseWait)
	if o, ok := a.overlays[p.Filter]; ok && o.filter.Expires.After(expires) {
		return nil // a rekey: it stands already
	}
	if _, again := a.overlays[p.Filter]; !again && a.responses(plain(p.Remote)) >= maxResponses {
		return fmt.Errorf("the peer has %d temporary filters of the default response rule already", maxResponses)
	}
	return a.putOverlay(now, a.responseFilter(p, expires))
}

func (a *Agent) responses(remote netip.Addr) int {
	n := 0
	for _, o := range a.overlays {
		if o.kind == responseOverlay && o.remote == remote {
			n++
		}
	}
	return n
}

// acquireResponse answers the wish for an association under a temporary filter
// of the default response rule, which never begins: while the peer's
// negotiation runs it waits, else what waits is dropped.
func (a *Agent) acquireResponse(now time.Time, e driver.Acquire, o overlay) {
	if a.halfFor(o.filter.ID, o.remote) {
		return
	}
	if _, ok := a.serving(o.filter.ID, o.remote); ok {
		return
	}
	// Not at once: the next packet would ask again.
	a.timers.at(now.Add(whenBusy), func(now time.Time) { a.abandon(now, e) })
}

// waits reports whether clear traffic of a filter that allows it has to be let
// go by the agent: its packets are held, or the answers would not be accepted.
func waits(act sadb.Action) bool {
	return act.AllowClear && (act.ClearDelay > 0 || !act.PassThrough)
}

// easeWaiting sees that traffic which may go in clear waits no longer than its
// filter says.
func (a *Agent) easeWaiting(now time.Time, t *talk, f policy.CompiledFilter) {
	switch {
	case !waits(f.Action):
	case t.last != nil && t.start.After(now):
		a.soften(now, t, f, t.last.Reason)
		a.release(now, t)
	case f.Action.ClearDelay == 0:
		a.soften(now, t, f, "the negotiation is under way")
	case !t.eases.pending():
		t.eases = a.timers.at(now.Add(f.Action.ClearDelay), func(now time.Time) { a.softenLate(now, t, f.Action.ClearDelay) })
	}
}

// softenLate lets traffic go that has waited as long as its filter says.
func (a *Agent) softenLate(now time.Time, t *talk, delay time.Duration) {
	f, ok := a.inForce.snapshot.filter(t.key.filter)
	if a.talks.byKey[t.key] != t || !ok || !waits(f.Action) {
		return
	}
	if _, already := a.overlays[overlayFor(softOverlay, f.Filter, t.key.selector, now).filter.ID]; already {
		return
	}
	a.soften(now, t, f, fmt.Sprintf("the peer has not answered within %s; the negotiation goes on", delay))
}

// soften lets the traffic of a negotiation go in clear for a while.
func (a *Agent) soften(now time.Time, t *talk, f policy.CompiledFilter, why string) {
	o := overlayFor(softOverlay, f.Filter, t.key.selector, now.Add(softLifetime))
	o.filter.Action, o.why = sadb.Action{Kind: sadb.Permit}, why
	former, again := a.overlays[o.filter.ID]
	if !again && len(a.overlays) >= maxSoft {
		a.roomForSoft(now)
	}
	if err := a.putOverlay(now, o); err != nil {
		a.event(now, control.EventAgent, "warning", fmt.Sprintf("traffic with %s may go in clear, but the data path does not let it: %v", t.remote, err),
			map[string]string{"peer": t.remote.String()})
		return
	}
	if !again || former.why != why {
		a.event(now, control.EventClear, "warning", fmt.Sprintf("traffic with %s goes in clear: %s", t.remote, why),
			map[string]string{"peer": t.remote.String(), "filter": f.Name, "flow": t.key.selector.String()})
	}
}

// roomForSoft keeps the soft filters below their bound: the oldest gives way, so
// that made-up peers keep no other from falling back to clear. What it let go is
// held and negotiated anew.
func (a *Agent) roomForSoft(now time.Time) {
	n, oldest := 0, overlay{}
	for _, o := range a.overlays {
		if o.kind != softOverlay {
			continue
		}
		n++
		if n == 1 || o.since.Before(oldest.since) {
			oldest = o
		}
	}
	if n >= maxSoft {
		a.removeOverlay(now, oldest.filter.ID)
	}
}

// harden ends the clear traffic that a new pair secures. Clear traffic that
// goes beyond the pair is decided anew, now that the peer has shown that it can
// do better; not at each rekey.
func (a *Agent) harden(now time.Time, p sadb.Pair) {
	if p.Replaces == 0 {
		a.cutSoft(now, p)
	}
	for id, o := range a.overlays {
		if o.kind == softOverlay && o.filter.Parent == p.Filter && p.Selector.Contains(o.filter.Selector) {
			a.removeOverlay(now, id)
		}
	}
	delete(a.returned, p.Filter)
}

// cutSoft ends the clear traffic that may have a part in common with a pair.
func (a *Agent) cutSoft(now time.Time, p sadb.Pair) {
	for id, o := range a.overlays {
		if o.kind == softOverlay && o.filter.Parent == p.Filter && mayMeet(p.Selector, o.filter.Selector) {
			a.removeOverlay(now, id)
		}
	}
}

// mayMeet reports whether two selectors of one filter may both match some
// packet. It leaves ICMP type and code out: the filter's hold for both.
func mayMeet(s, t sadb.Selector) bool {
	return addrsMeet(s.Local, t.Local) && addrsMeet(s.Remote, t.Remote) &&
		(s.Proto == 0 || t.Proto == 0 || s.Proto == t.Proto) &&
		portsMeet(s.LocalPorts, t.LocalPorts) && portsMeet(s.RemotePorts, t.RemotePorts)
}

// addrsMeet holds "me" and "any" to meet everything.
func addrsMeet(a, b sadb.Addrs) bool {
	firstA, lastA, okA := a.Bounds()
	firstB, lastB, okB := b.Bounds()
	return !okA || !okB || firstA.BitLen() == firstB.BitLen() && !lastA.Less(firstB) && !lastB.Less(firstA)
}

func portsMeet(p, q sadb.Ports) bool {
	return p.IsAny() || q.IsAny() || p.From <= q.To && q.From <= p.To
}

// filterEnded books that an overlay has expired.
func (a *Agent) filterEnded(now time.Time, id sadb.FilterID) {
	o, ok := a.overlays[id]
	if !ok || o.filter.Expires.After(now) {
		return // unknown, or put again after it had ended
	}
	delete(a.overlays, id)
	switch {
	case o.kind == responseOverlay:
		a.returned[id] = returned{o, now}
		a.timers.at(now.Add(returnedFor), func(time.Time) { a.forgetReturned(id, now) })
	case o.kind != securedOverlay || !a.mayClear(o.filter.Parent):
		return
	}
	a.event(now, control.EventClear, "warning", fmt.Sprintf("traffic with %s may go in clear again: its association has ended", o.remote),
		map[string]string{"peer": o.remote.String(), "filter": o.filter.Name, "flow": o.filter.Selector.String()})
}

func (a *Agent) forgetReturned(id sadb.FilterID, at time.Time) {
	if r, ok := a.returned[id]; ok && r.at.Equal(at) {
		delete(a.returned, id)
	}
}

// sweepOverlays ends the temporary filters that the policy now in force has no
// reason for: a soft one above all must not outlive the permission to be in
// clear.
func (a *Agent) sweepOverlays(now time.Time) {
	for id, o := range a.overlays {
		if !a.wantsOverlay(o) {
			a.removeOverlay(now, id)
		}
	}
	if a.inForce.snapshot.response == nil {
		clear(a.returned)
	}
}

func (a *Agent) wantsOverlay(o overlay) bool {
	if o.kind == responseOverlay {
		return a.inForce.snapshot.response != nil
	}
	f, ok := a.inForce.snapshot.filter(o.filter.Parent)
	if o.kind == softOverlay {
		return ok && f.Action.AllowClear
	}
	return ok && f.Action.Kind == sadb.Negotiate && f.Report == nil
}
