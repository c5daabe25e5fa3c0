package directory_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"ipsecagent/policy"
	"ipsecagent/policy/directory"
	"ipsecagent/policy/gpipsec"
	"ipsecagent/sadb"
)

// fileServers is a policy of one rule beside that of a predefined policy.
func fileServers(t *testing.T, networks ...string) policy.Policy {
	t.Helper()
	p, ok := policy.Original(policy.SecureServerName)
	if !ok {
		t.Fatal("no predefined policy")
	}
	list := policy.FilterList{Name: "file servers (SMB)"}
	for _, n := range networks {
		list.Filters = append(list.Filters, policy.Filter{From: policy.Endpoint{Kind: policy.Me}, Mirrored: true, Protocol: sadb.TCP, ToPorts: sadb.Port(445),
			To: policy.Endpoint{Kind: policy.Addresses, Addrs: sadb.Prefix(netip.MustParsePrefix(n))}})
	}
	rule := p.Rules[len(p.Rules)-1]
	rule.GUID, rule.Name, rule.FilterList = "", "secure files", list.Name
	return policy.Policy{Name: "file servers " + t.Name(), Description: "ä, a comma, and (brackets)", KeyExchange: policy.KeyExchange{Methods: p.KeyExchange.Methods},
		FilterLists: []policy.FilterList{list}, FilterActions: p.FilterActions, Rules: []policy.Rule{rule}, DefaultResponse: policy.DefaultResponse{
			Active: true, Methods: p.DefaultResponse.Methods, Authentication: p.DefaultResponse.Authentication}, Uplift: true}
}

