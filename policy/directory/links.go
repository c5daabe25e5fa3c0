package directory

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// maxLinks bounds the links of one entry; Active Directory has at most 999.
const maxLinks = 1024

var errAttribute = errors.New("malformed attribute")

// link is one link to a group policy object, from gPLink ([MS-GPOL] 2.2.2).
type link struct {
	gpo                string // its DN
	disabled, enforced bool
}

// The options of a link.
const (
	linkDisabled = 1
	linkEnforced = 2
)

// parseLinks reads "[LDAP://DN;OPTIONS][LDAP://DN;OPTIONS]": the first link
// goes before the others.
func parseLinks(s string) ([]link, error) {
	const scheme = "LDAP://"
	var all []link
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		end := strings.IndexByte(s, ']')
		if s[0] != '[' || end < 0 || len(all) == maxLinks {
			return nil, fmt.Errorf("%w: %q", errAttribute, s)
		}
		one := s[1:end]
		s = s[end+1:]
		semicolon := strings.LastIndexByte(one, ';')
		if semicolon < 0 || len(one) < len(scheme) || !strings.EqualFold(one[:len(scheme)], scheme) {
			return nil, fmt.Errorf("%w: %q", errAttribute, one)
		}
		options, err := strconv.ParseUint(one[semicolon+1:], 10, 32)
		if err != nil || semicolon == len(scheme) {
			return nil, fmt.Errorf("%w: %q", errAttribute, one)
		}
		dn := one[len(scheme):semicolon]
		// A link that is disabled is not enforced either.
		all = append(all, link{gpo: dn, disabled: options&linkDisabled != 0, enforced: options&(linkDisabled|linkEnforced) == linkEnforced})
	}
	return all, nil
}

// som is a scope of management: an entry that links to group policy objects
// ([MS-GPOL] 1.3.1).
type som struct {
	scope  string // "site", "domain" or "OU"
	dn     string
	blocks bool // inheritance is blocked: what is linked further up does not count
	links  []link
}

// ordered returns the links of the scopes, which are given from the computer
// upwards, in the order in which they decide ([MS-GPOL] 3.2.5.1.5): the enforced
// ones, the uppermost first; then the others, the nearest first. Those that do
// not count stand in their place and say why.
func ordered(scopes []som) []Candidate {
	var enforced, others []Candidate
	blocker := ""
	for _, scope := range scopes {
		var here []Candidate
		for _, l := range scope.links {
			c := Candidate{Scope: scope.scope, At: scope.dn, GPO: l.gpo, Enforced: l.enforced, Applies: true}
			switch {
			case l.enforced:
				here = append(here, c)
				continue
			case l.disabled:
				c.Applies, c.Why = false, "the link is disabled"
			case blocker != "":
				c.Applies, c.Why = false, fmt.Sprintf("inheritance is blocked at %q", blocker)
			}
			others = append(others, c)
		}
		enforced = append(here, enforced...)
		if scope.blocks && blocker == "" {
			blocker = scope.dn
		}
	}
	return append(enforced, others...)
}
