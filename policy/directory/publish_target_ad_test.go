package directory_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"ipsecagent/policy/directory"
	"ipsecagent/policy/directory/dirtest"
)

// Whatever is not clear, or would reach other hosts than were named, is refused
// with what to do.
func TestTargetsThatAreNotClear(t *testing.T) {
	sc := newScene(t)
	for range 2 {
		sc.gpo("twice "+sc.name, "")
	}
	const policy = "Client (Respond Only)"
	refused := func(to directory.Target, want error, says ...string) {
		t.Helper()
		_, err := sc.admin.PlanAssign(deadline(t), policy, to)
		if err == nil || want != nil && !errors.Is(err, want) {
			t.Fatalf("%+v: %v", to, err)
		}
		for _, w := range says {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%+v: it does not say %q: %v", to, w, err)
			}
		}
	}
	refused(directory.Target{GPO: "twice " + sc.name}, directory.ErrAmbiguous, "give the whole name")
	refused(directory.Target{GPO: "none " + sc.name}, directory.ErrNotFound, "group policy object")
	refused(directory.Target{GPO: sc.inner}, nil, "is no group policy object")
	refused(directory.Target{OU: "CN=Computers," + dirtest.Base}, nil, "is no organizational unit")
	refused(directory.Target{Host: sc.name}, nil, "security filtering")
	refused(directory.Target{}, nil, "not said")
	refused(directory.Target{OU: sc.inner}, directory.ErrNotLinked, "New-GPO -Name 'IPsec inner' | New-GPLink -Target '"+sc.inner+"'",
		"samba-tool gpo setlink '"+sc.inner+"' \"$(samba-tool gpo create 'IPsec inner' -H ldap://"+dirtest.DC, "assign '"+policy+"' --gpo 'IPsec inner'")

	a, b := sc.gpo("a "+sc.name, "", "gPCMachineExtensionNames: "), sc.gpo("b "+sc.name, "", "gPCMachineExtensionNames: ")
	sc.link(sc.inner, a, "1")
	refused(directory.Target{OU: sc.inner}, directory.ErrNotLinked) // the link is disabled
	sc.link(sc.inner, a, "0", b, "0")
	refused(directory.Target{OU: sc.inner}, directory.ErrAmbiguous, `"a `+sc.name, "New-GPO")
	if _, err := sc.admin.PlanUnassign(deadline(t), directory.Target{OU: sc.inner}); !errors.Is(err, directory.ErrNothing) {
		t.Errorf("unassign where nothing is assigned: %v", err)
	}
	apply(t, sc.admin)(sc.admin.PlanAssign(deadline(t), policy, directory.Target{GPO: b}))
	apply(t, sc.admin)(sc.admin.PlanAssign(deadline(t), policy, directory.Target{OU: sc.inner})) // the one that assigns
	sc.link(sc.ou, b, "0")
	refused(directory.Target{OU: sc.inner}, directory.ErrShared, fmt.Sprintf("%q", sc.ou), "--gpo 'b "+sc.name)
	if _, err := sc.admin.PlanUnassign(deadline(t), directory.Target{OU: sc.inner}); !errors.Is(err, directory.ErrShared) {
		t.Errorf("unassign what other hosts have as well: %v", err)
	}
}

// What another tool has written into a group policy object since it was read is
// not overwritten.
func TestAssigningBesideAnotherTool(t *testing.T) {
	sc := newScene(t)
	const other = "[{35378EAC-683F-11D2-A89A-00C04FBBCFA2}{D02B1F72-3407-48AE-BA88-E8213C6761F1}]"
	gpo := sc.gpo("shared "+sc.name, "", "gPCMachineExtensionNames: "+other, "flags: 2")
	plan, err := sc.admin.PlanAssign(deadline(t), "Client (Respond Only)", directory.Target{GPO: gpo})
	if err != nil {
		t.Fatal(err)
	}
	if notes := strings.Join(plan.Notes, "\n"); !strings.Contains(notes, "settings for computers are disabled") || !strings.Contains(notes, "linked to nothing") {
		t.Errorf("it does not say why no host takes it: %q", notes)
	}
	const more = "[{27BDC6F0-0000-4000-8000-000000000001}{27BDC6F0-0000-4000-8000-000000000002}]" + other
	sc.set(gpo, "gPCMachineExtensionNames", more)
	sc.set(gpo, "versionNumber", "2")
	if applied, err := sc.admin.Apply(deadline(t), plan); err == nil || applied {
		t.Errorf("written over what another tool has written: %v, %v", applied, err)
	}
	e, err := sc.admin.Read(deadline(t), gpo, "gPCMachineExtensionNames")
	if err != nil || string(e.Values("gPCMachineExtensionNames")[0]) != more {
		t.Errorf("%q, %v", e.Values("gPCMachineExtensionNames"), err)
	}
}

// A policy that is assigned between the plan to delete it and its execution
// stays, as does one that is assigned by a group policy object that this account
// cannot see.
func TestDeletingWhatIsAssignedMeanwhile(t *testing.T) {
	sc := newScene(t)
	_, admin := sc.apart()
	p := fileServers(t, "10.1.0.0/16")
	p.Name = "deleted " + sc.name
	publish(t, admin, p)
	plan, err := admin.PlanDelete(deadline(t), p.Name)
	if err != nil {
		t.Fatal(err)
	}
	gpo := sc.gpo("late "+sc.name, "")
	apply(t, admin)(admin.PlanAssign(deadline(t), p.Name, directory.Target{GPO: gpo}))
	if _, err := admin.Apply(deadline(t), plan); !errors.Is(err, directory.ErrInUse) {
		t.Errorf("deleted: %v", err)
	}
	if got := stored(t, admin); len(got.Policies) != 1 || len(got.Policies[0].Rules) != 1 {
		t.Errorf("something is gone: %+v", got)
	}
}

// Group policy objects of other domains are listed, with why they do not count.
func TestGroupPolicyOfAnotherDomain(t *testing.T) {
	sc := newScene(t)
	const foreign = "CN={5EC0FFEE-0000-4000-8000-00000000F0F0},CN=Policies,CN=System,DC=other,DC=test"
	sc.link(sc.inner, foreign, "0")
	own := sc.gpo("own "+sc.name, client)
	sc.link(sc.ou, own, "0")
	r := sc.resolve()
	if won(r) != "own "+sc.name || r.Considered[0].GPO != foreign || r.Considered[0].Applies || !strings.Contains(r.Considered[0].Why, `of another domain, "DC=other,DC=test"`) {
		t.Errorf("%+v", r.Considered)
	}
	found, err := sc.admin.Check(deadline(t), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if strings.Contains(f.Object, sc.inner) && strings.Contains(f.Message, "of another domain") && f.Warning {
			return
		}
	}
	t.Errorf("the link is not found: %v", found)
}
