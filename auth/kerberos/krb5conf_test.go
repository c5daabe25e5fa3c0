package kerberos

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConf(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "conf.d/far.conf", "[realms]\nFAR.TEST = {\n kdc = far.test\n}\n")
	write(t, dir, "conf.d/.hidden.conf", "nonsense")
	write(t, dir, "conf.d/backup~", "nonsense")
	write(t, dir, "more", "[libdefaults]\n default_realm = LATER.TEST\n clockskew = 120\n")
	path := write(t, dir, "krb5.conf", `# comment
; another
includedir `+dir+`/conf.d
includedir `+dir+`/none
[libdefaults]
	default_realm = NEAR.TEST
	dns_lookup_kdc = no
include `+dir+`/more
[realms]
	NEAR.TEST = {
		kdc = a.near.test:1088
		kdc = "b.near.test"
		kdc = [2001:db8::1]:750
		kdc = 192.0.2.1
		kdc = https://proxy.near.test/
		auth_to_local_names = {
			x = y
		}
		admin_server = a.near.test
	}
[domain_realm]*
	.near.test = NEAR.TEST
	near.test = NEAR.TEST
[v]
 a* = 1
`)
	c, err := loadConf(path)
	if err != nil {
		t.Fatal(err)
	}
	if c.defaultRealm() != "NEAR.TEST" || c.lookupKDC() || c.skew() != 2*time.Minute {
		t.Errorf("%q, %v, %v", c.defaultRealm(), c.lookupKDC(), c.skew())
	}
	var kdcs []string
	for _, s := range c.all("realms", "NEAR.TEST", "kdc") {
		if a, ok := kdcAddress(s); ok {
			kdcs = append(kdcs, a)
		}
	}
	if want := []string{"a.near.test:1088", "b.near.test:88", "[2001:db8::1]:750", "192.0.2.1:88"}; !slices.Equal(kdcs, want) {
		t.Errorf("%q", kdcs)
	}
	if c.get("realms", "FAR.TEST", "kdc") != "far.test" || c.get("realms", "NEAR.TEST", "auth_to_local_names", "x") != "y" || c.get("v", "a") != "1" {
		t.Errorf("%q", c.values)
	}
	for host, want := range map[string]string{"near.test": "NEAR.TEST", "A.B.near.test.": "NEAR.TEST", "test": "", "farnear.test": "", "": ""} {
		if got := c.realmOf(host); got != want {
			t.Errorf("realm of %q: %q", host, got)
		}
	}
	if want := []string{path, dir + "/conf.d", dir + "/conf.d/far.conf", dir + "/none", dir + "/more"}; !slices.Equal(c.files, want) {
		t.Errorf("files %q", c.files)
	}
}

func TestConfMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"default_realm = X\n":                      "line 1",
		"[libdefaults]\nnonsense\n":                "line 2",
		"[libdefaults\n":                           "line 1",
		"}\n":                                      "line 1",
		"[realms]\nA = {\nkdc = x\n":               `brace of "A"`,
		"[realms]\nA = {\n[libdefaults]\n":         "line 3",
		"[a]\n" + strings.Repeat("b = {\n", 20):    "line 10",
		"include /nonexistent/file\n":              "/nonexistent/file",
		"[a]\nb = " + strings.Repeat("x", maxConf): "larger",
	} {
		_, err := loadConf(write(t, t.TempDir(), "krb5.conf", text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v; want %q", text, err, want)
		}
	}
	loop := filepath.Join(t.TempDir(), "krb5.conf")
	write(t, filepath.Dir(loop), "krb5.conf", "include "+loop+"\n")
	if _, err := loadConf(loop); err == nil {
		t.Error("a file that includes itself")
	}
}

func TestNoConfIsDefaults(t *testing.T) {
	c, err := loadConf(filepath.Join(t.TempDir(), "none"))
	if err != nil || c.defaultRealm() != "" || !c.lookupKDC() || c.skew() != 0 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestKDCAddresses(t *testing.T) {
	for _, s := range []string{"", "a:", "a:0", "a:70000", ":88", "a:b:c", "https://a/b", "tcp/"} {
		if got, ok := kdcAddress(s); ok {
			t.Errorf("%q is taken for %q", s, got)
		}
	}
	for s, want := range map[string]string{"tcp/a.test:99": "a.test:99", "udp/a.test": "a.test:88", "2001:db8::1": "[2001:db8::1]:88", "[2001:db8::1]": "[2001:db8::1]:88"} {
		if got, ok := kdcAddress(s); !ok || got != want {
			t.Errorf("%q: %q", s, got)
		}
	}
}

func FuzzConf(f *testing.F) {
	f.Add([]byte("[libdefaults]\n default_realm = R\n[realms]\n R = {\n  kdc = a:88\n }\n[domain_realm]\n .r.test = R\n"), "a.r.test")
	f.Fuzz(func(t *testing.T, b []byte, host string) {
		c := &krb5Conf{values: map[string][]string{}}
		if c.parse(b, "krb5.conf", func(string, string) error { return nil }) != nil {
			return
		}
		c.realmOf(host)
		c.skew()
		for _, s := range c.all("realms", c.defaultRealm(), "kdc") {
			if addr, ok := kdcAddress(s); ok && addr == "" {
				t.Errorf("%q", s)
			}
		}
	})
}
