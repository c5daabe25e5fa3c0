package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"ipsecagent/sadb"
)

func (p *Policy) validateLists(r *report) {
	seen := map[string]bool{}
	total := 0
	if len(p.FilterLists) > maxObjects {
		r.add("filterLists", "%d filter lists, more than %d", len(p.FilterLists), maxObjects)
		return
	}
	for i := range p.FilterLists {
		l := &p.FilterLists[i]
		path := at("filterLists", i, "")
		what := fmt.Sprintf("filter list %q", l.Name)
		checkName(r, path, "the filter list", l.Name)
		checkText(r, path, what, l.Description)
		if seen[l.Name] {
			r.add(path, "%s is defined twice", what)
		}
		seen[l.Name] = true
		if len(l.Filters) == 0 {
			r.add(path, "%s is empty; give it a filter or remove it", what)
		}
		if total += len(l.Filters); total > maxFilters {
			r.add(path, "more than %d filters in the policy", maxFilters)
			return
		}
		for j := range l.Filters {
			validateFilter(r, at(path+".filters", j, ""), fmt.Sprintf("%s, filter %d", what, j+1), &l.Filters[j])
		}
	}
}

func validateFilter(r *report, path, what string, f *Filter) {
	checkText(r, path, what, f.Description)
	validateEndpoint(r, path+".from", what, f.From)
	validateEndpoint(r, path+".to", what, f.To)
	if f.From.Kind == Me && f.To.Kind == Me {
		r.add(path, "%s goes from me to me: traffic of a host with itself is never filtered", what)
	}
	validatePorts(r, path+".sourcePort", what, f.Protocol, f.FromPorts)
	validatePorts(r, path+".destinationPort", what, f.Protocol, f.ToPorts)
	validateICMP(r, path, what, f)
	validateFamilies(r, path, what, f)
}

func validateEndpoint(r *report, path, what string, e Endpoint) {
	first, last, ok := e.Addrs.Bounds()
	switch {
	case e.Kind > DefaultGateway:
		r.add(path, "%s: unknown kind of endpoint %d", what, e.Kind)
	case e.Kind == Addresses && !ok:
		r.add(path, "%s: an address, prefix or range is missing", what)
	case e.Kind == Addresses && isSingle(e.Addrs) && first.IsUnspecified():
		r.add(path, "%s: %v is not an address of a host; write any or me", what, first)
	case e.Kind == Addresses && last.Is4In6():
		r.add(path, "%s: %v ends with the IPv4 addresses written as IPv6, which no packet carries; write a longer prefix", what, e.Addrs)
	case e.Kind != Addresses && e.Addrs != sadb.AnyAddrs():
		r.add(path, "%s: addresses given for an endpoint of another kind", what)
	case e.Kind == Name:
		checkDNSName(r, path, what, e.Name)
	case e.Name != "":
		r.add(path, "%s: a DNS name given for an endpoint of another kind", what)
	}
}

// checkDNSName refuses what cannot be asked of the DNS as a host's name
// (RFC 1123 §2.1; an underscore is let through, for it is in use).
func checkDNSName(r *report, path, what, name string) {
	if _, err := netip.ParseAddr(name); err == nil {
		r.add(path, "%s: %q is an address, not a DNS name; write it without name:", what, name)
		return
	}
	labels := strings.Split(strings.TrimSuffix(name, "."), ".")
	if len(name) > maxDNSName || slices.ContainsFunc(labels, func(l string) bool { return !dnsLabel(l) }) {
		r.add(path, "%s: %q is not a DNS name: letters, digits and hyphens in labels of at most 63, at most 253 in all; a name in another script is written in its xn-- form", what, name)
	}
}

const maxDNSName = 254 // with the dot at its end

func dnsLabel(l string) bool {
	const most = 63
	plain := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
	}
	return l != "" && len(l) <= most && l[0] != '-' && l[len(l)-1] != '-' && !strings.ContainsFunc(l, func(c rune) bool { return !plain(c) })
}

func isSingle(a sadb.Addrs) bool {
	_, ok := a.Single()
	return ok
}

func validatePorts(r *report, path, what string, proto uint8, p sadb.Ports) {
	if p == (sadb.Ports{}) {
		return
	}
	if !sadb.HasPorts(proto) {
		r.add(path, "%s: ports need protocol tcp, udp, sctp or dccp, not %s", what, sadb.ProtoName(proto))
	}
	if p.From > p.To {
		r.add(path, "%s: the range %d-%d runs backwards", what, p.From, p.To)
	}
}

func validateICMP(r *report, path, what string, f *Filter) {
	if f.ICMPType.Set || f.ICMPCode.Set {
		if !sadb.HasICMP(f.Protocol) {
			r.add(path, "%s: icmpType and icmpCode need protocol icmp or icmpv6, not %s", what, sadb.ProtoName(f.Protocol))
		}
	}
	if f.ICMPCode.Set && !f.ICMPType.Set {
		r.add(path+".icmpCode", "%s: an ICMP code means something with a type only; give icmpType too", what)
	}
	checkOctets(r, path+".icmpType", what, f.ICMPType)
	checkOctets(r, path+".icmpCode", what, f.ICMPCode)
}

func checkOctets(r *report, path, what string, o sadb.Octets) {
	if o.From > o.To {
		r.add(path, "%s: the range %d-%d runs backwards", what, o.From, o.To)
	}
}

