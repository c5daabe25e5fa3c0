package netsh

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"ipsecagent/policy"
)

// Bounds of a store, those of one policy.
const (
	maxObjects = 10_000 // policies, filter lists, filter actions, rules of a policy
	maxFilters = 100_000
)

// objects is a store as netsh sees it: filter lists and filter actions stand
// beside the policies, each once, whichever policies carry it.
type objects struct {
	policies       []*held
	lists, actions shelf
	filters        int // in all lists
	assigned       string
}

// held is a policy with its lists and actions apart.
type held struct {
	policy.Policy
	lists, actions []*object
}

// object is a filter list or a filter action.
type object struct {
	list   *policy.FilterList
	action *policy.FilterAction
}

func (o *object) name() string {
	if o.list != nil {
		return o.list.Name
	}
	return o.action.Name
}

func (o *object) guid() string {
	if o.list != nil {
		return o.list.GUID
	}
	return o.action.GUID
}

func (o *object) rename(name string) {
	if o.list != nil {
		o.list.Name = name
		return
	}
	o.action.Name = name
}

func (o *object) same(p *object) bool {
	return reflect.DeepEqual(o.list, p.list) && reflect.DeepEqual(o.action, p.action)
}

// shelf is the lists, or the actions, of a store in order. Names are compared
// as Windows does, without regard to case, but what matches exactly goes
// first.
type shelf struct {
	kind   string // "filter list", "filter action", for errors
	all    []*object
	byName map[string][]*object // by name in lower case
}

func newShelf(kind string) shelf { return shelf{kind: kind, byName: map[string][]*object{}} }

func (s *shelf) add(o *object) {
	s.all = append(s.all, o)
	s.index(o)
}

func (s *shelf) index(o *object) {
	key := strings.ToLower(o.name())
	s.byName[key] = append(s.byName[key], o)
}

func (s *shelf) unindex(o *object) {
	key := strings.ToLower(o.name())
	s.byName[key] = slices.DeleteFunc(s.byName[key], func(p *object) bool { return p == o })
}

func (s *shelf) rename(o *object, name string) {
	s.unindex(o)
	o.rename(name)
	s.index(o)
}

func (s *shelf) remove(o *object) {
	s.unindex(o)
	s.all = slices.DeleteFunc(s.all, func(p *object) bool { return p == o })
}

// named returns the objects of a name: those that match exactly, else those
// that match without regard to case.
func (s *shelf) named(name string) []*object {
	folded := s.byName[strings.ToLower(name)]
	var exact []*object
	for _, o := range folded {
		if o.name() == name {
			exact = append(exact, o)
		}
	}
	if exact != nil {
		return exact
	}
	return folded
}

// has reports whether an object has exactly that name.
func (s *shelf) has(name string) bool {
	found := s.named(name)
	return len(found) > 0 && found[0].name() == name
}

// put returns the object on the shelf that is the same as o, which it adds
// when there is none.
func (s *shelf) put(o *object) *object {
	for _, p := range s.named(o.name()) {
		if p.same(o) {
			return p
		}
	}
	s.add(o)
	return o
}

// takeApart makes objects of a copy of a store.
func takeApart(store policy.Store) *objects {
	w := &objects{lists: newShelf("filter list"), actions: newShelf("filter action"), assigned: store.Assigned}
	for i := range store.FilterLists {
		w.lists.put(listObject(store.FilterLists[i]))
	}
	for i := range store.FilterActions {
		w.actions.put(actionObject(store.FilterActions[i]))
	}
	for _, p := range store.Policies {
		w.take(p)
	}
	for _, o := range w.lists.all {
		w.filters += len(o.list.Filters)
	}
	return w
}

// take adds a whole policy.
func (w *objects) take(p policy.Policy) {
	h := &held{Policy: p}
	h.FilterLists, h.FilterActions = nil, nil
	h.Rules = slices.Clone(p.Rules)
	for _, l := range p.FilterLists {
		h.lists = append(h.lists, w.lists.put(listObject(l)))
	}
	for _, a := range p.FilterActions {
		h.actions = append(h.actions, w.actions.put(actionObject(a)))
	}
	w.policies = append(w.policies, h)
}

func listObject(l policy.FilterList) *object {
	l.Filters = slices.Clone(l.Filters)
	return &object{list: &l}
}

func actionObject(a policy.FilterAction) *object { return &object{action: &a} }

