package directory_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ipsecagent/auth/kerberos"
	"ipsecagent/auth/krbtest"
	"ipsecagent/policy"
	"ipsecagent/policy/directory"
	"ipsecagent/policy/directory/dirtest"
	"ipsecagent/policy/gpipsec"
	"ipsecagent/sadb"
)

// tree is an OpenLDAP server with policies, hosts and groups.
type tree struct {
	t     *testing.T
	slapd *dirtest.Slapd
	admin *directory.Session
}

const (
	treeContainer = "CN=IP Security,CN=System," + dirtest.SlapdBase
	hostDN        = "cn=host1,ou=web,ou=hosts," + dirtest.SlapdBase
)

// entriesOfTheTree are hosts and groups, and the places of policies.
const entriesOfTheTree = `dn: CN=System,dc=example,dc=org
objectClass: container
cn: System

dn: CN=IP Security,CN=System,dc=example,dc=org
objectClass: container
cn: IP Security

dn: ou=hosts,dc=example,dc=org
objectClass: organizationalUnit
ou: hosts

dn: ou=web,ou=hosts,dc=example,dc=org
objectClass: organizationalUnit
ou: web

dn: cn=host1,ou=web,ou=hosts,dc=example,dc=org
objectClass: device
objectClass: simpleSecurityObject
cn: host1
userPassword: host1 secret

dn: cn=a group,dc=example,dc=org
objectClass: groupOfNames
cn: a group
member: cn=host1,ou=web,ou=hosts,dc=example,dc=org

dn: cn=another group,dc=example,dc=org
objectClass: groupOfNames
cn: another group
member: cn=host1,ou=web,ou=hosts,dc=example,dc=org

`

