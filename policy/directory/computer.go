package directory

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Computer is a host as the directory knows it.
type Computer struct {
	DN string
	// Account is the name of the account ("HOST1$"); "" in other directories.
	Account string
	// Groups are the security identifiers of the account and its groups, or
	// the names of the groups' entries.
	Groups []string
}

// findComputer finds the account of a computer, named as in Config.Computer.
func (s *Session) findComputer(ctx context.Context, name string) (Computer, error) {
	filter, err := s.computerFilter(name)
	if err != nil {
		return Computer{}, err
	}
	found, err := s.Search(ctx, Query{Base: s.root.base, Scope: Subtree, Filter: filter, Attributes: []string{"sAMAccountName"}, Limit: 2})
	if err != nil {
		return Computer{}, err
	}
	if len(found) != 1 {
		return Computer{}, fmt.Errorf("%d computers %s in the domain, or this account may not see it: %w", len(found), filter, ErrNotFound)
	}
	groups, err := s.token(ctx, found[0].DN)
	if err != nil {
		return Computer{}, err
	}
	return Computer{DN: found[0].DN, Account: found[0].get("sAMAccountName"), Groups: groups}, nil
}

// computerFilter is how a computer is found: by the name of its account, or by
// that of its service.
func (s *Session) computerFilter(name string) (string, error) {
	if name == "" {
		name = s.config.Computer
	}
	if name == "" && len(s.self.Name) > 0 {
		name = strings.Join(s.self.Name, "/")
	}
	switch {
	case name == "":
		return "", fmt.Errorf("which computer this host is has to be said: it binds by password (computer)")
	case strings.Contains(name, "/"):
		return "(&(objectCategory=computer)(servicePrincipalName=" + Escape(name) + "))", nil
	}
	return "(&(objectCategory=computer)(sAMAccountName=" + Escape(name) + "))", nil
}

// token returns the security identifiers that a computer logs on with, in order
// (tokenGroups, which the controller computes for a search of the entry itself).
func (s *Session) token(ctx context.Context, dn string) ([]string, error) {
	e, err := s.Read(ctx, dn, "objectSid", "tokenGroups")
	if err != nil {
		return nil, err
	}
	all := []string{sidEveryone, sidAuthenticated, sidOrganization}
	for _, raw := range slices.Concat(e.Values("objectSid"), e.Values("tokenGroups")) {
		sid, err := parseSID(raw)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", dn, err)
		}
		all = append(all, sid)
	}
	if len(e.Values("objectSid")) != 1 || len(e.Values("tokenGroups")) == 0 { // each has a primary group
		return nil, fmt.Errorf("%w: of %q this account may not read the groups (objectSid, tokenGroups)", errAttribute, dn)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}
