package agent

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/driver"
	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// Explain says how a packet is treated by what is in force: the policy's filters
// with the temporary ones among them, and what is live with the peer.
func (a *Agent) Explain(ctx context.Context, r control.ExplainRequest) (control.Explanation, error) {
	q, err := r.Question()
	if err != nil {
		return control.Explanation{}, err
	}
	return ask(ctx, a, func(now time.Time) (control.Explanation, error) {
		if a.held != "" {
			return control.Explanation{}, &control.Error{Code: control.Failed, Message: "which filter decides is not known: " + a.held}
		}
		return a.explain(now, q), nil
	})
}

func (a *Agent) explain(now time.Time, q policy.Question) control.Explanation {
	// Without the data path's answer there are no temporary filters and no
	// counters; the rest is known.
	state, _ := a.driverState()
	q = a.seenHere(q)
	c := a.live(state)
	x := policy.Explain(c, q)
	v := control.Explained(c, x)
	v.Origin = a.inForce.origin
	if v.Decided != nil {
		count(v.Decided, state)
	}
	if x.Exempt == "" && q.Flow.Remote.IsValid() && !q.Group() {
		v.Live = a.liveWith(now, x, state)
	}
	return v
}

// seenHere fills in what this host knows of the packet: which addresses are its
// own, and which one it sends from.
func (a *Agent) seenHere(q policy.Question) policy.Question {
	q = q.At(a.facts.Addresses)
	if !q.Flow.Local.IsValid() && a.cfg.Source != nil {
		if own, err := a.cfg.Source(q.Flow.Remote); err == nil && own.IsValid() {
			q.Flow.Local = plain(own)
		}
	}
	if q.Flow.Connection == sadb.AllConnections {
		q.Flow.Connection = a.inForce.snapshot.connection(q.Flow.Local)
	}
	q.Broadcast = q.Dir == sadb.Out && slices.Contains(a.facts.Broadcasts, q.Flow.Remote)
	return q
}

// live returns what is in force with the temporary filters in their places.
func (a *Agent) live(state driver.State) *policy.Compiled {
	if a.inForce.compiled == nil {
		return &policy.Compiled{}
	}
	c := *a.inForce.compiled
	if len(state.Filters) == 0 {
		return &c
	}
	byID := make(map[sadb.FilterID]policy.CompiledFilter, len(c.Filters))
	for _, f := range c.Filters {
		byID[f.ID] = f
	}
	c.Filters = make([]policy.CompiledFilter, 0, len(state.Filters))
	for _, s := range state.Filters {
		f, ok := byID[s.Filter.ID]
		if !ok {
			f = a.overlayView(s.Filter, byID)
			f.Negotiation = a.overlayOffer(s.Filter, byID)
		}
		c.Filters = append(c.Filters, f)
	}
	return &c
}

// overlayOffer returns what a temporary filter negotiates: what the filter it
// narrows does, or the default response rule.
func (a *Agent) overlayOffer(f sadb.Filter, byID map[sadb.FilterID]policy.CompiledFilter) *policy.Negotiation {
	switch {
	case f.Action.Kind != sadb.Negotiate:
		return nil
	case a.overlays[f.ID].kind == responseOverlay:
		return a.inForce.compiled.DefaultResponse
	}
	return byID[f.Parent].Negotiation
}

// count adds how many packets a filter has decided about.
func count(v *control.FilterView, state driver.State) {
	for _, s := range state.Filters {
		if string(s.Filter.ID) == v.ID {
			v.Packets, v.Dropped = s.Packets, s.Dropped
		}
	}
}

// liveWith says what is in force with the other end of a packet: the peer, or the
// gateway of the tunnel it belongs into.
func (a *Agent) liveWith(now time.Time, x policy.Explanation, state driver.State) *control.Live {
	q := x.Question
	peer := plain(q.Flow.Remote)
	if d := x.Decided; d != nil && d.Mode == sadb.Tunnel {
		peer = d.TunnelRemote
	}
	w := a.why(now, peer)
	holds := func(remote netip.Addr, mode sadb.Mode, s sadb.Selector) bool {
		return about(peer, remote, mode, s) && carries(s, q.Flow)
	}
	return &control.Live{Peer: w.Peer, State: w.State, Since: w.Since, Words: w.Words, Failures: w.Failures,
		InClear:     slices.DeleteFunc(w.InClear, func(c control.ClearPeer) bool { return !concerns(c, x.Decided) }),
		Secured:     a.securedIf(state, func(p sadb.Pair) bool { return holds(p.Remote, p.Mode, p.Selector) }),
		Negotiating: a.negotiatingIf(func(t *talk) bool { return holds(t.remote, a.modeOf(t), t.key.selector) })}
}

// concerns reports whether a peer goes in clear by the filter that decides, or by
// the one it narrows.
func concerns(c control.ClearPeer, decided *policy.CompiledFilter) bool {
	return decided != nil && (c.Filter == string(decided.ID) || c.Filter == string(decided.Parent))
}

// carries reports whether an association's selector covers a packet; an own
// address that is not named may be any.
func carries(s sadb.Selector, flow sadb.Flow) bool {
	if !flow.Local.IsValid() {
		s.Local = sadb.AnyAddrs()
	}
	return s.Matches(flow)
}
