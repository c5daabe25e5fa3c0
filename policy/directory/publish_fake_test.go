package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"ipsecagent/policy/gpipsec"
)

const testContainer = "CN=IP Security,CN=System,DC=example,DC=test"

// shelf is a directory in memory, as strict as servers are: references name
// entries that are there when they are written, values are added once and taken
// away only if they are there, and each operation is done whole or not at all.
type shelf struct {
	entries map[string]*Entry // by DN in small letters
	writes  []string          // the DNs of the entries changed, in order
	// failAt is the number of the operation that fails, from 1; with dead, all
	// after it fail too.
	failAt, done int
	dead         bool
}

var errCut = errors.New("the connection is cut")

func newShelf() *shelf { return &shelf{entries: map[string]*Entry{}} }

func (s *shelf) step(dn string) error {
	s.done++
	if s.failAt > 0 && (s.done == s.failAt || s.dead && s.done > s.failAt) {
		return errCut
	}
	s.writes = append(s.writes, dn)
	return nil
}

func (s *shelf) Add(_ context.Context, dn string, attributes []Attribute) error {
	if err := s.step(dn); err != nil {
		return err
	}
	key := strings.ToLower(dn)
	if s.entries[key] != nil {
		return fmt.Errorf("%s: entryAlreadyExists", dn)
	}
	for _, a := range attributes {
		if err := s.check(a); err != nil {
			return err
		}
	}
	s.entries[key] = &Entry{DN: dn, Attributes: slices.Clone(attributes)}
	return nil
}

// check refuses references to nothing.
func (s *shelf) check(a Attribute) error {
	if !strings.HasSuffix(a.Name, "Reference") {
		return nil
	}
	for _, v := range a.Values {
		if s.entries[strings.ToLower(string(v))] == nil {
			return fmt.Errorf("%s: %q: constraintViolation: there is no such entry", a.Name, v)
		}
	}
	return nil
}

func (s *shelf) Modify(_ context.Context, dn string, changes ...Change) error {
	if err := s.step(dn); err != nil {
		return err
	}
	e := s.entries[strings.ToLower(dn)]
	if e == nil {
		return fmt.Errorf("%s: %w", dn, ErrNotFound)
	}
	if len(changes) == 0 {
		return fmt.Errorf("%s: a modification without changes", dn)
	}
	after := Entry{DN: e.DN, Attributes: slices.Clone(e.Attributes)}
	for _, c := range changes {
		if err := s.change(&after, c); err != nil {
			return err
		}
	}
	*e = after
	return nil
}

func (s *shelf) change(e *Entry, c Change) error {
	values := slices.Clone(e.Values(c.Name))
	same := func(v []byte) func([]byte) bool {
		return func(w []byte) bool { return strings.EqualFold(string(v), string(w)) }
	}
	switch c.Kind {
	case AddValues:
		if err := s.check(c.Attribute); err != nil {
			return err
		}
		for _, v := range c.Values {
			if slices.ContainsFunc(values, same(v)) {
				return fmt.Errorf("%s: %q: attributeOrValueExists", c.Name, v)
			}
			values = append(values, v)
		}
	case DeleteValues:
		for _, v := range c.Values {
			i := slices.IndexFunc(values, same(v))
			if i < 0 {
				return fmt.Errorf("%s: %q: noSuchAttribute", c.Name, v)
			}
			values = slices.Delete(values, i, i+1)
		}
	case ReplaceValues:
		values = c.Values
	}
	e.Attributes = slices.DeleteFunc(slices.Clone(e.Attributes), func(a Attribute) bool { return strings.EqualFold(a.Name, c.Name) })
	if len(values) > 0 {
		e.Attributes = append(e.Attributes, Attribute{c.Name, values})
	}
	return nil
}

func (s *shelf) Delete(_ context.Context, dn string) error {
	if err := s.step(dn); err != nil {
		return err
	}
	if s.entries[strings.ToLower(dn)] == nil {
		return fmt.Errorf("%s: %w", dn, ErrNotFound)
	}
	delete(s.entries, strings.ToLower(dn))
	return nil
}

func (s *shelf) refers(_ context.Context, attribute, dn string) (bool, error) {
	for _, e := range s.entries {
		if e.has(attribute, dn) {
			return true, nil
		}
	}
	return false, nil
}

func (s *shelf) assigns(ctx context.Context, dn string) (bool, error) {
	return s.refers(ctx, attrPointer, dn)
}

func (s *shelf) names(context.Context) (map[gpipsec.Ref]bool, error) {
	all := map[gpipsec.Ref]bool{}
	for _, e := range s.entries {
		if ref, err := gpipsec.ReadDN(e.DN); err == nil {
			all[ref] = true
		}
	}
	return all, nil
}

func (s *shelf) all() []Entry {
	var all []Entry
	for _, e := range s.entries {
		all = append(all, *e)
	}
	slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(a.DN, b.DN) })
	return all
}

func (s *shelf) contents() *contents { return contentsOf(testContainer, s.all()) }

func (s *shelf) clone() *shelf {
	c := newShelf()
	for _, e := range s.all() {
		e.Attributes = slices.Clone(e.Attributes)
		c.entries[strings.ToLower(e.DN)] = &e
	}
	return c
}

// put writes objects as they are.
func (s *shelf) put(objects []gpipsec.Object) {
	dn := func(r gpipsec.Ref) string { return "CN=" + r.String() + "," + testContainer }
	for _, o := range objects {
		e := &Entry{DN: dn(o.Ref), Attributes: grouped(o.Values(dn))}
		s.entries[strings.ToLower(e.DN)] = e
	}
}

// sound fails the test if anything of the container is not as it has to be.
func (s *shelf) sound(t *testing.T) {
	t.Helper()
	c := s.contents()
	for _, p := range c.decoded.Problems {
		t.Errorf("not sound: %v", p)
	}
	for _, o := range c.objects {
		for _, r := range o.Owners {
			if owner := c.at[r]; owner == nil || !slices.Contains(owner.Refs, o.Ref) {
				t.Errorf("%s names the owner %s, which does not refer to it", o.Ref, r)
			}
		}
		part := o.Class == gpipsec.ClassNFA || o.Class == gpipsec.ClassISAKMP
		if part && len(c.referrers[o.Ref]) == 0 {
			t.Errorf("%s belongs to nothing", o.Ref)
		}
	}
}
