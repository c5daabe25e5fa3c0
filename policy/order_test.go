package policy_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// anyPolicy has everything that may influence the order: tunnels of both
// forms, names, sets, rules that share lists, actions of every kind.
func anyPolicy(rng *rand.Rand) *policy.Policy {
	p := &policy.Policy{Name: "random", FilterActions: []policy.FilterAction{{Name: "require", Kind: sadb.Negotiate, Methods: gcm()}}}
	actions := []string{"require", "permit", "block"}
	endpoints := []policy.Endpoint{named("dc.example"), named("db.example"), named("gone.example"), {Kind: policy.DNSServers}, {Kind: policy.DefaultGateway}}
	for i := range 1 + rng.IntN(6) {
		l := policy.FilterList{Name: fmt.Sprint("list ", i)}
		for range 1 + rng.IntN(6) {
			f := randomFilter(rng)
			if rng.IntN(3) == 0 {
				f.To = endpoints[rng.IntN(len(endpoints))]
			}
			f.Mirrored = true
			l.Filters = append(l.Filters, f)
		}
		p.FilterLists = append(p.FilterLists, l)
	}
	for i := range 1 + rng.IntN(8) {
		r := policy.Rule{Name: fmt.Sprint("rule ", i), FilterList: p.FilterLists[rng.IntN(len(p.FilterLists))].Name,
			FilterAction: actions[rng.IntN(len(actions))], Authentication: psk(), Disabled: rng.IntN(8) == 0}
		if r.FilterAction == "require" && rng.IntN(2) == 0 {
			r.Tunnel.Endpoint = gateB()
		}
		p.Rules = append(p.Rules, r)
	}
	two := sitesOfWindows()
	p.FilterLists = append(p.FilterLists, two.FilterLists...)
	p.Rules = append(p.Rules, two.Rules...)
	return p
}

func shuffle(rng *rand.Rand, p *policy.Policy) {
	rng.Shuffle(len(p.Rules), func(i, j int) { p.Rules[i], p.Rules[j] = p.Rules[j], p.Rules[i] })
	rng.Shuffle(len(p.FilterLists), func(i, j int) { p.FilterLists[i], p.FilterLists[j] = p.FilterLists[j], p.FilterLists[i] })
	rng.Shuffle(len(p.FilterActions), func(i, j int) { p.FilterActions[i], p.FilterActions[j] = p.FilterActions[j], p.FilterActions[i] })
	for _, l := range p.FilterLists {
		rng.Shuffle(len(l.Filters), func(i, j int) { l.Filters[i], l.Filters[j] = l.Filters[j], l.Filters[i] })
	}
}

// Windows gives objects no order; so the order they are listed in must not show.
func TestTheOrderOfObjectsDoesNotShow(t *testing.T) {
	rng := rand.New(rand.NewPCG(2000, 2))
	facts := someHost()
	facts.Addresses = []netip.Addr{gateA()}
	facts.Outer = map[netip.Addr]netip.Addr{gateB(): gateA()}
	facts.Exempt, _ = policy.ExemptionsOf(0)
	for range 300 {
		p := anyPolicy(rng)
		want, err := policy.Compile(p, facts)
		if err != nil {
			t.Fatal(err)
		}
		again, err := policy.Compile(p, facts)
		if err != nil || !reflect.DeepEqual(want, again) {
			t.Fatalf("compiling twice differs: %v", err)
		}
		for i := range want.Unresolved { // which filter of its list it is depends on the list
			want.Unresolved[i].Filter = min(1, want.Unresolved[i].Filter)
		}
		shuffle(rng, p)
		got, err := policy.Compile(p, facts)
		if err != nil {
			t.Fatal(err)
		}
		for i := range got.Unresolved {
			got.Unresolved[i].Filter = min(1, got.Unresolved[i].Filter)
		}
		slices.SortFunc(want.Unresolved, byText)
		slices.SortFunc(got.Unresolved, byText)
		if !reflect.DeepEqual(want, got) {
			t.Fatalf("the order shows:\n%s\n%v\nwant\n%s\n%v", text(got), got.Unresolved, text(want), want.Unresolved)
		}
		checkTotalOrder(t, got)
	}
}

func byText(a, b policy.Unresolved) int { return cmp.Compare(a.String(), b.String()) }

// checkTotalOrder checks that weight and ID alone put every filter in its place.
func checkTotalOrder(t *testing.T, c *policy.Compiled) {
	t.Helper()
	for i, f := range c.Filters {
		if f.Weight <= 0 && f.Selector != (sadb.Selector{}) || f.Reason == "" {
			t.Errorf("%s has weight %d and reason %q", f.Name, f.Weight, f.Reason)
		}
		if i == 0 {
			continue
		}
		if above := c.Filters[i-1]; above.Weight < f.Weight || above.Weight == f.Weight && above.ID >= f.ID {
			t.Errorf("%s (%d, %s) stands above %s (%d, %s)", above.Name, above.Weight, above.ID, f.Name, f.Weight, f.ID)
		}
	}
}

// §1.10 of the model: tunnels are asked first, whatever is more specific.
func TestTunnelsAreAskedFirst(t *testing.T) {
	p := sites(gateB())
	p.FilterLists = append(p.FilterLists, policy.FilterList{Name: "one", Filters: []policy.Filter{{From: host("10.1.0.1"), To: host("10.2.0.1"), Protocol: sadb.TCP, ToPorts: sadb.Port(22), Mirrored: true}}})
	p.Rules = append(p.Rules, policy.Rule{Name: "exception", FilterList: "one", FilterAction: "permit"})
	for what, outer := range map[string]map[netip.Addr]netip.Addr{"with its way": {gateB(): gateA()}, "without a way": nil} {
		c, err := policy.Compile(p, policy.Host{Outer: outer})
		if err != nil || len(c.Filters) != 3 || c.Filters[0].Rule != "rule require" {
			t.Errorf("%s: %s, %v", what, text(c), err)
		}
	}
}
