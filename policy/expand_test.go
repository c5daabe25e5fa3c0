package policy_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

func named(name string) policy.Endpoint { return policy.Endpoint{Kind: policy.Name, Name: name} }

func addrs(list ...string) []netip.Addr {
	var all []netip.Addr
	for _, s := range list {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

// someHost knows two names, one of them of both families, and the four sets.
func someHost() policy.Host {
	return policy.Host{
		Names: map[string][]netip.Addr{"dc.example": addrs("10.0.0.2", "10.0.0.1", "2001:db8::1"), "db.example": addrs("10.0.0.9")},
		Sets: map[policy.EndpointKind][]netip.Addr{
			policy.DNSServers: addrs("10.0.0.53", "2001:db8::53"), policy.WINSServers: addrs("10.0.0.42"),
			policy.DHCPServers: addrs("10.0.0.67"), policy.DefaultGateway: addrs("10.0.0.254", "fe80::1")},
	}
}

// Every kind of source with every kind of destination of the policy model.
func TestNamesAndSetsBecomeTheirAddresses(t *testing.T) {
	for _, tc := range []struct {
		name   string
		filter policy.Filter
		want   string
	}{
		{"name", policy.Filter{From: me, To: named("DC.example."), Mirrored: true},
			"me <-> 10.0.0.1 any both, me <-> 10.0.0.2 any both, me <-> 2001:db8::1 any both"},
		{"from a name", policy.Filter{From: named("db.example"), To: me, Protocol: sadb.TCP, ToPorts: sadb.Port(22)},
			"me:22 <-> 10.0.0.9 tcp in"},
		{"name and any", policy.Filter{From: named("db.example"), To: anywhere, Mirrored: true},
			"10.0.0.9 <-> any any both, any <-> 10.0.0.9 any both"},
		{"one family", policy.Filter{From: prefix("10.0.0.0/8"), To: named("dc.example")},
			"10.0.0.0/8 <-> 10.0.0.1 any out, 10.0.0.0/8 <-> 10.0.0.2 any out, 10.0.0.1 <-> 10.0.0.0/8 any in, 10.0.0.2 <-> 10.0.0.0/8 any in"},
		{"the family of the protocol", policy.Filter{From: me, To: named("dc.example"), Protocol: sadb.ICMPv6},
			"me <-> 2001:db8::1 icmpv6 out"},
		{"names on both sides", policy.Filter{From: named("db.example"), To: named("dc.example")},
			"10.0.0.1 <-> 10.0.0.9 any in, 10.0.0.2 <-> 10.0.0.9 any in, 10.0.0.9 <-> 10.0.0.1 any out, 10.0.0.9 <-> 10.0.0.2 any out"},
		{"DNS servers", policy.Filter{From: me, To: policy.Endpoint{Kind: policy.DNSServers}, Protocol: sadb.UDP, ToPorts: sadb.Port(53), Mirrored: true},
			"me <-> 10.0.0.53:53 udp both, me <-> [2001:db8::53]:53 udp both"},
		{"WINS servers", policy.Filter{From: me, To: policy.Endpoint{Kind: policy.WINSServers}}, "me <-> 10.0.0.42 any out"},
		{"DHCP servers", policy.Filter{From: policy.Endpoint{Kind: policy.DHCPServers}, To: me}, "me <-> 10.0.0.67 any in"},
		{"default gateway", policy.Filter{From: me, To: policy.Endpoint{Kind: policy.DefaultGateway}},
			"me <-> 10.0.0.254 any out, me <-> fe80::1 any out"},
		{"a set and a range", policy.Filter{From: between("10.0.0.1", "10.0.0.9"), To: policy.Endpoint{Kind: policy.DHCPServers}},
			"10.0.0.1-10.0.0.9 <-> 10.0.0.67 any out, 10.0.0.67 <-> 10.0.0.1-10.0.0.9 any in"},
		{"a set and a name", policy.Filter{From: policy.Endpoint{Kind: policy.WINSServers}, To: named("db.example")},
			"10.0.0.42 <-> 10.0.0.9 any out, 10.0.0.9 <-> 10.0.0.42 any in"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := policy.Compile(with([]policy.Filter{tc.filter}, "block"), someHost())
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range c.Filters {
				got = append(got, shape(f))
				if len(f.Expanded) == 0 {
					t.Errorf("%s does not say where its address comes from", shape(f))
				}
			}
			slices.Sort(got)
			if s := strings.Join(got, ", "); s != tc.want || len(c.Unresolved) != 0 {
				t.Errorf("got %s, unresolved %v\nwant %s", s, c.Unresolved, tc.want)
			}
		})
	}
}

func TestANameThatStandsForNothingIsSaid(t *testing.T) {
	for _, tc := range []struct {
		filter policy.Filter
		want   []policy.Endpoint
	}{
		{policy.Filter{From: me, To: named("gone.example"), Mirrored: true}, []policy.Endpoint{named("gone.example")}},
		{policy.Filter{From: named("gone.example"), To: named("db.example"), Mirrored: true}, []policy.Endpoint{named("gone.example")}},
		{policy.Filter{From: me, To: named("db.example"), Protocol: sadb.ICMPv6, Mirrored: true}, []policy.Endpoint{named("db.example")}},
		{policy.Filter{From: policy.Endpoint{Kind: policy.DNSServers}, To: named("gone.example"), Mirrored: true},
			[]policy.Endpoint{{Kind: policy.DNSServers}, named("gone.example")}},
	} {
		host := someHost()
		host.Sets = nil
		p := with([]policy.Filter{{From: me, To: anywhere, Mirrored: true}, tc.filter}, "require")
		c, err := policy.Compile(p, host)
		if err != nil {
			t.Fatal(err)
		}
		var got []policy.Endpoint
		for _, u := range c.Unresolved {
			got = append(got, u.Endpoint)
			if u.Rule != "rule require" || u.FilterList != "list" || u.Filter != 2 {
				t.Errorf("said of another filter: %s", u)
			}
		}
		if len(c.Filters) != 1 || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%v: %d filters, unresolved %v, want %v", tc.filter, len(c.Filters), got, tc.want)
		}
	}
}

