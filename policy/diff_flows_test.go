package policy_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// does says how a compiled policy treats a packet.
func does(c *policy.Compiled, q policy.Question) string {
	i := slices.IndexFunc(c.Filters, func(f policy.CompiledFilter) bool { return f.Matches(q.Flow, q.Dir) })
	if i < 0 {
		return "nothing"
	}
	f := c.Filters[i]
	return fmt.Sprint(f.Action, f.Mode, f.TunnelRemote, f.Negotiation)
}

// changed returns a policy with one thing of it changed.
func changed(rng *rand.Rand, p policy.Policy) policy.Policy {
	p.FilterLists, p.Rules = slices.Clone(p.FilterLists), slices.Clone(p.Rules)
	switch r, l := rng.IntN(len(p.Rules)), rng.IntN(len(p.FilterLists)); rng.IntN(5) {
	case 0:
		p.Rules[r].FilterAction = pick(rng, "permit", "block", "require", "request")
	case 1:
		p.Rules[r].Name = "renamed"
	case 2:
		p.Rules[r].Disabled = true
	case 3:
		p.FilterLists[l].Filters = append(slices.Clone(p.FilterLists[l].Filters), anyFilter(rng))
	case 4:
		p.FilterLists[l].Filters = slices.Clone(p.FilterLists[l].Filters[1:])
	}
	return p
}

// No difference is found if and only if no packet is treated differently: of all
// packets of a small world some are asked, and every example is.
func TestDiffOfRandomPolicies(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	equal, differ := 0, 0
	for range 800 {
		p, a := randomCompiled(t, rng, 6)
		q := changed(rng, *p)
		if rng.IntN(10) == 0 {
			q = *randomPolicy(rng, 6)
		}
		b, err := policy.Compile(&q, policy.Host{})
		if err != nil {
			continue
		}
		d := policy.Diff(policy.Side{Policy: p, Compiled: a}, policy.Side{Policy: &q, Compiled: b})
		if !d.Whole || d.MoreFlows > 0 {
			t.Fatalf("not all compared: %+v", d)
		}
		for _, c := range d.Flows {
			if !c.Traffic.Matches(c.Example.Flow) || does(a, c.Example) == does(b, c.Example) || c.Before == c.After {
				t.Fatalf("%+v: before %s, after %s", c, does(a, c.Example), does(b, c.Example))
			}
		}
		seen := false
		for range 300 {
			x := randomQuestion(rng)
			if does(a, x) == does(b, x) {
				continue
			}
			seen = true
			if !slices.ContainsFunc(d.Flows, func(c policy.FlowChange) bool { return c.Traffic.Matches(x.Flow) && c.Dir&x.Dir != 0 }) {
				t.Fatalf("%v: before %s, after %s, and no change tells: %+v", x, does(a, x), does(b, x), d.Flows)
			}
		}
		if len(d.Flows) == 0 {
			equal++
		} else if seen {
			differ++
		}
	}
	if equal < 100 || differ < 250 {
		t.Errorf("%d are equal, %d differ", equal, differ)
	}
}

func TestDiffSaysWhichTrafficIsTreatedDifferently(t *testing.T) {
	compare := func(before, after string) []policy.FlowChange {
		t.Helper()
		p, q := lines(t, before), lines(t, after)
		return policy.Diff(policy.Side{Policy: p, Compiled: compile(t, p)}, policy.Side{Policy: q, Compiled: compile(t, q)}).Flows
	}
	show := func(changes []policy.FlowChange) (all []string) {
		for _, c := range changes {
			all = append(all, fmt.Sprintf("%s %s partly %v: %s -> %s", c.Traffic, c.Dir, c.Partly, c.Before, c.After))
		}
		return all
	}
	for _, tc := range []struct {
		before, after string
		want          []string
	}{
		{"a permit me any tcp 1433", "a secured me any tcp 1433", []string{"me:1433 <-> any tcp both partly false: permit -> require security"}},
		{"a permit me any tcp 1433", "b permit me any tcp 1433", nil},
		{"", "a block me 10.0.0.0/8", []string{"me <-> 10.0.0.0/8 any both partly false: no filter -> block"}},
		{"a block me 10.0.0.0/8\n b permit me 10.1.0.0/16", "b permit me 10.1.0.0/16", []string{"me <-> 10.0.0.0/8 any both partly true: block -> no filter"}},
		{"a block me 10.0.0.0/8", "a block me 10.0.0.0/9\n b block me 10.128.0.0/9", nil},
		{"a block me 10.0.0.0/8", "a block me 10.0.0.0/8\n b permit me 10.0.0.1 tcp 22", []string{"me:22 <-> 10.0.0.1 tcp both partly false: block -> permit"}},
	} {
		if got := show(compare(tc.before, tc.after)); !slices.Equal(got, tc.want) {
			t.Errorf("%q to %q: %q, want %q", tc.before, tc.after, got, tc.want)
		}
	}
}

// An example is a packet of this world: neither to a network's own address nor,
// where there is a choice, to one that nobody has.
func TestExamplesOfADiffReadWell(t *testing.T) {
	for after, want := range map[string]string{
		"a block me 10.0.0.0/8":                              "10.0.0.1",
		"a block me 10.0.0.7":                                "10.0.0.7",
		"a block me any":                                     "198.51.100.1",
		"a block me any\n b permit me 10.0.0.0/8":            "198.51.100.1",
		"a block me any\n b permit me 198.51.100.0/24 tcp 5": "198.51.100.1",
	} {
		p, q := lines(t, "b permit me 10.0.0.0/8"), lines(t, after)
		for _, c := range policy.Diff(policy.Side{Policy: p, Compiled: compile(t, p)}, policy.Side{Policy: q, Compiled: compile(t, q)}).Flows {
			if c.Before == "no filter" && c.After == "block" && c.Example.Flow.Remote.String() != want {
				t.Errorf("%q: example %v, want %s", after, c.Example.Flow, want)
			}
		}
	}
}

func TestDiffSaysWhatOfATreatmentDiffers(t *testing.T) {
	p, q := lines(t, "a secured me 10.0.0.1"), lines(t, "a secured me 10.0.0.1")
	q.FilterActions[0].Methods[0].Bytes = 1_000_000
	q.Rules[0].Authentication = []policy.AuthMethod{{Kind: policy.Kerberos, AcceptPrincipals: []string{"host/a"}}}
	d := policy.Diff(policy.Side{Policy: p, Compiled: compile(t, p)}, policy.Side{Policy: q, Compiled: compile(t, q)})
	if len(d.Flows) != 1 {
		t.Fatalf("%+v", d.Flows)
	}
	if got, want := d.Flows[0].After, "require security, esp-aes256gcm (1MB), kerberos of host/a"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if d.Flows[0].Before != "require security, esp-aes256gcm, psk" {
		t.Errorf("%q", d.Flows[0].Before)
	}
}

func TestDiffFollowsTheTypeOfConnection(t *testing.T) {
	p, q := lines(t, "a block me 10.0.0.1"), lines(t, "a block me 10.0.0.1")
	b := compile(t, q)
	b.Filters[0].Connections = sadb.LAN
	d := policy.Diff(policy.Side{Policy: p, Compiled: compile(t, p)}, policy.Side{Policy: q, Compiled: b})
	if len(d.Flows) != 1 || d.Flows[0].Example.Flow.Connection != sadb.RemoteAccess || d.Flows[0].After != "no filter" {
		t.Errorf("%+v", d.Flows)
	}
}
