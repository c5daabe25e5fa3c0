package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"
)

// attrPointer is the attribute that assigns a policy in a directory without
// group policy: on the host's entry, on a group's, or on an entry above.
const attrPointer = "ipsecPolicyReference"

// resolvePointers looks at the host's entry, then at the groups it is a member
// of, then at the entries above it, the nearest first.
func (s *Session) resolvePointers(ctx context.Context, r *Result, computer string) error {
	dn, err := s.hostEntry(ctx, computer)
	if err != nil {
		return err
	}
	host, err := s.Read(ctx, dn, attrClass, attrPointer)
	if err != nil {
		return unreadable(err, "this host's own entry")
	}
	r.Computer.DN = host.DN
	if err := r.consider("host", &host); err != nil {
		return err
	}
	if err := s.considerGroups(ctx, r); err != nil {
		return err
	}
	above, err := parents(host.DN, s.root.base)
	if err != nil {
		return err
	}
	for _, dn := range above {
		e, err := s.Read(ctx, dn, attrClass, attrPointer)
		if errors.Is(err, ErrNotFound) {
			e, err = Entry{DN: dn}, nil // whether it can be seen matters only if it decides
		}
		if err != nil {
			return err
		}
		if err := r.consider("parent", &e); err != nil {
			return err
		}
	}
	return nil
}

// hostEntry is the DN of a host's entry: the one given, that of the settings, or
// who the server says this host is (RFC 4532).
func (s *Session) hostEntry(ctx context.Context, given string) (string, error) {
	if given != "" {
		return given, nil
	}
	if s.config.Computer != "" {
		return s.config.Computer, nil
	}
	var who *ldap.WhoAmIResult
	err := s.do(ctx, requestTimeout, func() (err error) {
		who, err = s.conn.WhoAmI(nil)
		return err
	})
	if answered(err) {
		err = fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	if err != nil {
		return "", fmt.Errorf("ask the server for the entry of this host: %w", err)
	}
	dn, ok := strings.CutPrefix(who.AuthzID, "dn:")
	if !ok || dn == "" {
		return "", fmt.Errorf("%w: the server knows this host as %q and not by an entry: name its entry (computer)", ErrUnreadable, who.AuthzID)
	}
	return dn, nil
}

// consider adds an entry that may have a pointer. The error is ErrUnreadable: the
// entry would decide, and what it says is hidden from this account.
func (r *Result) consider(scope string, e *Entry) error {
	c := Candidate{Scope: scope, At: e.DN, Policy: e.get(attrPointer)}
	hidden := concealed(e)
	switch c.Applies = c.Policy != ""; {
	case c.Applies:
	case hidden != nil:
		c.Why = hidden.Error()
	default:
		c.Why = "it points to no policy"
	}
	decided := r.Winner >= 0
	r.Considered, r.scopes = append(r.Considered, c), append(r.scopes, e.DN)
	r.place(len(r.Considered) - 1)
	if decided {
		return nil
	}
	return hidden
}

// concealed returns why it is not known whether an entry points to a policy; nil:
// it is known.
func concealed(e *Entry) error {
	classes := e.all(attrClass)
	assigns := func(class string) bool { return strings.EqualFold(class, pointerClass) }
	switch {
	case e.get(attrPointer) != "":
		return nil
	case len(classes) == 0:
		return fmt.Errorf("%w: whether %q points to a policy this account may not read: let hosts read objectClass and %s of the entries above them", ErrUnreadable, e.DN, attrPointer)
	case slices.ContainsFunc(classes, assigns):
		return fmt.Errorf("%w: %q is of the class %s, and to which policy it points this account may not read: let hosts read %s, or take the class away if it points to none", ErrUnreadable, e.DN, pointerClass, attrPointer)
	}
	return nil
}

// considerGroups adds the groups of the host. Groups have no order: if they
// decide and do not agree, nobody knows what is meant.
func (s *Session) considerGroups(ctx context.Context, r *Result) error {
	dn := Escape(r.Computer.DN)
	groups, err := s.Search(ctx, Query{Base: s.root.base, Scope: Subtree, Filter: "(|(member=" + dn + ")(uniqueMember=" + dn + "))", Attributes: []string{attrClass, attrPointer}})
	if err != nil {
		return err
	}
	decided := r.Winner >= 0
	for i := range groups {
		g := &groups[i]
		r.Computer.Groups = append(r.Computer.Groups, g.DN)
		err := r.consider("group", g)
		if hidden := concealed(g); hidden != nil && !decided {
			err = hidden // though another group has a pointer
		}
		if err != nil {
			return err
		}
		if p := g.get(attrPointer); p != "" && !decided && !sameDN(p, r.Won().Policy) {
			return fmt.Errorf("%w: the groups %q and %q of this host point to different policies: let one of them do so, or the host's own entry", ErrUnreadable, r.Won().At, g.DN)
		}
	}
	return nil
}
