package agent

import (
	"container/list"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/driver"
	"ipsecagent/ike"
	"ipsecagent/policy"
	"ipsecagent/sadb"
)

const (
	// whenBusy is about how long a negotiation waits for a free place.
	whenBusy = time.Second
	// forgetTalk is how long a failed negotiation is remembered after the
	// time of its next attempt, when no traffic asks for it.
	forgetTalk = 10 * time.Minute
	// maxAsked bounds what one negotiation remembers of the driver's wishes.
	maxAsked = 64
)

// talkKey is what at most one negotiation at a time is for.
type talkKey struct {
	filter   sadb.FilterID
	selector sadb.Selector
}

// talk is the negotiation for one filter and one peer: under way, waiting for
// its next attempt, or failed and remembered.
type talk struct {
	key           talkKey
	local, remote netip.Addr       // outer
	request       uint64           // of the negotiation under way; 0: none
	since         time.Time        // when it was first asked for
	why           string           // what asked
	start         time.Time        // not before that is the next attempt
	wanted        bool             // traffic has asked since the last attempt
	asked         []driver.Acquire // what the driver waits for, bounded
	// response: it renews, once, what the default response rule had made
	// before this host lost its state.
	response bool
	failed   int
	last     *ike.Failed
	// wakes is for the next attempt or for oblivion, eases for the end of the
	// time that the traffic waits.
	wakes, eases *timer
	// spared: it never gives way to another. Else place in queue says when.
	spared bool
	queue  *list.List
	place  *list.Element
}

// acquire answers the driver's wish for an association.
func (a *Agent) acquire(now time.Time, e driver.Acquire) {
	if o, ok := a.overlays[e.Filter]; ok && o.kind == responseOverlay {
		a.acquireResponse(now, e, o)
		return
	}
	f, ok := a.negotiated(e.Filter)
	if !ok || !talkable(e.Flow.Remote) {
		a.abandon(now, e)
		return
	}
	if a.justSecured(now, f, e.Flow) {
		return
	}
	t := a.talkFor(now, f, e)
	if t == nil {
		a.abandon(now, e)
		return
	}
	if e.Clear && len(t.asked) == 0 {
		a.event(now, control.EventInClear, "info", fmt.Sprintf("traffic with %s goes in clear until it is secured: the filter allows it, and there is no association yet", t.remote),
			map[string]string{"peer": t.remote.String(), "rule": f.Rule, "filter": string(f.ID)})
	}
	a.ask(now, t, e)
	a.easeWaiting(now, t, f)
	switch {
	case t.request != 0 || t.start.After(now):
	case a.halfFor(f.ID, t.remote):
		a.later(t, now.Add(2*whenBusy)) // the peer's own negotiation is about to end
	default:
		a.begin(now, t)
	}
}

// ask notes what the driver waits for: of a tunnel it is as many packets as
// there are hosts behind the gateways. What is too many asks again.
func (a *Agent) ask(now time.Time, t *talk, e driver.Acquire) {
	t.wanted = true
	t.asked = slices.DeleteFunc(t.asked, func(was driver.Acquire) bool {
		return was.Flow.Local == e.Flow.Local && was.Flow.Remote == e.Flow.Remote
	})
	if len(t.asked) == maxAsked {
		a.abandon(now, t.asked[0])
		t.asked = slices.Delete(t.asked, 0, 1)
	}
	t.asked = append(t.asked, e)
}

// justSecured reports whether the wish for an association has crossed its
// fulfilment: the driver has asked before it got the pair that serves the flow.
func (a *Agent) justSecured(now time.Time, f policy.CompiledFilter, flow sadb.Flow) bool {
	peer := flow.Remote
	if f.Mode == sadb.Tunnel {
		peer = f.TunnelRemote
	}
	if !a.hasProven(peer) {
		return false // a flood of strangers costs no search of the book
	}
	p, ok := a.serving(f.ID, peer)
	return ok && p.Selector.Matches(flow) && now.Sub(p.Since) < whenBusy
}

