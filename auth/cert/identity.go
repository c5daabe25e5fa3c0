package cert

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"ipsecagent/auth"
)

// Identification types (RFC 2407 §4.6.2.1).
const (
	idIPv4     = 1
	idFQDN     = 2
	idUserFQDN = 3
	idIPv6     = 5
	idDN       = 9
)

// IDCheck is how a peer's identification payload and its certificate must
// agree.
type IDCheck uint8

const (
	// IDStrict: the identification is the certificate's subject or one of its
	// alternative names, exactly (RFC 4945 §3.1).
	IDStrict IDCheck = iota
	// IDChainOnly: the identification says nothing, as for Windows 2000. The
	// principal is of the certificate all the same.
	IDChainOnly
)

// claimID returns the identification of one's own certificate: its subject,
// byte for byte, or its first name if the subject is empty.
func claimID(c *x509.Certificate) (kind uint8, data []byte) {
	switch {
	case !emptyName(c.RawSubject):
		return idDN, c.RawSubject
	case len(c.DNSNames) > 0:
		return idFQDN, []byte(c.DNSNames[0])
	case len(c.EmailAddresses) > 0:
		return idUserFQDN, []byte(c.EmailAddresses[0])
	case len(c.IPAddresses) > 0:
		return idOfIP(c.IPAddresses[0])
	}
	return idDN, c.RawSubject
}

func idOfIP(ip net.IP) (kind uint8, data []byte) {
	if four := ip.To4(); four != nil {
		return idIPv4, four
	}
	return idIPv6, ip.To16()
}

// emptyName reports whether a DER name has no parts.
func emptyName(der []byte) bool { return len(der) <= 2 }

// matchesID reports whether an identification is one of the certificate's
// names. Nothing is matched against a common name, and no wildcard matches.
func matchesID(c *x509.Certificate, kind uint8, data []byte) bool {
	switch kind {
	case idDN:
		return !emptyName(data) && bytes.Equal(data, c.RawSubject)
	case idFQDN:
		return plainName(data) && slices.ContainsFunc(c.DNSNames, func(n string) bool { return strings.EqualFold(n, string(data)) })
	case idUserFQDN:
		return plainName(data) && slices.Contains(c.EmailAddresses, string(data))
	case idIPv4, idIPv6:
		return slices.ContainsFunc(c.IPAddresses, func(ip net.IP) bool {
			k, b := idOfIP(ip)
			return k == kind && bytes.Equal(b, data)
		})
	}
	return false
}

// plainName reports whether a name consists of visible ASCII without wildcard:
// what ends at a NUL for one reader and goes on for another is no name.
func plainName(name []byte) bool {
	return len(name) > 0 && !bytes.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == '*' })
}

// idText shows an identification in errors.
func idText(kind uint8, data []byte) string {
	switch kind {
	case idDN:
		return nameText(data)
	case idFQDN, idUserFQDN:
		return fmt.Sprintf("%q", data[:min(len(data), 256)])
	case idIPv4, idIPv6:
		return net.IP(data[:min(len(data), 16)]).String()
	}
	return fmt.Sprintf("type %d, %d bytes", kind, len(data))
}

// checkNames refuses certificates whose names could be read in two ways.
func checkNames(c *x509.Certificate) error {
	rdns, err := decodeName(c.RawSubject)
	if err != nil {
		return fmt.Errorf("its subject: %w", err)
	}
	for _, rdn := range rdns {
		for _, a := range rdn {
			if text, ok := stringOf(a.Value); ok && strings.ContainsRune(text, 0) {
				return errors.New("its subject holds a NUL")
			}
		}
	}
	for _, name := range slices.Concat(c.DNSNames, c.EmailAddresses) {
		if strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return fmt.Errorf("the alternative name %q", name)
		}
	}
	return nil
}

// principalOf returns who a certificate names: its subject, else its first
// alternative name with the kind in front.
func principalOf(c *x509.Certificate) (auth.Principal, error) {
	switch {
	case !emptyName(c.RawSubject):
		return auth.Principal(nameText(c.RawSubject)), nil
	case len(c.DNSNames) > 0:
		return auth.Principal("dns:" + c.DNSNames[0]), nil
	case len(c.EmailAddresses) > 0:
		return auth.Principal("email:" + c.EmailAddresses[0]), nil
	case len(c.IPAddresses) > 0:
		return auth.Principal("ip:" + c.IPAddresses[0].String()), nil
	}
	return "", refuse(codeIdentity, "issue a certificate with a subject or a DNS name", "the peer's certificate names nobody: subject and alternative names are empty")
}