// Whoever answers for a name must not get a group, this host itself or
// everybody permitted.
func TestAnswersThatAreNoHostAreLeftOut(t *testing.T) {
	host := policy.Host{Names: map[string][]netip.Addr{"a.example": addrs("0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1", "::ffff:10.0.0.1")}}
	c, err := policy.Compile(with([]policy.Filter{{From: me, To: named("a.example"), Mirrored: true}}, "permit"), host)
	if err != nil || len(c.Filters) != 1 || c.Filters[0].Selector.Remote != sadb.Addr(netip.MustParseAddr("10.0.0.1")) {
		t.Errorf("%+v, %v", c.Filters, err)
	}
}

func TestTwoNamesOfOneAddressAreOneFilter(t *testing.T) {
	host := policy.Host{Names: map[string][]netip.Addr{"a.example": addrs("10.0.0.1"), "b.example": addrs("10.0.0.1")}}
	filters := []policy.Filter{{From: me, To: named("b.example"), Mirrored: true}, {From: me, To: named("a.example"), Mirrored: true}}
	one, err := policy.Compile(with(filters, "permit"), host)
	if err != nil || len(one.Filters) != 1 || fmt.Sprint(one.Filters[0].Expanded) != "[a.example b.example]" {
		t.Fatalf("%+v, %v", one.Filters, err)
	}
	slices.Reverse(filters)
	if other, _ := policy.Compile(with(filters, "permit"), host); !reflect.DeepEqual(one, other) {
		t.Error("the order of the list shows")
	}
}

func TestAPolicyListsItsNamesAndSets(t *testing.T) {
	p := with([]policy.Filter{{From: named("B.example."), To: named("a.example")}, {From: named("b.example"), To: policy.Endpoint{Kind: policy.DHCPServers}}}, "permit")
	p.Rules = append(p.Rules, policy.Rule{Name: "off", Disabled: true, FilterList: "list", Tunnel: policy.TunnelSetting{Name: "off.example"}},
		policy.Rule{Name: "tunnel", FilterList: "list", Tunnel: policy.TunnelSetting{Name: "gw.example"}})
	if got := p.Names(); !slices.Equal(got, []string{"a.example", "b.example", "gw.example"}) {
		t.Errorf("names %v", got)
	}
	if got := p.Sets(); !slices.Equal(got, []policy.EndpointKind{policy.DHCPServers}) {
		t.Errorf("sets %v", got)
	}
}

