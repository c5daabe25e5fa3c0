package policy

import (
	"time"

	"ipsecagent/sadb"
)

// The predefined policies of Windows 2000, as they stand in every Active
// Directory: names, GUIDs, algorithms and lifetimes.

// Original returns one of the predefined policies as Windows 2000 has it, by the
// name that commands take.
func Original(name string) (*Policy, bool) {
	switch name {
	case ClientName:
		return originalClient(), true
	case ServerName:
		return originalServer(), true
	case SecureServerName:
		return originalSecureServer(), true
	}
	return nil, false
}

const (
	guidTail2000 = "-70FA-11D1-864C-14A300000000}"
	guidTail5EE3 = "-5EE3-11D2-ACE8-0060B0ECCA17}"
	guidTail0D1D = "-071D-11D3-AD22-0060B0ECCA17}"
)

func originalClient() *Policy {
	p := &Policy{
		GUID: "{72385236" + guidTail2000, Name: "Client (Respond Only)",
		Description: "Communicate normally (unsecured). Use the default response rule to negotiate with servers " +
			"that request security. Only the requested protocol and port traffic with that server is secured.",
		PollingInterval: defaultPolling, KeyExchange: originalMainMode(), DefaultResponse: originalResponse(), Uplift: true,
	}
	p.KeyExchange.GUID, p.KeyExchange.Identity = "{72385237"+guidTail2000, "{5F41EC73"+guidTail0D1D
	p.DefaultResponse.GUID, p.DefaultResponse.ActionGUID = "{59319C04"+guidTail5EE3, "{59319C01"+guidTail5EE3
	return p
}

func originalServer() *Policy {
	des, tripleDES := espSuite(sadb.DES, sadb.HMACSHA1), espSuite(sadb.TripleDES, sadb.HMACSHA1)
	p := originalServerPolicy(FilterAction{
		GUID: "{72385233" + guidTail2000, Name: request, Description: requestDescription, Kind: sadb.Negotiate,
		Methods: []SecurityMethod{
			originalMethod(900, tripleDES), originalMethod(900, des),
			originalMethod(300, ahSuite(sadb.HMACSHA1)), originalMethod(300, ahSuite(sadb.HMACMD5)),
		},
		AcceptUnsecured: true, AllowClear: true,
	}, "{594272E2"+guidTail0D1D, "{72385232"+guidTail2000, "Request Security (Optional) Rule")
	p.KeyExchange.GUID, p.KeyExchange.Identity = "{72385231"+guidTail2000, "{5119D268"+guidTail0D1D
	p.DefaultResponse.GUID, p.DefaultResponse.ActionGUID = "{59319BE2"+guidTail5EE3, "{59319BDF"+guidTail5EE3
	p.GUID, p.Name = "{72385230"+guidTail2000, "Server (Request Security)"
	p.Description = "For all IP traffic, always request security using Kerberos trust. Allow unsecured communication with clients that do not respond to request."
	p.Rules[1].Description = p.Description
	return p
}

func originalSecureServer() *Policy {
	p := originalServerPolicy(FilterAction{
		GUID: "{7238523F" + guidTail2000, Name: require, Description: requireDescription, Kind: sadb.Negotiate,
		Methods: []SecurityMethod{
			originalMethod(900, espSuite(sadb.TripleDES, sadb.HMACSHA1)), originalMethod(900, espSuite(sadb.TripleDES, sadb.HMACMD5)),
			originalMethod(900, espSuite(sadb.DES, sadb.HMACSHA1)), originalMethod(900, espSuite(sadb.DES, sadb.HMACMD5)),
		},
		AcceptUnsecured: true,
	}, "{594272FD"+guidTail0D1D, "{7238523E"+guidTail2000, require)
	p.KeyExchange.GUID, p.KeyExchange.Identity = "{7238523D"+guidTail2000, "{594272F9"+guidTail0D1D
	p.DefaultResponse.GUID, p.DefaultResponse.ActionGUID = "{59319BF3"+guidTail5EE3, "{59319BF0"+guidTail5EE3
	p.GUID, p.Name = "{7238523C"+guidTail2000, "Secure Server (Require Security)"
	p.Description = "For all IP traffic, always require security using Kerberos trust. Do NOT allow unsecured communication with untrusted clients."
	p.Rules[1].Description = requireDescription
	return p
}

