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

// String returns the tunnel endpoint: its address or its name.
func (t TunnelSetting) String() string {
	if t.Name != "" {
		return CanonicalName(t.Name)
	}
	return t.Endpoint.String()
}

// TunnelEndpoints returns the addresses of the tunnel endpoints of the policy's
// rules, names as h knows them, in order, each once.
func (p *Policy) TunnelEndpoints(h Host) []netip.Addr {
	var all []netip.Addr
	for _, r := range p.Rules {
		if !r.Disabled && !r.Tunnel.IsZero() {
			all = append(all, h.ends(r.Tunnel)...)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// Reachable returns what the author of p can expect of a host: every tunnel has
// its way and every name and set stands for nothing. What a test of the policy
// says does not depend on routes and names that come and go.
func (h Host) Reachable(p *Policy) Host {
	h.Names, h.Sets = map[string][]netip.Addr{}, nil
	for _, r := range p.Rules {
		if r.Tunnel.Name != "" {
			// An address for documentation (RFC 5737), which no packet is sent to.
			h.Names[CanonicalName(r.Tunnel.Name)] = []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, 0})}
		}
	}
	outer := map[netip.Addr]netip.Addr{}
	for _, e := range p.TunnelEndpoints(h) {
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

// ends returns the addresses that a tunnel setting stands for, in order.
func (h Host) ends(t TunnelSetting) []netip.Addr {
	if t.Name == "" {
		return []netip.Addr{t.Endpoint}
	}
	return h.addresses(Endpoint{Kind: Name, Name: t.Name})
}

// ownEnd returns the address of this host that a tunnel setting stands for; the
// zero address: it is another gateway.
func (h Host) ownEnd(t TunnelSetting) netip.Addr {
	for _, a := range h.ends(t) {
		if h.owns(a) {
			return a
		}
	}
	return netip.Addr{}
}

// gateway returns the address of the other gateway: of several the first that
// can be reached. The zero address: there is none.
func (h Host) gateway(t TunnelSetting) netip.Addr {
	others := slices.DeleteFunc(slices.Clone(h.ends(t)), h.owns)
	for _, a := range others {
		if h.Outer[a].IsValid() {
			return a
		}
	}
	if len(others) > 0 {
		return others[0]
	}
	return netip.Addr{}
}

// lost reports whether a rule's tunnel endpoint is a name that stands for no
// other gateway where its filters need one.
func (h Host) lost(rule *Rule, list *FilterList) bool {
	if rule.Tunnel.Name == "" || h.gateway(rule.Tunnel).IsValid() {
		return false
	}
	mirrored := slices.ContainsFunc(list.Filters, func(f Filter) bool { return f.Mirrored })
	return mirrored || !h.ownEnd(rule.Tunnel).IsValid()
}

// oriented returns how this host sees a filter under a rule. In a tunnel the
// source is this side and the destination the other, whatever else could be
// meant: the endpoint says which gateway is the other one.
func (h Host) oriented(rule *Rule, f *Filter) []orientation {
	if rule.Tunnel.IsZero() {
		return orientations(f)
	}
	if !f.Mirrored && h.ownEnd(rule.Tunnel).IsValid() {
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
	remote := h.gateway(rule.Tunnel)
	c.Mode, c.TunnelRemote, c.TunnelLocal = sadb.Tunnel, remote, h.Outer[remote]
	if inbound != nil && h.ownEnd(inbound.Tunnel).IsValid() {
		c.TunnelLocal = h.ownEnd(inbound.Tunnel)
	}
	if !c.TunnelLocal.IsValid() || c.TunnelLocal.BitLen() != remote.BitLen() {
		c.Mode, c.TunnelLocal, c.TunnelRemote = sadb.Transport, netip.Addr{}, netip.Addr{}
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

func wayOf(f *Filter) oneWay {
	return oneWay{f.From, f.To, f.Protocol, f.FromPorts, f.ToPorts, f.ICMPType, f.ICMPCode}
}

// back is the same traffic the other way.
func (w oneWay) back() oneWay {
	w.from, w.to, w.fromPorts, w.toPorts = w.to, w.from, w.toPorts, w.fromPorts
	return w
}

// oneWays returns the filters of tunnel rules that are not mirrored, with the
// rule each is of; of several the first by identity, however they are listed.
func (p *Policy) oneWays(o objects) map[oneWay]*Rule {
	ways := map[oneWay]*Rule{}
	for i := range p.Rules {
		rule := &p.Rules[i]
		list := o.list(rule.FilterList)
		if rule.Disabled || rule.Tunnel.IsZero() || list < 0 {
			continue
		}
		for i := range p.FilterLists[list].Filters {
			f := &p.FilterLists[list].Filters[i]
			former := ways[wayOf(f)]
			if !f.Mirrored && (former == nil || rule.identity() < former.identity()) {
				ways[wayOf(f)] = rule
			}
		}
	}
	return ways
}

// checkEndpoints refuses what only the facts of a host show: a tunnel whose
// endpoint is this host itself, and no rule names the other end.
func (p *Policy) checkEndpoints(h Host) error {
	r, o := &report{}, p.objects()
	for i := range p.Rules {
		rule := &p.Rules[i]
		if rule.Disabled || !rule.Tunnel.Endpoint.IsValid() || !h.owns(rule.Tunnel.Endpoint) {
			continue
		}
		for _, f := range p.FilterLists[o.list(rule.FilterList)].Filters {
			if f.Mirrored {
				r.add(at("rules", i, "tunnel"), "rule %q: its tunnel endpoint %s is an address of this host; name the other gateway", rule.label(), rule.Tunnel.Endpoint)
				break
			}
		}
	}
	return r.err()
}

// validateTunnel checks the tunnel setting of a rule that refers to what exists.
func (p *Policy) validateTunnel(r *report, ways map[oneWay]*Rule, i, list int, action *FilterAction) {
	rule := &p.Rules[i]
	if rule.Tunnel.IsZero() {
		return
	}
	what, path := fmt.Sprintf("rule %q", rule.label()), at("rules", i, "tunnel")
	e := rule.Tunnel.Endpoint
	switch {
	case action.Kind != sadb.Negotiate:
		r.add(path, "%s has a tunnel and filter action %q, which is %v; a tunnel needs an action that negotiates security", what, action.Name, action.Kind)
	case action.AllowClear:
		r.add(at("rules", i, "filterAction"), "%s is a tunnel and its filter action %q allows clear; a tunnel never falls back", what, action.Name)
	case e.IsValid() && (e.IsUnspecified() || e.IsMulticast() || e.IsLoopback() || e != e.Unmap().WithZone("")):
		r.add(path, "%s: %s cannot be the address of the other gateway", what, e)
	}
	if rule.Tunnel.Name != "" {
		checkDNSName(r, path, what+": its tunnel endpoint", rule.Tunnel.Name)
	}
	for j := range p.FilterLists[list].Filters {
		f := &p.FilterLists[list].Filters[j]
		if other := ways[wayOf(f).back()]; !f.Mirrored && !rule.Disabled && (other == nil || other == rule) {
			r.add(at(at("filterLists", list, "filters"), j, "mirrored"), "filter list %q, filter %d is not mirrored, and no other tunnel rule has the filter from %s to %s: %s would secure one direction only; add that rule, with this gateway as its tunnel endpoint, or mirror the filter", p.FilterLists[list].Name, j+1, f.To, f.From, what)
		}
	}
}