func publish(t *testing.T, s *directory.Session, p policy.Policy) directory.Plan {
	t.Helper()
	plan, err := s.PlanPublish(deadline(t), p, directory.PublishOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(deadline(t), plan); err != nil {
		t.Fatal(err)
	}
	return plan
}

// stored reads all of the container and fails the test if any of it is wrong.
func stored(t *testing.T, s *directory.Session) policy.Store {
	t.Helper()
	entries, err := s.Objects(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	var objects []gpipsec.Object
	for _, e := range entries {
		o, err := e.Object()
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, o)
	}
	r := gpipsec.Decode(objects)
	for _, p := range r.Problems {
		t.Errorf("not sound: %v", p)
	}
	return r.Store
}

// changed is when the directory says that the policy object last changed, by
// which Windows hosts notice.
func changed(t *testing.T, s *directory.Session, name string) string {
	t.Helper()
	found, err := s.Search(deadline(t), directory.Query{Base: s.Container(), Scope: directory.OneLevel,
		Filter: "(&(objectClass=ipsecPolicy)(ipsecName=" + directory.Escape(name) + "))", Attributes: []string{"uSNChanged", "whenChanged"}})
	if err != nil || len(found) != 1 || len(found[0].Values("whenChanged")) != 1 {
		t.Fatalf("%d policies %q, %v", len(found), name, err)
	}
	return string(found[0].Values("uSNChanged")[0])
}

// apart is a container of policies for one test, and a session of the
// administrator with it.
func (s *scene) apart() (at string, admin *directory.Session) {
	s.t.Helper()
	at = "CN=policies " + s.name + "," + s.ou
	s.add(at, "container")
	c := config(s.t, s.ad, s.ad.Administrator())
	c.Container = at
	return at, connect(s.t, c)
}

func TestPublishingToActiveDirectory(t *testing.T) {
	_, s := newScene(t).apart()
	p := fileServers(t, "10.1.0.0/16")
	publish(t, s, p)
	first := changed(t, s, p.Name)
	if again := publish(t, s, p); len(again.Steps) > 0 {
		t.Errorf("the same again takes %d steps", len(again.Steps))
	}
	before := len(stored(t, s).Policies)
	p = fileServers(t, "10.1.0.0/16", "10.2.0.0/16")
	publish(t, s, p)
	if changed(t, s, p.Name) == first {
		t.Error("the policy object is as it was: Windows hosts notice nothing")
	}
	p.Rules[0].Name = "secure all files"
	p.DefaultResponse = policy.DefaultResponse{}
	publish(t, s, p)
	store := stored(t, s)
	if len(store.Policies) != before || len(store.FilterLists) > 0 {
		t.Errorf("%d policies, before %d; lists that nothing uses: %v", len(store.Policies), before, store.FilterLists)
	}
	for _, got := range store.Policies {
		if got.Name == p.Name && (len(got.Rules) != 1 || got.Rules[0].Name != "secure all files" || len(got.FilterLists[0].Filters) != 2) {
			t.Errorf("read back: %+v", got)
		}
	}
}

// An account that may not read or not write is told so, and nothing has changed.
func TestPublishingWithoutTheRight(t *testing.T) {
	sc := newScene(t)
	at, admin := sc.apart()
	own := sc.config
	own.Container = at
	publish(t, admin, fileServers(t, "10.1.0.0/16"))
	member := connect(t, own)
	if _, err := member.PlanPublish(deadline(t), fileServers(t, "10.2.0.0/16"), directory.PublishOptions{}); err == nil || !strings.Contains(err.Error(), "may read them all") {
		t.Errorf("what may not be read: %v", err)
	}
	if err := sc.ad.Do("ace", at, "(A;CI;RPLCLORC;;;DC)"); err != nil {
		t.Fatal(err)
	}
	member = connect(t, own)
	plan, err := member.PlanPublish(deadline(t), fileServers(t, "10.2.0.0/16"), directory.PublishOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if applied, err := member.Apply(deadline(t), plan); err == nil || applied || !strings.Contains(err.Error(), "add filter list") {
		t.Errorf("what may not be written: %v, %v", applied, err)
	}
	if got := stored(t, admin); len(got.Policies) != 1 || len(got.FilterLists) != 0 {
		t.Errorf("something was written: %+v", got)
	}
}

// What is assigned by this program is what a host finds; Windows' rules for the
// group policy object are kept.
func TestAssigningInActiveDirectory(t *testing.T) {
	sc := newScene(t)
	_, admin := sc.apart()
	bare := sc.gpo("bare "+sc.name, "", "gPCMachineExtensionNames: ", "versionNumber: 131072", `gPCFileSysPath: \\example.test\sysvol\x`)
	sc.link(sc.inner, bare, "0")
	p := fileServers(t, "10.1.0.0/16")
	p.Name = "assigned " + sc.name
	publish(t, admin, p)
	for i, to := range []directory.Target{{GPO: "bare " + sc.name}, {OU: sc.inner}, {GPO: bare}} {
		plan := apply(t, admin)(admin.PlanAssign(deadline(t), p.Name, to))
		r := sc.resolve()
		if w := r.Won(); w == nil || w.PolicyName != p.Name {
			t.Fatalf("assigned by %+v, and found: %+v", to, r)
		}
		if i > 0 && len(plan.Steps) > 0 {
			t.Errorf("the same again takes %d steps", len(plan.Steps))
		}
		if i == 0 && (len(plan.Notes) != 1 || !strings.Contains(plan.Notes[0], `Version=131073 in \\example.test\sysvol\x\gpt.ini`)) {
			t.Errorf("it does not say what Windows hosts need: %q", plan.Notes)
		}
		if to.OU == "" {
			continue
		}
		apply(t, admin)(admin.PlanUnassign(deadline(t), to))
		if r := sc.resolve(); r.Won() != nil {
			t.Errorf("unassigned, and found: %+v", r)
		}
		apply(t, admin)(admin.PlanAssign(deadline(t), p.Name, to))
	}
	e, err := admin.Read(deadline(t), bare, "versionNumber", "gPCMachineExtensionNames")
	if err != nil || string(e.Values("versionNumber")[0]) != "131075" {
		t.Errorf("version %q, %v: of the half for users, or not raised with each change", e.Values("versionNumber"), err)
	}
	if _, err := admin.PlanDelete(deadline(t), p.Name); !errors.Is(err, directory.ErrInUse) || !strings.Contains(err.Error(), "bare "+sc.name) {
		t.Errorf("delete what is assigned: %v", err)
	}
	apply(t, admin)(admin.PlanUnassign(deadline(t), directory.Target{GPO: bare}))
	apply(t, admin)(admin.PlanDelete(deadline(t), p.Name))
	stored(t, admin)
}
