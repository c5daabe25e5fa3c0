package cert

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"

	"ipsecagent/auth"
)

// named gives a certificate a user principal name and a DNS name.
func named(t *testing.T, user, dns string) change {
	t.Helper()
	value, err := asn1.MarshalWithParams(user, "utf8")
	if err != nil {
		t.Fatal(err)
	}
	other, err := asn1.MarshalWithParams(otherName{Type: oidUserName, Value: asn1.RawValue{FullBytes: explicit(t, value)}}, "tag:0")
	if err != nil {
		t.Fatal(err)
	}
	names, err := asn1.Marshal([]asn1.RawValue{{FullBytes: other}, {Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte(dns)}})
	if err != nil {
		t.Fatal(err)
	}
	return func(c *x509.Certificate) {
		c.DNSNames, c.ExtraExtensions = nil, []pkix.Extension{{Id: oidAlternatives, Value: names}}
	}
}

func explicit(t *testing.T, value []byte) []byte {
	t.Helper()
	der, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: value})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestCertificatesMapToAccounts(t *testing.T) {
	mapping := MapAccounts(map[string]string{"CN=listed.example,O=Bank": "db1$@CORP.EXAMPLE", "DB2.bank.example": "db2$@CORP.EXAMPLE"}, []string{"corp.example"})
	for name, c := range map[string]struct {
		cn      string
		change  change
		account string
	}{
		"by the table":       {"listed.example", func(*x509.Certificate) {}, "db1$@CORP.EXAMPLE"},
		"table, DNS name":    {"db2.bank.example", func(*x509.Certificate) {}, "db2$@CORP.EXAMPLE"},
		"by the DNS name":    {"Web7.corp.example", func(*x509.Certificate) {}, "web7$@CORP.EXAMPLE"},
		"by the user name":   {"x", named(t, "svc-web@Corp.Example", "other.corp.example"), "svc-web@CORP.EXAMPLE"},
		"user elsewhere":     {"x", named(t, "root@other.example", "web8.corp.example"), "web8$@CORP.EXAMPLE"},
		"another domain":     {"web.other.example", func(*x509.Certificate) {}, ""},
		"a domain below":     {"web.sub.corp.example", func(*x509.Certificate) {}, ""},
		"the domain itself":  {"corp.example", func(*x509.Certificate) {}, ""},
		"a wildcard":         {"*.corp.example", func(*x509.Certificate) {}, ""},
		"common name alone":  {"web7.corp.example", func(c *x509.Certificate) { c.DNSNames = nil }, ""},
		"user without realm": {"x", named(t, "svc-web", "x"), ""},
	} {
		w := newWorld(t, Settings{Accounts: mapping, IDCheck: IDChainOnly})
		peer := newHost(t, c.cn, w.root, auth.ECDSA256, c.change)
		s, err := begin(w.keeper, auth.Requirement{Method: auth.ECDSA256, CA: "CN=Root,O=Bank", MapToAccount: true}, true)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Remote(claims(peer)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		sign, _, err := newSigner(peer.key)
		if err != nil {
			t.Fatal(err)
		}
		proof, err := sign(w.keeper.set.Random, hashOf("I")(nil))
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Check(hashOf("I"), proof)
		if string(got) != c.account {
			t.Errorf("%s: account %q, want %q: %v", name, got, c.account, err)
		}
		if c.account == "" {
			wantCode(t, err, codeNoAccount)
		}
	}
	var none Accounts
	_, err := none.principal(newHost(t, "x", nil, auth.ECDSA256).Certificate)
	wantCode(t, err, codeNoAccount)
}
