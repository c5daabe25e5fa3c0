package policy_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

func question(t *testing.T, flow, dir string) policy.Question {
	t.Helper()
	q, err := policy.ParseQuestion(flow, dir)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func TestExplainAgreesWithTheDataPath(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	kinds := map[string]int{}
	for range 300 {
		_, c := randomCompiled(t, rng, 6)
		for range 50 {
			q := randomQuestion(rng)
			x := policy.Explain(c, q)
			want, ok := sadb.Decide(c.SPD(), q.Flow, q.Dir)
			if x.Destination {
				if ok || !q.Forwarded() {
					t.Fatalf("%v: decided by its destination, and sadb by %v", q, want.Name)
				}
				other := q.Flow
				other.Local, other.Remote = q.Flow.Remote, q.Flow.Local
				other.LocalPort, other.RemotePort = q.Flow.RemotePort, q.Flow.LocalPort
				want, ok = sadb.Decide(c.SPD(), other, sadb.In)
			}
			if ok != (x.Decided != nil) || ok && x.Decided.ID != want.ID {
				t.Fatalf("%v: explained by %+v, decided by %v %+v", q, x.Decided, ok, want)
			}
			checkPlaces(t, c, x)
			kinds[x.Decision()]++
		}
	}
	for _, k := range []string{"permit", "block", "negotiate", "none"} {
		if kinds[k] < 100 {
			t.Errorf("only %d decisions are %s: %v", kinds[k], k, kinds)
		}
	}
}

// checkPlaces: every filter before the one that decides is passed once.
func checkPlaces(t *testing.T, c *policy.Compiled, x policy.Explanation) {
	t.Helper()
	before, passed := len(c.Filters), 0
	if x.Decided != nil {
		before = x.Place - 1
		if &c.Filters[before] != x.Decided {
			t.Fatalf("filter %d is not the one that decides", x.Place)
		}
	}
	for _, p := range x.Passed {
		passed += p.Count
		if p.Differs == 0 || len(p.First) == 0 || len(p.First) > p.Count || !slices.IsSorted(p.First) || p.First[len(p.First)-1] > before {
			t.Fatalf("%+v of %d filters", p, before)
		}
	}
	if passed != before {
		t.Fatalf("%d filters are before it, %d passed it on", before, passed)
	}
}

func TestExplainSaysWhyOthersDoNotDecide(t *testing.T) {
	p := &policy.Policy{Name: "p"}
	add := func(name, action string, f policy.Filter) {
		p.FilterLists = append(p.FilterLists, policy.FilterList{Name: name, Filters: []policy.Filter{f}})
		p.Rules = append(p.Rules, policy.Rule{Name: name, FilterList: name, FilterAction: action})
	}
	me, any := policy.Endpoint{Kind: policy.Me}, policy.Endpoint{Kind: policy.Any}
	one := func(a string) policy.Endpoint {
		return policy.Endpoint{Kind: policy.Addresses, Addrs: sadb.Addr(netip.MustParseAddr(a))}
	}
	add("web of one", "block", policy.Filter{From: me, To: one("10.0.0.1"), Protocol: sadb.TCP, ToPorts: sadb.Port(80), Mirrored: true})
	add("other host", "block", policy.Filter{From: me, To: one("10.0.0.2"), Protocol: sadb.UDP, Mirrored: true})
	add("inbound", "block", policy.Filter{From: one("10.0.0.1"), To: me, Protocol: sadb.TCP, FromPorts: sadb.Port(443)})
	add("ping", "block", policy.Filter{From: me, To: any, Protocol: sadb.ICMP, ICMPType: sadb.Octets{From: 8, To: 8, Set: true}, Mirrored: true})
	add("all", "permit", policy.Filter{From: me, To: any, Mirrored: true})
	c := compile(t, p)
	x := policy.Explain(c, question(t, "tcp me=192.0.2.1 -> 10.0.0.1:443", ""))
	if x.Decided == nil || x.Decided.Rule != "all" || x.Next != nil || x.Decision() != "permit" {
		t.Fatalf("%+v", x)
	}
	want := map[string]string{"web of one": "remote port", "inbound": "direction", "other host": "remote address, protocol", "ping": "protocol"}
	for _, g := range x.Passed {
		for _, place := range g.First {
			rule := c.Filters[place-1].Rule
			if got := strings.Join(g.Differs.Words(), ", "); got != want[rule] {
				t.Errorf("%s differs in %s, want %s", rule, got, want[rule])
			}
			delete(want, rule)
		}
	}
	if len(want) > 0 {
		t.Errorf("not passed: %v", want)
	}
	x = policy.Explain(c, question(t, "tcp me -> 10.0.0.1:80", ""))
	if x.Decided.Rule != "web of one" || x.Next == nil || x.Next.Rule != "all" || len(x.Passed) > 0 && x.Place == 1 {
		t.Errorf("%+v", x)
	}
}

func TestExplainSaysWhatBecomesOfAPacket(t *testing.T) {
	secure := compile(t, policy.WithAuthentication(policy.SecureServer(), psk()))
	request := compile(t, policy.WithAuthentication(policy.Server(), psk()))
	client := compile(t, policy.WithAuthentication(policy.Client(), psk()))
	for _, tc := range []struct {
		c          *policy.Compiled
		flow, want string
	}{
		{secure, "tcp me -> 10.0.0.1:80", "waits until one is negotiated"},
		{secure, "tcp 10.0.0.1:80 -> me", "in clear too until the peer has an association"},
		{secure, "icmp me -> 10.0.0.1", "passes in clear"},
		{secure, "udp me -> 224.0.0.251:5353", "is dropped: it goes to a group"},
		{request, "udp me -> 255.255.255.255:9", "passes in clear: it goes to a group"},
		{request, "tcp me -> 10.0.0.1:80", "meanwhile it goes in clear"},
		{client, "tcp me -> 10.0.0.1:80", "the default response rule answers"},
		{secure, "tcp 10.0.0.1 -> 10.0.0.2", "passes unmodified"},
		{secure, "tcp me -> 127.0.0.1:80", "loopback"},
		{secure, "icmpv6:135 me -> fe80::1", "neighbour discovery"},
		{secure, "icmpv6:143 me -> ff02::16", "listener discovery"},
		{secure, "udp me:68 -> 10.0.0.1:67", "DHCP"},
		{secure, "udp me:546 -> [ff02::1:2]:547", "DHCPv6"},
		{secure, "udp [fe80::1]:547 -> me:546", "DHCPv6"},
		{secure, "udp [2001:db8::1]:547 -> me:546", "is accepted"},
		{secure, "50 10.0.0.1 -> me", "what is inside is"},
	} {
		if got := policy.Explain(tc.c, question(t, tc.flow, "")).Outcome(); !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.flow, got, tc.want)
		}
	}
}

