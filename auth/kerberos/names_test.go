package kerberos

import (
	"bytes"
	"strings"
	"testing"

	"ipsecagent/auth/gss"
)

func TestNamesOfPeers(t *testing.T) {
	conf := &krb5Conf{values: map[string][]string{
		"domain_realm\n.far.test": {"FAR.TEST"}, "domain_realm\nodd.near.test": {"ODD.TEST"}}}
	f := &facts{conf: conf, self: gss.Principal{Realm: "NEAR.TEST"}}
	for name, want := range map[string]string{
		string(utf16le("host/a.near.test")):                 "host/a.near.test@NEAR.TEST",
		string(utf16le("host/a.near.test@NEAR.TEST")):       "host/a.near.test@NEAR.TEST",
		string(utf16le("A$@NEAR.TEST")):                     "A$@NEAR.TEST",
		string(utf16le("host/a.deep.far.test")):             "host/a.deep.far.test@FAR.TEST",
		string(utf16le("host/odd.near.test")):               "host/odd.near.test@ODD.TEST",
		string(utf16le("host/a.near.test\x00")):             "host/a.near.test@NEAR.TEST",
		"\xff\xfe" + string(utf16le("A$@R")):                "A$@R",
		"\xfe\xff\x00A\x00$\x00@\x00R":                      "A$@R",
		"host/a.near.test":                                  "host/a.near.test@NEAR.TEST",
		"host/a.near.tes":                                   "host/a.near.tes@NEAR.TEST",
		"host/\xfcber.near.test":                            "host/über.near.test@NEAR.TEST",
		string(utf16le("host/über.near.test")):              "host/über.near.test@NEAR.TEST",
		string(utf16le(`host/a.near.test\@NEAR.TEST@EVIL`)): `host/a.near.test\@NEAR.TEST@EVIL`,
	} {
		p, err := f.peerName([]byte(name))
		if err != nil || p.String() != want {
			t.Errorf("%q: %s, %v; want %s", name, p, err, want)
		}
	}
	for _, name := range []string{"", "\x00\x00", "/", "a/@R", "a\nb", "\x00\xd8a\x00", "a@b@c", strings.Repeat("a", maxName+1)} {
		if p, err := f.peerName([]byte(name)); err == nil {
			t.Errorf("%q is taken for %s", name, p)
		}
	}
}

func TestComputers(t *testing.T) {
	for s, want := range map[string]bool{
		"host/a.b@R": true, "HOST/a@R": true, "A$@R": true,
		"alice@R": false, "$@R": false, "host@R": false, "ldap/a.b@R": false, "host/a/b@R": false,
		"krbtgt/R@R": false, "alice/admin@R": false, `host\/a@R`: false,
	} {
		p, err := gss.ParsePrincipal(s)
		if err != nil {
			t.Fatal(s, err)
		}
		if got := isComputer(p); got != want {
			t.Errorf("%s: %v", s, got)
		}
	}
}

func TestNamesOfAccounts(t *testing.T) {
	f := &facts{conf: &krb5Conf{values: map[string][]string{"domain_realm\n.corp.example": {"AD.TEST"}}}}
	account := gss.Principal{Name: []string{"A$"}, Realm: "AD.TEST"}
	host := gss.Principal{Name: []string{"host", "a.ad.test"}, Realm: "AD.TEST"}
	for _, c := range []struct {
		name string
		p    gss.Principal
		want bool
	}{
		{"a.ad.test", account, true}, {"a", account, true}, {"a.corp.example", account, true},
		{"a.evil.example", account, false}, {"b.ad.test", account, false}, {"", account, false}, {"a$", account, false},
		{"a.ad.test", host, true}, {"a", host, false}, {"a.corp.example", host, false},
		{"a.ad.test", gss.Principal{Name: []string{"alice"}, Realm: "AD.TEST"}, false},
	} {
		if got := f.isNameOf(c.name, c.p); got != c.want {
			t.Errorf("%q of %s: %v", c.name, c.p, got)
		}
	}
}