func byName(name string) *policy.Policy {
	p := sites(netip.Addr{})
	p.Rules[0].Tunnel.Name = name
	return p
}

func TestTunnelToAName(t *testing.T) {
	host := func(answer ...string) policy.Host {
		return policy.Host{Addresses: []netip.Addr{gateA()}, Names: map[string][]netip.Addr{"gw.example": addrs(answer...)},
			Outer: map[netip.Addr]netip.Addr{gateB(): gateA(), netip.MustParseAddr("198.51.100.9"): gateA()}}
	}
	for _, tc := range []struct {
		name   string
		host   policy.Host
		remote string // "": blocked
		said   int
	}{
		{"one address", host("198.51.100.1"), "198.51.100.1", 0},
		{"the lowest of several", host("198.51.100.9", "198.51.100.1"), "198.51.100.1", 0},
		{"the one that can be reached", host("192.0.2.200", "198.51.100.9"), "198.51.100.9", 0},
		{"never this host", host("192.0.2.1", "198.51.100.9"), "198.51.100.9", 0},
		{"this host alone", host("192.0.2.1"), "", 1},
		{"no way", host("203.0.113.1"), "", 0},
		{"nothing", host(), "", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := policy.Compile(byName("GW.example"), tc.host)
			if err != nil || len(c.Filters) != 1 || len(c.Unresolved) != tc.said {
				t.Fatalf("%+v, %v", c, err)
			}
			f := c.Filters[0]
			if tc.remote == "" && (f.Action.Kind != sadb.Block || f.Mode == sadb.Tunnel) {
				t.Errorf("the traffic of a tunnel without its end: %+v", f)
			}
			if tc.remote != "" && (f.Mode != sadb.Tunnel || f.TunnelRemote.String() != tc.remote || f.TunnelLocal != gateA()) {
				t.Errorf("%+v", f)
			}
		})
	}
}

func TestATunnelKeepsItsFilterWhenItsNameMoves(t *testing.T) {
	at := func(s string) policy.CompiledFilter {
		return onlyFilter(t, byName("gw.example"), policy.Host{Names: map[string][]netip.Addr{"gw.example": addrs(s)}})
	}
	if at("198.51.100.1").ID != at("198.51.100.2").ID {
		t.Error("a new address makes another filter")
	}
}

// The two rules of Windows with names for both gateways, on either.
func TestTunnelOfTwoRulesByName(t *testing.T) {
	p := sitesOfWindows()
	p.Rules[0].Tunnel, p.Rules[1].Tunnel = policy.TunnelSetting{Name: "b.example"}, policy.TunnelSetting{Name: "a.example"}
	names := map[string][]netip.Addr{"a.example": {gateA()}, "b.example": {gateB()}}
	for own, other := range map[netip.Addr]netip.Addr{gateA(): gateB(), gateB(): gateA()} {
		f := onlyFilter(t, p, policy.Host{Addresses: []netip.Addr{own}, Names: names})
		if f.TunnelLocal != own || f.TunnelRemote != other || f.Mode != sadb.Tunnel {
			t.Errorf("on %s: %+v", own, f)
		}
	}
}

// What an author expects does not change with names that come and go.
func TestTestsSeeNoNames(t *testing.T) {
	p := byName("gw.example")
	p.FilterLists[0].Filters = append(p.FilterLists[0].Filters, policy.Filter{From: me, To: named("dc.example"), Mirrored: true})
	p.Tests = []policy.Test{{Flow: "tcp 10.1.0.1 -> 10.2.0.1", Expect: "negotiate"}, {Flow: "tcp me -> 10.0.0.1", Expect: "none"}}
	c, err := policy.Compile(p, someHost().Reachable(p))
	if err == nil {
		err = policy.RunTests(c, p.Tests)
	}
	if err != nil {
		t.Error(err)
	}
}