// validateFamilies refuses filters that no packet can match.
func validateFamilies(r *report, path, what string, f *Filter) {
	from, _, fromOK := f.From.Addrs.Bounds()
	to, _, toOK := f.To.Addrs.Bounds()
	if fromOK && toOK && from.Is4() != to.Is4() {
		r.add(path, "%s: one side is IPv4 and the other IPv6; no packet matches", what)
		return
	}
	if !fromOK && !toOK {
		return
	}
	v4 := fromOK && from.Is4() || toOK && to.Is4()
	if v4 && f.Protocol == sadb.ICMPv6 {
		r.add(path+".protocol", "%s: icmpv6 between IPv4 addresses; write icmp", what)
	}
	if !v4 && f.Protocol == sadb.ICMP {
		r.add(path+".protocol", "%s: icmp between IPv6 addresses; write icmpv6", what)
	}
}

func (p *Policy) validateRules(r *report) {
	if len(p.Rules) > maxObjects {
		r.add("rules", "%d rules, more than %d", len(p.Rules), maxObjects)
		return
	}
	o := p.objects()
	seen, ways := map[string]bool{}, p.oneWays(o)
	used := 0
	for i := range p.Rules {
		rule := &p.Rules[i]
		path := at("rules", i, "")
		validateRuleNames(r, path, rule)
		if id := rule.identity(); seen[id] {
			r.add(path, "rule %q is defined twice", id)
		} else {
			seen[id] = true
		}
		list, action := p.validateReferences(r, o, path, rule)
		if list < 0 || action == nil {
			continue
		}
		if used += len(p.FilterLists[list].Filters); used > maxFilters {
			r.add(path, "the rules use more than %d filters; a list counts once for each rule that names it", maxFilters)
			return
		}
		p.validatePair(r, ways, i, list, action)
	}
}

func validateRuleNames(r *report, path string, rule *Rule) {
	if rule.GUID == "" || rule.Name != "" {
		checkName(r, path, "the rule", rule.Name)
	}
	what := fmt.Sprintf("rule %q", rule.label())
	checkText(r, path, what, rule.Description)
	if rule.Tunnel.Endpoint.IsValid() && rule.Tunnel.Name != "" {
		r.add(path+".tunnel", "%s names its tunnel endpoint by address and by name; keep one", what)
	}
	if rule.Connections > sadb.RemoteAccess {
		r.add(path+".connections", "%s: unknown connection type %d", what, rule.Connections)
	}
	validateAuthentication(r, path+".authentication", what, rule.Authentication)
}

// validateReferences returns what a rule refers to; -1 or nil if it is not
// there, which is reported.
func (p *Policy) validateReferences(r *report, o objects, path string, rule *Rule) (int, *FilterAction) {
	list, action := o.list(rule.FilterList), o.action(rule.FilterAction)
	if list < 0 {
		r.add(path+".filterList", "rule %q names filter list %q, which is not defined (defined: %s)",
			rule.label(), rule.FilterList, p.listNames())
	}
	if action == nil {
		r.add(path+".filterAction", "rule %q names filter action %q, which is not defined (defined: %s)",
			rule.label(), rule.FilterAction, p.actionNames())
	}
	return list, action
}

// maxListed bounds the names an error lists.
const maxListed = 20

func (p *Policy) listNames() string {
	var names []string
	for _, l := range p.FilterLists {
		names = append(names, l.Name)
	}
	return listed(names)
}

func (p *Policy) actionNames() string {
	names := []string{builtinPermit, builtinBlock}
	for _, a := range p.FilterActions {
		names = append(names, a.Name)
	}
	return listed(names)
}

func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	if len(names) > maxListed {
		names = append(names[:maxListed:maxListed], "…")
	}
	return strings.Join(names, ", ")
}

// validatePair checks what a rule makes of its filters.
func (p *Policy) validatePair(r *report, ways map[oneWay]*Rule, i, list int, action *FilterAction) {
	rule := &p.Rules[i]
	p.validateTunnel(r, ways, i, list, action)
	if action.Kind != sadb.Negotiate {
		return
	}
	what := fmt.Sprintf("rule %q", rule.label())
	if len(rule.Authentication) == 0 {
		r.add(at("rules", i, "authentication"), "%s negotiates security without an authentication method; give one, for example authentication: [psk]", what)
	}
	if !rule.Tunnel.IsZero() {
		return
	}
	l := &p.FilterLists[list]
	for j := range l.Filters {
		f := &l.Filters[j]
		path := at(at("filterLists", list, "filters"), j, "")
		if !f.Mirrored {
			r.add(path+".mirrored", "filter list %q, filter %d is not mirrored and %s negotiates security for it, which needs both directions", l.Name, j+1, what)
		}
		if group := multicast(f.From.Addrs) || multicast(f.To.Addrs); group {
			r.add(path, "filter list %q, filter %d names multicast or broadcast addresses, for which %s cannot negotiate security; permit or block them", l.Name, j+1, what)
		}
	}
}

// multicast reports whether every address of a is multicast or the limited
// broadcast.
func multicast(a sadb.Addrs) bool {
	first, last, ok := a.Bounds()
	if !ok {
		return false
	}
	return first.IsMulticast() && last.IsMulticast() || first == limitedBroadcast()
}
