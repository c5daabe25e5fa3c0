package directory_test

import (
	"fmt"
	"strings"
	"testing"

	"ipsecagent/policy/directory"
)

// A computer may not read policies until the one entry is made that fsck prints;
// both the administrator and the computer itself are told.
func TestAccessIsChecked(t *testing.T) {
	sc := newScene(t)
	at, _ := sc.apart()
	withContainer := func(c directory.Config) *directory.Session {
		c.Container = at
		return connect(t, c)
	}
	admin, member := withContainer(config(t, sc.ad, sc.ad.Administrator())), withContainer(sc.config)
	findings := func(s *directory.Session, computer string) string {
		t.Helper()
		found, err := s.Check(deadline(t), computer)
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, f := range found {
			lines = append(lines, f.String())
		}
		return strings.Join(lines, "\n")
	}
	p := fileServers(t, "10.1.0.0/16")
	publish(t, admin, p)
	ace := fmt.Sprintf(`samba-tool dsacl set --objectdn="%s" --action=allow --sddl="(A;CI;RPLCLORC;;;DC)"`, at)
	for _, c := range []struct {
		session  *directory.Session
		computer string
		says     string
	}{
		{admin, "", "a computer that is in no group but Domain Computers may not read them"},
		{admin, strings.ToUpper(sc.name) + "$", "computer " + strings.ToUpper(sc.name) + "$ may not read them"},
		{member, "", "this account"},
	} {
		if got := findings(c.session, c.computer); !strings.Contains(got, c.says) || !strings.Contains(got, ace) {
			t.Errorf("%q: %s", c.says, got)
		}
	}
	if err := sc.ad.Do("ace", at, "(A;CI;RPLCLORC;;;DC)"); err != nil {
		t.Fatal(err)
	}
	admin, member = withContainer(config(t, sc.ad, sc.ad.Administrator())), withContainer(sc.config)
	for _, s := range []*directory.Session{admin, member} {
		if got := findings(s, ""); strings.Contains(got, "may not read") {
			t.Errorf("with the entry: %s", got)
		}
	}
}

// What another tool has broken is found, and publishing again mends it.
func TestDamageInActiveDirectory(t *testing.T) {
	sc := newScene(t)
	at, s := sc.apart()
	p := fileServers(t, "10.1.0.0/16")
	publish(t, s, p)
	for _, class := range []string{"ipsecNFA", "ipsecFilter", "ipsecISAKMPPolicy"} {
		found, err := s.Search(deadline(t), directory.Query{Base: at, Scope: directory.OneLevel, Filter: "(objectClass=" + class + ")", Attributes: []string{"cn"}})
		if err != nil || len(found) == 0 {
			t.Fatal(found, err)
		}
		if err := s.Delete(deadline(t), found[0].DN); err != nil {
			t.Fatal(err)
		}
		broken, err := s.Check(deadline(t), "")
		if err != nil {
			t.Fatal(err)
		}
		missed := true
		for _, f := range broken {
			t.Logf("%s deleted: %v", class, f)
			missed = missed && (f.Warning || strings.Contains(f.Message, "may not read"))
		}
		if missed {
			t.Errorf("%s deleted, and nothing is found", class)
		}
		publish(t, s, p)
		if got := stored(t, s); len(got.Policies) != 1 || len(got.Policies[0].Rules) != 1 {
			t.Errorf("%s deleted and published again: %+v", class, got)
		}
	}
	left, err := s.Check(deadline(t), "")
	for _, f := range left {
		ofOthers := strings.HasPrefix(f.Object, "group policy object") || strings.Contains(f.Message, "it links to")
		if !strings.Contains(f.Message, "may not read") && !ofOthers {
			t.Errorf("mended, and still: %v, %v", f, err)
		}
	}
}
