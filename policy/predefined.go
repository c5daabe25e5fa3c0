package policy

import (
	"time"

	"ipsecagent/sadb"
)

// Names of the predefined policies, as commands take them.
const (
	ClientName       = "client"
	ServerName       = "server"
	SecureServerName = "secure-server"
)

// The names of the originals' objects, kept in the modern twins.
const (
	allIP   = "All IP Traffic"
	allICMP = "All ICMP Traffic"
	request = "Request Security (Optional)"
	require = "Require Security"
	permit  = "Permit"

	// Two blanks stand in these in every Active Directory.
	requestDescription = "Accepts unsecured communication, but requests clients to establish trust and security methods.  " +
		"Will communicate insecurely to untrusted clients if they do not respond to request."
	requireDescription = "Accepts unsecured communication, but always requires clients to establish trust and security methods.  " +
		"Will NOT communicate with untrusted clients."
)

// Predefined returns one of the predefined policies by the name that commands
// take: client, server or secure-server.
func Predefined(name string) (*Policy, bool) {
	switch name {
	case ClientName:
		return Client(), true
	case ServerName:
		return Server(), true
	case SecureServerName:
		return SecureServer(), true
	}
	return nil, false
}

// PredefinedNames returns the names that Predefined knows.
func PredefinedNames() []string { return []string{ClientName, ServerName, SecureServerName} }

// Client is the modern twin of Client (Respond Only). Unlike the original it
// permits ICMP by a rule, as the two servers do: what a server asks a client to
// secure is all IP traffic, the server itself sends ICMP in clear, and a client
// that then held the server to its word would not be pinged by it, nor ping it.
func Client() *Policy {
	return &Policy{
		Name: ClientName,
		Description: "Communicate normally (unsecured). Use the default response rule to negotiate with servers " +
			"that request security. Only the requested protocol and port traffic with that server is secured.",
		KeyExchange:     modernMainMode(),
		FilterLists:     []FilterList{icmpTraffic()},
		FilterActions:   []FilterAction{permitAction()},
		Rules:           []Rule{permitICMP()},
		DefaultResponse: modernResponse(),
	}
}

// Server is the modern twin of Server (Request Security).
func Server() *Policy {
	p := serverPolicy(FilterAction{
		Name:        request,
		Description: requestDescription,
		Kind:        sadb.Negotiate, Methods: modernMethods(),
		AcceptUnsecured: true, AllowClear: true,
	}, "Request Security (Optional) Rule")
	p.Name = ServerName
	p.Description = "For all IP traffic, always request security. Allow unsecured communication with clients that do not respond to request."
	return p
}

// SecureServer is the modern twin of Secure Server (Require Security).
func SecureServer() *Policy {
	p := serverPolicy(FilterAction{
		Name:        require,
		Description: requireDescription,
		Kind:        sadb.Negotiate, Methods: modernMethods(),
		AcceptUnsecured: true,
	}, require)
	p.Name = SecureServerName
	p.Description = "For all IP traffic, always require security. Do NOT allow unsecured communication with untrusted clients."
	return p
}

// serverPolicy is what the two servers share: ICMP permitted, all other
// traffic under one action, the default response rule active.
func serverPolicy(action FilterAction, ruleName string) *Policy {
	return &Policy{
		KeyExchange: modernMainMode(),
		FilterLists: []FilterList{
			icmpTraffic(),
			{
				Name: allIP, Description: "Matches all IP packets between this computer and any other computer.",
				Filters: []Filter{{From: Endpoint{Kind: Me}, Mirrored: true}},
			},
		},
		FilterActions: []FilterAction{
			permitAction(),
			action,
		},
		Rules: []Rule{
			permitICMP(),
			{Name: ruleName, FilterList: allIP, FilterAction: action.Name, Authentication: kerberosOnly()},
		},
		DefaultResponse: modernResponse(),
	}
}

func icmpTraffic() FilterList {
	return FilterList{
		Name: allICMP, Description: "Matches all ICMP packets between this computer and any other computer.",
		Filters: []Filter{
			{Description: "ICMP", From: Endpoint{Kind: Me}, Protocol: sadb.ICMP, Mirrored: true},
			{Description: "ICMPv6", From: Endpoint{Kind: Me}, Protocol: sadb.ICMPv6, Mirrored: true},
		},
	}
}

func permitAction() FilterAction {
	return FilterAction{Name: permit, Description: "Permit unsecured IP packets to pass through.", Kind: sadb.Permit}
}

func permitICMP() Rule {
	return Rule{
		Name: "Permit unsecure ICMP packets to pass through.", FilterList: allICMP, FilterAction: permit,
		Authentication: kerberosOnly(),
	}
}

func kerberosOnly() []AuthMethod { return []AuthMethod{{Kind: Kerberos}} }

func modernResponse() DefaultResponse {
	return DefaultResponse{Active: true, Methods: modernMethods(), Authentication: kerberosOnly()}
}

func modernMainMode() KeyExchange {
	return KeyExchange{Methods: modernKeyExchange(), Lifetime: defaultMainMode}
}

// modernKeyExchange is the main-mode methods of every policy that lists none.
func modernKeyExchange() []sadb.ISAKMPSuite {
	aes := func(bits int, g sadb.Group) sadb.ISAKMPSuite {
		return sadb.ISAKMPSuite{Encryption: sadb.AESCBC, KeyBits: bits, Hash: sadb.SHA256, Group: g}
	}
	return []sadb.ISAKMPSuite{
		aes(256, sadb.ECP256), aes(256, sadb.ECP384), aes(128, sadb.ECP256),
		aes(256, sadb.MODP2048), aes(128, sadb.MODP2048),
	}
}

// modernMethods is the security methods of every default response rule that
// lists none.
func modernMethods() []SecurityMethod {
	method := func(s sadb.Suite) SecurityMethod {
		return SecurityMethod{Suites: []sadb.Suite{s}, Lifetime: time.Hour, Bytes: defaultBytes}
	}
	return []SecurityMethod{
		method(sadb.Suite{Proto: sadb.ESP, Encryption: sadb.AESGCM, KeyBits: 256}),
		method(sadb.Suite{Proto: sadb.ESP, Encryption: sadb.AESGCM, KeyBits: 128}),
		method(sadb.Suite{Proto: sadb.ESP, Encryption: sadb.AESCBC, KeyBits: 128, Integrity: sadb.HMACSHA256}),
	}
}

// WithAuthentication returns a copy of p in which every rule and the default
// response rule authenticate by methods, in that order, and by nothing else.
func WithAuthentication(p *Policy, methods []AuthMethod) *Policy {
	c := *p
	c.Rules = append([]Rule(nil), p.Rules...)
	for i := range c.Rules {
		c.Rules[i].Authentication = append([]AuthMethod(nil), methods...)
	}
	c.DefaultResponse.Authentication = append([]AuthMethod(nil), methods...)
	return &c
}
