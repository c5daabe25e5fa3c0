package policy_test

import (
	"net/netip"
	"strings"
	"testing"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// The two gateways and the networks behind them.
func gateA() netip.Addr { return netip.MustParseAddr("192.0.2.1") }
func gateB() netip.Addr { return netip.MustParseAddr("198.51.100.1") }

func network(s string) policy.Endpoint { return prefix(s) }

func filterBetween(from, to string, mirrored bool) policy.Filter {
	return policy.Filter{From: network(from), To: network(to), Mirrored: mirrored}
}

// sites is one rule, the short form.
func sites(endpoint netip.Addr) *policy.Policy {
	p := with([]policy.Filter{filterBetween("10.1.0.0/16", "10.2.0.0/16", true)}, "require")
	p.Rules[0].Tunnel.Endpoint = endpoint
	return p
}

// sitesOfWindows is two rules with filters that are not mirrored.
func sitesOfWindows() *policy.Policy {
	p := with([]policy.Filter{filterBetween("10.1.0.0/16", "10.2.0.0/16", false)}, "require")
	p.FilterLists = append(p.FilterLists, policy.FilterList{Name: "back", Filters: []policy.Filter{filterBetween("10.2.0.0/16", "10.1.0.0/16", false)}})
	back := p.Rules[0]
	back.Name, back.FilterList = "back", "back"
	p.Rules = append(p.Rules, back)
	p.Rules[0].Tunnel.Endpoint, p.Rules[1].Tunnel.Endpoint = gateB(), gateA()
	return p
}

func onlyFilter(t *testing.T, p *policy.Policy, h policy.Host) policy.CompiledFilter {
	t.Helper()
	c, err := policy.Compile(p, h)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Filters) != 1 {
		t.Fatalf("%d filters, want one: %+v", len(c.Filters), c.Filters)
	}
	return c.Filters[0]
}

func TestTunnelRuleCompilesToOneFilterOfBothDirections(t *testing.T) {
	a := policy.Host{Addresses: []netip.Addr{gateA()}, Outer: map[netip.Addr]netip.Addr{gateB(): gateA()}}
	b := policy.Host{Addresses: []netip.Addr{gateB()}, Outer: map[netip.Addr]netip.Addr{gateA(): gateB()}}
	tests := []struct {
		name          string
		p             *policy.Policy
		host          policy.Host
		local, remote netip.Addr
		inner         string
	}{
		{"short", sites(gateB()), a, gateA(), gateB(), "10.1.0.0/16"},
		{"Windows, one gateway", sitesOfWindows(), a, gateA(), gateB(), "10.1.0.0/16"},
		{"Windows, the other gateway", sitesOfWindows(), b, gateB(), gateA(), "10.2.0.0/16"},
		{"Windows, own end from the rule", sitesOfWindows(), policy.Host{Addresses: []netip.Addr{gateA()}}, gateA(), gateB(), "10.1.0.0/16"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := onlyFilter(t, tt.p, tt.host)
			if f.Mode != sadb.Tunnel || f.TunnelLocal != tt.local || f.TunnelRemote != tt.remote || f.Dir != sadb.Both ||
				f.Selector.Local.String() != tt.inner || f.Action.Kind != sadb.Negotiate || f.Negotiation == nil {
				t.Errorf("%+v", f)
			}
		})
	}
}

func TestTunnelWithoutAWayIsBlocked(t *testing.T) {
	f := onlyFilter(t, sites(gateB()), policy.Host{Addresses: []netip.Addr{gateA()}})
	if f.Action.Kind != sadb.Block || f.Negotiation != nil {
		t.Errorf("%+v", f)
	}
}

func TestTunnelFilterIsAnotherWithAnotherEndpoint(t *testing.T) {
	outer := map[netip.Addr]netip.Addr{gateB(): gateA(), gateA(): gateB()}
	one, two := onlyFilter(t, sites(gateB()), policy.Host{Outer: outer}), onlyFilter(t, sites(gateA()), policy.Host{Outer: outer})
	if one.ID == two.ID {
		t.Error("associations with one gateway would be taken for those with the other")
	}
}

func TestTunnelToOneselfIsRefused(t *testing.T) {
	_, err := policy.Compile(sites(gateA()), policy.Host{Addresses: []netip.Addr{gateA()}})
	if err == nil || !strings.Contains(err.Error(), "is an address of this host") {
		t.Errorf("error %v", err)
	}
}

func TestTunnelEndpointsAreListedOnce(t *testing.T) {
	p := sitesOfWindows()
	p.Rules = append(p.Rules, p.Rules[0])
	p.Rules[2].Name = "again"
	if got := p.TunnelEndpoints(policy.Host{}); len(got) != 2 {
		t.Errorf("endpoints %v", got)
	}
}

func TestValidateRefusesTunnels(t *testing.T) {
	endpoint := func(s string) func(*policy.Policy) {
		return func(p *policy.Policy) { p.Rules[0].Tunnel.Endpoint = netip.MustParseAddr(s) }
	}
	checkRefusals(t, []refusal{
		{"multicast", endpoint("224.0.0.1"), "rules[0].tunnel", "cannot be the address of the other gateway"},
		{"unspecified", endpoint("0.0.0.0"), "rules[0].tunnel", "cannot be the address of the other gateway"},
		{"loopback", endpoint("::1"), "rules[0].tunnel", "cannot be the address of the other gateway"},
		{"zone", endpoint("fe80::1%eth0"), "rules[0].tunnel", "cannot be the address of the other gateway"},
		{"allows clear", func(p *policy.Policy) { endpoint("192.0.2.9")(p); p.FilterActions[0].AllowClear = true }, "rules[0].filterAction", "a tunnel never falls back"},
		{"permits", func(p *policy.Policy) { p.Rules[1].Tunnel.Endpoint = gateB() }, "rules[1].tunnel", "needs an action that negotiates"},
		{"one way", func(p *policy.Policy) { endpoint("192.0.2.9")(p); p.FilterLists[0].Filters[0].Mirrored = false },
			"filterLists[0].filters[0].mirrored", "one direction only"},
	})
}

func TestTheTwoRulesOfATunnelShouldAgree(t *testing.T) {
	const words = "two directions of one tunnel and differ"
	warned := func(change func(back *policy.Rule)) bool {
		p := sitesOfWindows()
		change(&p.Rules[1])
		for _, w := range policy.Warnings(p) {
			if strings.Contains(w.Message, words) {
				return true
			}
		}
		return false
	}
	if warned(func(*policy.Rule) {}) {
		t.Error("rules that agree are warned of")
	}
	if !warned(func(back *policy.Rule) { back.FilterAction = "other" }) || !warned(func(back *policy.Rule) { back.Authentication = nil }) {
		t.Error("rules that differ are not")
	}
}
