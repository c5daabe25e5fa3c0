package main

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
	"ipsecagent/sadb"
)

func notFound(format string, args ...any) error {
	return &control.Error{Code: control.NotFound, Message: fmt.Sprintf(format, args...)}
}

// policyNamed returns a policy of the store to change it.
func policyNamed(s *policy.Store, name string) (*policy.Policy, error) {
	var names []string
	for i := range s.Policies {
		if s.Policies[i].Name == name {
			return &s.Policies[i], nil
		}
		names = append(names, fmt.Sprintf("%q", s.Policies[i].Name))
	}
	if _, predefined := policy.Predefined(name); predefined {
		return nil, invalid("policy %q is predefined and cannot be changed; make one of your own of it: ipsecctl export --to yaml %s > FILE; ipsecctl import --as NAME FILE", name, name)
	}
	return nil, notFound("there is no policy %q; there are: %s", name, listed(names))
}

func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// holder is a list or action and the policy that carries it, nil for one that
// no policy has.
type holder[T any] struct {
	object *T
	policy *policy.Policy
}

// shelf is where a store keeps one kind of object: lists or actions.
type shelf[T any] struct {
	what  string // "filter list"
	name  func(*T) *string
	of    func(*policy.Policy) *[]T
	loose func(*policy.Store) *[]T
	used  func(*policy.Rule) *string
}

func listShelf() shelf[policy.FilterList] {
	return shelf[policy.FilterList]{"filter list",
		func(l *policy.FilterList) *string { return &l.Name },
		func(p *policy.Policy) *[]policy.FilterList { return &p.FilterLists },
		func(s *policy.Store) *[]policy.FilterList { return &s.FilterLists },
		func(r *policy.Rule) *string { return &r.FilterList }}
}

func actionShelf() shelf[policy.FilterAction] {
	return shelf[policy.FilterAction]{"filter action",
		func(a *policy.FilterAction) *string { return &a.Name },
		func(p *policy.Policy) *[]policy.FilterAction { return &p.FilterActions },
		func(s *policy.Store) *[]policy.FilterAction { return &s.FilterActions },
		func(r *policy.Rule) *string { return &r.FilterAction }}
}

// all returns every object with the policy that carries it. What several
// policies share comes once for each.
func (f shelf[T]) all(s *policy.Store) []holder[T] {
	var all []holder[T]
	for i := range s.Policies {
		p := &s.Policies[i]
		for j := range *f.of(p) {
			all = append(all, holder[T]{&(*f.of(p))[j], p})
		}
	}
	for j := range *f.loose(s) {
		all = append(all, holder[T]{&(*f.loose(s))[j], nil})
	}
	return all
}

// find returns the copies of the object of a name, which are equal; in: of
// that policy alone.
func (f shelf[T]) find(s *policy.Store, name, in string) ([]holder[T], error) {
	if in != "" {
		if _, err := policyNamed(s, in); err != nil {
			return nil, err
		}
	}
	var found []holder[T]
	for _, h := range f.all(s) {
		if *f.name(h.object) != name || in != "" && (h.policy == nil || h.policy.Name != in) {
			continue
		}
		if len(found) > 0 && !reflect.DeepEqual(found[0].object, h.object) {
			return nil, usage("%s %q is one thing in policy %q and another in policy %q; say which by --policy", f.what, name, found[0].policy.Name, h.policy.Name)
		}
		found = append(found, h)
	}
	if len(found) == 0 {
		return nil, f.missing(s, name)
	}
	return found, nil
}

func (f shelf[T]) missing(s *policy.Store, name string) error {
	if f.what == "filter action" && (name == sadb.Permit.String() || name == sadb.Block.String()) {
		return invalid("filter action %q is built in and cannot be changed", name)
	}
	return notFound("there is no %s %q; there are: %s", f.what, name, listed(f.names(s)))
}

// names returns the quoted names of all objects, each once.
func (f shelf[T]) names(s *policy.Store) []string {
	var names []string
	for _, h := range f.all(s) {
		if q := fmt.Sprintf("%q", *f.name(h.object)); !slices.Contains(names, q) {
			names = append(names, q)
		}
	}
	slices.Sort(names)
	return names
}

func (f shelf[T]) exists(s *policy.Store, name string) bool {
	return slices.ContainsFunc(f.all(s), func(h holder[T]) bool { return *f.name(h.object) == name })
}

// insert adds an object that is new: to a policy, or, without one, beside all.
func (f shelf[T]) insert(s *policy.Store, object T, in string) error {
	name := *f.name(&object)
	if f.exists(s, name) {
		return invalid("there is a %s %q already; change it by set, or use another name", f.what, name)
	}
	to := f.loose(s)
	if in != "" {
		p, err := policyNamed(s, in)
		if err != nil {
			return err
		}
		to = f.of(p)
	}
	*to = append(*to, object)
	return nil
}

// users returns the rules that name an object which these policies carry.
func (f shelf[T]) users(found []holder[T]) []string {
	var users []string
	for _, h := range found {
		if h.policy == nil {
			continue
		}
		for i := range h.policy.Rules {
			if r := &h.policy.Rules[i]; *f.used(r) == *f.name(h.object) {
				users = append(users, fmt.Sprintf("rule %q of policy %q", r.Name, h.policy.Name))
			}
		}
	}
	return users
}

// rename gives all copies another name, and has the rules follow.
func (f shelf[T]) rename(s *policy.Store, found []holder[T], name string) error {
	if f.exists(s, name) {
		return invalid("there is a %s %q already", f.what, name)
	}
	old := *f.name(found[0].object)
	for _, h := range found {
		*f.name(h.object) = name
		for i := 0; h.policy != nil && i < len(h.policy.Rules); i++ {
			if used := f.used(&h.policy.Rules[i]); *used == old {
				*used = name
			}
		}
	}
	return nil
}

// remove takes an object out of the store, unless a rule names it.
func (f shelf[T]) remove(s *policy.Store, name, in string) error {
	found, err := f.find(s, name, in)
	if err != nil {
		return err
	}
	if users := f.users(found); len(users) > 0 {
		return invalid("%s %q is in use: by %s; change or delete that first", f.what, name, strings.Join(users, ", "))
	}
	named := func(o T) bool { return *f.name(&o) == name }
	for _, h := range found {
		from := f.loose(s)
		if h.policy != nil {
			from = f.of(h.policy)
		}
		*from = slices.DeleteFunc(*from, named)
	}
	return nil
}

// attach has a policy carry what one of its rules names: its own, or what the
// store has under the name.
func (f shelf[T]) attach(s *policy.Store, p *policy.Policy, name string) error {
	named := func(o T) bool { return *f.name(&o) == name }
	if slices.ContainsFunc(*f.of(p), named) {
		return nil
	}
	found, err := f.find(s, name, "")
	if err != nil {
		return err
	}
	*f.of(p) = append(*f.of(p), *found[0].object)
	*f.loose(s) = slices.DeleteFunc(*f.loose(s), named)
	return nil
}

// attachAction is attach for a rule's action, which may be a built-in one.
func attachAction(s *policy.Store, p *policy.Policy, name string) error {
	if name == sadb.Permit.String() || name == sadb.Block.String() {
		return nil
	}
	return actionShelf().attach(s, p, name)
}

// ruleNamed returns the index of a rule.
func ruleNamed(p *policy.Policy, name string) (int, error) {
	var names []string
	for i, r := range p.Rules {
		if r.Name == name {
			return i, nil
		}
		names = append(names, fmt.Sprintf("%q", r.Name))
	}
	return 0, notFound("policy %q has no rule %q; it has: %s", p.Name, name, listed(names))
}