func originalServerPolicy(action FilterAction, icmpGUID, ruleGUID, ruleName string) *Policy {
	icmp := permitICMP()
	icmp.GUID, icmp.Description = icmpGUID, icmp.Name
	permitted := permitAction()
	permitted.GUID = "{7238523B" + guidTail2000
	return &Policy{
		PollingInterval: defaultPolling,
		KeyExchange:     originalMainMode(),
		FilterLists: []FilterList{
			{
				GUID: "{72385235" + guidTail2000, Name: allICMP, Description: "Matches all ICMP packets between this computer and any other computer.",
				Filters: []Filter{{GUID: "{5119D263" + guidTail0D1D, Description: "ICMP", From: Endpoint{Kind: Me}, Protocol: sadb.ICMP, Mirrored: true}},
			},
			{
				GUID: "{7238523A" + guidTail2000, Name: allIP,
				Description: "Matches all IP packets from this computer to any other computer, except broadcast, multicast, Kerberos, RSVP and ISAKMP (IKE).",
				Filters:     []Filter{{GUID: "{59319BDD" + guidTail5EE3, From: Endpoint{Kind: Me}, Mirrored: true}},
			},
		},
		FilterActions:   []FilterAction{permitted, action},
		Rules:           []Rule{icmp, {GUID: ruleGUID, Name: ruleName, FilterList: allIP, FilterAction: action.Name, Authentication: kerberosOnly()}},
		DefaultResponse: originalResponse(),
		Uplift:          true,
	}
}

func espSuite(e sadb.Encryption, i sadb.Integrity) sadb.Suite {
	return sadb.Suite{Proto: sadb.ESP, Encryption: e, Integrity: i}
}

func ahSuite(i sadb.Integrity) sadb.Suite { return sadb.Suite{Proto: sadb.AH, Integrity: i} }

// originalMethod is a method with the lifetime in seconds and the 100 000 KB of
// the originals; 0: what Windows takes where nothing is said.
func originalMethod(seconds int, s sadb.Suite) SecurityMethod {
	if seconds == 0 {
		seconds = 3600
	}
	return SecurityMethod{Suites: []sadb.Suite{s}, Lifetime: time.Duration(seconds) * time.Second, Bytes: 100_000 * 1024}
}

func originalResponse() DefaultResponse {
	return DefaultResponse{Active: true, Authentication: kerberosOnly(), Methods: []SecurityMethod{
		originalMethod(0, espSuite(sadb.TripleDES, sadb.HMACSHA1)), originalMethod(0, espSuite(sadb.TripleDES, sadb.HMACMD5)),
		originalMethod(0, espSuite(sadb.DES, sadb.HMACSHA1)), originalMethod(0, espSuite(sadb.DES, sadb.HMACMD5)),
		originalMethod(0, ahSuite(sadb.HMACSHA1)), originalMethod(0, ahSuite(sadb.HMACMD5)),
	}}
}

func originalMainMode() KeyExchange {
	suite := func(e sadb.Encryption, h sadb.Hash, g sadb.Group) sadb.ISAKMPSuite {
		return sadb.ISAKMPSuite{Encryption: e, Hash: h, Group: g}
	}
	return KeyExchange{Lifetime: defaultMainMode, Methods: []sadb.ISAKMPSuite{
		suite(sadb.TripleDES, sadb.SHA1, sadb.MODP1024), suite(sadb.TripleDES, sadb.MD5, sadb.MODP1024),
		suite(sadb.DES, sadb.SHA1, sadb.MODP768), suite(sadb.DES, sadb.MD5, sadb.MODP768),
	}}
}
