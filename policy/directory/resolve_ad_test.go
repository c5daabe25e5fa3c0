package directory_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"ipsecagent/policy"
	"ipsecagent/policy/directory"
	"ipsecagent/policy/directory/dirtest"
)

// The predefined policies, as every Active Directory has them.
const (
	client       = "CN=ipsecPolicy{72385236-70FA-11D1-864C-14A300000000}," + container
	server       = "CN=ipsecPolicy{72385230-70FA-11D1-864C-14A300000000}," + container
	secureServer = "CN=ipsecPolicy{7238523C-70FA-11D1-864C-14A300000000}," + container
)

// scene is a part of the domain that belongs to one test: an organizational
// unit and a host in one below it.
type scene struct {
	t      *testing.T
	ad     *dirtest.AD
	admin  *directory.Session
	ou     string // the outer one
	inner  string // the one below, where the host is
	config directory.Config
	name   string
}

// newScene makes them.
func newScene(t *testing.T) *scene {
	t.Helper()
	ad := domain(t)
	s := &scene{t: t, ad: ad, admin: connect(t, config(t, ad, ad.Administrator()))}
	s.ou = "OU=" + rand.Text() + "," + dirtest.Base
	s.inner = "OU=inner," + s.ou
	for _, dn := range []string{s.ou, s.inner} {
		s.add(dn, "organizationalUnit")
	}
	s.host()
	return s
}

// in is the same scene for a subtest.
func (s *scene) in(t *testing.T) *scene {
	t.Helper()
	inner := *s
	inner.t = t
	return &inner
}

// host makes another host in the scene.
func (s *scene) host() {
	s.t.Helper()
	s.name = "t" + strings.ToLower(rand.Text()[:8])
	keytab, err := s.ad.Host(s.name, s.inner)
	if err != nil {
		s.t.Fatal(err)
	}
	s.config = config(s.t, s.ad, keytab)
}

func values(v ...string) [][]byte {
	var all [][]byte
	for _, s := range v {
		all = append(all, []byte(s))
	}
	return all
}

// add makes an entry with further attributes, "name: value".
func (s *scene) add(dn, class string, more ...string) {
	s.t.Helper()
	attributes := []directory.Attribute{{Name: "objectClass", Values: values(class)}}
	for _, m := range more {
		name, value, _ := strings.Cut(m, ": ")
		attributes = append(attributes, directory.Attribute{Name: name, Values: values(value)})
	}
	if err := s.admin.Add(deadline(s.t), dn, attributes); err != nil {
		s.t.Fatal(err)
	}
}

// set replaces the values of an attribute; none: it is removed.
func (s *scene) set(dn, name string, v ...string) {
	s.t.Helper()
	if err := s.admin.Modify(deadline(s.t), dn, directory.Change{Kind: directory.ReplaceValues, Attribute: directory.Attribute{Name: name, Values: values(v...)}}); err != nil {
		s.t.Fatal(err)
	}
}

// gpo makes a group policy object that assigns a policy and returns its DN.
func (s *scene) gpo(name, assigned string, more ...string) string {
	s.t.Helper()
	id := fmt.Sprintf("{%s-0000-4000-8000-%012X}", "5EC0FFEE", newNumber(s.t))
	dn := "CN=" + id + ",CN=Policies,CN=System," + dirtest.Base
	attributes := map[string]string{"displayName": name, "flags": "0", "versionNumber": "1", "gPCFunctionalityVersion": "2",
		"gPCMachineExtensionNames": "[{E437BC1C-AA7D-11D2-A382-00C04F991E27}{DEA8AFA0-CC85-11D0-9CE2-0080C7221EBD}]"}
	for _, m := range more {
		k, v, _ := strings.Cut(m, ": ")
		attributes[k] = v
		if v == "" {
			delete(attributes, k)
		}
	}
	var list []string
	for k, v := range attributes {
		list = append(list, k+": "+v)
	}
	s.add(dn, "groupPolicyContainer", list...)
	for _, below := range []string{"CN=Machine,", "CN=User,", "CN=Microsoft,CN=Machine,", "CN=Windows,CN=Microsoft,CN=Machine,"} {
		s.add(below+dn, "container")
	}
	if assigned != "" {
		at := "CN=IPSEC,CN=Windows,CN=Microsoft,CN=Machine," + dn
		s.add(at, "ipsecPolicy")
		s.set(at, "ipsecOwnersReference", assigned)
		s.set(at, "ipsecName", name)
	}
	return dn
}

