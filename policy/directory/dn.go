package directory

import (
	"fmt"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"
)

// domainDN is the DN of a domain (RFC 2247).
func domainDN(domain string) string {
	labels := strings.Split(domain, ".")
	for i, l := range labels {
		labels[i] = "DC=" + ldap.EscapeDN(l)
	}
	return strings.Join(labels, ",")
}

// sameDN compares names as directories do: case does not count.
func sameDN(a, b string) bool {
	if strings.EqualFold(a, b) {
		return true
	}
	x, errX := ldap.ParseDN(a)
	y, errY := ldap.ParseDN(b)
	return errX == nil && errY == nil && x.EqualFold(y)
}

// foldDN returns a name in one of the forms in which it can be written, so that
// many names can be compared.
func foldDN(dn string) string {
	name, err := ldap.ParseDN(dn)
	if err != nil {
		return strings.ToLower(dn)
	}
	return strings.ToLower(name.String())
}

// containsDN reports whether a DN is in a list.
func containsDN(list []string, dn string) bool {
	return slices.ContainsFunc(list, func(d string) bool { return sameDN(d, dn) })
}

// below reports whether a DN is that of an entry below base.
func below(dn, base string) bool {
	name, err := ldap.ParseDN(dn)
	if err != nil {
		return false
	}
	top, err := ldap.ParseDN(base)
	return err == nil && top.AncestorOfFold(name)
}

// parents returns the names above a DN, the nearest first, up to and with base.
func parents(dn, base string) ([]string, error) {
	if !below(dn, base) {
		return nil, fmt.Errorf("%q is not below %q", dn, base)
	}
	var all []string
	for !sameDN(dn, base) {
		if _, dn = cutRDN(dn); dn == "" {
			return nil, fmt.Errorf("%q is no name of an entry", dn)
		}
		all = append(all, dn)
	}
	return all, nil
}

// cutRDN parts the first part of a DN from the rest, as both are written.
func cutRDN(dn string) (rdn, rest string) {
	escaped := false
	for i, r := range dn {
		switch {
		case escaped:
			escaped = false
		case r == '\\':
			escaped = true
		case r == ',':
			return dn[:i], strings.TrimLeft(dn[i+1:], " ")
		}
	}
	return dn, ""
}

// domainOf returns the end of a DN that names a domain: all from the first DC on.
func domainOf(dn string) string {
	for dn != "" && kindOfRDN(dn) != "DC" {
		_, dn = cutRDN(dn)
	}
	return dn
}

// kindOfRDN returns the attribute of a DN's first part, in capitals.
func kindOfRDN(dn string) string {
	kind, _, _ := strings.Cut(dn, "=")
	return strings.ToUpper(strings.TrimSpace(kind))
}

// nameOfRDN returns the value of a DN's first part, for people to read.
func nameOfRDN(dn string) string {
	name, err := ldap.ParseDN(dn)
	if err != nil || len(name.RDNs) == 0 {
		return dn
	}
	return name.RDNs[0].Attributes[0].Value
}

// escapeRDN escapes a value for a DN (RFC 4514 §2.4).
func escapeRDN(value string) string { return ldap.EscapeDN(value) }