// policiesLDIF are policies as the tools write them, for the tree.
func policiesLDIF(t *testing.T) string {
	t.Helper()
	var store policy.Store
	for _, name := range []string{"client", "server", "secure-server"} {
		p, ok := policy.Original(name)
		if !ok {
			t.Fatalf("no policy %s", name)
		}
		store.Policies = append(store.Policies, *p)
	}
	objects, _, err := gpipsec.Encode(store, gpipsec.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := gpipsec.WriteLDIF(&b, treeContainer, objects); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// newTree starts one. Options are lines of slapd.conf.
func newTree(t *testing.T, env []string, options ...string) *tree {
	t.Helper()
	return startTree(t, dirtest.SlapdConfig{Options: options, Env: env})
}

func startTree(t *testing.T, c dirtest.SlapdConfig) *tree {
	t.Helper()
	c.Schema, c.LDIF = directory.Schema(false), entriesOfTheTree
	slapd, err := dirtest.StartSlapd(t.TempDir(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(slapd.Close)
	s := &tree{t: t, slapd: slapd}
	admin := s.config(directory.StartTLS)
	admin.BindDN, admin.Password = dirtest.SlapdAdmin, sadb.NewSecret([]byte("secret"))
	s.admin = connect(t, admin)
	s.publish(policiesLDIF(t))
	return s
}

// publish adds what an LDIF of change records says.
func (s *tree) publish(ldif string) {
	s.t.Helper()
	objects, err := gpipsec.ReadLDIF(strings.NewReader(ldif))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, o := range objects {
		attributes := []directory.Attribute{{Name: "objectClass", Values: values(string(o.Class))}, {Name: "cn", Values: values(o.Ref.String())},
			{Name: "ipsecID", Values: values(o.GUID.String())}, {Name: "ipsecDataType", Values: values("256")}, {Name: "ipsecData", Values: [][]byte{o.Data}}}
		if o.Name != "" {
			attributes = append(attributes, directory.Attribute{Name: "ipsecName", Values: values(o.Name)})
		}
		if o.Class == gpipsec.ClassNegotiation {
			attributes = append(attributes, directory.Attribute{Name: "iPSECNegotiationPolicyType", Values: values(o.Type.String())},
				directory.Attribute{Name: "iPSECNegotiationPolicyAction", Values: values(o.Action.String())})
		}
		refs := map[string][]string{}
		for _, r := range o.Refs {
			name := map[gpipsec.Class]string{gpipsec.ClassISAKMP: "ipsecISAKMPReference", gpipsec.ClassNFA: "ipsecNFAReference",
				gpipsec.ClassNegotiation: "ipsecNegotiationPolicyReference", gpipsec.ClassFilter: "ipsecFilterReference"}[r.Class]
			refs[name] = append(refs[name], "CN="+r.String()+","+treeContainer)
		}
		for name, dns := range refs {
			attributes = append(attributes, directory.Attribute{Name: name, Values: values(dns...)})
		}
		if err := s.admin.Add(deadline(s.t), "CN="+o.Ref.String()+","+treeContainer, attributes); err != nil {
			s.t.Fatal(err)
		}
	}
}

// config is how host1 reaches the tree, by password.
func (s *tree) config(p directory.Protection) directory.Config {
	s.t.Helper()
	text, err := os.ReadFile(s.slapd.CA)
	if err != nil {
		s.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	port := s.slapd.Port
	if p == directory.TLS {
		port = s.slapd.TLS
	}
	return directory.Config{Kind: directory.LDAP, Servers: []directory.Server{{Name: dirtest.SlapdName, Port: port}}, Protection: p, Roots: pool,
		BindDN: hostDN, Password: sadb.NewSecret([]byte("host1 secret"))}
}

// point has an entry point to a policy; "": to none any more.
func (s *tree) point(dn, policyDN string) {
	s.t.Helper()
	e, err := s.admin.Read(deadline(s.t), dn, "ipsecPolicyReference")
	if err != nil {
		s.t.Fatal(err)
	}
	if len(e.Values("ipsecPolicyReference")) > 0 && policyDN != "" {
		s.point(dn, "")
	}
	class := directory.Change{Kind: directory.AddValues, Attribute: directory.Attribute{Name: "objectClass", Values: values("ipsecAssignment")}}
	pointer := directory.Change{Kind: directory.ReplaceValues, Attribute: directory.Attribute{Name: "ipsecPolicyReference", Values: values(policyDN)}}
	if policyDN == "" {
		class.Kind, pointer.Values = directory.DeleteValues, nil
		class, pointer = pointer, class
	}
	if err := s.admin.Modify(deadline(s.t), dn, class, pointer); err != nil {
		s.t.Fatal(err)
	}
}

// policyDN finds a policy of the tree by name.
func (s *tree) policyDN(name string) string {
	s.t.Helper()
	found, err := s.admin.Search(deadline(s.t), directory.Query{Base: treeContainer, Scope: directory.OneLevel, Filter: "(&(objectClass=ipsecPolicy)(ipsecName=" + directory.Escape(name) + "))"})
	if err != nil || len(found) != 1 {
		s.t.Fatalf("%q: %d found, %v", name, len(found), err)
	}
	return found[0].DN
}

func TestAPointerInOpenLDAPAssignsAPolicy(t *testing.T) {
	s := newTree(t, nil)
	secure, request, respond := s.policyDN("Secure Server (Require Security)"), s.policyDN("Server (Request Security)"), s.policyDN("Client (Respond Only)")
	group, other := "cn=a group,"+dirtest.SlapdBase, "cn=another group,"+dirtest.SlapdBase
	session := connect(t, s.config(directory.StartTLS))
	expect := func(name, scope string) *directory.Answer {
		t.Helper()
		a, err := session.Fetch(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case name == "" && a.State != policy.None:
			t.Errorf("%s is assigned", a.Policy.Name)
		case name == "":
		case a.State != policy.Assigned || a.Policy.Name != name || a.Result.Won().Scope != scope:
			t.Errorf("%+v, not %s by the %s", a.Result, name, scope)
		}
		return a
	}
	expect("", "")
	s.point(dirtest.SlapdBase, respond)
	expect("Client (Respond Only)", "parent")
	s.point("ou=hosts,"+dirtest.SlapdBase, request)
	expect("Server (Request Security)", "parent")
	s.point(group, secure)
	a := expect("Secure Server (Require Security)", "group")
	if want := fmt.Sprintf("group %q, from localhost", group); a.Origin() != want {
		t.Errorf("origin %q, not %q", a.Origin(), want)
	}
	s.point(other, secure) // both say the same
	expect("Secure Server (Require Security)", "group")
	s.point(other, "")
	s.point(other, request)
	if _, err := session.Fetch(deadline(t)); !errors.Is(err, directory.ErrUnreadable) || !strings.Contains(err.Error(), "different policies") {
		t.Errorf("groups that do not agree: %v", err)
	}
	s.point(hostDN, respond)
	expect("Client (Respond Only)", "host")
	s.point(hostDN, "")
	s.point(other, "")
	s.point(group, "")
	expect("Server (Request Security)", "parent")
}

func TestAChangeInOpenLDAPIsToldAndPolled(t *testing.T) {
	s := newTree(t, nil)
	s.point(hostDN, s.policyDN("Secure Server (Require Security)"))
	for _, c := range []struct {
		name string
		do   func()
	}{
		{"the pointer", func() { s.point(hostDN, s.policyDN("Client (Respond Only)")) }},
		{"the pointer goes", func() { s.point(hostDN, "") }},
		{"a pointer further up", func() { s.point(dirtest.SlapdBase, s.policyDN("Secure Server (Require Security)")) }},
		{"the policy", func() {
			if err := s.admin.Modify(deadline(t), s.policyDN("Secure Server (Require Security)"),
				directory.Change{Kind: directory.ReplaceValues, Attribute: directory.Attribute{Name: "description", Values: values("new")}}); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			session := connect(t, s.config(directory.StartTLS))
			a, err := session.Fetch(deadline(t))
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(deadline(t))
			defer stop()
			hints, _, _ := session.Watch(ctx, a)
			time.Sleep(200 * time.Millisecond) // the first state comes first
			before := session.Cost()
			if changed, err := session.Changed(deadline(t), a); err != nil || changed {
				t.Errorf("before: changed %v, %v", changed, err)
			}
			if after := session.Cost(); after.Operations-before.Operations > 3 || after.Sent+after.Received-before.Sent-before.Received > 2048 {
				t.Errorf("a poll: %+v, %+v", before, after)
			}
			c.do()
			if changed, err := session.Changed(deadline(t), a); err != nil || !changed {
				t.Errorf("changed %v, %v", changed, err)
			}
			select {
			case <-hints:
			case <-time.After(10 * time.Second):
				t.Error("the server did not tell of it")
			}
		})
	}
}

// TestKerberosInOpenLDAP: sealed by the SASL layer, and bound to the channel of
// TLS; the server says which entry this host is.
func TestKerberosInOpenLDAP(t *testing.T) {
	realm := krbtest.Start(t, "EXAMPLE.ORG", "")
	for _, p := range []string{"ldap/localhost", "host/host1"} {
		realm.Add(p, "")
	}
	serverKeytab, hostKeytab := realm.Keytab("slapd.keytab", "ldap/localhost"), realm.Keytab("host1.keytab", "host/host1")
	s := newTree(t, []string{"KRB5_CONFIG=" + realm.Conf, "KRB5_KTNAME=" + serverKeytab, "KRB5RCACHENAME=none:"},
		"sasl-host localhost", "sasl-realm EXAMPLE.ORG", "sasl-cbinding tls-endpoint",
		`authz-regexp uid=host/([^,]*),.*cn=gssapi,cn=auth cn=$1,ou=web,ou=hosts,dc=example,dc=org`)
	s.point("ou=web,ou=hosts,"+dirtest.SlapdBase, s.policyDN("Secure Server (Require Security)"))
	krb, err := kerberos.New(kerberos.Config{Keytab: hostKeytab, Krb5Conf: realm.Conf, Host: "host1"})
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]directory.Protection{"sealed": directory.Sealed, "StartTLS": directory.StartTLS, "LDAPS": directory.TLS} {
		t.Run(name, func(t *testing.T) {
			c := s.config(p)
			c.Tickets, c.BindDN, c.Password = krb.Ticket, "", sadb.Secret{}
			a, err := connect(t, c).Fetch(deadline(t))
			if err != nil {
				t.Fatal(err)
			}
			if a.State != policy.Assigned || !strings.EqualFold(a.Result.Computer.DN, hostDN) {
				t.Errorf("%+v", a.Result)
			}
		})
	}
}

func TestTheSchemaLoadsIntoTheConfigurationDatabase(t *testing.T) {
	if n := strings.Count(directory.Schema(true), "olcAttributeTypes:"); n != strings.Count(directory.Schema(false), "\nattributetype") {
		t.Errorf("%d attributes", n)
	}
	dir := t.TempDir()
	schema := filepath.Join(dir, "ipsec.ldif")
	if err := os.WriteFile(schema, []byte(directory.Schema(true)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := dirtest.TestSchema(dir, schema); err != nil {
		t.Error(err)
	}
}

// TestAPointerThatIsHiddenIsNotNone: the server shows the entries, and not where
// they point to, or not the entries above. That no policy is assigned is another
// thing.
func TestAPointerThatIsHiddenIsNotNone(t *testing.T) {
	for _, c := range []struct{ name, hide, at string }{
		{"the host's", "access to attrs=ipsecPolicyReference by * none", hostDN},
		{"its group's", "access to attrs=ipsecPolicyReference by * none", "cn=a group," + dirtest.SlapdBase},
		{"one above", "access to attrs=ipsecPolicyReference by * none", "ou=hosts," + dirtest.SlapdBase},
		{"an entry above", `access to dn.base="ou=hosts,dc=example,dc=org" by * none`, "ou=hosts," + dirtest.SlapdBase},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startTree(t, dirtest.SlapdConfig{Access: []string{c.hide}})
			s.point(c.at, s.policyDN("Secure Server (Require Security)"))
			a, err := connect(t, s.config(directory.StartTLS)).Fetch(deadline(t))
			if !errors.Is(err, directory.ErrUnreadable) || !strings.Contains(err.Error(), c.at) {
				t.Errorf("%+v, %v", a, err)
			}
		})
	}
}
