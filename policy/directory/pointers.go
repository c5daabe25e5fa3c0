package directory

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// attrPointer is the attribute that assigns a policy in a directory without
// group policy: on the host's entry, on a group's, or on an entry above.
const attrPointer = "ipsecPolicyReference"

// resolvePointers looks at the host's entry, then at the groups it is a member
// of, then at the entries above it, the nearest first.
func (s *Session) resolvePointers(ctx context.Context, r *Result, computer string) error {
	dn, err := s.hostEntry(computer)
	if err != nil {
		return err
	}
	host, err := s.Read(ctx, dn, attrPointer)
	if err != nil {
		return fmt.Errorf("%w: this host's own entry: %w", ErrUnreadable, err)
	}
	r.Computer.DN = host.DN
	r.consider("host", &host)
	if err := s.considerGroups(ctx, r); err != nil {
		return err
	}
	above, err := parents(host.DN, s.root.base)
	if err != nil {
		return err
	}
	for _, dn := range above {
		e, err := s.Read(ctx, dn, attrPointer)
		if errors.Is(err, ErrNotFound) {
			e, err = Entry{DN: dn}, nil // an entry above need not be there, nor be readable
		}
		if err != nil {
			return err
		}
		r.consider("parent", &e)
	}
	return nil
}

// hostEntry is the DN of a host's entry: the one given, that of the settings, or
// who the server says this host is (RFC 4532).
func (s *Session) hostEntry(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	if s.config.Computer != "" {
		return s.config.Computer, nil
	}
	s.cost++
	who, err := s.conn.WhoAmI(nil)
	if err != nil {
		return "", fmt.Errorf("ask the server for the entry of this host: %w", err)
	}
	dn, ok := strings.CutPrefix(who.AuthzID, "dn:")
	if !ok || dn == "" {
		return "", fmt.Errorf("the server knows this host as %q and not by an entry: name its entry (computer)", who.AuthzID)
	}
	return dn, nil
}

// consider adds an entry that may have a pointer.
func (r *Result) consider(scope string, e *Entry) {
	c := Candidate{Scope: scope, At: e.DN, Policy: e.get(attrPointer)}
	if c.Applies = c.Policy != ""; !c.Applies {
		c.Why = "it points to no policy"
	}
	r.Considered, r.scopes = append(r.Considered, c), append(r.scopes, e.DN)
	r.place(len(r.Considered) - 1)
}

// considerGroups adds the groups of the host. Groups have no order: if they
// decide and do not agree, nobody knows what is meant.
func (s *Session) considerGroups(ctx context.Context, r *Result) error {
	dn := Escape(r.Computer.DN)
	groups, err := s.Search(ctx, Query{Base: s.root.base, Scope: Subtree, Filter: "(|(member=" + dn + ")(uniqueMember=" + dn + "))", Attributes: []string{attrPointer}})
	if err != nil {
		return err
	}
	decided := r.Winner >= 0
	for i := range groups {
		g := &groups[i]
		r.Computer.Groups = append(r.Computer.Groups, g.DN)
		r.consider("group", g)
		if p := g.get(attrPointer); p != "" && !decided && !sameDN(p, r.Won().Policy) {
			return fmt.Errorf("%w: the groups %q and %q of this host point to different policies: let one of them do so, or the host's own entry", ErrUnreadable, r.Won().At, g.DN)
		}
	}
	return nil
}