func TestOwnNames(t *testing.T) {
	const etype17 = 17
	for _, c := range []struct {
		keytab []string
		conf   Config
		self   string // empty: none
	}{
		{[]string{"host/a.r.test@R"}, Config{}, "host/a.r.test@R"},
		{[]string{"A$@R"}, Config{}, "A$@R"},
		{[]string{"A$@R", "host/A@R", "host/a.r.test@R", "RestrictedKrbHost/a.r.test@R"}, Config{}, "A$@R"},
		{[]string{"host/x.r.test@R", "host/a.r.test@R"}, Config{Host: "a.r.test"}, "host/a.r.test@R"},
		{[]string{"host/A@R"}, Config{}, "host/A@R"},
		{[]string{"host/a.r.test@OTHER", "host/a.r.test@R"}, Config{}, "host/a.r.test@R"},
		{[]string{"A$@R", "host/a.r.test@OTHER"}, Config{}, "A$@R"},
		{[]string{"host/a.r.test@R", "ike/a.r.test@R"}, Config{Principal: "ike/a.r.test"}, "ike/a.r.test@R"},
		{[]string{"alice@R", "HTTP/a.r.test@R"}, Config{}, ""},
		{nil, Config{}, ""},
		{[]string{"host/a.r.test@R"}, Config{Principal: "host/b.r.test"}, ""},
		{[]string{"host/a.r.test@R"}, Config{Principal: "//"}, ""},
	} {
		b := []byte{5, 2}
		for _, s := range c.keytab {
			b = append(b, entry(t, s, etype17)...)
		}
		kt, err := gss.ParseKeytab(b)
		if err != nil {
			t.Fatal(err)
		}
		f := &facts{keytab: kt, conf: &krb5Conf{values: map[string][]string{"libdefaults\ndefault_realm": {"R"}}}}
		err = f.choose(c.conf)
		if c.self == "" {
			if err == nil || codeOfError(t, err) != codeNoKeytab {
				t.Errorf("%v: %v", c.keytab, err)
			}
			continue
		}
		if err != nil || f.self.String() != c.self {
			t.Errorf("%v: %s, %v", c.keytab, f.self, err)
		}
	}
}

// entry is a keytab entry with a made-up key.
func entry(t testing.TB, principal string, etype byte) []byte {
	t.Helper()
	p, err := gss.ParsePrincipal(principal)
	if err != nil {
		t.Fatal(err)
	}
	e := []byte{0, byte(len(p.Name)), 0, byte(len(p.Realm))}
	e = append(e, p.Realm...)
	for _, part := range p.Name {
		e = append(append(e, 0, byte(len(part))), part...)
	}
	e = append(e, 0, 0, 0, 1, 0x6a, 0, 0, 0, 1, 0, etype, 0, 16)
	e = append(e, "0123456789abcdef"...)
	return append([]byte{0, 0, 0, byte(len(e))}, e...)
}

func TestTokensWithSomethingBefore(t *testing.T) {
	token := []byte("\x60\x0f" + mechanism + "\x01\x00ab")
	long := append([]byte("\x60\x82\x01\x2c"), append([]byte(mechanism), make([]byte, 300-len(mechanism))...)...)
	for _, tok := range [][]byte{token, long} {
		for _, prefix := range []string{"", "\x00", "\x00\x01", "\x00\x00\x00\x01", "abcdefgh"} {
			got, rest := splitToken([]byte(prefix + string(tok)))
			if got != prefix || !bytes.Equal(rest, tok) {
				t.Errorf("%q: prefix %q", prefix, got)
			}
		}
	}
	for _, body := range []string{"", "\x60", "abc" + string(token), string(token) + "x", string(token[:len(token)-1]), "\x60\x84\x00\x00\x00\x0b" + mechanism} {
		if prefix, rest := splitToken([]byte(body)); prefix != "" || string(rest) != body {
			t.Errorf("%q: prefix %q", body, prefix)
		}
	}
}

func FuzzPeerName(f *testing.F) {
	f.Add(utf16le("host/a.near.test@NEAR.TEST"))
	f.Add([]byte("host/a"))
	facts := &facts{conf: &krb5Conf{}, self: gss.Principal{Realm: "R"}}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := facts.peerName(b)
		if err != nil {
			return
		}
		if q, err := gss.ParsePrincipal(p.String()); err != nil || !q.Equal(p) {
			t.Errorf("%q: %s reads as %s, %v", b, p, q, err)
		}
	})
}

func FuzzSplitToken(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01\x60\x0d" + mechanism + "\x01\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		prefix, rest := splitToken(b)
		if prefix+string(rest) != string(b) || len(prefix) > 8 {
			t.Errorf("%q and %q", prefix, rest)
		}
	})
}
