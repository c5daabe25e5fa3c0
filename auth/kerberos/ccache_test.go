package kerberos

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ipsecagent/auth/gss"
	"ipsecagent/auth/krbtest"
)

// cacheOf is a realm with a service and the cache that MIT's kinit made for a
// person, with a ticket of that service in it already.
func cacheOf(t *testing.T) (realm *krbtest.Realm, path string) {
	t.Helper()
	realm = krbtest.Start(t, "MIT.TEST", "")
	realm.Add("admin", "")
	realm.Add(hostA, "")
	keytab := realm.Keytab("admin.keytab", "admin")
	path = filepath.Join(realm.Dir, "ccache")
	for _, args := range [][]string{{"kinit", "-k", "-t", keytab, "admin"}, {"kvno", hostA}} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = realm.Env()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	return realm, path
}

func TestTicketsByACredentialCache(t *testing.T) {
	realm, path := cacheOf(t)
	c, err := OpenCache(Config{Krb5Conf: realm.Conf}, path)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Principal().String(); got != "admin@MIT.TEST" {
		t.Errorf("it is of %s", got)
	}
	cred, err := c.Ticket(t.Context(), hostA, false)
	if err != nil {
		t.Fatal(err)
	}
	keytab, err := gss.ReadKeytab(realm.Keytab("a.keytab", hostA))
	if err != nil {
		t.Fatal(err)
	}
	// The service accepts it.
	initiator, err := gss.NewInitiator(gss.InitiatorConfig{Credential: cred})
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := initiator.Step(nil)
	if err != nil {
		t.Fatal(err)
	}
	acceptor := gss.NewAcceptor(gss.AcceptorConfig{Keytab: keytab, Replay: gss.NewReplayCache()})
	if _, done, err := acceptor.Step(token); err != nil || !done || acceptor.Context().Peer().String() != "admin@MIT.TEST" {
		t.Errorf("%v, %v", done, err)
	}
	if _, err := c.Ticket(t.Context(), "ldap/nobody.mit.test", false); err == nil {
		t.Error("a ticket for a service that nobody knows")
	}
}

func TestCachesThatAreOfNoUse(t *testing.T) {
	realm, path := cacheOf(t)
	later := func() time.Time { return time.Now().Add(30 * 24 * time.Hour) }
	if _, err := OpenCache(Config{Krb5Conf: realm.Conf, Clock: later}, path); err == nil || !strings.Contains(err.Error(), "run kinit") {
		t.Errorf("tickets that have ended: %v", err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	good := 0
	for n := range len(whole) {
		if c, err := grantingTicket(whole[:n]); err == nil && c == nil {
			t.Fatalf("%d bytes: neither a ticket nor an error", n)
		} else if err == nil {
			good++ // it ends behind the ticket
		}
	}
	if good > 3 {
		t.Errorf("%d beginnings of the cache are taken", good)
	}
	if _, err := grantingTicket(bytes.Replace(whole, []byte("krbtgt"), []byte("xxxtgt"), -1)); err == nil || !strings.Contains(err.Error(), "run kinit") {
		t.Errorf("a cache without the ticket: %v", err)
	}
	if _, err := OpenCache(Config{}, filepath.Join(realm.Dir, "none")); err == nil {
		t.Error("there is no such cache")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: to give the cache to somebody else")
	}
	if err := os.Chown(path, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCache(Config{Krb5Conf: realm.Conf}, path); err == nil || !strings.Contains(err.Error(), "somebody else") {
		t.Errorf("a cache that somebody else has put there: %v", err)
	}
}

func FuzzCredentialCache(f *testing.F) {
	f.Add([]byte("\x05\x04\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x04TEST\x00\x00\x00\x05admin"))
	f.Add([]byte("\x05\x03"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := grantingTicket(b); (c == nil) == (err == nil) {
			t.Errorf("%v, %v", c, err)
		}
	})
}
