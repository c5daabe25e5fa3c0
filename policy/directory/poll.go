package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Changed reports whether anything that an answer of this session was made of
// has changed since. While nothing has, it costs at most three operations.
func (s *Session) Changed(ctx context.Context, a *Answer) (bool, error) {
	var changed bool
	var err error
	if s.config.Kind == LDAP {
		changed, err = s.pointersChanged(ctx, &a.seen)
	} else {
		changed, err = s.groupPolicyChanged(ctx, &a.seen)
	}
	if err != nil {
		return false, fmt.Errorf("directory: look for changes: %w", err)
	}
	return changed, nil
}

// groupPolicyChanged asks for what has changed since the answer, over all
// partitions, and whether the assignment is still there: what was deleted is not
// shown to a computer. Then it looks at the computer and its groups, which
// change without a change of its entry.
//
// The number of a change says when it began. One that is seen may have
// overtaken one that is not, so that the numbers which were seen are not how far
// everything was: the server says how far that is.
func (s *Session) groupPolicyChanged(ctx context.Context, w *seen) (bool, error) {
	reached := w.version
	if w.others {
		var err error
		if reached, err = s.version(ctx); err != nil {
			return false, err
		}
	}
	found, err := s.Search(ctx, Query{Scope: Subtree, AllPartitions: true, Filter: w.changeFilter(), Attributes: []string{attrUSN}})
	if err != nil {
		return false, err
	}
	ours, last, there := w.ours(), w.version.usn, w.assignment == ""
	for i := range found {
		e := &found[i]
		usn, err := e.number(attrUSN)
		if err != nil {
			return false, err
		}
		if usn > w.version.usn && ours[foldDN(e.DN)] {
			return true, nil
		}
		there = there || sameDN(e.DN, w.assignment)
		last = max(last, usn)
	}
	if !there {
		return true, nil
	}
	groups, err := s.token(ctx, w.computer)
	if err != nil {
		return false, err
	}
	w.version.usn = max(w.version.usn, reached.usn) // what changed so far is none of ours
	w.others = last > w.version.usn
	return !slices.Equal(groups, w.groups), nil
}

// changeFilter finds the objects of the policy model, group policy objects and
// the entries with links that have changed, and the assignment in any case.
func (w *seen) changeFilter() string {
	var b strings.Builder
	b.WriteString("(|")
	if w.assignment != "" {
		b.WriteString("(distinguishedName=" + Escape(w.assignment) + ")")
	}
	b.WriteString("(&(" + attrUSN + ">=" + strconv.FormatUint(w.version.usn+1, 10) + ")(|(objectClass=ipsecBase)(objectClass=groupPolicyContainer)")
	for _, dn := range w.scopes {
		b.WriteString("(distinguishedName=" + Escape(dn) + ")")
	}
	b.WriteString(")))")
	return b.String()
}

// pointersChanged compares how far the changes of the whole tree go.
func (s *Session) pointersChanged(ctx context.Context, w *seen) (bool, error) {
	now, err := s.contextVersion(ctx)
	return now != w.version, err
}

// movedMeanwhile reports whether anything that an answer was made of has changed
// while it was read. Of what was deleted then, the next poll hears.
func (s *Session) movedMeanwhile(ctx context.Context, a *Answer) (bool, error) {
	if s.config.Kind == ActiveDirectory {
		return s.Changed(ctx, a)
	}
	w := &a.seen
	now, err := s.contextVersion(ctx)
	if err != nil || now == w.version {
		return false, err
	}
	since := w.version.oldest(now)
	if since == "" {
		return true, nil // another server is written to now
	}
	dn, csn := Escape(w.computer), Escape(since)
	found, err := s.Search(ctx, Query{Base: s.root.base, Scope: Subtree, Attributes: []string{"entryCSN"},
		Filter: "(&(entryCSN>=" + csn + ")(!(entryCSN=" + csn + "))(|(objectClass=ipsecBase)(member=" + dn + ")(uniqueMember=" + dn + ")" + w.named() + "))"})
	if errors.Is(err, ErrTooLarge) {
		return false, fmt.Errorf("%w: more has changed while it was read than the server tells: %w", ErrChanging, err)
	}
	return slices.ContainsFunc(found, func(e Entry) bool { return w.version.precedes(e.get("entryCSN")) }), err
}

// oldest returns the number from which on there are changes between two versions:
// the least of those servers that have been written to. "": of none of them.
func (v version) oldest(now version) string {
	later := strings.Fields(now.csn)
	for last := range strings.FieldsSeq(v.csn) { // in order
		if !slices.Contains(later, last) {
			return last
		}
	}
	return ""
}

// precedes reports whether a change is later than the last of the server that
// made it: each server counts by its own clock.
func (v version) precedes(csn string) bool {
	for last := range strings.FieldsSeq(v.csn) {
		if serverOf(last) == serverOf(csn) {
			return csn > last
		}
	}
	return true
}

// serverOf returns the number of the server in a change sequence number,
// TIME#COUNT#SERVER#MODIFICATION.
func serverOf(csn string) string {
	if parts := strings.Split(csn, "#"); len(parts) == 4 {
		return parts[2]
	}
	return ""
}

// named is a filter for the entries of the answer by name.
func (w *seen) named() string {
	var b strings.Builder
	for _, dn := range append([]string{w.computer}, w.scopes...) {
		b.WriteString("(entryDN=" + Escape(dn) + ")")
	}
	return b.String()
}
