package directory

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSettingsThatCannotBeUsedAreNamed(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, open, empty, notPEM := write("good", "secret\n", 0o600), write("open", "secret", 0o644), write("empty", "\n", 0o600), write("ca", "no PEM", 0o644)
	byPassword := func(s *Settings) { s.BindDN, s.PasswordFile, s.Protection = "cn=me", good, "starttls" }
	for _, c := range []struct {
		name string
		edit func(*Settings)
		says string // "": they are good
	}{
		{"none", func(*Settings) {}, ""},
		{"a domain by Kerberos", func(s *Settings) { s.Kind = "ad" }, ""},
		{"a server by password", func(s *Settings) {
			byPassword(s)
			s.Kind, s.Servers = "ldap", []string{"ldap.example.org", "Other.example.org:1389"}
		}, ""},
		{"kind", func(s *Settings) { s.Kind = "files" }, `directory.kind "files"`},
		{"protection", func(s *Settings) { s.Protection = "none" }, `directory.protection "none"`},
		{"an address", func(s *Settings) { s.Servers = []string{"192.0.2.1"} }, "not the DNS name"},
		{"an address with a port", func(s *Settings) { s.Servers = []string{"[2001:db8::1]:389"} }, "not the DNS name"},
		{"a URL", func(s *Settings) { s.Servers = []string{"ldap://a.example.org"} }, "directory.servers"},
		{"a port", func(s *Settings) { s.Servers = []string{"a.example.org:0"} }, "port"},
		{"refresh", func(s *Settings) { s.Refresh = time.Second }, "directory.refresh"},
		{"jitter", func(s *Settings) { s.RefreshJitter = -time.Second }, "directory.refreshJitter"},
		{"a password without a name", func(s *Settings) { s.PasswordFile = good }, "both for a bind by password"},
		{"a password that only Kerberos could seal", func(s *Settings) { byPassword(s); s.Protection = "seal" }, "only Kerberos can seal"},
		{"a tree of no server", func(s *Settings) { s.Kind = "ldap" }, "directory.servers"},
		{"a password that others can read", func(s *Settings) { byPassword(s); s.PasswordFile = open }, "chmod 600"},
		{"an empty password", func(s *Settings) { byPassword(s); s.PasswordFile = empty }, "is empty"},
		{"a password that is not there", func(s *Settings) { byPassword(s); s.PasswordFile = dir + "/none" }, "no such file"},
		{"authorities that are none", func(s *Settings) { s.CA = notPEM }, "no certificate in PEM"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := DefaultSettings()
			c.edit(&s)
			got, err := s.Config()
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v, which does not say %q", err, c.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if s.PasswordFile != "" && string(got.Password.Bytes()) != "secret" {
				t.Error("the password was not read")
			}
			if len(s.Servers) == 2 && (got.Servers[1] != Server{"other.example.org", 1389} || got.Servers[0] != Server{Name: "ldap.example.org"}) {
				t.Errorf("%+v", got.Servers)
			}
		})
	}
}
