package netsh_test

import (
	"reflect"
	"testing"

	"ipsecagent/policy"
	"ipsecagent/policy/netsh"
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
	p.GUID = ""
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
