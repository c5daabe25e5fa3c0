package directory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"ipsecagent/policy/gpipsec"
)

// Assigned is an entry that assigns a policy.
type Assigned struct {
	// At is its DN: of a group policy object, or of the entry that points to a
	// policy. Name is what people call it.
	At, Name string
	// Policy is the DN of the policy; PolicyName what the group policy object
	// calls it.
	Policy, PolicyName string
	// Links are the entries that the group policy object is linked to, none in
	// other directories.
	Links []string
	// Silent: the group policy object does not say that it assigns a policy, so
	// that no host looks.
	Silent bool
}

// Assignments returns all entries that assign a policy, as far as this account
// may see them.
func (s *Session) Assignments(ctx context.Context) ([]Assigned, error) {
	if s.config.Kind == LDAP {
		return s.pointers(ctx)
	}
	g, err := s.groupPolicy(ctx)
	return g.assigned(), err
}

// groupPolicy is the group policy of a domain, as far as this account may see it.
type groupPolicy struct {
	objects []Entry
	// assignments and links are those of each group policy object, by its DN as
	// foldDN has it. Links are of the domain and its sites.
	assignments map[string]*Entry
	links       map[string][]string
}

// groupPolicy reads it.
func (s *Session) groupPolicy(ctx context.Context) (groupPolicy, error) {
	g := groupPolicy{assignments: map[string]*Entry{}}
	said, err := s.Search(ctx, Query{Base: policiesPath + s.Base(), Scope: Subtree, Filter: "(&(objectClass=ipsecPolicy)(cn=IPSEC))", Attributes: []string{attrOwners, attrName}})
	if errors.Is(err, ErrNotFound) {
		return g, nil
	}
	if err != nil {
		return g, err
	}
	for i := range said {
		if dn := said[i].DN; len(dn) > len(assignmentPath) && strings.EqualFold(dn[:len(assignmentPath)], assignmentPath) {
			g.assignments[foldDN(dn[len(assignmentPath):])] = &said[i]
		}
	}
	g.objects, err = s.Search(ctx, Query{Base: policiesPath + s.Base(), Scope: OneLevel, Filter: "(objectClass=groupPolicyContainer)", Attributes: gpoAttributes()})
	if err == nil {
		g.links, err = s.allLinks(ctx)
	}
	return g, err
}

// assigned returns the group policy objects that assign a policy, those too of
// which this account sees no more than that.
func (g *groupPolicy) assigned() []Assigned {
	seen := map[string]*Entry{}
	for i := range g.objects {
		seen[foldDN(g.objects[i].DN)] = &g.objects[i]
	}
	var all []Assigned
	for _, gpo := range slices.Sorted(maps.Keys(g.assignments)) {
		a := g.assignments[gpo]
		if a.get(attrOwners) == "" {
			continue
		}
		one := Assigned{At: a.DN[len(assignmentPath):], Policy: a.get(attrOwners), PolicyName: a.get(attrName), Links: g.links[gpo]}
		one.Name = one.At
		if o := seen[gpo]; o != nil {
			one.Name, one.Silent = o.title(), !extends(o.get("gPCMachineExtensionNames"))
		}
		all = append(all, one)
	}
	return all
}

// pointers returns the entries with a pointer to a policy.
func (s *Session) pointers(ctx context.Context) ([]Assigned, error) {
	found, err := s.Search(ctx, Query{Base: s.Base(), Scope: Subtree, Filter: "(" + attrPointer + "=*)", Attributes: []string{attrPointer}})
	var all []Assigned
	for _, e := range found {
		all = append(all, Assigned{At: e.DN, Name: nameOfRDN(e.DN), Policy: e.get(attrPointer)})
	}
	return all, err
}

// allLinks returns the entries that each group policy object is linked to, by
// its name as foldDN has it: those of the domain and the sites.
func (s *Session) allLinks(ctx context.Context) (map[string][]string, error) {
	links := map[string][]string{}
	for _, base := range []string{s.Base(), "CN=Sites," + s.Configuration()} {
		found, err := s.Search(ctx, Query{Base: base, Scope: Subtree, Filter: "(gPLink=*)", Attributes: []string{"gPLink"}})
		if err != nil {
			return nil, err
		}
		for _, e := range found {
			all, err := parseLinks(e.get("gPLink"))
			if err != nil {
				continue // hosts there say so
			}
			for _, l := range all {
				if key := foldDN(l.gpo); !l.disabled {
					links[key] = append(links[key], e.DN)
				}
			}
		}
	}
	return links, nil
}

