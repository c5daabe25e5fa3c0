package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/driver"
	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// maxDeciding bounds the filters that an answer about one peer lists.
const maxDeciding = 32

// Why says what is known of one peer: how its traffic goes, which filters
// decide over it, and what failed.
func (a *Agent) Why(ctx context.Context, peer netip.Addr) (control.Why, error) {
	peer = plain(peer)
	w, err := ask(ctx, a, func(now time.Time) (control.Why, error) { return a.why(now, peer), nil })
	if err != nil || a.cfg.IKE.SAs == nil {
		return w, err
	}
	sas, err := a.cfg.IKE.SAs(ctx)
	for _, s := range sas {
		if plain(s.Remote.Addr()) == peer {
			w.MainMode = append(w.MainMode, mainModeSA(s))
		}
	}
	return w, err
}

func (a *Agent) why(now time.Time, peer netip.Addr) control.Why {
	// Without the data path's answer there are no counters; the rest is known.
	state, _ := a.driverState()
	deciding := a.deciding(peer)
	peers := ends(peer, deciding)
	w := control.Why{SchemaVersion: control.SchemaVersion, Peer: peer.String(), MainMode: []control.MainModeSA{},
		Secured:     a.securedIf(state, func(p sadb.Pair) bool { return about(peer, p.Remote, p.Mode, p.Selector) }),
		InClear:     of(peer, a.inClear(now, state)),
		Negotiating: a.negotiatingIf(func(t *talk) bool { return about(peer, t.remote, a.modeOf(t), t.key.selector) }),
		Failures:    a.failures.all(peers...)}
	w.MoreFilters = max(0, len(deciding)-maxDeciding)
	w.Filters = filterViews(deciding[:len(deciding)-w.MoreFilters], state)
	failure, failed := a.failures.of(peers...)
	a.sayState(&w, failure, failed)
	return w
}

// of returns those in clear that are one peer.
func of(peer netip.Addr, list []control.ClearPeer) []control.ClearPeer {
	return slices.DeleteFunc(list, func(v control.ClearPeer) bool {
		ip, err := netip.ParseAddr(v.Peer)
		return err != nil || plain(ip) != peer
	})
}

// about reports whether associations with a host concern a peer: it is that host,
// or one behind it.
func about(peer, remote netip.Addr, mode sadb.Mode, s sadb.Selector) bool {
	return plain(remote) == peer || mode == sadb.Tunnel && s.Remote.Matches(peer, false)
}

// modeOf returns the mode that a negotiation is for.
func (a *Agent) modeOf(t *talk) sadb.Mode {
	f, _ := a.inForce.snapshot.filter(t.key.filter)
	return f.Mode
}

// ends returns the peer and the gateways behind which filters see it.
func ends(peer netip.Addr, deciding []policy.CompiledFilter) []netip.Addr {
	all := []netip.Addr{peer}
	for _, f := range deciding {
		if f.Mode == sadb.Tunnel && !slices.Contains(all, f.TunnelRemote) {
			all = append(all, f.TunnelRemote)
		}
	}
	return all[:min(len(all), maxDeciding)]
}

// deciding returns the filters that speak of a peer, in the order of decision.
func (a *Agent) deciding(peer netip.Addr) []policy.CompiledFilter {
	var found []policy.CompiledFilter
	for f := range a.inForce.snapshot.about(peer) {
		if f.Selector.Remote.Matches(peer, false) || f.Mode == sadb.Tunnel && f.TunnelRemote == peer {
			found = append(found, f)
		}
	}
	return found
}

func filterViews(filters []policy.CompiledFilter, state driver.State) []control.FilterView {
	counters := make(map[sadb.FilterID]driver.FilterStat, len(state.Filters))
	for _, s := range state.Filters {
		counters[s.Filter.ID] = s
	}
	views := []control.FilterView{}
	for _, f := range filters {
		s := counters[f.ID]
		s.Filter = f.Filter
		views = append(views, filterView(f, s))
	}
	return views
}

// sayState says in one word and one sentence how the peer's traffic goes.
func (a *Agent) sayState(w *control.Why, last control.Failure, failed bool) {
	say := func(state string, since time.Time, format string, args ...any) {
		w.State, w.Since, w.Words = state, since, fmt.Sprintf(format, args...)
	}
	o, graced := a.graceOf(w.Peer)
	peer, _ := netip.ParseAddr(w.Peer)
	end, ended := a.lastEnds.of(plain(peer))
	switch {
	case len(w.Secured) > 0 && len(w.InClear) > 0:
		say(control.PeerPartly, w.InClear[0].Since, "some traffic is secured, other goes in clear: %s", w.InClear[0].Why)
	case len(w.Secured) > 0:
		s := w.Secured[0]
		say(control.PeerSecured, s.Since, "the peer is %s, proven by %s", s.Principal, s.Method)
	case len(w.InClear) > 0 && !graced:
		say(control.PeerInClear, w.InClear[0].Since, "policy allows it for now: %s", w.InClear[0].Why)
	case len(w.Negotiating) > 0:
		say(control.PeerNegotiating, w.Negotiating[0].Since, "asked for by %s", w.Negotiating[0].Why)
	case a.held != "":
		say(control.PeerHeld, time.Time{}, "%s", a.held)
	case failed && !(ended && last.Time.Before(end.at)):
		say(control.PeerFailed, last.First, "the last negotiation failed: %s", last.Reason)
	case ended:
		say(control.PeerEnded, end.at, "its last association has ended: %s", end.reason)
	case slices.ContainsFunc(w.Filters, func(f control.FilterView) bool { return len(f.Methods) > 0 }):
		say(control.PeerNever, time.Time{}, "a rule asks for security with it, and no traffic has asked for an association since the agent started")
	case a.inForce.snapshot.response != nil:
		say(control.PeerNoRule, time.Time{}, "no rule asks for security with it; the default response rule answers if the peer asks")
	default:
		say(control.PeerNoRule, time.Time{}, "no rule asks for security with it")
	}
	if graced && len(w.Secured) == 0 {
		w.Words += fmt.Sprintf("; it was secured, so its traffic in clear is dropped until %s", o.filter.Expires.UTC().Format(time.RFC3339))
	}
}

// graceOf returns the temporary filter that keeps the traffic of a peer without
// associations from going in clear: of several the one that lasts longest.
func (a *Agent) graceOf(peer string) (last overlay, ok bool) {
	for _, o := range a.overlays {
		secured := o.kind == securedOverlay || o.kind == responseOverlay
		if secured && o.remote.String() == peer && (!ok || o.filter.Expires.After(last.filter.Expires)) {
			last, ok = o, true
		}
	}
	return last, ok
}