// object makes a policy object without attributes and returns its DN.
func (s *scene) object(class string, more ...string) string {
	s.t.Helper()
	dn := fmt.Sprintf("CN=%s{5EC0FFEE-0000-4000-8000-%012X},%s", class, newNumber(s.t), container)
	s.add(dn, class, more...)
	return dn
}

// newNumber tells the group policy objects of all tests apart.
func newNumber(t *testing.T) uint64 {
	t.Helper()
	var b [6]byte
	if _, err := rand.Read(b[:]); err != nil {
		t.Fatal(err)
	}
	var n uint64
	for _, x := range b {
		n = n<<8 | uint64(x)
	}
	return n
}

// links makes the value of gPLink: GPO DNs, each followed by its options.
func links(gpos ...string) string {
	var b strings.Builder
	for i := 0; i+1 < len(gpos); i += 2 {
		fmt.Fprintf(&b, "[LDAP://%s;%s]", gpos[i], gpos[i+1])
	}
	return b.String()
}

// link links group policy objects to an entry until the test ends.
func (s *scene) link(dn string, gpos ...string) {
	s.t.Helper()
	before, err := s.admin.Read(deadline(s.t), dn, "gPLink")
	if err != nil {
		s.t.Fatal(err)
	}
	former := ""
	if v := before.Values("gPLink"); len(v) > 0 {
		former = string(v[0])
	}
	s.set(dn, "gPLink", links(gpos...)+former)
	s.t.Cleanup(func() {
		if former == "" {
			s.set(dn, "gPLink")
			return
		}
		s.set(dn, "gPLink", former)
	})
}

