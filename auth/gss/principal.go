package gss

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/jcmturner/gokrb5/v8/types"
)

// Name types of principals (RFC 4120 §6.2).
const (
	NamePrincipal = 1 // a name of no special kind
	NameService   = 2 // KRB_NT_SRV_INST: krbtgt
	NameHost      = 3 // KRB_NT_SRV_HST
)

// Principal is a Kerberos name: components and realm. The type is a hint to
// the KDC and no part of the identity.
type Principal struct {
	Type  int32
	Name  []string
	Realm string
}

// ParsePrincipal reads "component/component@REALM" with the escapes of String.
// The realm may be missing.
func ParsePrincipal(s string) (Principal, error) {
	parts, realm, err := splitPrincipal(s)
	if err != nil {
		return Principal{}, fmt.Errorf("gss: parse principal %q: %w", s, err)
	}
	p := Principal{Type: NamePrincipal, Name: parts, Realm: realm}
	if err := p.check(); err != nil {
		return Principal{}, fmt.Errorf("gss: parse principal %q: %w", s, err)
	}
	return p, nil
}

// splitPrincipal undoes the escapes.
func splitPrincipal(s string) (parts []string, realm string, err error) {
	var b strings.Builder
	inRealm, escaped := false, false
	for _, r := range s {
		switch {
		case escaped:
			b.WriteRune(r)
			escaped = false
		case r == '\\':
			escaped = true
		case r == '/' && !inRealm:
			parts = append(parts, b.String())
			b.Reset()
		case r == '@' && !inRealm:
			parts, inRealm = append(parts, b.String()), true
			b.Reset()
		case r == '@':
			return nil, "", fmt.Errorf("two realms")
		default:
			b.WriteRune(r)
		}
	}
	if escaped {
		return nil, "", fmt.Errorf("nothing after the last backslash")
	}
	if inRealm {
		return parts, b.String(), nil
	}
	return append(parts, b.String()), "", nil
}

// maxName bounds components and realm, in bytes each.
const maxName = 1024

// check refuses what no principal of a computer or person is: empty or endless
// parts and characters that do not print.
func (p Principal) check() error {
	if len(p.Name) == 0 || len(p.Name) > 8 {
		return fmt.Errorf("%w: a name of %d components", ErrMalformed, len(p.Name))
	}
	for _, c := range append(slices.Clone(p.Name), p.Realm) {
		if len(c) > maxName || strings.ContainsFunc(c, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return fmt.Errorf("%w: a name that is too long or does not print", ErrMalformed)
		}
	}
	if slices.Contains(p.Name, "") {
		return fmt.Errorf("%w: an empty component", ErrMalformed)
	}
	return nil
}

// quote escapes the separators, so that no component can pose as a realm.
func quote(s string) string {
	return strings.NewReplacer(`\`, `\\`, `/`, `\/`, `@`, `\@`).Replace(s)
}

// String returns "component/component@REALM"; separators within a part are
// escaped with a backslash, as krb5_unparse_name does.
func (p Principal) String() string {
	parts := make([]string, len(p.Name))
	for i, c := range p.Name {
		parts[i] = quote(c)
	}
	s := strings.Join(parts, "/")
	if p.Realm == "" {
		return s
	}
	return s + "@" + quote(p.Realm)
}

// Equal compares names and realms; the type does not count (RFC 4120 §6.2).
func (p Principal) Equal(q Principal) bool {
	return p.Realm == q.Realm && slices.Equal(p.Name, q.Name)
}

// Wire returns the name as it goes into messages.
func (p Principal) Wire() types.PrincipalName {
	return types.PrincipalName{NameType: p.Type, NameString: p.Name}
}

// PrincipalOf checks a name that came in a message.
func PrincipalOf(n types.PrincipalName, realm string) (Principal, error) {
	p := Principal{Type: n.NameType, Name: slices.Clone(n.NameString), Realm: realm}
	return p, p.check()
}
