package kerberos

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ipsecagent/auth"
	"ipsecagent/auth/krbtest"
)

const (
	hostA = "host/a.mit.test"
	hostB = "host/b.mit.test"
)

var (
	addrA = netip.MustParseAddr("192.0.2.1")
	addrB = netip.MustParseAddr("192.0.2.2")
)

// world is a realm with two hosts.
type world struct {
	realm      *krbtest.Realm
	ktA, ktB   string
	skewA      time.Duration
	skewB      time.Duration
	confA      Config
	confB      Config
	t          *testing.T
	a, b       *Authenticator
	needA      auth.Requirement
	needB      auth.Requirement
	attempt    int
	changeName func([]byte) []byte // of the name that the responder sends
}

func newWorld(t *testing.T, etypes string) *world {
	t.Helper()
	w := &world{t: t, realm: krbtest.Start(t, "MIT.TEST", "")}
	w.realm.Add(hostA, etypes)
	w.realm.Add(hostB, etypes)
	w.ktA = w.realm.Keytab("a.keytab", hostA)
	w.ktB = w.realm.Keytab("b.keytab", hostB)
	w.confA = Config{Keytab: w.ktA, Krb5Conf: w.realm.Conf, Clock: func() time.Time { return time.Now().Add(w.skewA) }}
	w.confB = Config{Keytab: w.ktB, Krb5Conf: w.realm.Conf, Clock: func() time.Time { return time.Now().Add(w.skewB) }}
	w.needA = auth.Requirement{Method: auth.Kerberos}
	w.needB = auth.Requirement{Method: auth.Kerberos}
	return w
}

// hosts makes the authenticators, once.
func (w *world) hosts() (a, b *Authenticator) {
	w.t.Helper()
	if w.a == nil {
		w.a, w.b = host(w.t, w.confA), host(w.t, w.confB)
	}
	return w.a, w.b
}

func host(t *testing.T, c Config) *Authenticator {
	t.Helper()
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

func (w *world) read(path string) []byte {
	w.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

func (w *world) file(name string, b []byte) string {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// codeOfError returns the code of an auth.Error and that it is whole.
func codeOfError(t *testing.T, err error) string {
	t.Helper()
	var e *auth.Error
	if !errors.As(err, &e) {
		t.Fatalf("%v is no auth.Error", err)
	}
	if e.Code != "" && e.Hint == "" {
		t.Errorf("%s has no hint", e.Code)
	}
	t.Logf("%s: %v (%s)", e.Code, err, e.Hint)
	return e.Code
}