// ErrInUse: something else needs what is to be deleted.
var ErrInUse = errors.New("it is in use")

// PlanDelete says what deleting a policy, by its name or GUID, would do: the
// policy goes with its rules and key exchange settings; filter lists and filter
// actions stay. A policy that is assigned is ErrInUse.
func (s *Session) PlanDelete(ctx context.Context, name string) (Plan, error) {
	c, err := s.contents(ctx)
	if err != nil {
		return Plan{}, err
	}
	assigned, err := s.Assignments(ctx)
	if err != nil {
		return Plan{}, err
	}
	return planDelete(c, name, assigned)
}

func planDelete(c *contents, name string, assigned []Assigned) (Plan, error) {
	if err := c.whole(); err != nil {
		return Plan{}, err
	}
	o, err := c.policyNamed(name)
	if err != nil {
		return Plan{}, err
	}
	var at []string
	for _, a := range assigned {
		if sameDN(a.Policy, c.dn(o.Ref)) {
			at = append(at, fmt.Sprintf("%q", a.Name))
		}
	}
	if len(at) > 0 {
		return Plan{}, fmt.Errorf("policy %q: %w: %s assigns it; hosts that lose it so would keep what they have and complain: unassign it first", o.Name, ErrInUse, strings.Join(at, ", "))
	}
	b := &planner{graft: &graft{contents: c, old: o, used: c.below(o)}, will: map[gpipsec.Ref]gpipsec.Object{}}
	b.add(Step{Kind: StepDelete, DN: c.dn(o.Ref), What: "delete " + named(*o), unassigned: true})
	b.sweep()
	return b.plan, nil
}

// assigns looks for what assigns a policy.
func (s *Session) assigns(ctx context.Context, policy string) (bool, error) {
	q := Query{Base: s.Base(), Scope: Subtree, Filter: "(" + attrPointer + "=" + Escape(policy) + ")", Attributes: []string{attrClass}}
	if s.config.Kind == ActiveDirectory {
		q.Base, q.Filter = policiesPath+s.Base(), "(&(objectClass=ipsecPolicy)(cn=IPSEC)("+attrOwners+"="+Escape(policy)+"))"
	}
	found, err := s.Search(ctx, q)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return len(found) > 0, err
}

// PlanDeleteShared says what deleting a filter list (gpipsec.ClassFilter) or a
// filter action (gpipsec.ClassNegotiation), by its name or GUID, would do. One
// that a rule refers to is ErrInUse.
func (s *Session) PlanDeleteShared(ctx context.Context, class gpipsec.Class, name string) (Plan, error) {
	c, err := s.contents(ctx)
	if err != nil {
		return Plan{}, err
	}
	return planDeleteShared(c, class, name)
}

func planDeleteShared(c *contents, class gpipsec.Class, name string) (Plan, error) {
	if err := c.whole(); err != nil {
		return Plan{}, err
	}
	found := c.named(class, name, nil)
	if o := c.at[refOf(class, name)]; o != nil {
		found = []*gpipsec.Object{o}
	}
	switch {
	case len(found) == 0:
		return Plan{}, fmt.Errorf("there is no %s %q below %s: %w", class, name, c.container, ErrNotFound)
	case len(found) > 1:
		return Plan{}, fmt.Errorf("%d objects of kind %s are named %q: %w: say which by its GUID: %s", len(found), class, name, ErrAmbiguous, guids(found))
	}
	o := found[0]
	if users := c.referrers[o.Ref]; len(users) > 0 {
		var rules []string
		for _, r := range users {
			rules = append(rules, c.describe(r))
		}
		return Plan{}, fmt.Errorf("%s %q: %w: by %s", class, o.Name, ErrInUse, strings.Join(rules, ", "))
	}
	return Plan{Steps: []Step{c.deleting(*o)}}, nil
}
