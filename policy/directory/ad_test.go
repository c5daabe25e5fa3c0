package directory_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"ipsecagent/auth/kerberos"
	"ipsecagent/policy/directory"
	"ipsecagent/policy/directory/dirtest"
)

// container is where the policies of the domain are.
const container = "CN=IP Security,CN=System," + dirtest.Base

// servers are what the tests of this package share: they start when a test needs
// them and end with all tests.
type servers struct {
	dir string
	ad  func() (*dirtest.AD, error)
}

var shared = newServers()

func newServers() *servers {
	s := &servers{}
	s.ad = sync.OnceValues(func() (*dirtest.AD, error) {
		dir, err := os.MkdirTemp("", "directory-test-")
		if err != nil {
			return nil, err
		}
		s.dir = dir
		ad, err := dirtest.StartAD(filepath.Join(dir, "ad"), dirtest.Loopback)
		if err != nil {
			return nil, err
		}
		// What the administrator of a domain has to do, for Windows as for us.
		return ad, ad.Do("ace", container, "(A;CI;RPLCLORC;;;DC)")
	})
	return s
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.dir != "" {
		if ad, err := shared.ad(); err == nil {
			ad.Close()
		}
		os.RemoveAll(shared.dir)
	}
	os.Exit(code)
}

// domain returns the domain that the tests share.
func domain(t *testing.T) *dirtest.AD {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: a domain controller listens on the port of LDAP, in a network namespace")
	}
	ad, err := shared.ad()
	if err != nil {
		t.Fatal(err)
	}
	return ad
}

// config is how to reach the domain with the keys of a keytab.
func config(t *testing.T, ad *dirtest.AD, keytab string) directory.Config {
	t.Helper()
	k, err := kerberos.New(kerberos.Config{Keytab: keytab, Krb5Conf: ad.Conf, Dial: ad.Net.Dial, Principal: principal(keytab)})
	if err != nil {
		t.Fatal(err)
	}
	return directory.Config{Domain: dirtest.Domain, Tickets: k.Ticket, Dial: ad.Net.Dial, Resolver: ad.Resolver()}
}

// principal is whom a keytab is for, where that is no computer.
func principal(keytab string) string {
	if filepath.Base(keytab) == "administrator.keytab" {
		return "Administrator"
	}
	return ""
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // cleanups use it too
	t.Cleanup(cancel)
	return ctx
}

func connect(t *testing.T, c directory.Config) *directory.Session {
	t.Helper()
	s, err := directory.Connect(deadline(t), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}
