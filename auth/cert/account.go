package cert

import (
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"strings"

	"ipsecagent/auth"
)

// Accounts returns the account that a certificate stands for, as
// "name$@REALM" or "user@REALM"; false: it stands for none.
type Accounts func(*x509.Certificate) (account string, found bool)

// principal maps a proven certificate.
func (a Accounts) principal(c *x509.Certificate) (auth.Principal, error) {
	if a != nil {
		if account, ok := a(c); ok && account != "" {
			return auth.Principal(account), nil
		}
	}
	return "", refuse(codeNoAccount, "map the certificate to an account, or take the mapping out of the rule",
		"the rule wants an account, and the certificate %s has none", nameText(c.RawSubject))
}

// MapAccounts maps certificates as Windows does for hosts of a domain: table
// comes first, by subject as a principal has it ("CN=a,O=Bank") or by DNS name;
// then the user principal name of the certificate, then a DNS name HOST.REALM,
// which is the computer account HOST$@REALM. Names of realms that are not
// listed map to nothing: an authority for one domain does not speak for another.
func MapAccounts(table map[string]string, realms []string) Accounts {
	return func(c *x509.Certificate) (string, bool) {
		for _, name := range append([]string{nameText(c.RawSubject)}, c.DNSNames...) {
			if account, ok := lookUp(table, name); ok {
				return account, true
			}
		}
		listed := func(realm string) bool {
			return slices.ContainsFunc(realms, func(r string) bool { return strings.EqualFold(r, realm) })
		}
		for _, name := range userNames(c) {
			if user, realm, ok := strings.Cut(name, "@"); ok && user != "" && plainName([]byte(name)) && listed(realm) {
				return user + "@" + strings.ToUpper(realm), true
			}
		}
		for _, name := range c.DNSNames {
			if host, realm, ok := strings.Cut(name, "."); ok && host != "" && plainName([]byte(name)) && listed(realm) {
				return strings.ToLower(host) + "$@" + strings.ToUpper(realm), true
			}
		}
		return "", false
	}
}

// lookUp finds a name without regard to case, which neither DNS nor accounts
// have.
func lookUp(table map[string]string, name string) (string, bool) {
	for have, account := range table {
		if strings.EqualFold(have, name) {
			return account, true
		}
	}
	return "", false
}

// otherName is the form of an alternative name that holds a user principal
// name ([MS-WCCE] §2.2.2.7.5). Value is the explicit tag with the name in it.
type otherName struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue `asn1:"tag:0,explicit"`
}

var (
	oidAlternatives = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidUserName     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3}
)

// userNames returns the user principal names of a certificate.
func userNames(c *x509.Certificate) []string {
	var found []string
	for _, e := range c.Extensions {
		var names []asn1.RawValue
		if !e.Id.Equal(oidAlternatives) {
			continue
		}
		if _, err := asn1.Unmarshal(e.Value, &names); err != nil {
			continue
		}
		for _, n := range names {
			if text, ok := userName(n); ok {
				found = append(found, text)
			}
		}
	}
	return found
}

// userName reads an alternative name that is a user principal name.
func userName(n asn1.RawValue) (string, bool) {
	var o otherName
	var value asn1.RawValue
	if n.Class != asn1.ClassContextSpecific || n.Tag != 0 {
		return "", false
	}
	if _, err := asn1.UnmarshalWithParams(n.FullBytes, &o, "tag:0"); err != nil || !o.Type.Equal(oidUserName) {
		return "", false
	}
	if _, err := asn1.Unmarshal(o.Value.Bytes, &value); err != nil {
		return "", false
	}
	return stringOf(value)
}
