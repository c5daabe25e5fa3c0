package directory_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ipsecagent/auth/kerberos"
	"ipsecagent/policy"
	"ipsecagent/policy/directory"
	"ipsecagent/policy/directory/dirtest"
	"ipsecagent/policy/gpipsec"
)

// restarted has the shared controller run again, and binds anew as the
// administrator.
func (s *scene) restarted() {
	s.t.Helper()
	if err := s.ad.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.rebind()
}

func (s *scene) rebind() {
	s.t.Helper()
	var err error
	if s.admin, err = directory.Connect(deadline(s.t), config(s.t, s.ad, s.ad.Administrator())); err != nil {
		s.t.Fatal(err)
	}
}

// committed is how far the changes of a controller go.
func committed(t *testing.T, s *directory.Session) int {
	t.Helper()
	e, err := s.Read(deadline(t), "", "highestCommittedUSN")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(string(e.Values("highestCommittedUSN")[0]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestAReplacedControllerIsFollowed: another one answers under the same name, as
// one that was restored from a backup does. It counts its changes on from there,
// so that what it says is older, its numbers are lower, and yet it counts.
func TestAReplacedControllerIsFollowed(t *testing.T) {
	s := newScene(t)
	gpos := map[string]string{}
	for name, dn := range map[string]string{"first": client, "second": server, "third": secureServer} {
		gpos[name] = s.gpo(name, dn)
	}
	s.link(s.inner, gpos["first"], "0")
	s.ad.Stop()
	clone, err := s.ad.Clone(filepath.Join(t.TempDir(), "clone"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(clone.Close)
	s.restarted()

	var at atomic.Pointer[dirtest.AD] // whom the names and addresses are of
	at.Store(s.ad)
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		return at.Load().Net.Dial(ctx, network, address)
	}
	k, err := kerberos.New(kerberos.Config{Keytab: filepath.Join(s.ad.Dir, s.name+".keytab"), Krb5Conf: s.ad.Conf, Dial: dial})
	if err != nil {
		t.Fatal(err)
	}
	s.config = directory.Config{Domain: dirtest.Domain, Tickets: k.Ticket, Dial: dial, Servers: []directory.Server{{Name: dirtest.DC}}}
	source := s.start(0)
	awaits(t, source, "first", time.Minute)
	for range 100 {
		s.set(s.ou, "description", time.Now().String())
	}
	s.set(s.inner, "gPLink", links(gpos["second"], "0"))
	awaits(t, source, "second", 20*time.Second)

	numbers := committed(t, s.admin)
	at.Store(clone)
	s.ad.Stop()
	t.Cleanup(s.restarted) // for those that remain
	if err := source.Refresh(deadline(t)); err != nil {
		t.Fatal(err)
	}
	awaits(t, source, "first", 20*time.Second)
	admin := connect(t, config(t, clone, clone.Administrator()))
	link := directory.Change{Kind: directory.ReplaceValues, Attribute: directory.Attribute{Name: "gPLink", Values: values(links(gpos["third"], "0"))}}
	if err := admin.Modify(deadline(t), s.inner, link); err != nil {
		t.Fatal(err)
	}
	awaits(t, source, "third", 20*time.Second)
	if n := committed(t, admin); n >= numbers {
		t.Errorf("its numbers are not lower: %d, %d", n, numbers)
	}
}

// TestANewKeyTableIsUsed: the keys of the host change while it runs. With a table
// of before it cannot log in any more, what it has been told stays, and the new
// table is picked up without a restart.
func TestANewKeyTableIsUsed(t *testing.T) {
	s := newScene(t)
	s.link(s.inner, s.gpo("x", secureServer), "0")
	table := filepath.Join(s.ad.Dir, s.name+".keytab")
	source := s.start(0)
	awaits(t, source, "x", time.Minute)
	if err := s.ad.Do("password", s.name); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Second)
	if err := os.Chtimes(table, later, later); err != nil { // so that nothing is left of the tickets that it gave
		t.Fatal(err)
	}
	s.ad.Stop()
	s.restarted()
	if err := source.Refresh(deadline(t)); err != nil {
		t.Fatal(err)
	}
	got, err := source.Fetch(t.Context())
	if now := source.Status(); err != nil || !got.Cached || got.Policy == nil || !errors.Is(now.Err, directory.ErrUnreachable) || !strings.Contains(now.Err.Error(), "cannot log in") {
		t.Errorf("with the table of before: %+v, %v, %v", got, err, now.Err)
	}
	if err := s.ad.Do("keytab", strings.ToUpper(s.name)+"$", s.name+".keytab"); err != nil {
		t.Fatal(err)
	}
	if err := source.Refresh(deadline(t)); err != nil {
		t.Fatal(err)
	}
	awaits(t, source, "x", 10*time.Second)
}

// TestAnAccountThatMayNotLogInIsSaid: an administrator disables it, or it
// expires.
func TestAnAccountThatMayNotLogInIsSaid(t *testing.T) {
	s := newScene(t)
	account := "CN=" + strings.ToUpper(s.name) + "," + s.inner
	for _, c := range []struct{ name, attribute, to, back, says string }{
		{"disabled", "userAccountControl", "4098", "4096", "KDC_ERR_CLIENT_REVOKED"},
		{"expired", "accountExpires", "116444736010000000", "0", "KDC_ERR"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := s.in(t)
			s.set(account, c.attribute, c.to)
			t.Cleanup(func() { s.set(account, c.attribute, c.back) })
			_, err := directory.Connect(deadline(t), config(t, s.ad, filepath.Join(s.ad.Dir, s.name+".keytab")))
			if !errors.Is(err, directory.ErrUnreachable) || !strings.Contains(err.Error(), "cannot log in") {
				t.Errorf("%v", err)
			}
			t.Log(err)
		})
	}
}

// TestAUnitThatIsHiddenIsNotOneWithoutLinks: a computer that may not read what is
// linked to its unit does not know that nothing is.
func TestAUnitThatIsHiddenIsNotOneWithoutLinks(t *testing.T) {
	s := newScene(t)
	s.link(s.inner, s.gpo("x", secureServer), "0")
	const hidden = "O:DAG:DAD:P(A;;RPWPCCDCLCLORCWOWDSDDTSW;;;DA)(A;;LC;;;AU)" // what is in it can be listed
	session := connect(t, s.config)
	if err := s.ad.Do("descriptor", s.inner, hidden); err != nil {
		t.Fatal(err)
	}
	a, err := session.Fetch(deadline(t))
	if !errors.Is(err, directory.ErrUnreadable) || !strings.Contains(err.Error(), "linked to the OU") {
		t.Errorf("%+v, %v", a, err)
	}
}

// trap is a connection on which something happens before a request goes out.
type trap struct {
	net.Conn
	requests atomic.Int32
	at       atomic.Int32 // before this one; 0: before none
	spring   func()
}

// Write sends one request.
func (c *trap) Write(b []byte) (int, error) {
	if n := c.requests.Add(1); n == c.at.Load() {
		c.spring()
	}
	return c.Conn.Write(b)
}

// TestAPolicyThatASecondWriterEditsIsReadAsItStood: somebody writes the policy and
// one of its rules in the middle of reading, at each place where that can be. What
// is read is of before in both, or of after.
func TestAPolicyThatASecondWriterEditsIsReadAsItStood(t *testing.T) {
	s := newScene(t)
	dn := s.policyOf("server", nil, gpipsec.Options{})
	s.link(s.inner, s.gpo("x", dn), "0")
	rule := s.rules(dn)[0]
	for _, nfa := range s.rules(dn) { // the default response has no name
		if e, err := s.admin.Read(deadline(t), nfa, "ipsecFilterReference"); err == nil && len(e.Values("ipsecFilterReference")) > 0 {
			rule = nfa
		}
	}
	n := 0
	write := func() {
		n++
		s.set(dn, "ipsecName", fmt.Sprintf("number %d", n))
		s.set(rule, "ipsecName", fmt.Sprintf("number %d", n))
	}
	write()
	var conn *trap
	dial := s.config.Dial
	s.config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil || network != "tcp" {
			return c, err
		}
		conn = &trap{Conn: c, spring: write}
		return conn, nil
	}
	session := connect(t, s.config)
	read := func() {
		t.Helper()
		a, err := session.Fetch(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(a.Policy.Rules, func(r policy.Rule) bool { return r.Name == a.Policy.Name }) {
			t.Errorf("the policy is %q, and its rules are of another time: %+v", a.Policy.Name, a.Policy.Rules)
		}
	}
	before := conn.requests.Load()
	read()
	requests := conn.requests.Load() - before
	for i := range requests {
		conn.at.Store(conn.requests.Load() + i + 1)
		read()
	}
	if n != int(requests)+1 || requests < 5 {
		t.Errorf("%d requests, %d writes", requests, n)
	}
}
