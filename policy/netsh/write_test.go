package netsh_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"ipsecagent/policy"
	"ipsecagent/policy/netsh"
	"ipsecagent/sadb"
)

// originals is the store of a new Windows: the predefined policies, without the
// GUIDs, which a script does not carry.
func originals() policy.Store {
	var s policy.Store
	for _, name := range policy.PredefinedNames() {
		p, _ := policy.Original(name)
		s.Policies = append(s.Policies, withoutGUIDs(*p))
	}
	return s
}

func withoutGUIDs(p policy.Policy) policy.Policy {
	p.GUID, p.KeyExchange.GUID, p.KeyExchange.Identity = "", "", ""
	p.DefaultResponse.GUID, p.DefaultResponse.ActionGUID = "", ""
	for i := range p.FilterLists {
		p.FilterLists[i].GUID = ""
		for j := range p.FilterLists[i].Filters {
			p.FilterLists[i].Filters[j].GUID = ""
		}
	}
	for i := range p.FilterActions {
		p.FilterActions[i].GUID = ""
	}
	for i := range p.Rules {
		p.Rules[i].GUID = ""
	}
	return p
}

// windowsResponse is the default response rule of a policy that Windows makes.
func windowsResponse() policy.DefaultResponse { return originals().Policies[0].DefaultResponse }

// again writes a store and reads the script.
func again(t *testing.T, s policy.Store) (policy.Store, []netsh.Loss) {
	t.Helper()
	script, losses := netsh.Write(s)
	r := netsh.Run(policy.Store{}, script)
	for _, p := range r.Problems {
		t.Errorf("its own script: %v", p)
	}
	if t.Failed() {
		t.Logf("%s", script)
	}
	return r.Store, losses
}

func same(t *testing.T, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func TestOriginalsRoundTrip(t *testing.T) {
	got, losses := again(t, originals())
	same(t, got, originals())
	if losses != nil {
		t.Errorf("Windows wrote them and netsh cannot say: %v", losses)
	}
}

func TestTwinsRoundTrip(t *testing.T) {
	var s policy.Store
	for _, name := range policy.PredefinedNames() {
		p, _ := policy.Predefined(name)
		s.Policies = append(s.Policies, *p)
	}
	got, losses := again(t, s)
	same(t, got, s)
	if len(losses) == 0 {
		t.Error("modern algorithms are no loss for Windows")
	}
}

// What a store may hold and netsh cannot say is listed, and what is written
// instead can be read.
func TestLosses(t *testing.T) {
	filter := []policy.Filter{{From: policy.Endpoint{Kind: policy.Me}, Mirrored: true}}
	s := policy.Store{
		Policies: []policy.Policy{{
			Name: "p", Description: "two\nlines", Uplift: false, Tests: []policy.Test{{Flow: "tcp me -> 10.0.0.1", Expect: "permit"}},
			KeyExchange:   policy.KeyExchange{Methods: []sadb.ISAKMPSuite{{Encryption: sadb.TripleDES, Hash: sadb.SHA1, Group: sadb.MODP2048}}},
			FilterLists:   []policy.FilterList{{Name: "L", Filters: filter}, {Name: "l", Filters: filter[:0]}, {Name: "all"}},
			FilterActions: []policy.FilterAction{{Name: "Block", Kind: sadb.Permit}},
			Rules: []policy.Rule{
				{GUID: "{1}", FilterList: "L", FilterAction: "block"},
				{Name: "second", FilterList: "l", FilterAction: "Block"},
				{Name: "third", FilterList: "missing", FilterAction: "Block"},
				{Name: "4", FilterList: "all", FilterAction: "block", Authentication: []policy.AuthMethod{{Kind: policy.PresharedKey, Key: "k"}}},
			},
		}},
		FilterLists: []policy.FilterList{{Name: "names", Filters: []policy.Filter{
			{From: policy.Endpoint{Kind: policy.Me}, To: policy.Endpoint{Kind: policy.Name, Name: "dns"}},
		}}},
	}
	got, losses := again(t, s)
	var said strings.Builder
	for _, l := range losses {
		fmt.Fprintln(&said, l)
	}
	for _, want := range []string{
		`filter list "l": the name is taken`, `written as "l 2"`, `filter list "all": the name`, `filter action "Block": the name`, `written as "Block 2"`,
		"description= holds characters", "has no uplift", "its 1 tests", `rule {1}: it has no name`, `does not carry filter list "missing"`, "put psk= with the key",
	} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("%q is not among\n%s", want, &said)
		}
	}
	p := got.Policies[0]
	var rules []string
	for _, r := range p.Rules {
		rules = append(rules, r.Name+"|"+r.FilterList+"|"+r.FilterAction)
	}
	same(t, rules, []string{"{1}|L|block", "second|l 2|Block 2", "4|all 2|block"})
	if p.Description != "two lines" || got.FilterLists[0].Filters[0].To.Name != "dns." {
		t.Errorf("%+v", got)
	}
}
