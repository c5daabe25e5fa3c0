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
	w := control.Why{SchemaVersion: control.SchemaVersion, Peer: peer.String(), MainMode: []control.MainModeSA{},
		Secured:     of(peer, a.secured(state), func(s control.SecuredPeer) string { return s.Peer }),
		InClear:     of(peer, a.inClear(now, state), func(c control.ClearPeer) string { return c.Peer }),
		Negotiating: of(peer, a.negotiating(), func(n control.Negotiating) string { return n.Peer }),
		Failures:    a.failures.all(peer)}
	deciding := a.deciding(peer)
	w.MoreFilters = max(0, len(deciding)-maxDeciding)
	w.Filters = filterViews(deciding[:len(deciding)-w.MoreFilters], state)
	failure, failed := a.failures.of(peer)
	a.sayState(&w, failure, failed)
	return w
}

// of returns the entries that are about one peer.
func of[T any](peer netip.Addr, list []T, name func(T) string) []T {
	return slices.DeleteFunc(list, func(v T) bool {
		ip, err := netip.ParseAddr(name(v))
		return err != nil || plain(ip) != peer
	})
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
	switch {
	case len(w.Secured) > 0 && len(w.InClear) > 0:
		say(control.PeerPartly, w.InClear[0].Since, "some traffic is secured, other goes in clear: %s", w.InClear[0].Why)
	case len(w.Secured) > 0:
		s := w.Secured[0]
		say(control.PeerSecured, s.Since, "the peer is %s, proven by %s", s.Principal, s.Method)
	case len(w.InClear) > 0:
		say(control.PeerInClear, w.InClear[0].Since, "policy allows it for now: %s", w.InClear[0].Why)
	case len(w.Negotiating) > 0:
		say(control.PeerNegotiating, w.Negotiating[0].Since, "asked for by %s", w.Negotiating[0].Why)
	case failed:
		say(control.PeerFailed, last.First, "the last negotiation failed: %s", last.Reason)
	case slices.ContainsFunc(w.Filters, func(f control.FilterView) bool { return len(f.Methods) > 0 }):
		say(control.PeerNever, time.Time{}, "a rule asks for security with it, and no traffic has asked for an association since the agent started")
	case a.inForce.snapshot.response != nil:
		say(control.PeerNoRule, time.Time{}, "no rule asks for security with it; the default response rule answers if the peer asks")
	default:
		say(control.PeerNoRule, time.Time{}, "no rule asks for security with it")
	}
}
