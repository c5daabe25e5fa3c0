package policy

import (
	"fmt"

	"ipsecagent/sadb"
)

// What the model can say and this version does not enforce stands in this file
// alone. It is refused, never ignored: a rule that looks protected and is not
// is worse than none. Later versions shorten the list.

const notYet = "is not enforced by this version"

func (p *Policy) notEnforced(r *report) {
	p.keyExchangeNotEnforced(r)
	for i, l := range p.FilterLists {
		for j, f := range l.Filters {
			path := at(at("filterLists", i, "filters"), j, "")
			what := fmt.Sprintf("filter list %q, filter %d", l.Name, j+1)
			endpointNotEnforced(r, path+".from", what, f.From)
			endpointNotEnforced(r, path+".to", what, f.To)
		}
	}
	for i, a := range p.FilterActions {
		methodsNotEnforced(r, at("filterActions", i, "negotiate.methods"), fmt.Sprintf("filter action %q", a.Name), a.Methods)
	}
	for i := range p.Rules {
		ruleNotEnforced(r, at("rules", i, ""), &p.Rules[i])
	}
	methodsNotEnforced(r, "defaultResponse.methods", "the default response rule", p.DefaultResponse.Methods)
	if p.DefaultResponse.Active {
		authNotEnforced(r, "defaultResponse.authentication", "the default response rule", p.DefaultResponse.Authentication)
	}
}

func (p *Policy) keyExchangeNotEnforced(r *report) {
	k := p.KeyExchange
	if k.MasterKeyPFS {
		r.add("keyExchange.masterKeyPFS", "master key perfect forward secrecy %s; set it to false, sessionKeyPFS of a filter action gives every quick mode a key of its own", notYet)
	}
	if k.Sessions > 0 {
		r.add("keyExchange.sessions", "a limit of quick modes for each main mode %s; set it to 0", notYet)
	}
	for i, s := range k.Methods {
		if s.Encryption == sadb.DES {
			r.add(at("keyExchange.methods", i, ""), "main-mode method %v: DES %s", s, notYet)
		}
	}
}

func endpointNotEnforced(r *report, path, what string, e Endpoint) {
	if e.Kind >= Name {
		r.add(path, "%s: %v as an endpoint %s; write addresses", what, e.Kind, notYet)
	}
}

func methodsNotEnforced(r *report, path, what string, methods []SecurityMethod) {
	for i, m := range methods {
		for _, s := range m.Suites {
			if s.Valid() && !enforced(s) {
				r.add(at(path, i, ""), "%s: security method %v %s", what, s, notYet)
			}
		}
	}
}

// enforced reports whether a driver of this version carries the suite.
func enforced(s sadb.Suite) bool {
	if s.Proto != sadb.ESP {
		return false
	}
	switch s.Encryption {
	case sadb.AESGCM:
		return s.KeyBits != 192
	case sadb.AESCBC, sadb.Null:
		return s.Integrity == sadb.HMACSHA1 || s.Integrity == sadb.HMACSHA256
	case sadb.TripleDES:
		return s.Integrity == sadb.HMACSHA1
	}
	return false
}

func ruleNotEnforced(r *report, path string, rule *Rule) {
	what := fmt.Sprintf("rule %q", rule.identity())
	if !rule.Tunnel.IsZero() {
		r.add(path+".tunnel", "%s: a tunnel setting %s", what, notYet)
	}
	if rule.Connections == LAN || rule.Connections == RemoteAccess {
		r.add(path+".connections", "%s: connection type %v %s; write all", what, rule.Connections, notYet)
	}
	authNotEnforced(r, path+".authentication", what, rule.Authentication)
}

func authNotEnforced(r *report, path, what string, methods []AuthMethod) {
	for i, m := range methods {
		if m.Kind != Kerberos && m.Kind != Certificate {
			continue
		}
		r.add(at(path, i, ""), "%s: authentication by %v %s; use preshared keys: authentication: [psk] in a document, --auth psk-file:FILE with a predefined policy", what, m, notYet)
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

// String returns "all", "lan" or "remote-access".
func (c ConnectionType) String() string {
	switch c {
	case AllConnections:
		return "all"
	case LAN:
		return "lan"
	case RemoteAccess:
		return "remote-access"
	}
	return fmt.Sprintf("connection type %d", uint8(c))
}
