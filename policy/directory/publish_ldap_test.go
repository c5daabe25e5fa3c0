package directory_test

import (
	"crypto/x509"
	"errors"
	"os"
	"strings"
	"testing"

	"ipsecagent/policy"
	"ipsecagent/policy/directory"
	"ipsecagent/policy/directory/dirtest"
	"ipsecagent/policy/gpipsec"
	"ipsecagent/sadb"
)

const (
	configAdmin = "cn=admin,cn=config"
	hostsOfTree = "dn: ou=hosts,dc=example,dc=org\nobjectClass: organizationalUnit\nou: hosts\n\n" +
		"dn: cn=alice,ou=hosts,dc=example,dc=org\nobjectClass: applicationProcess\nobjectClass: simpleSecurityObject\ncn: alice\nuserPassword: secret\n\n"
	alice = "cn=alice,ou=hosts,dc=example,dc=org"
)

// empty is a slapd that knows nothing of policies yet, with a host.
func empty(t *testing.T) *dirtest.Slapd {
	t.Helper()
	l, err := dirtest.StartSlapd(t.TempDir(), dirtest.SlapdConfig{LDIF: hostsOfTree,
		Options: []string{"database config", `rootdn "` + configAdmin + `"`, "rootpw secret"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// session connects by password as somebody.
func session(t *testing.T, l *dirtest.Slapd, dn string) *directory.Session {
	t.Helper()
	ca, err := os.ReadFile(l.CA)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return connect(t, directory.Config{Kind: directory.LDAP, Servers: []directory.Server{{Name: dirtest.SlapdName, Port: l.Port}}, Base: dirtest.SlapdBase,
		Protection: directory.StartTLS, Roots: roots, BindDN: dn, Password: sadb.NewSecret([]byte("secret"))})
}

// initialised is a slapd that init has made ready, by who may do each part, and
// a session of its administrator.
func initialised(t *testing.T) (*dirtest.Slapd, *directory.Session) {
	t.Helper()
	l := empty(t)
	for _, dn := range []string{configAdmin, dirtest.SlapdAdmin} {
		s := session(t, l, dn)
		plan, err := s.PlanInit(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		if dn == configAdmin {
			plan.Steps = plan.Steps[:1] // the schema; the tree is not its own
		}
		if _, err := s.Apply(deadline(t), plan); err != nil {
			t.Fatal(err)
		}
	}
	return l, session(t, l, dirtest.SlapdAdmin)
}

func TestInitOfOpenLDAP(t *testing.T) {
	_, s := initialised(t)
	plan, err := s.PlanInit(deadline(t))
	if err != nil || len(plan.Steps) > 0 {
		t.Errorf("init again: %d steps, %v", len(plan.Steps), err)
	}
	text, err := directory.ContainerLDIF(s.Container(), s.Base())
	if err != nil || strings.Count(text, "objectClass: container") != 2 {
		t.Errorf("container:\n%s%v", text, err)
	}
}

func TestPublishingToOpenLDAP(t *testing.T) {
	_, s := initialised(t)
	p := fileServers(t, "10.1.0.0/16")
	publish(t, s, p)
	if again := publish(t, s, p); len(again.Steps) > 0 {
		t.Errorf("the same again takes %d steps", len(again.Steps))
	}
	p = fileServers(t, "10.1.0.0/16", "10.2.0.0/16")
	publish(t, s, p)
	if got := stored(t, s); len(got.Policies) != 1 || len(got.Policies[0].FilterLists[0].Filters) != 2 || len(got.FilterLists) != 0 {
		t.Errorf("read back: %+v", got)
	}
	apply(t, s)(s.PlanDelete(deadline(t), p.Name))
	got := stored(t, s)
	if len(got.Policies) != 0 || len(got.FilterLists) != 1 {
		t.Errorf("deleted, and there is still: %+v", got)
	}
	apply(t, s)(s.PlanDeleteShared(deadline(t), gpipsec.ClassFilter, got.FilterLists[0].Name))
	if got := stored(t, s); len(got.FilterLists) != 0 {
		t.Errorf("the filter list is still there")
	}
}

// apply carries out a plan that has to work.
func apply(t *testing.T, s *directory.Session) func(directory.Plan, error) directory.Plan {
	t.Helper()
	return func(p directory.Plan, err error) directory.Plan {
		t.Helper()
		if err == nil {
			_, err = s.Apply(deadline(t), p)
		}
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
}

func TestAssigningInOpenLDAP(t *testing.T) {
	l, admin := initialised(t)
	host := alice
	near, far := fileServers(t, "10.1.0.0/16"), fileServers(t, "10.2.0.0/16")
	near.Name, far.Name = "near", "far"
	publish(t, admin, near)
	publish(t, admin, far)
	member := session(t, l, host)
	expect := func(want string) {
		t.Helper()
		a, err := member.Fetch(deadline(t))
		switch {
		case err != nil:
			t.Fatal(err)
		case want == "" && a.State != policy.None || want != "" && (a.Policy == nil || a.Policy.Name != want):
			t.Errorf("the host has %+v, not %q", a.Result, want)
		}
	}
	expect("")
	apply(t, admin)(admin.PlanAssign(deadline(t), "far", directory.Target{OU: "hosts"}))
	expect("far")
	apply(t, admin)(admin.PlanAssign(deadline(t), "near", directory.Target{Host: "alice"}))
	expect("near")
	if again := apply(t, admin)(admin.PlanAssign(deadline(t), "near", directory.Target{Host: host})); len(again.Steps) > 0 {
		t.Errorf("the same again takes %d steps", len(again.Steps))
	}
	if _, err := admin.PlanDelete(deadline(t), "near"); !errors.Is(err, directory.ErrInUse) {
		t.Errorf("delete what is assigned: %v", err)
	}
	apply(t, admin)(admin.PlanUnassign(deadline(t), directory.Target{Host: "alice"}))
	expect("far")
	if _, err := admin.PlanUnassign(deadline(t), directory.Target{Host: "alice"}); !errors.Is(err, directory.ErrNothing) {
		t.Errorf("unassign again: %v", err)
	}
	apply(t, admin)(admin.PlanUnassign(deadline(t), directory.Target{OU: "ou=hosts," + dirtest.SlapdBase}))
	expect("")
	apply(t, admin)(admin.PlanDelete(deadline(t), "near"))
	if _, err := admin.PlanAssign(deadline(t), "near", directory.Target{GPO: "web"}); err == nil {
		t.Error("a policy that is gone is assigned")
	}
}