func TestExplainAForwardedPacketByItsDestination(t *testing.T) {
	p := &policy.Policy{Name: "p", FilterLists: []policy.FilterList{{Name: "l", Filters: []policy.Filter{{
		From:     policy.Endpoint{Kind: policy.Addresses, Addrs: sadb.Prefix(netip.MustParsePrefix("10.1.0.0/16"))},
		To:       policy.Endpoint{Kind: policy.Addresses, Addrs: sadb.Prefix(netip.MustParsePrefix("10.2.0.0/16"))},
		Mirrored: true}}}},
		FilterActions: []policy.FilterAction{{Name: "a", Kind: sadb.Negotiate, Methods: []policy.SecurityMethod{{Suites: []sadb.Suite{{Proto: sadb.ESP, Encryption: sadb.AESGCM, KeyBits: 256}}}}}},
		Rules:         []policy.Rule{{Name: "r", FilterList: "l", FilterAction: "a", Authentication: psk(), Tunnel: policy.TunnelSetting{Endpoint: netip.MustParseAddr("192.0.2.2")}}}}
	c, err := policy.Compile(p, policy.Host{}.Reachable(p))
	if err != nil {
		t.Fatal(err)
	}
	if x := policy.Explain(c, question(t, "tcp 10.1.0.1 -> 10.2.0.1", "")); x.Decided == nil || x.Destination {
		t.Errorf("out: %+v", x)
	}
	x := policy.Explain(c, question(t, "tcp 10.2.0.1 -> 10.1.0.1", ""))
	if x.Decided == nil || !x.Destination || len(x.Notes()) == 0 {
		t.Errorf("in: %+v", x)
	}
}

