package kerberos

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ipsecagent/auth"
)

func TestCheckupLogsInAndComparesClocks(t *testing.T) {
	w := newWorld(t, "aes256-cts-hmac-sha1-96")
	w.realm.Admin("modprinc +requires_preauth " + hostA)
	a, _ := w.hosts()
	got, err := a.Checkup(t.Context())
	if err != nil || got.Principal != hostA+"@MIT.TEST" || got.Realm != "MIT.TEST" || got.Etype != "aes256-cts-hmac-sha1-96" || got.Version == 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	if !got.Timed || got.Ahead.Abs() > time.Minute {
		t.Errorf("one clock, and the KDC is %v ahead", got.Ahead)
	}
	w.realm.Rekey(hostA) // the keytab holds the keys before
	got, err = host(t, w.confA).Checkup(t.Context())
	var e *auth.Error
	if !errors.As(err, &e) || e.Hint == "" || got.Principal == "" {
		t.Errorf("old key: %+v, %v", got, err)
	}
}

func TestCheckupSaysWhichClockIsWrong(t *testing.T) {
	w := newWorld(t, "aes256-cts-hmac-sha1-96")
	w.realm.Admin("modprinc +requires_preauth " + hostA)
	w.skewA = -time.Hour
	a, _ := w.hosts()
	got, err := a.Checkup(t.Context())
	var e *auth.Error
	if !errors.As(err, &e) || e.Code != codeClockSkew || !got.Timed || (got.Ahead-time.Hour).Abs() > time.Minute {
		t.Errorf("an hour behind: %+v, %v", got, err)
	}
}

func TestCheckupWithoutKDCOrKeytab(t *testing.T) {
	w := newWorld(t, "aes256-cts-hmac-sha1-96")
	c := w.confA
	c.Keytab = "/nonexistent"
	for what, tt := range map[string]struct {
		c    Config
		code string
	}{"no keytab": {c, codeNoKeytab}, "no KDC": {Config{Keytab: w.ktA, Krb5Conf: unreachableConf(t)}, codeKDCUnreachable}} {
		_, err := host(t, tt.c).Checkup(t.Context())
		var e *auth.Error
		if !errors.As(err, &e) || e.Code != tt.code {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// unreachableConf names a KDC where none listens.
func unreachableConf(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "krb5.conf")
	if err := os.WriteFile(path, []byte("[libdefaults]\n default_realm = MIT.TEST\n[realms]\n MIT.TEST = {\n  kdc = 127.0.0.1:1\n }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