// negotiated returns the filter of that ID, or the one above which the overlay
// of that ID stands, if it negotiates.
func (a *Agent) negotiated(id sadb.FilterID) (policy.CompiledFilter, bool) {
	if o, ok := a.overlays[id]; ok {
		id = o.filter.Parent
	}
	f, ok := a.inForce.snapshot.filter(id)
	return f, ok && f.Negotiation != nil
}

// talkable reports whether an association with ip can exist.
func talkable(ip netip.Addr) bool {
	return ip.IsValid() && !ip.IsUnspecified() && !ip.IsMulticast() && !ip.IsLoopback() &&
		ip != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// talkFor returns the negotiation that serves e, a new one if need be; nil
// when there are too many with proven peers.
func (a *Agent) talkFor(now time.Time, f policy.CompiledFilter, e driver.Acquire) *talk {
	key := talkKey{f.ID, narrow(f.Selector, e.Flow)}
	if f.Mode == sadb.Tunnel {
		key.selector = narrowTunnel(f.Selector, e.Flow)
	}
	if t := a.talks.byKey[key]; t != nil {
		return t
	}
	t := &talk{key: key, local: e.Flow.Local, remote: e.Flow.Remote, since: now, why: "outbound " + describeFlow(e.Flow)}
	if zone := a.facts.Zone(t.local); zone != "" && t.local.Zone() == "" {
		// A packet does not say it; a socket must know.
		t.local, t.remote = t.local.WithZone(zone), t.remote.WithZone(zone)
	}
	if f.Mode == sadb.Tunnel {
		t.local, t.remote = f.TunnelLocal, f.TunnelRemote
	}
	proven := a.hasProven(t.remote)
	if !a.roomFor(now, proven) {
		a.event(now, control.EventCrowded, "warning", "too many negotiations with proven peers wait; traffic of another peer is dropped until some have ended",
			map[string]string{"peer": e.Flow.Remote.String()})
		return nil
	}
	a.talks.add(t, proven)
	return t
}

func describeFlow(f sadb.Flow) string {
	if !sadb.HasPorts(f.Proto) {
		return fmt.Sprintf("%s to %s", sadb.ProtoName(f.Proto), f.Remote)
	}
	return fmt.Sprintf("%s to %s port %d", sadb.ProtoName(f.Proto), f.Remote, f.RemotePort)
}

// begin starts the negotiation, or puts it off when too many run.
func (a *Agent) begin(now time.Time, t *talk) {
	main, quick, ok := a.inForce.snapshot.offersOf(t)
	if !ok {
		a.cancel(now, t)
		return
	}
	if !a.roomToRun(now, t) {
		a.later(t, now.Add(jitter(whenBusy)))
		return
	}
	a.initiate(now, t, ike.Initiate{Local: t.local, Remote: t.remote, Main: main, Quick: quick})
}

func (a *Agent) initiate(now time.Time, t *talk, in ike.Initiate) {
	a.talks.run(t)
	t.wanted = false
	in.Request, in.NoInitialContact = t.request, a.hasAdopted(t.remote)
	a.cfg.IKE.Submit(in)
}

// hasAdopted reports whether a pair of an earlier process with that peer is in
// force: to claim that this host knows nothing would delete the peer's half.
func (a *Agent) hasAdopted(remote netip.Addr) bool {
	for id := range a.adopted {
		if p, ok := a.book.Get(id); ok && plain(p.Remote) == plain(remote) {
			return true
		}
	}
	return false
}

// later sets the time of the next attempt.
func (a *Agent) later(t *talk, at time.Time) {
	t.start = at
	a.timers.stop(t.wakes)
	t.wakes = a.timers.at(at, func(now time.Time) { a.wake(now, t) })
}

// wake is the time of the next attempt: made, if traffic has asked; else the
// driver may ask again.
func (a *Agent) wake(now time.Time, t *talk) {
	if a.talks.byKey[t.key] != t || t.request != 0 || t.start.After(now) {
		return
	}
	if t.wanted {
		a.begin(now, t)
		return
	}
	a.release(now, t)
	t.wakes = a.timers.at(now.Add(forgetTalk), func(now time.Time) {
		if t.request == 0 && !t.wanted && !t.start.Add(forgetTalk).After(now) {
			a.forget(t)
		}
	})
}

// release drops what waits for t and lets the driver ask again.
func (a *Agent) release(now time.Time, t *talk) {
	for _, e := range t.asked {
		a.abandon(now, e)
	}
	t.asked = nil
}

func (a *Agent) abandon(now time.Time, e driver.Acquire) {
	ctx, cancel := a.driverContext()
	defer cancel()
	if err := a.cfg.Driver.Abandon(ctx, e); err != nil {
		a.event(now, control.EventAgent, "warning", "the data path did not take back a wish for an association: "+err.Error(), nil)
	}
}

// cancel gives a negotiation up: policy no longer wants it, or it gives way.
func (a *Agent) cancel(now time.Time, t *talk) {
	if t.request != 0 {
		a.cfg.IKE.Submit(ike.Cancel{Request: t.request})
	}
	a.forget(t)
	a.release(now, t)
}

// failed handles the end of a negotiation that came to nothing.
func (a *Agent) failed(now time.Time, o ike.Failed) {
	t := a.talks.byRequest[o.Request]
	if o.Request != 0 && t == nil {
		return // given up meanwhile
	}
	var retry time.Time
	if t != nil {
		retry = now.Add(backoff(a.mayClear(t.key.filter), t.failed))
	}
	a.recordFailure(now, o, t, retry)
	if t == nil {
		return
	}
	if t.response {
		a.forget(t)
		return
	}
	a.talks.rest(t)
	t.last = &o
	t.failed++
	a.later(t, retry)
	a.afterFailure(now, t, o)
}

// mayClear reports whether the filter of that ID lets traffic go in clear.
func (a *Agent) mayClear(id sadb.FilterID) bool {
	f, ok := a.inForce.snapshot.filter(id)
	return ok && f.Action.AllowClear
}

// afterFailure decides over the traffic: dropped where security is required,
// in clear and listed where policy allows that.
func (a *Agent) afterFailure(now time.Time, t *talk, o ike.Failed) {
	f, ok := a.inForce.snapshot.filter(t.key.filter)
	if !ok || !f.Action.AllowClear {
		a.release(now, t)
		return
	}
	if waits(f.Action) {
		a.soften(now, t, f, o.Reason)
		a.release(now, t)
		return
	}
	a.event(now, control.EventClear, "warning", fmt.Sprintf("traffic with %s goes in clear: %s", t.remote, o.Reason),
		map[string]string{"peer": t.remote.String(), "filter": f.Name, "flow": t.key.selector.String(), "code": string(o.Code)})
}

// backoff returns how long after the n-th failure in a row the next attempt is
// made. Where traffic flows in clear meanwhile there is time: 1, 5, 30 minutes;
// where it waits there is none: 2 s, doubling to a minute.
func backoff(clear bool, n int) time.Duration {
	if clear {
		steps := [...]time.Duration{time.Minute, 5 * time.Minute, 30 * time.Minute}
		return jitter(steps[min(n, len(steps)-1)])
	}
	return jitter(min(time.Minute, 2*time.Second<<min(n, 5)))
}

// jitter returns d, up to an eighth more or less, so that hosts that failed
// together do not come back together.
func jitter(d time.Duration) time.Duration {
	return d - d/8 + rand.N(d/4+1)
}

// alive says that a peer speaks IKE after all: what waited for it, waits no
// longer.
func (a *Agent) alive(now time.Time, remote netip.Addr) {
	for _, t := range a.talks.all() {
		if plain(t.remote) == plain(remote) {
			a.forgive(now, t)
		}
	}
}

// forgiveAll lets everything that failed be tried anew.
func (a *Agent) forgiveAll(now time.Time) {
	for _, t := range a.talks.all() {
		a.forgive(now, t)
	}
}

// forgive lets a negotiation that failed be tried anew soon: the peer has come
// to life, or the policy or its keys have changed.
func (a *Agent) forgive(now time.Time, t *talk) {
	if t.request == 0 && t.start.After(now) {
		t.failed = 0
		a.later(t, now.Add(jitter(whenBusy)))
	}
}
