package policy

import (
	"fmt"

	"ipsecagent/sadb"
)

// What the model can say and this version does not enforce stands in this file
// alone. It is refused, never ignored: a rule that looks protected and is not
// is worse than none. What a data path or an
// authentication method of this host cannot do, the agent refuses.

const notYet = "is not enforced by this version"

func (p *Policy) notEnforced(r *report) {
	for i, l := range p.FilterLists {
		for j, f := range l.Filters {
			path := at(at("filterLists", i, "filters"), j, "")
			what := fmt.Sprintf("filter list %q, filter %d", l.Name, j+1)
			endpointNotEnforced(r, path+".from", what, f.From)
			endpointNotEnforced(r, path+".to", what, f.To)
		}
	}
	for i := range p.Rules {
		ruleNotEnforced(r, at("rules", i, ""), &p.Rules[i])
	}
}

func endpointNotEnforced(r *report, path, what string, e Endpoint) {
	if e.Kind >= Name {
		r.add(path, "%s: %v as an endpoint %s; write addresses", what, e.Kind, notYet)
	}
}

func ruleNotEnforced(r *report, path string, rule *Rule) {
	what := fmt.Sprintf("rule %q", rule.identity())
	if rule.Tunnel.Name != "" {
		r.add(path+".tunnel", "%s: a tunnel endpoint by its name %s; write its address", what, notYet)
	}
	if rule.Connections == sadb.LAN || rule.Connections == sadb.RemoteAccess {
		r.add(path+".connections", "%s: connection type %v %s; write all", what, rule.Connections, notYet)
	}
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
