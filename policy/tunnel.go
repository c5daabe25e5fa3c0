package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"ipsecagent/sadb"
)

// A tunnel is written in one of two ways. The short one is a rule whose filters
// are mirrored and whose endpoint is the other gateway. The Windows one is two
// rules with filters that are not mirrored: from here to there with the other
// gateway as its endpoint, from there to here with this one. Both compile to
// filters of both directions; the second of two Windows rules gives no filter
// of its own but the address of this end.

// TunnelEndpoints returns the tunnel endpoints of the policy's rules, each once.
func (p *Policy) TunnelEndpoints() []netip.Addr {
	var all []netip.Addr
	for _, r := range p.Rules {
		if e := r.Tunnel.Endpoint; !r.Disabled && e.IsValid() && !slices.Contains(all, e) {
			all = append(all, e)
		}
	}
	return all
}

// Reachable returns h with a way to every tunnel endpoint of p: what the author of
// a policy expects of a flow does not depend on routes that come and go.
func (h Host) Reachable(p *Policy) Host {
	outer := map[netip.Addr]netip.Addr{}
	for _, e := range p.TunnelEndpoints() {
		outer[e] = netip.IPv4Unspecified()
		if e.Is6() {
			outer[e] = netip.IPv6Unspecified()
		}
	}
	maps.Copy(outer, h.Outer)
	h.Outer = outer
	return h
}

func (h Host) owns(a netip.Addr) bool { return slices.Contains(h.Addresses, a) }

// oriented returns how this host sees a filter under a rule. In a tunnel the
// source is this side and the destination the other, whatever else could be
// meant: the endpoint says which gateway is the other one.
func (h Host) oriented(rule *Rule, f Filter) []orientation {
	if rule.Tunnel.IsZero() {
		return orientations(f)
	}
	if h.owns(rule.Tunnel.Endpoint) {
		return nil
	}
	o := orientations(f)[0]
	o.dir = sadb.Both
	return []orientation{o}
}

// shape gives a filter of a tunnel rule its ends. Without a way to the other
// gateway its traffic is blocked.
func (h Host) shape(c *CompiledFilter, rule *Rule, inbound *Rule) {
	if rule.Tunnel.IsZero() {
		return
	}
	c.Mode, c.TunnelRemote, c.TunnelLocal = sadb.Tunnel, rule.Tunnel.Endpoint, h.Outer[rule.Tunnel.Endpoint]
	if inbound != nil && h.owns(inbound.Tunnel.Endpoint) {
		c.TunnelLocal = inbound.Tunnel.Endpoint
	}
	if !c.TunnelLocal.IsValid() {
		c.Mode, c.TunnelRemote = sadb.Transport, netip.Addr{}
		c.Action, c.Negotiation = sadb.Action{Kind: sadb.Block}, nil
	}
}

// oneWay is the traffic of a filter that is not mirrored.
type oneWay struct {
	from, to           Endpoint
	protocol           uint8
	fromPorts, toPorts sadb.Ports
	icmpType, icmpCode sadb.Octets
}

func wayOf(f Filter) oneWay {
	return oneWay{f.From, f.To, f.Protocol, f.FromPorts, f.ToPorts, f.ICMPType, f.ICMPCode}
}

// back is the same traffic the other way.
func (w oneWay) back() oneWay {
	w.from, w.to, w.fromPorts, w.toPorts = w.to, w.from, w.toPorts, w.fromPorts
	return w
}

// oneWays returns the filters of tunnel rules that are not mirrored, with the
// rule each is of.
func (p *Policy) oneWays() map[oneWay]*Rule {
	ways := map[oneWay]*Rule{}
	for i := range p.Rules {
		rule := &p.Rules[i]
		list := p.list(rule.FilterList)
		if rule.Disabled || rule.Tunnel.IsZero() || list < 0 {
			continue
		}
		for _, f := range p.FilterLists[list].Filters {
			if !f.Mirrored {
				ways[wayOf(f)] = rule
			}
		}
	}
	return ways
}

// checkEndpoints refuses what only the facts of a host show: a tunnel whose
// endpoint is this host itself, and no rule names the other end.
func (p *Policy) checkEndpoints(h Host) error {
	r := &report{}
	for i := range p.Rules {
		rule := &p.Rules[i]
		if rule.Disabled || rule.Tunnel.IsZero() || !h.owns(rule.Tunnel.Endpoint) {
			continue
		}
		for _, f := range p.FilterLists[p.list(rule.FilterList)].Filters {
			if f.Mirrored {
				r.add(at("rules", i, "tunnel"), "rule %q: its tunnel endpoint %s is an address of this host; name the other gateway", rule.identity(), rule.Tunnel.Endpoint)
				break
			}
		}
	}
	return r.err()
}

// validateTunnel checks the tunnel setting of a rule that refers to what exists.
func (p *Policy) validateTunnel(r *report, ways map[oneWay]*Rule, i int, action *FilterAction) {
	rule := &p.Rules[i]
	if rule.Tunnel.IsZero() {
		return
	}
	what, path := fmt.Sprintf("rule %q", rule.identity()), at("rules", i, "tunnel")
	e := rule.Tunnel.Endpoint
	switch {
	case action.Kind != sadb.Negotiate:
		r.add(path, "%s has a tunnel and filter action %q, which is %v; a tunnel needs an action that negotiates security", what, action.Name, action.Kind)
	case action.AllowClear:
		r.add(at("rules", i, "filterAction"), "%s is a tunnel and its filter action %q allows clear; a tunnel never falls back", what, action.Name)
	case e.IsValid() && (e.IsUnspecified() || e.IsMulticast() || e.IsLoopback() || e != e.Unmap().WithZone("")):
		r.add(path, "%s: %s cannot be the address of the other gateway", what, e)
	}
	list := p.list(rule.FilterList)
	for j, f := range p.FilterLists[list].Filters {
		if other := ways[wayOf(f).back()]; !f.Mirrored && !rule.Disabled && (other == nil || other == rule) {
			r.add(at(at("filterLists", list, "filters"), j, "mirrored"), "filter list %q, filter %d is not mirrored, and no other tunnel rule describes its traffic the other way: %s would secure one direction only", p.FilterLists[list].Name, j+1, what)
		}
	}
}
