package directory_test

import (
	"context"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ipsecagent/policy"
	"ipsecagent/policy/directory"
	"ipsecagent/policy/directory/dirtest"
	"ipsecagent/policy/file"
	"ipsecagent/sadb"
)

// roots are the authorities of the domain controller's certificate.
func roots(t *testing.T, ad *dirtest.AD) *x509.CertPool {
	t.Helper()
	text, err := os.ReadFile(ad.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		t.Fatal("no certificate")
	}
	return pool
}

// byPassword binds as the administrator by password.
func byPassword(t *testing.T, ad *dirtest.AD, p directory.Protection) directory.Config {
	t.Helper()
	return directory.Config{Domain: dirtest.Domain, Dial: ad.Net.Dial, Resolver: ad.Resolver(), Protection: p, Roots: roots(t, ad),
		BindDN: "Administrator@" + dirtest.Realm, Password: sadb.NewSecret([]byte("Passw0rd.Adm"))}
}

func TestABindByPasswordNeedsTLSThatIsVerified(t *testing.T) {
	ad := domain(t)
	for _, c := range []struct {
		name   string
		edit   func(*directory.Config)
		refuse string // "": it succeeds
	}{
		{"StartTLS", func(c *directory.Config) { c.Protection = directory.StartTLS }, ""},
		{"LDAPS", func(c *directory.Config) { c.Protection = directory.TLS }, ""},
		{"no TLS", func(c *directory.Config) { c.Protection = directory.Sealed }, "needs TLS or StartTLS"},
		{"an empty password", func(c *directory.Config) { c.Password = sadb.Secret{} }, "not empty"},
		{"a wrong password", func(c *directory.Config) { c.Password = sadb.NewSecret([]byte("wrong")) }, "Invalid Credentials"},
		{"another authority", func(c *directory.Config) { c.Roots = x509.NewCertPool() }, "certificate signed by unknown authority"},
		{"another name", func(c *directory.Config) { c.Servers = []directory.Server{{Name: "dc2.example.test"}} }, "not dc2.example.test"},
		{"another domain", func(c *directory.Config) {
			c.Domain, c.Servers = "other.test", []directory.Server{{Name: dirtest.DC}}
		}, "it serves the domain"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := byPassword(t, ad, directory.TLS)
			c.edit(&cfg)
			s, err := directory.Connect(deadline(t), cfg)
			if c.refuse != "" {
				if err == nil || !strings.Contains(err.Error(), c.refuse) {
					t.Fatalf("%v, which does not say %q", err, c.refuse)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if _, err := s.Objects(deadline(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTheServerHasToBeAController: whoever DNS is made to name has no ticket for
// the service of a controller, even if it is a member of the domain.
func TestTheServerHasToBeAController(t *testing.T) {
	s := newScene(t)
	c := s.config
	c.Servers = []directory.Server{{Name: s.name + "." + dirtest.Domain}}
	_, err := directory.Connect(deadline(t), c)
	if !errors.Is(err, directory.ErrUnreachable) || !strings.Contains(err.Error(), "no ticket for ldap/"+s.name) {
		t.Errorf("%v", err)
	}
}

func TestTheNextServerIsTried(t *testing.T) {
	s := newScene(t)
	c := s.config
	c.Servers = []directory.Server{{Name: "gone.example.test", Port: 9}, {Name: dirtest.DC}}
	if got := connect(t, c).Server(); got != dirtest.DC {
		t.Errorf("connected to %q", got)
	}
}

func TestTheContainerHasTheObjectsThatEveryDomainHas(t *testing.T) {
	ad := domain(t)
	admin := connect(t, config(t, ad, ad.Administrator()))
	found, err := admin.Objects(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	classes := map[string]int{}
	for i := range found {
		if !strings.Contains(found[i].DN, "14A300000000") && !strings.Contains(found[i].DN, "0060B0ECCA17") {
			continue // of another test
		}
		o, err := found[i].Object()
		if err != nil {
			t.Errorf("%s: %v", found[i].DN, err)
			continue
		}
		classes[string(o.Class)]++
	}
	if classes["ipsecPolicy"] != 3 || classes["ipsecNFA"] != 8 || classes["ipsecFilter"] != 2 || classes["ipsecNegotiationPolicy"] != 6 || classes["ipsecISAKMPPolicy"] != 3 {
		t.Errorf("%v", classes)
	}
}

// TestAPolicyOfTheDirectorySurvivesAsADocument: the agent keeps it as one for the
// day that the directory is away.
func TestAPolicyOfTheDirectorySurvivesAsADocument(t *testing.T) {
	s := newScene(t)
	s.link(s.inner, s.gpo("x", secureServer), "0")
	a, err := connect(t, s.config).Fetch(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	text, err := file.Marshal(a.Policy)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := file.Parse("kept", text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	before, err := policy.Compile(a.Policy, policy.Host{})
	if err != nil {
		t.Fatal(err)
	}
	after, err := policy.Compile(kept, policy.Host{})
	if err != nil {
		t.Fatal(err)
	}
	if len(before.Filters) != 2 || len(after.Filters) != 2 || before.Filters[0].ID != after.Filters[0].ID || before.Filters[1].ID != after.Filters[1].ID {
		t.Errorf("%+v\n%+v", before.Filters, after.Filters)
	}
}

// TestAnUnchangedPollIsCheap: what every host of a fleet does all the time, at
// most three operations and 2 KB.
func TestAnUnchangedPollIsCheap(t *testing.T) {
	s := newScene(t)
	s.link(s.inner, s.gpo("x", secureServer), "0")
	session := connect(t, s.config)
	a, err := session.Fetch(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	before := session.Cost()
	changed, err := session.Changed(deadline(t), a)
	after := session.Cost()
	if err != nil || changed {
		t.Fatalf("changed %v, %v", changed, err)
	}
	operations, bytes := after.Operations-before.Operations, after.Sent+after.Received-before.Sent-before.Received
	t.Logf("%d operations, %d bytes sent, %d received", operations, after.Sent-before.Sent, after.Received-before.Received)
	if operations > 3 || bytes > 2048 {
		t.Errorf("%d operations, %d bytes", operations, bytes)
	}
}

// TestEveryChangeIsNoticed: by a poll, and where the server tells of it, at once.
func TestEveryChangeIsNoticed(t *testing.T) {
	s := newScene(t)
	for _, c := range []struct {
		name string
		do   func(s *scene, gpo string)
		told bool
	}{
		{"nothing", func(*scene, string) {}, false},
		{"somebody else's entry", func(s *scene, _ string) { s.set("CN=Computers,"+dirtest.Base, "description", s.name) }, false},
		{"the assignment", func(s *scene, gpo string) {
			s.set("CN=IPSEC,CN=Windows,CN=Microsoft,CN=Machine,"+gpo, "ipsecOwnersReference", client)
		}, true},
		{"the assignment is deleted", func(s *scene, gpo string) {
			if err := s.admin.Delete(deadline(s.t), "CN=IPSEC,CN=Windows,CN=Microsoft,CN=Machine,"+gpo); err != nil {
				s.t.Fatal(err)
			}
		}, false},
		{"the group policy object", func(s *scene, gpo string) { s.set(gpo, "flags", "2") }, true},
		{"its access control", func(s *scene, gpo string) {
			if err := s.ad.Do("ace", gpo, "(D;;CR;;;BG)"); err != nil {
				s.t.Fatal(err)
			}
		}, false},
		{"the link", func(s *scene, _ string) { s.set(s.inner, "gPLink", " ") }, true},
		{"a new link further up", func(s *scene, gpo string) { s.link(s.ou, gpo, "2") }, false},
		{"inheritance", func(s *scene, _ string) {
			s.set(s.inner, "gPOptions", "1")
			s.t.Cleanup(func() { s.set(s.inner, "gPOptions") })
		}, true},
		{"the policy", func(s *scene, _ string) { s.set(secureServer, "description", s.name) }, true},
		{"a filter list", func(s *scene, _ string) {
			s.set("CN=ipsecFilter{7238523A-70FA-11D1-864C-14A300000000},"+container, "description", s.name)
		}, true},
		{"a filter action", func(s *scene, _ string) {
			s.set("CN=ipsecNegotiationPolicy{7238523F-70FA-11D1-864C-14A300000000},"+container, "description", s.name)
		}, true},
		{"the site", func(s *scene, _ string) { s.set(siteDN, "description", s.name) }, false},
		{"a group of the host", func(s *scene, _ string) {
			group := "CN=g-" + s.name + "," + s.ou // the last test: the host stays in it
			s.add(group, "group", "sAMAccountName: g-"+s.name)
			s.set(group, "member", "CN="+strings.ToUpper(s.name)+","+s.inner)
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := s.in(t)
			gpo := s.gpo("x", secureServer)
			s.link(s.inner, gpo, "0")
			session := connect(t, s.config)
			a, err := session.Fetch(deadline(t))
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(deadline(t))
			defer stop()
			hints, _, _ := session.Watch(ctx, a)
			time.Sleep(300 * time.Millisecond) // the server has no answer that says that it watches now
			began := time.Now()
			c.do(s, gpo)
			changed, err := session.Changed(deadline(t), a)
			if err != nil {
				t.Fatal(err)
			}
			if want := c.name != "nothing" && c.name != "somebody else's entry"; changed != want {
				t.Errorf("changed %v", changed)
			}
			if !c.told {
				return
			}
			select {
			case <-hints:
				t.Logf("told after %v", time.Since(began))
			case <-time.After(10 * time.Second):
				t.Error("the server did not tell of it")
			}
		})
	}
}

func TestADeadServerIsNoticed(t *testing.T) {
	s := newScene(t)
	session := connect(t, s.config)
	session.Close()
	select {
	case <-session.Ended():
	case <-time.After(10 * time.Second):
		t.Error("not ended")
	}
	if _, err := session.Fetch(deadline(t)); err == nil || errors.Is(err, directory.ErrUnreadable) {
		t.Errorf("%v", err)
	}
}

func TestNamesAreEscaped(t *testing.T) {
	s := newScene(t)
	c := s.config
	for _, name := range []string{"*", "*)(objectClass=*", `\2a`, "x)(|(cn=*)", filepath.Join("host", "*")} {
		_, err := connect(t, c).Resolve(deadline(t), name, "")
		if !errors.Is(err, directory.ErrNotFound) || !strings.Contains(err.Error(), "0 computers") {
			t.Errorf("%q: %v", name, err)
		}
	}
}