// resolve returns the result for the host of the scene.
func (s *scene) resolve() *directory.Result {
	s.t.Helper()
	r, err := connect(s.t, s.config).Resolve(deadline(s.t), "", "")
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// won is the name of the GPO that won; "": none.
func won(r *directory.Result) string {
	if r.Won() == nil {
		return ""
	}
	return r.Won().Name
}

// why returns what is said about a GPO.
func why(t *testing.T, r *directory.Result, name string) string {
	t.Helper()
	for _, c := range r.Considered {
		if c.Name == name || strings.EqualFold(c.GPO, name) {
			return c.Why
		}
	}
	t.Fatalf("%q was not considered: %+v", name, r.Considered)
	return ""
}

const siteDN = "CN=Default-First-Site-Name,CN=Sites,CN=Configuration," + dirtest.Base

func TestGroupPolicyIsResolvedAsByWindows(t *testing.T) {
	s := newScene(t)
	type links map[string][]string // by the entry; GPO names, each followed by its options
	for _, c := range []struct {
		name    string
		links   links
		blocked string
		gpo     []string // attributes of the GPO "inner"
		wins    string
		why     string // part of what is said about "inner"
	}{
		{name: "nothing is linked"},
		{name: "the domain's", links: links{"domain": {"domain", "0"}}, wins: "domain"},
		{name: "the unit's goes before the domain's", links: links{"domain": {"domain", "0"}, "inner": {"inner", "0"}}, wins: "inner", why: "it decides"},
		{name: "the domain's goes before the site's", links: links{"domain": {"domain", "0"}, "site": {"site", "0"}}, wins: "domain"},
		{name: "the site's", links: links{"site": {"site", "0"}}, wins: "site"},
		{name: "the inner unit's goes before the outer one's", links: links{"outer": {"outer", "0"}, "inner": {"inner", "0"}}, wins: "inner"},
		{name: "the outer unit's is inherited", links: links{"outer": {"outer", "0"}}, wins: "outer"},
		{name: "the first of two links", links: links{"inner": {"inner", "0", "other", "0"}}, wins: "inner"},
		{name: "a disabled link", links: links{"inner": {"inner", "1"}, "outer": {"outer", "0"}}, wins: "outer", why: "the link is disabled"},
		{name: "disabled goes before enforced", links: links{"inner": {"inner", "3"}, "outer": {"outer", "0"}}, wins: "outer", why: "the link is disabled"},
		{name: "enforced further up", links: links{"domain": {"domain", "2"}, "inner": {"inner", "0"}}, wins: "domain", why: `"domain" decides before it`},
		{name: "the uppermost of those enforced", links: links{"site": {"site", "2"}, "domain": {"domain", "2"}, "inner": {"inner", "2"}}, wins: "site"},
		{name: "blocked", links: links{"domain": {"domain", "0"}, "outer": {"outer", "0"}}, blocked: "inner"},
		{name: "blocked further up", links: links{"domain": {"domain", "0"}, "outer": {"outer", "0"}}, blocked: "outer", wins: "outer"},
		{name: "what is enforced cannot be blocked", links: links{"domain": {"domain", "2"}}, blocked: "inner", wins: "domain"},
		{name: "the one that blocks has its own", links: links{"domain": {"domain", "0"}, "inner": {"inner", "0"}}, blocked: "inner", wins: "inner"},
		{name: "without the extension", links: links{"outer": {"outer", "0"}, "inner": {"inner", "0"}}, gpo: []string{"gPCMachineExtensionNames: [{35378EAC-683F-11D2-A89A-00C04FBBCFA2}{0F6B957D-509E-11D1-A7CC-0000F87571E3}]"}, wins: "outer", why: "assigns no IPsec policy"},
		{name: "the part for computers is disabled", links: links{"outer": {"outer", "0"}, "inner": {"inner", "0"}}, gpo: []string{"flags: 2"}, wins: "outer", why: "disabled"},
		{name: "the part for users is disabled", links: links{"inner": {"inner", "0"}}, gpo: []string{"flags: 1"}, wins: "inner"},
		{name: "all of it is disabled", links: links{"outer": {"outer", "0"}, "inner": {"inner", "0"}}, gpo: []string{"flags: 3"}, wins: "outer", why: "disabled"},
		{name: "never changed for computers", links: links{"outer": {"outer", "0"}, "inner": {"inner", "0"}}, gpo: []string{"versionNumber: 65536"}, wins: "outer", why: "never been changed"},
		{name: "changed often for users", links: links{"inner": {"inner", "0"}}, gpo: []string{"versionNumber: -2147418111"}, wins: "inner"},
		{name: "of another form", links: links{"outer": {"outer", "0"}, "inner": {"inner", "0"}}, gpo: []string{"gPCFunctionalityVersion: 1"}, wins: "outer", why: "gPCFunctionalityVersion"},
		{name: "with a WMI filter", links: links{"outer": {"outer", "0"}, "inner": {"inner", "0"}}, gpo: []string{"gPCWQLFilter: [example.test;{A1B2C3D4-0000-4000-8000-000000000000};0]"}, wins: "outer", why: "WMI filter"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := s.in(t)
			entries := map[string]string{"domain": dirtest.Base, "site": siteDN, "outer": s.ou, "inner": s.inner}
			for at, list := range c.links {
				list = slices.Clone(list)
				for i := 0; i < len(list); i += 2 {
					var more []string
					if list[i] == "inner" {
						more = c.gpo
					}
					list[i] = s.gpo(list[i], secureServer, more...)
				}
				s.link(entries[at], list...)
			}
			if c.blocked != "" {
				s.set(entries[c.blocked], "gPOptions", "1")
				t.Cleanup(func() { s.set(entries[c.blocked], "gPOptions") })
			}
			r := s.resolve()
			if got := won(r); got != c.wins {
				t.Errorf("%q wins, not %q: %+v", got, c.wins, r.Considered)
			}
			if c.why != "" && !strings.Contains(why(t, r, "inner"), c.why) {
				t.Errorf("of it is said %q, not %q", why(t, r, "inner"), c.why)
			}
		})
	}
}

