package cert

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestTokenURIs(t *testing.T) {
	pin := filepath.Join(t.TempDir(), "pin")
	write(t, pin, []byte("12 34\nmore\n"), 0o600)
	k, err := parseTokenURI("pkcs11:token=host%20keys;object=k;id=%01%ff;type=private?module-path=/usr/lib/x.so&pin-source=file:" + pin)
	if err != nil || k.token != "host keys" || k.object != "k" || k.id != "\x01\xff" || k.module != "/usr/lib/x.so" {
		t.Errorf("%+v, %v", k, err)
	}
	if got, err := k.pin(); err != nil || got != "12 34" {
		t.Errorf("PIN of %d characters, %v", len(got), err)
	}
	for _, uri := range []string{
		"", "pkcs11:", "token=a?module-path=/x", "pkcs11:token=a", "pkcs11:?module-path=/x", "pkcs11:token=a?module-path=x.so",
		"pkcs11:token=%zz?module-path=/x", "pkcs11:token=a;serial=1?module-path=/x", "pkcs11:token=a;type=cert?module-path=/x",
		"pkcs11:token=a?module-path=/x&pin-value=1234",
	} {
		if _, err := parseTokenURI(uri); err == nil {
			t.Errorf("%s: accepted", uri)
		}
	}
	open, err := parseTokenURI("pkcs11:token=a?module-path=/x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open.pin(); err == nil {
		t.Error("a PIN from nowhere")
	}
	write(t, pin, []byte("1234"), 0o644)
	if _, err := k.pin(); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a PIN that others can read: %v", err)
	}
}

// A token that does not open leaves the rest of the host's certificates alone,
// and is named.
func TestATokenThatDoesNotOpen(t *testing.T) {
	s := storeOf(t, []*entity{newAuthority(t, "Root", nil)})
	path := filepath.Join(s.dir, dirOwn, "x.pkcs11")
	write(t, path, []byte("pkcs11:token=a?module-path=/nonexistent.so\n"), 0o600)
	s, err := Load(s.dir, s)
	if err == nil || !strings.Contains(err.Error(), path) || len(s.authorities) != 1 {
		t.Errorf("%v", err)
	}
}

// FuzzTokenURI: what is accepted names a library and a token.
func FuzzTokenURI(f *testing.F) {
	f.Add("pkcs11:token=host%20keys;object=k;id=%01%ff?module-path=/usr/lib/x.so&pin-source=file:/x")
	f.Fuzz(func(t *testing.T, uri string) {
		if k, err := parseTokenURI(uri); err == nil && (k.token == "" || !filepath.IsAbs(k.module)) {
			t.Errorf("%+v", k)
		}
	})
}
