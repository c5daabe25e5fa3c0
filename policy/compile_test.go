package policy_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

func prefix(s string) policy.Endpoint {
	return policy.Endpoint{Kind: policy.Addresses, Addrs: sadb.Prefix(netip.MustParsePrefix(s))}
}

func host(s string) policy.Endpoint {
	return policy.Endpoint{Kind: policy.Addresses, Addrs: sadb.Addr(netip.MustParseAddr(s))}
}

func between(from, to string) policy.Endpoint {
	return policy.Endpoint{Kind: policy.Addresses, Addrs: sadb.Range(netip.MustParseAddr(from), netip.MustParseAddr(to))}
}

var (
	me       = policy.Endpoint{Kind: policy.Me}
	anywhere = policy.Endpoint{}
)

// with returns a policy of one rule for each action, over the same filters.
func with(filters []policy.Filter, actions ...string) *policy.Policy {
	p := &policy.Policy{
		Name:        "test",
		FilterLists: []policy.FilterList{{Name: "list", Filters: filters}},
		FilterActions: []policy.FilterAction{
			{Name: "require", Kind: sadb.Negotiate, Methods: gcm()},
		},
	}
	for _, a := range actions {
		p.Rules = append(p.Rules, policy.Rule{Name: "rule " + a, FilterList: "list", FilterAction: a, Authentication: psk()})
	}
	return p
}

func gcm() []policy.SecurityMethod {
	return []policy.SecurityMethod{{Suites: []sadb.Suite{{Proto: sadb.ESP, Encryption: sadb.AESGCM, KeyBits: 256}}}}
}