func TestSecurityFilteringDecidesWhoAGPOIsFor(t *testing.T) {
	s := newScene(t)
	const none = "O:DAG:DAD:P(A;;RPWPCCDCLCLORCWOWDSDDTSW;;;DA)"
	const apply = ";edacfd8f-ffb3-11d1-b41d-00a0c968f939;;"
	for _, c := range []struct{ name, sddl, wins, why string }{
		{"for authenticated users", none + "(A;CI;LCRPLORC;;;AU)(OA;;CR" + apply + "AU)", "inner", "it decides"},
		{"for the computer", none + "(A;CI;LCRPLORC;;;HOST)(OA;;CR" + apply + "HOST)", "inner", "it decides"},
		{"for its group", none + "(A;CI;LCRPLORC;;;DC)(OA;;CR" + apply + "DC)", "inner", "it decides"},
		{"by all extended rights", none + "(A;CI;LCRPLORCCR;;;DC)", "inner", "it decides"},
		{"read but not applied", none + "(A;CI;LCRPLORC;;;AU)", "outer", "no right to apply"},
		{"applied but not read", none + "(A;;LCLORC;;;AU)(OA;;CR" + apply + "AU)", "outer", "may not read"},
		{"hidden", none, "outer", "may not read"},
		{"denied to the computer", "O:DAG:DAD:P(OD;;CR" + apply + "HOST)(A;CI;LCRPLORC;;;AU)(OA;;CR" + apply + "AU)", "outer", "no right to apply"},
		{"denied to others", "O:DAG:DAD:P(OD;;CR" + apply + "DA)(A;CI;LCRPLORC;;;AU)(OA;;CR" + apply + "AU)", "inner", "it decides"},
		{"of another right", none + "(A;CI;LCRPLORC;;;AU)(OA;;CR;00299570-246d-11d0-a768-00aa006e0529;;AU)", "outer", "no right to apply"},
		{"for what is below alone", none + "(A;CI;LCRPLORC;;;AU)(OA;CIIO;CR" + apply + "AU)", "outer", "no right to apply"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := s.in(t)
			sid, err := s.ad.Ask("sid", strings.ToUpper(s.name)+"$")
			if err != nil {
				t.Fatal(err)
			}
			inner := s.gpo("inner", secureServer)
			s.link(s.ou, s.gpo("outer", client), "0")
			s.link(s.inner, inner, "0")
			if err := s.ad.Do("descriptor", inner, strings.ReplaceAll(c.sddl, "HOST", sid)); err != nil {
				t.Fatal(err)
			}
			r := s.resolve()
			if got := won(r); got != c.wins {
				t.Errorf("%q wins, not %q: %+v", got, c.wins, r.Considered)
			}
			name := "inner"
			if c.wins != "inner" && strings.Contains(c.why, "may not read") {
				name = inner // its name cannot be read
			}
			if got := why(t, r, name); !strings.Contains(got, c.why) {
				t.Errorf("of it is said %q, not %q", got, c.why)
			}
		})
	}
}