// store puts the objects together again.
func (w *objects) store() policy.Store {
	s := policy.Store{Assigned: w.assigned}
	carried := map[*object]bool{}
	for _, h := range w.policies {
		p := h.Policy
		for _, o := range h.lists {
			carried[o] = true
			p.FilterLists = append(p.FilterLists, *listObject(*o.list).list)
		}
		for _, o := range h.actions {
			carried[o] = true
			p.FilterActions = append(p.FilterActions, *o.action)
		}
		s.Policies = append(s.Policies, p)
	}
	for _, o := range w.lists.all {
		if !carried[o] {
			s.FilterLists = append(s.FilterLists, *o.list)
		}
	}
	for _, o := range w.actions.all {
		if !carried[o] {
			s.FilterActions = append(s.FilterActions, *o.action)
		}
	}
	return s
}

// carriers returns the names of the policies that carry o.
func (w *objects) carriers(o *object) []string {
	var names []string
	for _, h := range w.policies {
		if slices.Contains(h.lists, o) || slices.Contains(h.actions, o) {
			names = append(names, fmt.Sprintf("%q", h.Name))
		}
	}
	return names
}

// users returns the rules that name o, for errors: 'rule "r" of policy "p"'.
func (w *objects) users(o *object) []string {
	var all []string
	for _, h := range w.policies {
		for i := range h.Rules {
			r := &h.Rules[i]
			if r.FilterList == o.name() && h.list(r.FilterList) == o || r.FilterAction == o.name() && h.action(r.FilterAction) == o {
				all = append(all, fmt.Sprintf("rule %q of policy %q", r.Name, h.Name))
			}
		}
	}
	return all
}

// list returns the list of that name that the policy carries, nil if none.
func (h *held) list(name string) *object { return carriedBy(h.lists, name) }

func (h *held) action(name string) *object { return carriedBy(h.actions, name) }

func carriedBy(all []*object, name string) *object {
	for _, o := range all {
		if o.name() == name {
			return o
		}
	}
	return nil
}

// find returns the one object of a name.
func (w *objects) find(s *shelf, name string) (*object, error) {
	found := s.named(name)
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fmt.Errorf("there is no %s %q%s", s.kind, name, s.known())
	}
	var where []string
	for _, o := range found {
		if c := w.carriers(o); c != nil {
			where = append(where, "policy "+strings.Join(c, " and "))
		}
	}
	return nil, fmt.Errorf("more than one %s is called %q, with different content (%s); give them names of their own first",
		s.kind, name, strings.Join(where, "; "))
}

// known lists some of the names of a shelf, for errors.
func (s *shelf) known() string {
	const most = 8
	var names []string
	for _, o := range s.all[:min(len(s.all), most)] {
		names = append(names, fmt.Sprintf("%q", o.name()))
	}
	switch {
	case len(names) == 0:
		return "; the store has none"
	case len(s.all) > most:
		names = append(names, "…")
	}
	return " (there are " + strings.Join(names, ", ") + ")"
}

// findGUID returns the object of a GUID.
func (s *shelf) findGUID(guid string) (*object, error) {
	for _, o := range s.all {
		if guid != "" && strings.EqualFold(o.guid(), guid) {
			return o, nil
		}
	}
	return nil, fmt.Errorf("there is no %s with the GUID %q", s.kind, guid)
}

// delete takes an object out of the store and of the policies that carry it.
func (w *objects) delete(s *shelf, o *object) {
	s.remove(o)
	for _, h := range w.policies {
		h.lists = slices.DeleteFunc(h.lists, func(p *object) bool { return p == o })
		h.actions = slices.DeleteFunc(h.actions, func(p *object) bool { return p == o })
	}
	if o.list != nil {
		w.filters -= len(o.list.Filters)
	}
}

// policyNamed returns the policy of a name.
func (w *objects) policyNamed(name string) (*held, error) {
	var folded *held
	for _, h := range w.policies {
		if h.Name == name {
			return h, nil
		}
		if strings.EqualFold(h.Name, name) {
			folded = h
		}
	}
	if folded == nil {
		return nil, fmt.Errorf("there is no policy %q", name)
	}
	return folded, nil
}

// carry makes a policy carry the lists and actions that a rule names.
func (h *held) carry(list, action *object) {
	if list != nil && !slices.Contains(h.lists, list) {
		h.lists = append(h.lists, list)
	}
	if action != nil && !slices.Contains(h.actions, action) {
		h.actions = append(h.actions, action)
	}
}
