package policy_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// valid is a policy that has everything and that Validate accepts.
func valid() *policy.Policy {
	p := with([]policy.Filter{{From: me, To: prefix("10.0.0.0/8"), Protocol: sadb.TCP, ToPorts: sadb.Ports{From: 80, To: 90}, Mirrored: true}}, "require", "permit")
	p.Description = "several\nlines"
	p.PollingInterval = time.Hour
	p.KeyExchange = policy.Server().KeyExchange
	p.DefaultResponse = policy.DefaultResponse{Active: true, Methods: gcm(), Authentication: psk()}
	p.Tests = []policy.Test{{Flow: "tcp me -> 10.0.0.1:80", Expect: "negotiate"}}
	return p
}

func TestValidateAcceptsWhatIsEnforced(t *testing.T) {
	if err := policy.Validate(valid()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"esp-aes256gcm", "esp-aes192gcm", "esp-aes128gcm", "esp-aes256-sha512", "esp-aes256-sha384", "esp-aes256-sha256", "esp-aes256-sha1",
		"esp-aes192-sha256", "esp-aes192-sha1", "esp-aes128-sha256", "esp-aes128-sha1", "esp-3des-sha1", "esp-3des-md5", "esp-des-sha1",
		"esp-des-md5", "esp-null-sha512", "esp-null-sha384", "esp-null-sha256", "esp-null-sha1", "esp-null-md5",
		"ah-sha512", "ah-sha384", "ah-sha256", "ah-sha1", "ah-md5",
	} {
		s, err := sadb.ParseSuite(name)
		if err != nil {
			t.Fatal(err)
		}
		p := valid()
		p.FilterActions[0].Methods = []policy.SecurityMethod{{Suites: []sadb.Suite{s}}}
		if err := policy.Validate(p); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string]func(*policy.Policy){
		"kerberos": func(p *policy.Policy) { p.Rules[0].Authentication = []policy.AuthMethod{{Kind: policy.Kerberos}} },
		"certificate": func(p *policy.Policy) {
			p.Rules[0].Authentication = []policy.AuthMethod{{Kind: policy.Certificate, CA: "CN=x", MapToAccount: true}}
		},
		"master key PFS": func(p *policy.Policy) { p.KeyExchange.MasterKeyPFS = true },
		"sessions":       func(p *policy.Policy) { p.KeyExchange.Sessions = 7 },
		"DES": func(p *policy.Policy) {
			p.KeyExchange.Methods[0] = sadb.ISAKMPSuite{Encryption: sadb.DES, Hash: sadb.MD5, Group: sadb.MODP768}
		},
		"AH and ESP": func(p *policy.Policy) {
			m := &p.FilterActions[0].Methods[0]
			m.Suites = append([]sadb.Suite{{Proto: sadb.AH, Integrity: sadb.HMACSHA1}}, m.Suites...)
		},
	} {
		p := valid()
		change(p)
		if err := policy.Validate(p); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type refusal struct {
	name   string
	change func(*policy.Policy)
	path   string
	want   string // part of the message
}

func checkRefusals(t *testing.T, table []refusal) {
	t.Helper()
	for _, tc := range table {
		t.Run(tc.name, func(t *testing.T) {
			p := valid()
			tc.change(p)
			err := policy.Validate(p)
			problems := policy.Problems(err)
			for _, found := range problems {
				if found.Path == tc.path && strings.Contains(found.Message, tc.want) {
					if _, err := policy.Compile(p, policy.Host{}); err == nil {
						t.Error("it compiles all the same")
					}
					return
				}
			}
			t.Errorf("no problem at %s with %q in:\n%v", tc.path, tc.want, err)
		})
	}
}

func TestValidateRefusesWhatIsWrong(t *testing.T) {
	long := strings.Repeat("x", 5000)
	methods := func(n int) (m []policy.SecurityMethod) {
		for range n {
			m = append(m, gcm()...)
		}
		return m
	}
	checkRefusals(t, []refusal{
		{"no name", func(p *policy.Policy) { p.Name = " " }, "name", "needs a name"},
		{"long name", func(p *policy.Policy) { p.Name = long }, "name", "5000 bytes"},
		{"terminal escape in a name", func(p *policy.Policy) { p.Name = "a\x1b[31m" }, "name", `control characters: "a\x1b[31m"`},
		{"name that is not UTF-8", func(p *policy.Policy) { p.Name = "a\xff" }, "name", "control characters"},
		{"long description", func(p *policy.Policy) { p.Description = long }, "description", "5000 bytes"},
		{"escape in a description", func(p *policy.Policy) { p.Description = "\x1b" }, "description", "control characters"},
		{"polling too often", func(p *policy.Policy) { p.PollingInterval = time.Second }, "pollingInterval", "not between"},
		{"polling too seldom", func(p *policy.Policy) { p.PollingInterval = 8 * 24 * time.Hour }, "pollingInterval", "not between"},

		{"many main-mode methods", func(p *policy.Policy) { p.KeyExchange.Methods = make([]sadb.ISAKMPSuite, 33) }, "keyExchange.methods", "more than 32"},
		{"no main-mode method", func(p *policy.Policy) { p.KeyExchange.Methods[1] = sadb.ISAKMPSuite{} }, "keyExchange.methods[1]", "is not a main-mode method"},
		{"main-mode method twice", func(p *policy.Policy) { p.KeyExchange.Methods[1] = p.KeyExchange.Methods[0] }, "keyExchange.methods[1]", "twice"},
		{"short main mode", func(p *policy.Policy) { p.KeyExchange.Lifetime = 59 * time.Second }, "keyExchange.lifetime", "not between"},
		{"long main mode", func(p *policy.Policy) { p.KeyExchange.Lifetime = 49 * time.Hour }, "keyExchange.lifetime", "not between"},
		{"half a second", func(p *policy.Policy) { p.KeyExchange.Lifetime = time.Hour + time.Second/2 }, "keyExchange.lifetime", "whole seconds"},
		{"negative sessions", func(p *policy.Policy) { p.KeyExchange.Sessions = -1 }, "keyExchange.sessions", "negative"},

		{"list twice", func(p *policy.Policy) { p.FilterLists = append(p.FilterLists, p.FilterLists[0]) }, "filterLists[1]", "defined twice"},
		{"list without name", func(p *policy.Policy) { p.FilterLists[0].Name = "" }, "filterLists[0]", "needs a name"},
		{"empty list", func(p *policy.Policy) { p.FilterLists[0].Filters = nil }, "filterLists[0]", "is empty"},
		{"action twice", func(p *policy.Policy) { p.FilterActions = append(p.FilterActions, p.FilterActions[0]) }, "filterActions[1]", "defined twice"},
		{"built-in action", func(p *policy.Policy) { p.FilterActions[0].Name = "permit" }, "filterActions[0]", "built in"},
		{"unknown action", func(p *policy.Policy) { p.FilterActions[0].Kind = 9 }, "filterActions[0].negotiate", "unknown action 9"},
		{"no methods", func(p *policy.Policy) { p.FilterActions[0].Methods = nil }, "filterActions[0].negotiate.methods", "without any method"},
		{"many methods", func(p *policy.Policy) { p.FilterActions[0].Methods = methods(33) }, "filterActions[0].negotiate.methods", "more than 32"},
		{"no suite", func(p *policy.Policy) { p.FilterActions[0].Methods[0].Suites = nil }, "filterActions[0].negotiate.methods[0]", "not one ESP or AH suite"},
		{"unknown suite", func(p *policy.Policy) { p.FilterActions[0].Methods[0].Suites = make([]sadb.Suite, 1) }, "filterActions[0].negotiate.methods[0]", "not one ESP or AH suite"},
		{"two ESP suites", func(p *policy.Policy) {
			p.FilterActions[0].Methods[0].Suites = append(p.FilterActions[0].Methods[0].Suites, p.FilterActions[0].Methods[0].Suites...)
		}, "filterActions[0].negotiate.methods[0]", "not one ESP or AH suite"},
		{"short quick mode", func(p *policy.Policy) { p.FilterActions[0].Methods[0].Lifetime = time.Second }, "filterActions[0].negotiate.methods[0].lifetime", "not between"},
		{"few bytes", func(p *policy.Policy) { p.FilterActions[0].Methods[0].Bytes = 999_999 }, "filterActions[0].negotiate.methods[0].bytes", "not between"},
		{"many bytes", func(p *policy.Policy) { p.FilterActions[0].Methods[0].Bytes = 5e12 }, "filterActions[0].negotiate.methods[0].bytes", "not between"},
		{"delay without clear", func(p *policy.Policy) { p.FilterActions[0].ClearDelay = time.Second }, "filterActions[0].negotiate.clearDelay", "needs allowClear"},
		{"long delay", func(p *policy.Policy) {
			p.FilterActions[0].AllowClear = true
			p.FilterActions[0].ClearDelay = 61 * time.Second
		}, "filterActions[0].negotiate.clearDelay", "not between"},
		{"clear without negotiation", func(p *policy.Policy) {
			p.FilterActions = append(p.FilterActions, policy.FilterAction{Name: "x", Kind: sadb.Permit, AllowClear: true})
		}, "filterActions[1].negotiate", "is permit and has settings of a negotiation"},
		{"group without PFS", func(p *policy.Policy) { p.FilterActions[0].PFSGroup = sadb.ECP256 }, "filterActions[0].negotiate.sessionKeyPFS", "that is off"},
		{"unknown group", func(p *policy.Policy) {
			p.FilterActions[0].SessionKeyPFS = true
			p.FilterActions[0].PFSGroup = 99
		}, "filterActions[0].negotiate.sessionKeyPFS", "unknown Diffie-Hellman group"},

		{"rule twice", func(p *policy.Policy) { p.Rules[1].Name = p.Rules[0].Name }, "rules[1]", "defined twice"},
		{"rule without name", func(p *policy.Policy) { p.Rules[0].Name = "" }, "rules[0]", "needs a name"},
		{"list not defined", func(p *policy.Policy) { p.Rules[0].FilterList = "lost" }, "rules[0].filterList", `filter list "lost", which is not defined (defined: list)`},
		{"no list at all", func(p *policy.Policy) { p.FilterLists = nil }, "rules[0].filterList", `(defined: none)`},
		{"action not defined", func(p *policy.Policy) { p.Rules[0].FilterAction = "lost" }, "rules[0].filterAction", `filter action "lost", which is not defined (defined: permit, block, require)`},
		{"negotiation without authentication", func(p *policy.Policy) { p.Rules[0].Authentication = nil }, "rules[0].authentication", "without an authentication method"},
		{"tunnel with two endpoints", func(p *policy.Policy) {
			p.Rules[0].Tunnel = policy.TunnelSetting{Endpoint: netip.MustParseAddr("10.0.0.1"), Name: "gw"}
		}, "rules[0].tunnel", "keep one"},
		{"tunnel that falls back", func(p *policy.Policy) {
			p.Rules[0].Tunnel.Name = "gw"
			p.FilterActions[0].AllowClear = true
		}, "rules[0].filterAction", "a tunnel never falls back"},
		{"unknown connection type", func(p *policy.Policy) { p.Rules[0].Connections = 9 }, "rules[0].connections", "unknown connection type 9"},

		{"many authentication methods", func(p *policy.Policy) { p.Rules[0].Authentication = make([]policy.AuthMethod, 17) }, "rules[0].authentication", "more than 16"},
		{"unknown authentication", func(p *policy.Policy) { p.Rules[0].Authentication[0].Kind = 9 }, "rules[0].authentication[0]", "unknown authentication method 9"},
		{"certificate without authority", func(p *policy.Policy) { p.Rules[0].Authentication[0].Kind = policy.Certificate }, "rules[0].authentication[0]", "names its authority"},
		{"authority by a mere name", func(p *policy.Policy) {
			p.Rules[0].Authentication[0] = policy.AuthMethod{Kind: policy.Certificate, CA: "Root"}
		}, "rules[0].authentication[0]", "no distinguished name"},
		{"authority of a key", func(p *policy.Policy) { p.Rules[0].Authentication[0].CA = "CN=x" }, "rules[0].authentication[0]", "belong to a certificate"},
		{"key of Kerberos", func(p *policy.Policy) {
			p.Rules[0].Authentication[0] = policy.AuthMethod{Kind: policy.Kerberos, Key: "x"}
		}, "rules[0].authentication[0]", "belongs to a preshared-key"},
		{"method twice", func(p *policy.Policy) { p.Rules[0].Authentication = append(psk(), psk()...) }, "rules[0].authentication[1]", "lists psk twice"},
		{"many principals", func(p *policy.Policy) { p.Rules[0].Authentication[0].AcceptPrincipals = make([]string, 1001) }, "rules[0].authentication[0].acceptPrincipals", "more than 1000"},
		{"principal without name", func(p *policy.Policy) { p.Rules[0].Authentication[0].AcceptPrincipals = []string{"a", ""} }, "rules[0].authentication[0].acceptPrincipals[1]", "needs a name"},
		{"escape in a key's name", func(p *policy.Policy) { p.Rules[0].Authentication[0].Key = "\x1b" }, "rules[0].authentication[0]", "control characters"},
		{"response without authentication", func(p *policy.Policy) { p.DefaultResponse.Authentication = nil }, "defaultResponse.authentication", "is active without"},
		{"response with a short lifetime", func(p *policy.Policy) { p.DefaultResponse.Methods[0].Lifetime = 1 }, "defaultResponse.methods[0].lifetime", "not between"},

		{"test without flow", func(p *policy.Policy) { p.Tests[0].Flow = "tcp" }, "tests[0].flow", "is not"},
		{"test of nothing", func(p *policy.Policy) { p.Tests[0].Expect = "allow" }, "tests[0].expect", `"allow" is not permit, block, negotiate or none`},
		{"many tests", func(p *policy.Policy) { p.Tests = make([]policy.Test, 10_001) }, "tests", "more than 10000"},
	})
}

func TestValidateRefusesWrongFilters(t *testing.T) {
	filter := func(change func(*policy.Filter)) func(*policy.Policy) {
		return func(p *policy.Policy) { change(&p.FilterLists[0].Filters[0]) }
	}
	const here = "filterLists[0].filters[0]"
	checkRefusals(t, []refusal{
		{"me to me", filter(func(f *policy.Filter) { f.To = me }), here, "from me to me"},
		{"unknown endpoint", filter(func(f *policy.Filter) { f.To = policy.Endpoint{Kind: 9} }), here + ".to", "unknown kind of endpoint 9"},
		{"no address", filter(func(f *policy.Filter) { f.To.Addrs = sadb.AnyAddrs() }), here + ".to", "is missing"},
		{"unspecified address", filter(func(f *policy.Filter) { f.To = host("0.0.0.0") }), here + ".to", "write any or me"},
		{"me with an address", filter(func(f *policy.Filter) { f.From.Addrs = f.To.Addrs }), here + ".from", "of another kind"},
		{"mapped addresses", filter(func(f *policy.Filter) {
			f.To = policy.Endpoint{Kind: policy.Addresses, Addrs: sadb.Prefix(netip.MustParsePrefix("::/80"))}
		}), here + ".to", "ends with the IPv4 addresses written as IPv6"},
		{"name without a name", filter(func(f *policy.Filter) { f.To = policy.Endpoint{Kind: policy.Name} }), here + ".to", "is not a DNS name"},
		{"me with a name", filter(func(f *policy.Filter) { f.From.Name = "x" }), here + ".from", "of another kind"},
		{"ports of any protocol", filter(func(f *policy.Filter) { f.Protocol = 0 }), here + ".destinationPort", "need protocol tcp"},
		{"source port of GRE", filter(func(f *policy.Filter) { f.Protocol, f.FromPorts = 47, sadb.Port(1) }), here + ".sourcePort", "not 47"},
		{"ports backwards", filter(func(f *policy.Filter) { f.ToPorts = sadb.Ports{From: 2, To: 1} }), here + ".destinationPort", "2-1 runs backwards"},
		{"ICMP type of TCP", filter(func(f *policy.Filter) { f.ICMPType.Set = true }), here, "need protocol icmp"},
		{"ICMP code alone", filter(func(f *policy.Filter) { f.ICMPCode.Set = true }), here + ".icmpCode", "give icmpType too"},
		{"ICMP types backwards", filter(func(f *policy.Filter) { f.ICMPType = sadb.Octets{From: 2, To: 1, Set: true} }), here + ".icmpType", "2-1 runs backwards"},
		{"ICMP codes backwards", filter(func(f *policy.Filter) { f.ICMPCode = sadb.Octets{From: 2, To: 1, Set: true} }), here + ".icmpCode", "2-1 runs backwards"},
		{"two families", filter(func(f *policy.Filter) { f.From = host("2001:db8::1") }), here, "no packet matches"},
		{"icmpv6 over IPv4", filter(func(f *policy.Filter) { f.Protocol, f.ToPorts = sadb.ICMPv6, sadb.Ports{} }), here + ".protocol", "write icmp"},
		{"icmp over IPv6", filter(func(f *policy.Filter) { f.Protocol, f.ToPorts, f.To = sadb.ICMP, sadb.Ports{}, host("2001:db8::1") }), here + ".protocol", "write icmpv6"},
		{"description", filter(func(f *policy.Filter) { f.Description = "\x00" }), here, "control characters"},
		{"negotiated one way", filter(func(f *policy.Filter) { f.Mirrored = false }), here + ".mirrored", `rule "rule require" negotiates security for it, which needs both directions`},
		{"negotiated multicast", filter(func(f *policy.Filter) { f.To = prefix("224.0.0.0/24") }), here, "cannot negotiate security"},
		{"negotiated IPv6 multicast", filter(func(f *policy.Filter) { f.To = prefix("ff02::/16") }), here, "cannot negotiate security"},
		{"negotiated broadcast", filter(func(f *policy.Filter) { f.To = host("255.255.255.255") }), here, "cannot negotiate security"},
	})
}

func TestValidateRefusesWhatIsNoDNSName(t *testing.T) {
	long := strings.Repeat("a", 64)
	for _, name := range []string{"", ".", "a..b", "-a.example", "a-.example", "a b", "*.example", "bücher.example", "10.0.0.1", "2001:db8::1", "a/b", long, strings.Repeat("abc.", 64)} {
		p := valid()
		p.FilterLists[0].Filters[0].To = policy.Endpoint{Kind: policy.Name, Name: name}
		if err := policy.Validate(p); err == nil || !strings.Contains(err.Error(), "DNS name") {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"dc1.example.com", "DC1.Example.Com.", "host", "a_b.example", "xn--bcher-kva.example", strings.Repeat("abc.", 63)} {
		p := valid()
		p.FilterLists[0].Filters[0].To = policy.Endpoint{Kind: policy.Name, Name: name}
		p.FilterLists[0].Filters[0].ToPorts = sadb.Ports{}
		if err := policy.Validate(p); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestValidateReportsEverythingAtOnce(t *testing.T) {
	p := valid()
	p.Name = ""
	p.Rules[0].FilterList = "lost"
	p.Rules[1].FilterAction = "lost"
	p.Rules[0].Connections = 9
	if got := len(policy.Problems(policy.Validate(p))); got != 4 {
		t.Errorf("%d problems, want 4:\n%v", got, policy.Validate(p))
	}
}

// A list that many rules share is described once.
func TestValidateReportsAProblemOnce(t *testing.T) {
	p := valid()
	p.FilterLists[0].Filters[0].ToPorts = sadb.Ports{From: 2, To: 1}
	if got := policy.Problems(policy.Validate(p)); len(got) != 1 {
		t.Errorf("problems %v", got)
	}
}

func TestValidateBoundsThePolicy(t *testing.T) {
	one := policy.Filter{From: me, To: anywhere, Mirrored: true}
	many := make([]policy.Filter, 60_000)
	for i := range many {
		many[i] = one
	}
	checkRefusals(t, []refusal{
		{"filters", func(p *policy.Policy) {
			p.FilterLists[0].Filters = many
			p.FilterLists = append(p.FilterLists, policy.FilterList{Name: "more", Filters: many})
		}, "filterLists[1]", "more than 100000 filters"},
		{"filters of rules", func(p *policy.Policy) { p.FilterLists[0].Filters = many }, "rules[1]", "use more than 100000 filters"},
		{"names", func(p *policy.Policy) {
			for i := range 1001 {
				p.FilterLists[0].Filters = append(p.FilterLists[0].Filters, policy.Filter{From: me, To: policy.Endpoint{Kind: policy.Name, Name: fmt.Sprint("h", i)}, Mirrored: true})
			}
		}, "filterLists", "1001 different DNS names"},
		{"lists", func(p *policy.Policy) { p.FilterLists = make([]policy.FilterList, 10_001) }, "filterLists", "more than 10000"},
		{"actions", func(p *policy.Policy) { p.FilterActions = make([]policy.FilterAction, 10_001) }, "filterActions", "more than 10000"},
		{"rules", func(p *policy.Policy) { p.Rules = make([]policy.Rule, 10_001) }, "rules", "more than 10000"},
	})
}

func TestAnErrorListsFewNames(t *testing.T) {
	p := valid()
	for i := range 30 {
		p.FilterActions = append(p.FilterActions, policy.FilterAction{Name: fmt.Sprint("a", i), Kind: sadb.Permit})
	}
	p.Rules[0].FilterAction = "lost"
	err := policy.Validate(p)
	if err == nil || !strings.Contains(err.Error(), "a16, …)") || strings.Contains(err.Error(), "a17") {
		t.Errorf("%v", err)
	}
}

func TestProblemsFindsThemInAnyWrapping(t *testing.T) {
	p := &policy.Problem{Path: "name", Message: "is wrong"}
	for _, err := range []error{p, fmt.Errorf("a: %w", fmt.Errorf("b: %w", errors.Join(p)))} {
		if got := policy.Problems(err); len(got) != 1 || got[0] != p {
			t.Errorf("%v: %v", err, got)
		}
	}
	if got := policy.Problems(errors.New("other")); got != nil {
		t.Errorf("problems %v of another error", got)
	}
	if p.Error() != "name: is wrong" {
		t.Errorf("%q", p.Error())
	}
}

func TestWarnings(t *testing.T) {
	if got := policy.Warnings(valid()); got != nil {
		t.Errorf("warnings %v", got)
	}
	p := valid()
	p.Rules[1].Disabled = true
	p.KeyExchange.Methods[0] = sadb.ISAKMPSuite{Encryption: sadb.TripleDES, Hash: sadb.SHA1, Group: sadb.MODP1024}
	p.FilterLists = append(p.FilterLists, policy.FilterList{Name: "spare", Filters: []policy.Filter{{To: prefix("127.0.0.0/8")}}})
	p.FilterActions = append(p.FilterActions, policy.FilterAction{Name: "spare", Kind: sadb.Permit})
	p.DefaultResponse.Methods[0] = policy.SecurityMethod{
		Suites: []sadb.Suite{{Proto: sadb.ESP, Encryption: sadb.TripleDES, Integrity: sadb.HMACSHA1}}, Bytes: 100e9,
	}
	want := map[string]string{
		"rules[1].disabled":                "is disabled",
		"keyExchange.methods[0]":           "3des-sha1-modp1024 is weak",
		"filterLists[1]":                   `no rule uses filter list "spare"`,
		"filterLists[1].filters[0]":        "loopback",
		"filterActions[1]":                 `no rule uses filter action "spare"`,
		"defaultResponse.methods[0]":       "esp-3des-sha1 is weak",
		"defaultResponse.methods[0].bytes": "64-bit blocks",
	}
	got := policy.Warnings(p)
	if len(got) != len(want) {
		t.Errorf("%d warnings, want %d: %v", len(got), len(want), got)
	}
	for _, w := range got {
		if !strings.Contains(w.Message, want[w.Path]) || want[w.Path] == "" {
			t.Errorf("unexpected: %v", w)
		}
	}
	if err := policy.Validate(p); err != nil {
		t.Errorf("what is warned of is allowed: %v", err)
	}
}

func TestWordsOfTheModel(t *testing.T) {
	for value, want := range map[fmt.Stringer]string{
		policy.Any: "any", policy.Me: "me", policy.Addresses: "addresses", policy.EndpointKind(99): "endpoint kind 99",
		sadb.AllConnections: "all", sadb.ConnectionType(99): "connection type 99",
	} {
		if value.String() != want {
			t.Errorf("%q, want %q", value, want)
		}
	}
	for _, tc := range []struct {
		method policy.AuthMethod
		want   string
	}{
		{policy.AuthMethod{Kind: policy.PresharedKey, Key: "a"}, `psk "a"`},
		{policy.AuthMethod{Kind: 9}, "authentication method 9"},
	} {
		if tc.method.String() != tc.want {
			t.Errorf("%v, want %v", tc.method, tc.want)
		}
	}
}

// Rules of Windows have a GUID beside their name; people know the name.
func TestProblemsNameARuleByItsName(t *testing.T) {
	p := &policy.Policy{Name: "p", Rules: []policy.Rule{{GUID: "{59319BE2-5EE3-11D2-ACE8-0060B0ECCA17}", Name: "databases", FilterList: "l", FilterAction: "a"}}}
	err := policy.Validate(p)
	if err == nil || !strings.Contains(err.Error(), `rule "databases" names filter list "l"`) || strings.Contains(err.Error(), "59319BE2") {
		t.Errorf("%v", err)
	}
}