func TestQuestionsSayWhichSideIsThisHost(t *testing.T) {
	for _, tc := range []struct{ flow, dir, want string }{
		{"tcp 10.0.0.1:1 -> 10.0.0.2:2", "", "tcp 10.0.0.1:1 -> 10.0.0.2:2"},
		{"tcp 10.0.0.1:1 -> 10.0.0.2:2", "out", "tcp me=10.0.0.1:1 -> 10.0.0.2:2"},
		{"tcp 10.0.0.1:1 -> 10.0.0.2:2", "in", "tcp 10.0.0.1:1 -> me=10.0.0.2:2"},
		{"tcp me -> 10.0.0.2:2", "out", "tcp me:50000 -> 10.0.0.2:2"},
		{"icmp 10.0.0.2 -> me", "in", "icmp:8/0 10.0.0.2 -> me"},
		{"udp [2001:db8::1]:1 -> me=[2001:db8::2]:2", "", "udp [2001:db8::1]:1 -> me=[2001:db8::2]:2"},
		{"47 me=2001:db8::1 -> 2001:db8::2", "", "47 me=[2001:db8::1] -> [2001:db8::2]"},
	} {
		q := question(t, tc.flow, tc.dir)
		if q.String() != tc.want {
			t.Errorf("%s %s: %s, want %s", tc.flow, tc.dir, q, tc.want)
		}
		if again := question(t, q.String(), ""); again != q {
			t.Errorf("%s: read again as %+v, was %+v", q, again, q)
		}
	}
	for _, tc := range [][2]string{{"tcp me -> 10.0.0.1", "in"}, {"tcp 10.0.0.1 -> me", "out"}, {"tcp me -> 10.0.0.1", "both"}, {"tcp", ""}} {
		if q, err := policy.ParseQuestion(tc[0], tc[1]); err == nil {
			t.Errorf("%v is taken: %v", tc, q)
		}
	}
}

func TestAHostKnowsItsOwnAddresses(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	for flow, want := range map[string]string{
		"tcp 10.0.0.1:1 -> 10.0.0.2:2":         "tcp me=10.0.0.1:1 -> 10.0.0.2:2",
		"tcp 10.0.0.2:2 -> 10.0.0.1:1":         "tcp 10.0.0.2:2 -> me=10.0.0.1:1",
		"tcp 10.0.0.2:2 -> 10.0.0.3:1":         "tcp 10.0.0.2:2 -> 10.0.0.3:1",
		"tcp me=192.0.2.1:2 -> 10.0.0.1:1":     "tcp me=192.0.2.1:2 -> 10.0.0.1:1",
		"tcp 10.0.0.1:1 -> me=192.0.2.1:50000": "tcp 10.0.0.1:1 -> me=192.0.2.1:50000",
	} {
		if got := question(t, flow, "").At(own).String(); got != want {
			t.Errorf("%s: %s, want %s", flow, got, want)
		}
	}
}

func TestExplainByTheTypeOfConnection(t *testing.T) {
	c := compile(t, policy.WithAuthentication(policy.SecureServer(), psk()))
	last := &c.Filters[len(c.Filters)-1]
	last.Connections = sadb.RemoteAccess
	q := question(t, "tcp me=192.0.2.1 -> 10.0.0.1:80", "")
	x := policy.Explain(c, q)
	if x.Decided != nil || len(x.Notes()) != 1 || !strings.Contains(x.Notes()[0], "a lan connection") {
		t.Errorf("a LAN connection: %+v, %q", x, x.Notes())
	}
	q.Flow.Connection = sadb.RemoteAccess
	if x = policy.Explain(c, q); x.Decided != last {
		t.Errorf("dial-up: %+v", x)
	}
}

func TestExplainSaysWhatStandsForNothing(t *testing.T) {
	p := lines(t, "a permit me any")
	for i := range 7 {
		name := fmt.Sprintf("host%d.example", i)
		p.FilterLists[0].Filters = append(p.FilterLists[0].Filters, policy.Filter{From: end(t, "me"), To: policy.Endpoint{Kind: policy.Name, Name: name}, Mirrored: true})
	}
	notes := policy.Explain(compile(t, p), question(t, "tcp me -> 10.0.0.1:80", "")).Notes()
	if len(notes) != 6 || !strings.Contains(notes[0], "host0.example stands for no address") || !strings.Contains(notes[5], "2 more") {
		t.Errorf("%q", notes)
	}
}

func TestExplainABroadcast(t *testing.T) {
	q := question(t, "udp me=10.0.0.1:137 -> 10.0.0.255:137", "")
	q.Broadcast = true
	c := compile(t, policy.WithAuthentication(policy.SecureServer(), psk()))
	if got := policy.Explain(c, q).Outcome(); !strings.Contains(got, "goes to a group") {
		t.Errorf("%s", got)
	}
}

func FuzzParseQuestion(f *testing.F) {
	f.Add("tcp 10.0.0.1:1 -> 10.0.0.2:2", "in")
	f.Add("icmp:3/4 me=10.0.0.1 -> 10.0.0.2", "out")
	f.Add("47 [2001:db8::1] -> me", "")
	c, err := policy.Compile(policy.SecureServer(), policy.Host{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, flow, dir string) {
		q, err := policy.ParseQuestion(flow, dir)
		if err != nil {
			return
		}
		again, err := policy.ParseQuestion(q.String(), "")
		if err != nil || again != q {
			t.Errorf("%q %q is %v, read again %v, %v", flow, dir, q, again, err)
		}
		if x := policy.Explain(c, q); x.Outcome() == "" || x.Decision() == "" {
			t.Errorf("%v: %+v", q, x)
		}
	})
}