func compile(t *testing.T, p *policy.Policy) *policy.Compiled {
	t.Helper()
	c, err := policy.Compile(p, policy.Host{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// shape is a filter without its place.
func shape(f policy.CompiledFilter) string { return f.Selector.String() + " " + f.Dir.String() }

func TestSourceAndDestinationBecomeLocalAndRemote(t *testing.T) {
	for _, tc := range []struct {
		name   string
		filter policy.Filter
		want   []string
	}{
		{"me to any, mirrored", policy.Filter{From: me, To: anywhere, Mirrored: true},
			[]string{"me <-> any any both"}},
		{"me to any", policy.Filter{From: me, To: anywhere},
			[]string{"me <-> any any out"}},
		{"any to me", policy.Filter{From: anywhere, To: me},
			[]string{"me <-> any any in"}},
		{"any to me, mirrored", policy.Filter{From: anywhere, To: me, Mirrored: true},
			[]string{"me <-> any any both"}},
		{"to my port", policy.Filter{From: anywhere, To: me, Protocol: sadb.TCP, ToPorts: sadb.Port(80)},
			[]string{"me:80 <-> any tcp in"}},
		{"to a port there", policy.Filter{From: me, To: host("10.0.0.1"), Protocol: sadb.TCP, ToPorts: sadb.Port(443), Mirrored: true},
			[]string{"me <-> 10.0.0.1:443 tcp both"}},
		{"both ports", policy.Filter{From: prefix("10.0.0.0/8"), To: me, Protocol: sadb.UDP, FromPorts: sadb.Port(1), ToPorts: sadb.Ports{From: 2, To: 3}},
			[]string{"me:2-3 <-> 10.0.0.0/8:1 udp in"}},
		{"literal to literal", policy.Filter{From: host("10.0.0.1"), To: host("10.0.0.2"), Protocol: sadb.TCP, ToPorts: sadb.Port(22)},
			[]string{"10.0.0.1 <-> 10.0.0.2:22 tcp out", "10.0.0.2:22 <-> 10.0.0.1 tcp in"}},
		{"literal to literal, mirrored", policy.Filter{From: host("10.0.0.1"), To: host("10.0.0.2"), Mirrored: true},
			[]string{"10.0.0.1 <-> 10.0.0.2 any both", "10.0.0.2 <-> 10.0.0.1 any both"}},
		{"any to any", policy.Filter{Protocol: sadb.TCP, ToPorts: sadb.Port(25)},
			[]string{"any <-> any:25 tcp out", "any:25 <-> any tcp in"}},
		{"its own mirror", policy.Filter{From: prefix("10.0.0.0/8"), To: prefix("10.0.0.0/8"), Mirrored: true},
			[]string{"10.0.0.0/8 <-> 10.0.0.0/8 any both"}},
		{"ICMP type and code are not mirrored", policy.Filter{From: anywhere, To: me, Protocol: sadb.ICMP,
			ICMPType: sadb.Octets{From: 3, To: 3, Set: true}, ICMPCode: sadb.Octets{From: 0, To: 4, Set: true}, Mirrored: true},
			[]string{"me <-> any icmp type 3 code 0-4 both"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := compile(t, with([]policy.Filter{tc.filter}, "block"))
			var got []string
			for _, f := range c.Filters {
				got = append(got, shape(f))
			}
			slices.Sort(got)
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// Each pair of neighbours differs at the one step of the order that is named.
func TestMoreSpecificFiltersDecideFirst(t *testing.T) {
	icmp := func(typ, code sadb.Octets) policy.Filter {
		return policy.Filter{From: me, To: anywhere, Protocol: sadb.ICMP, ICMPType: typ, ICMPCode: code, Mirrored: true}
	}
	tcp := func(from, to sadb.Ports) policy.Filter {
		return policy.Filter{From: me, To: anywhere, Protocol: sadb.TCP, FromPorts: from, ToPorts: to, Mirrored: true}
	}
	one, some := sadb.Octets{From: 8, To: 8, Set: true}, sadb.Octets{From: 8, To: 9, Set: true}
	order := []struct {
		step, shape string
		filter      policy.Filter
	}{
		{"two single addresses", "me <-> 10.0.0.1 any both", policy.Filter{From: me, To: host("10.0.0.1"), Mirrored: true}},
		{"a range of 4", "me <-> 10.0.0.2-10.0.0.5 any both", policy.Filter{From: me, To: between("10.0.0.2", "10.0.0.5"), Mirrored: true}},
		{"a longer prefix", "me <-> 10.0.0.0/24 any both", policy.Filter{From: me, To: prefix("10.0.0.0/24"), Mirrored: true}},
		{"a shorter prefix", "me <-> 10.0.0.0/8 any both", policy.Filter{From: me, To: prefix("10.0.0.0/8"), Mirrored: true}},
		// 24 and 8 of 32 bits on the two sides weigh as much as me and any.
		{"of equal sums the remote side", "10.0.0.0/8 <-> 10.1.0.0/24 any both", policy.Filter{From: prefix("10.0.0.0/8"), To: prefix("10.1.0.0/24"), Mirrored: true}},
		{"its mirror", "10.1.0.0/24 <-> 10.0.0.0/8 any both", policy.Filter{}},
		{"both ports", "me:1 <-> any:2 tcp both", tcp(sadb.Port(1), sadb.Port(2))},
		{"one remote port", "me <-> any:80 tcp both", tcp(sadb.Ports{}, sadb.Port(80))},
		{"a narrow range of remote ports", "me <-> any:80-90 tcp both", tcp(sadb.Ports{}, sadb.Ports{From: 80, To: 90})},
		{"a wide range of remote ports", "me <-> any:1024-65535 tcp both", tcp(sadb.Ports{}, sadb.Ports{From: 1024, To: 65535})},
		{"a local port", "me:80 <-> any tcp both", tcp(sadb.Port(80), sadb.Ports{})},
		{"ICMP type and code", "me <-> any icmp type 8 code 8 both", icmp(one, one)},
		{"ICMP type", "me <-> any icmp type 8 code any both", icmp(one, sadb.Octets{})},
		{"a range of ICMP types", "me <-> any icmp type 8-9 code any both", icmp(some, sadb.Octets{})},
		{"a protocol", "me <-> any 47 both", policy.Filter{From: me, To: anywhere, Protocol: 47, Mirrored: true}},
		{"any protocol", "me <-> any any both", policy.Filter{From: me, To: anywhere, Mirrored: true}},
	}
	var filters []policy.Filter
	for _, o := range order {
		if o.step != "its mirror" {
			filters = append(filters, o.filter)
		}
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(filters), func(i, j int) { filters[i], filters[j] = filters[j], filters[i] })
	c := compile(t, with(filters, "permit"))
	if len(c.Filters) != len(order) {
		t.Fatalf("%d filters, want %d", len(c.Filters), len(order))
	}
	for i, f := range c.Filters {
		if shape(f) != order[i].shape {
			t.Errorf("%d. is %s, want %s (%s)", i+1, shape(f), order[i].shape, order[i].step)
		}
		if i > 0 && c.Filters[i-1].Weight <= f.Weight {
			t.Errorf("%d. weighs %d, not less than %d before it", i+1, f.Weight, c.Filters[i-1].Weight)
		}
	}
}

func TestBetweenEqualFiltersTheSaferActionDecides(t *testing.T) {
	c := compile(t, with([]policy.Filter{{From: me, To: host("10.0.0.1"), Mirrored: true}}, "permit", "require", "block"))
	var got []string
	ids := map[sadb.FilterID]bool{}
	for _, f := range c.Filters {
		got = append(got, f.Action.Kind.String())
		ids[f.ID] = true
	}
	if want := []string{"block", "negotiate", "permit"}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
	if len(ids) != 3 {
		t.Errorf("%d different IDs for 3 rules", len(ids))
	}
}

// A filter that covers less than another never stands below it.
func TestNoFilterIsShadowedByAWiderOne(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		var filters []policy.Filter
		for range 12 {
			filters = append(filters, randomFilter(rng))
		}
		c := compile(t, with(filters, "permit"))
		for i, above := range c.Filters {
			for _, below := range c.Filters[i+1:] {
				a, b := above.Selector, below.Selector
				if a != b && a.Contains(b) && below.Weight < above.Weight {
					t.Fatalf("%v (%d) stands above %v (%d)", a, above.Weight, b, below.Weight)
				}
			}
		}
	}
}

func randomFilter(rng *rand.Rand) policy.Filter {
	remote := []policy.Endpoint{anywhere, host("10.0.0.1"), prefix("10.0.0.0/24"), prefix("10.0.0.0/8"), between("10.0.0.1", "10.0.0.9"), prefix("2001:db8::/32"), host("2001:db8::1")}
	ports := []sadb.Ports{{}, sadb.Port(80), {From: 80, To: 90}, {From: 1, To: 1024}}
	f := policy.Filter{From: me, To: remote[rng.IntN(len(remote))], Mirrored: rng.IntN(2) == 0}
	switch rng.IntN(4) {
	case 0:
		f.Protocol = 47
	case 1, 2:
		f.Protocol = sadb.TCP
		f.FromPorts, f.ToPorts = ports[rng.IntN(len(ports))], ports[rng.IntN(len(ports))]
	}
	return f
}

func TestCompileIsDeterministic(t *testing.T) {
	p := policy.WithAuthentication(policy.SecureServer(), psk())
	want := text(compile(t, p))
	facts := policy.Host{Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
	for range 20 {
		// Objects have no order of their own.
		slices.Reverse(p.Rules)
		slices.Reverse(p.FilterLists)
		slices.Reverse(p.FilterLists[0].Filters)
		c, err := policy.Compile(p, facts)
		if err != nil {
			t.Fatal(err)
		}
		if got := text(c); got != want {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
	}
}

func TestAnUnchangedRuleKeepsItsIDs(t *testing.T) {
	filters := []policy.Filter{{From: me, To: host("10.0.0.1"), Mirrored: true}}
	before := compile(t, with(filters, "permit")).Filters[0]
	p := with(append([]policy.Filter{{From: me, To: host("10.0.0.2"), Mirrored: true}}, filters...), "block", "permit")
	p.FilterLists[0].Description = "changed"
	p.Rules[1].FilterAction = "block" // the action is not part of the identity
	found := false
	for _, f := range compile(t, p).Filters {
		found = found || f.ID == before.ID && f.Selector == before.Selector && f.Rule == before.Rule
	}
	if !found {
		t.Errorf("no filter %s any more", before.ID)
	}
}

func TestARuleWithAGUIDMayBeRenamed(t *testing.T) {
	p := with([]policy.Filter{{From: me, To: anywhere, Mirrored: true}}, "permit")
	p.Rules[0].GUID = "{72385232-70FA-11D1-864C-14A300000000}"
	before := compile(t, p).Filters[0]
	p.Rules[0].Name = "another name"
	renamed := compile(t, p).Filters[0]
	p.Rules[0].Name = ""
	nameless := compile(t, p).Filters[0]
	if before.ID != renamed.ID || before.ID != nameless.ID {
		t.Errorf("IDs %s, %s, %s differ", before.ID, renamed.ID, nameless.ID)
	}
	if nameless.Rule != p.Rules[0].GUID || !strings.HasPrefix(nameless.Name, p.Rules[0].GUID) {
		t.Errorf("a rule without a name is called %q, its filter %q", nameless.Rule, nameless.Name)
	}
}

func TestDisabledRulesMakeNoFilters(t *testing.T) {
	p := with([]policy.Filter{{From: me, To: anywhere, Mirrored: true}}, "permit", "block")
	p.Rules[1].Disabled = true
	c := compile(t, p)
	if len(c.Filters) != 1 || c.Filters[0].Action.Kind != sadb.Permit {
		t.Errorf("filters %+v", c.Filters)
	}
}

func TestCompileSpellsDefaultsOut(t *testing.T) {
	p := with([]policy.Filter{{From: me, To: anywhere, Mirrored: true}}, "require")
	p.FilterActions[0].Methods = append(p.FilterActions[0].Methods,
		policy.SecurityMethod{Suites: []sadb.Suite{{Proto: sadb.ESP, Encryption: sadb.TripleDES, Integrity: sadb.HMACSHA1}}},
		policy.SecurityMethod{Suites: []sadb.Suite{{Proto: sadb.ESP, Encryption: sadb.Null, Integrity: sadb.HMACSHA256}}, Lifetime: time.Minute, Bytes: 2e6},
	)
	p.FilterActions[0].SessionKeyPFS = true
	p.FilterActions[0].PFSGroup = sadb.ECP384
	p.DefaultResponse = policy.DefaultResponse{Active: true, Authentication: psk(), SessionKeyPFS: true, PFSGroup: sadb.ECP521}
	c := compile(t, p)
	if c.PollingInterval != 3*time.Hour || c.KeyExchange.Lifetime != 8*time.Hour || len(c.KeyExchange.Methods) != 5 {
		t.Errorf("polling %v, key exchange %+v", c.PollingInterval, c.KeyExchange)
	}
	n := c.Filters[0].Negotiation
	var limits []sadb.Limits
	for _, q := range n.Proposals {
		limits = append(limits, q.Lifetime)
	}
	want := []sadb.Limits{{Time: time.Hour, Bytes: 100e9}, {Time: time.Hour, Bytes: 100e6}, {Time: time.Minute, Bytes: 2e6}}
	if !slices.Equal(limits, want) {
		t.Errorf("limits %v, want %v", limits, want)
	}
	if !n.PFS || n.PFSGroup != sadb.ECP384 || !reflect.DeepEqual(n.Authentication, psk()) {
		t.Errorf("negotiation %+v", n)
	}
	if d := c.DefaultResponse; d == nil || len(d.Proposals) != 3 || !d.PFS || d.PFSGroup != sadb.ECP521 {
		t.Errorf("default response %+v", c.DefaultResponse)
	}
}

func TestCompileKeepsWhatIsWritten(t *testing.T) {
	p := with([]policy.Filter{{From: me, To: anywhere, Mirrored: true}}, "require")
	p.PollingInterval = time.Hour
	p.KeyExchange = policy.KeyExchange{
		Methods:  []sadb.ISAKMPSuite{{Encryption: sadb.TripleDES, Hash: sadb.SHA1, Group: sadb.MODP1024}},
		Lifetime: time.Hour,
	}
	a := &p.FilterActions[0]
	a.AcceptUnsecured, a.AllowClear, a.ClearDelay = true, true, 3*time.Second
	c := compile(t, p)
	if c.PollingInterval != time.Hour || !reflect.DeepEqual(c.KeyExchange, p.KeyExchange) {
		t.Errorf("polling %v, key exchange %+v", c.PollingInterval, c.KeyExchange)
	}
	want := sadb.Action{Kind: sadb.Negotiate, PassThrough: true, AllowClear: true, ClearDelay: 3 * time.Second}
	if got := c.Filters[0].Action; got != want {
		t.Errorf("action %+v, want %+v", got, want)
	}
	if c.DefaultResponse != nil {
		t.Error("a default response that is not active")
	}
}

func TestSPDIsTheFiltersInOrder(t *testing.T) {
	c := compile(t, policy.WithAuthentication(policy.Server(), psk()))
	spd := c.SPD()
	if len(spd) != len(c.Filters) || len(spd) != 3 {
		t.Fatalf("%d of %d filters", len(spd), len(c.Filters))
	}
	for i, f := range spd {
		if f != c.Filters[i].Filter {
			t.Errorf("%d. is %v", i, f)
		}
	}
}

func TestWeightsAreExactInJSON(t *testing.T) {
	p := with([]policy.Filter{{From: host("10.0.0.1"), To: host("10.0.0.2"), Protocol: sadb.TCP, FromPorts: sadb.Port(1), ToPorts: sadb.Port(1)}}, "block")
	for _, f := range compile(t, p).Filters {
		if f.Weight <= 0 || f.Weight >= 1<<53 {
			t.Errorf("weight %d", f.Weight)
		}
		if want := "both sides single addresses; protocol tcp; remote port 1; local port 1; block"; f.Reason != want {
			t.Errorf("reason %q, want %q", f.Reason, want)
		}
	}
}

func TestReasonNamesWhatCounts(t *testing.T) {
	p := with([]policy.Filter{
		{From: me, To: prefix("10.0.0.0/8"), Mirrored: true},
		{From: anywhere, To: anywhere, Protocol: sadb.ICMP, ICMPType: sadb.Octets{From: 8, To: 8, Set: true}, ICMPCode: sadb.Octets{From: 0, To: 1, Set: true}, Mirrored: true},
	}, "permit")
	want := []string{
		"local me (128), remote 10.0.0.0/8 (32); permit",
		"both sides any address; protocol icmp; ICMP type 8; code 0-1; permit",
	}
	for i, f := range compile(t, p).Filters {
		if f.Reason != want[i] {
			t.Errorf("reason %q, want %q", f.Reason, want[i])
		}
	}
}

func ExampleCompile() {
	p := &policy.Policy{
		Name: "web",
		FilterLists: []policy.FilterList{{Name: "web", Filters: []policy.Filter{
			{From: policy.Endpoint{Kind: policy.Me}, Protocol: sadb.TCP, FromPorts: sadb.Port(443), Mirrored: true},
		}}},
		Rules: []policy.Rule{{Name: "open", FilterList: "web", FilterAction: "permit"}},
	}
	c, err := policy.Compile(p, policy.Host{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, f := range c.Filters {
		fmt.Println(f.Selector, f.Dir, f.Action)
	}
	// Output: me:443 <-> any tcp both permit
}

func TestTheConnectionTypeOfARuleIsThatOfItsFilters(t *testing.T) {
	p := with([]policy.Filter{{From: me, To: anywhere, Mirrored: true}}, "require", "permit")
	p.Rules[0].Connections = sadb.RemoteAccess
	c := compile(t, p)
	if c.Filters[0].Connections != sadb.RemoteAccess || c.Filters[1].Connections != sadb.AllConnections {
		t.Errorf("connections %v, %v", c.Filters[0].Connections, c.Filters[1].Connections)
	}
	if !strings.Contains(c.Filters[0].Reason, "connection remote-access") {
		t.Errorf("reason %q", c.Filters[0].Reason)
	}
	p.Rules[0].Connections, p.Rules[1].Connections = sadb.AllConnections, sadb.LAN
	if c := compile(t, p); c.Filters[0].Action.Kind != sadb.Permit {
		t.Errorf("a rule for one type of connection stands below one for all: %s", text(c))
	}
}