func TestThePredefinedPoliciesAreReadAsMicrosoftShippedThem(t *testing.T) {
	s := newScene(t)
	for _, c := range []struct{ dn, name string }{{client, "client"}, {server, "server"}, {secureServer, "secure-server"}} {
		t.Run(c.name, func(t *testing.T) {
			s := s.in(t)
			s.link(s.inner, s.gpo("the one", c.dn), "0")
			a, err := connect(t, s.config).Fetch(deadline(t))
			if err != nil {
				t.Fatal(err)
			}
			want, ok := policy.Original(c.name)
			if !ok || a.State != policy.Assigned {
				t.Fatalf("state %d, original %v", a.State, ok)
			}
			got, err := policy.Compile(a.Policy, policy.Host{})
			if err != nil {
				t.Fatalf("it does not compile: %v", err)
			}
			means, err := policy.Compile(want, policy.Host{})
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got.Filters, means.Filters) || !reflect.DeepEqual(a.Policy.KeyExchange.Methods, want.KeyExchange.Methods) {
				t.Errorf("read as\n%+v\n%+v\nnot as\n%+v\n%+v", got.Filters, a.Policy.KeyExchange, means.Filters, want.KeyExchange)
			}
			if a.Policy.DefaultResponse.Active != want.DefaultResponse.Active || !reflect.DeepEqual(a.Policy.DefaultResponse.Authentication, want.DefaultResponse.Authentication) {
				t.Errorf("the default response is %+v, not %+v", a.Policy.DefaultResponse, want.DefaultResponse)
			}
			for _, part := range []string{`"the one"`, `the OU "` + s.inner, dirtest.DC} {
				if !strings.Contains(a.Origin(), part) {
					t.Errorf("origin %q does not say %q", a.Origin(), part)
				}
			}
		})
	}
}

func TestAssignedButNotReadableIsNeitherNoneNorAway(t *testing.T) {
	s := newScene(t)
	fetch := func(s *scene) error {
		_, err := connect(s.t, s.config).Fetch(deadline(s.t))
		return err
	}
	for _, c := range []struct {
		name string
		do   func(s *scene)
		says string
	}{
		{"the policy is not there", func(s *scene) {
			dn := s.object("ipsecPolicy")
			s.link(s.inner, s.gpo("x", dn), "0")
			if err := s.admin.Delete(deadline(s.t), dn); err != nil {
				s.t.Fatal(err)
			}
		}, "is assigned, but it is not there"},
		{"it lies elsewhere", func(s *scene) { s.link(s.inner, s.gpo("x", siteDN), "0") }, "may read no more than the name"},
		{"it is no policy", func(s *scene) { s.link(s.inner, s.gpo("x", s.ou), "0") }, "which is no policy object below"},
		{"the assignment is hidden", func(s *scene) {
			gpo := s.gpo("x", secureServer)
			s.link(s.inner, gpo, "0")
			if err := s.ad.Do("descriptor", "CN=IPSEC,CN=Windows,CN=Microsoft,CN=Machine,"+gpo, "O:DAG:DAD:P(A;;RPWPCCDCLCLORCWOWDSDDTSW;;;DA)"); err != nil {
				s.t.Fatal(err)
			}
		}, "but not which one"},
		{"of the assignment no more than the class can be read", func(s *scene) {
			gpo := s.gpo("x", secureServer)
			s.link(s.inner, gpo, "0")
			if err := s.ad.Do("descriptor", "CN=IPSEC,CN=Windows,CN=Microsoft,CN=Machine,"+gpo, "O:DAG:DAD:P(A;;RPWPCCDCLCLORCWOWDSDDTSW;;;DA)(OA;;RP;bf9679e5-0de6-11d0-a285-00aa003049e2;;AU)(A;;LCRC;;;AU)"); err != nil {
				s.t.Fatal(err)
			}
		}, "cannot be read"},
		{"the assignment was deleted, the rest was not", func(s *scene) { s.link(s.inner, s.gpo("x", ""), "0") }, "but not which one"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := s.in(t)
			c.do(s)
			err := fetch(s)
			if !errors.Is(err, directory.ErrUnreadable) || errors.Is(err, directory.ErrUnreachable) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, which does not say %q", err, c.says)
			}
		})
	}
	t.Run("the reference was removed", func(t *testing.T) {
		s := s.in(t)
		gpo := s.gpo("x", secureServer)
		s.link(s.inner, gpo, "0")
		s.set("CN=IPSEC,CN=Windows,CN=Microsoft,CN=Machine,"+gpo, "ipsecOwnersReference")
		a, err := connect(t, s.config).Fetch(deadline(t))
		if err != nil || a.State != policy.None {
			t.Errorf("%v, %v: the administrator has unassigned it", a, err)
		}
	})
}
