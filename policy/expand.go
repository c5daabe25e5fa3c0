package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"ipsecagent/sadb"
)

// A DNS name or a set of the host's configuration stands for addresses that
// only the host knows, and that change. A filter that has one compiles to a
// filter for each address; the policy stays as it is written.

// maxExpanded bounds the filters of a compiled policy: a filter without me is
// two, and names stand for several addresses.
const maxExpanded = 4 * maxFilters

// Dynamic reports whether only a host knows what addresses e stands for.
func (e Endpoint) Dynamic() bool { return e.Kind >= Name && e.Kind <= DefaultGateway }

// String returns the endpoint in words: "me", "10.0.0.0/8", "db.example",
// "dns-servers".
func (e Endpoint) String() string {
	switch e.Kind {
	case Addresses:
		return e.Addrs.String()
	case Name:
		return e.Name
	}
	return e.Kind.String()
}

// String returns the kind as the document writes it.
func (k EndpointKind) String() string {
	switch k {
	case Any:
		return "any"
	case Me:
		return "me"
	case Addresses:
		return "addresses"
	case Name:
		return "a DNS name"
	case DNSServers:
		return "dns-servers"
	case WINSServers:
		return "wins-servers"
	case DHCPServers:
		return "dhcp-servers"
	case DefaultGateway:
		return "default-gateway"
	}
	return fmt.Sprintf("endpoint kind %d", uint8(k))
}

// CanonicalName returns a DNS name as Host.Names has it: in lower case, without
// the dot at its end.
func CanonicalName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// Names returns the DNS names that the rules of p need, by CanonicalName,
// sorted, each once.
func (p *Policy) Names() []string {
	var names []string
	p.eachDynamic(func(e Endpoint) {
		if e.Kind == Name {
			names = append(names, CanonicalName(e.Name))
		}
	})
	slices.Sort(names)
	return slices.Compact(names)
}

// Sets returns the sets of the host's configuration that the rules of p need,
// each once.
func (p *Policy) Sets() []EndpointKind {
	var sets []EndpointKind
	p.eachDynamic(func(e Endpoint) {
		if e.Kind != Name {
			sets = append(sets, e.Kind)
		}
	})
	slices.Sort(sets)
	return slices.Compact(sets)
}

// eachDynamic calls f for every name and set in the lists and tunnels of the
// rules that are enabled.
func (p *Policy) eachDynamic(f func(Endpoint)) {
	o := p.objects()
	for i := range p.Rules {
		rule := &p.Rules[i]
		list := o.list(rule.FilterList)
		if rule.Disabled || list < 0 {
			continue
		}
		if rule.Tunnel.Name != "" {
			f(Endpoint{Kind: Name, Name: rule.Tunnel.Name})
		}
		for _, filter := range p.FilterLists[list].Filters {
			for _, e := range []Endpoint{filter.From, filter.To} {
				if e.Dynamic() {
					f(e)
				}
			}
		}
	}
}

// addresses returns the usable addresses that a name or set stands for, in
// order. What could not be one peer's address is left out, wherever it comes
// from: an answer of the DNS must not open a group, or this host to itself.
func (h Host) addresses(e Endpoint) []netip.Addr {
	all := h.Sets[e.Kind]
	if e.Kind == Name {
		all = h.Names[CanonicalName(e.Name)]
	}
	var usable []netip.Addr
	for _, a := range all {
		if a = a.Unmap().WithZone(""); unicast(a) {
			usable = append(usable, a)
		}
	}
	slices.SortFunc(usable, netip.Addr.Compare)
	return slices.Compact(usable)
}

// unicast reports whether a can be the address of another host.
func unicast(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() && !multicast(sadb.Addr(a))
}

// expand returns f for each address that its names and sets stand for. What no
// packet could match is left out.
func (h Host) expand(f *Filter) []Filter {
	var all []Filter
	for _, from := range h.concrete(f.From) {
		for _, to := range h.concrete(f.To) {
			one := *f
			one.From, one.To = from, to
			if matchable(&one) {
				all = append(all, one)
			}
		}
	}
	return all
}

// concrete returns the endpoints that e stands for.
func (h Host) concrete(e Endpoint) []Endpoint {
	if !e.Dynamic() {
		return []Endpoint{e}
	}
	var all []Endpoint
	for _, a := range h.addresses(e) {
		all = append(all, Endpoint{Kind: Addresses, Addrs: sadb.Addr(a)})
	}
	return all
}

// matchable reports whether a packet can have both sides and the protocol of f.
func matchable(f *Filter) bool {
	r := &report{}
	validateFamilies(r, "", "", f)
	return r.err() == nil
}

// expandedOf returns the names and sets of a filter.
func expandedOf(f *Filter) []Endpoint {
	var all []Endpoint
	for _, e := range []Endpoint{f.From, f.To} {
		if e.Dynamic() && !slices.Contains(all, e) {
			all = append(all, e)
		}
	}
	return all
}

// missing returns which names and sets of a filter stand for nothing; all of
// them where they do and no packet matches them together.
func (h Host) missing(f *Filter) []Endpoint {
	dynamic := expandedOf(f)
	empty := slices.DeleteFunc(slices.Clone(dynamic), func(e Endpoint) bool { return len(h.addresses(e)) > 0 })
	if len(empty) == 0 {
		return dynamic
	}
	return empty
}
