package gpipsec

import (
	"fmt"
	"slices"
	"strconv"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// complete returns a copy of a store in the form a directory keeps it: every
// object has a GUID in one spelling, a policy carries what its rules use in the
// order of use, the rest stands beside the policies.
func complete(s policy.Store) (policy.Store, []Problem) {
	c := &completer{lists: map[GUID]any{}, actions: map[GUID]any{}, used: map[string]bool{}}
	var all policy.Store
	all.Assigned = s.Assigned
	for _, p := range s.Policies {
		all.Policies = append(all.Policies, c.policy(p))
	}
	for _, l := range append(slices.Clone(s.FilterLists), c.spareLists...) {
		if l = c.list("", l); !c.used[l.GUID] {
			all.FilterLists = append(all.FilterLists, l)
		}
		c.used[l.GUID] = true
	}
	for _, a := range append(slices.Clone(s.FilterActions), c.spareActions...) {
		if a = c.action("", a); !c.used[a.GUID] {
			all.FilterActions = append(all.FilterActions, a)
		}
		c.used[a.GUID] = true
	}
	return all, c.problems
}

type completer struct {
	// What has which GUID, to tell whether two of one name are one.
	lists, actions map[GUID]any
	used           map[string]bool // the GUIDs of lists and actions taken so far
	spareLists     []policy.FilterList
	spareActions   []policy.FilterAction
	problems       []Problem
}

// guid returns the GUID of an object in one spelling: its own or one derived
// from its names.
func (c *completer) guid(what, own string, parts ...string) string {
	if own == "" {
		return derivedGUID(parts...).String()
	}
	g, err := ParseGUID(own)
	if err != nil || g.IsZero() {
		c.problems = append(c.problems, Problem{what, fmt.Sprintf("%q is not a GUID such as {72385232-70FA-11D1-864C-14A300000000}; correct it or leave it out", own), false})
		return derivedGUID(parts...).String()
	}
	return g.String()
}

func (c *completer) policy(p policy.Policy) policy.Policy {
	what := fmt.Sprintf("policy %q", p.Name)
	p.GUID = c.guid(what, p.GUID, "policy", p.Name)
	p.KeyExchange.GUID = c.guid(what, p.KeyExchange.GUID, "key exchange", p.GUID)
	if p.KeyExchange.Identity != "" {
		p.KeyExchange.Identity = c.guid(what, p.KeyExchange.Identity)
	}
	if hasResponse(p) {
		p.DefaultResponse.GUID = c.guid(what, p.DefaultResponse.GUID, "default response", p.GUID)
		p.DefaultResponse.ActionGUID = c.guid(what, p.DefaultResponse.ActionGUID, "default response action", p.GUID)
	}
	p.Rules = slices.Clone(p.Rules)
	for i := range p.Rules {
		r := &p.Rules[i]
		r.GUID = c.guid(fmt.Sprintf("rule %q", r.Name), r.GUID, "rule", p.GUID, r.Name)
	}
	c.usedLists(&p)
	c.usedActions(&p)
	return p
}

// hasResponse reports whether a policy says anything about the default response
// rule.
func hasResponse(p policy.Policy) bool {
	d := p.DefaultResponse
	return d.Active || d.SessionKeyPFS || d.GUID != "" || d.ActionGUID != "" || len(d.Methods) > 0 || len(d.Authentication) > 0
}

// usedLists keeps the lists that rules use, in their order.
func (c *completer) usedLists(p *policy.Policy) {
	defined, taken := map[string]policy.FilterList{}, map[string]bool{}
	for _, l := range p.FilterLists {
		defined[l.Name] = l
	}
	var used []policy.FilterList
	for _, r := range p.Rules {
		if l, ok := defined[r.FilterList]; ok && !taken[l.Name] {
			l = c.list(p.Name, l)
			used, taken[l.Name], c.used[l.GUID] = append(used, l), true, true
		}
	}
	for _, l := range p.FilterLists {
		if !taken[l.Name] {
			c.spareLists = append(c.spareLists, l)
		}
	}
	p.FilterLists = used
}

// usedActions keeps the actions that rules use, in their order, and defines
// those that are built in here.
func (c *completer) usedActions(p *policy.Policy) {
	defined, taken := map[string]policy.FilterAction{}, map[string]bool{}
	defined["permit"] = policy.FilterAction{Name: "permit", Kind: sadb.Permit}
	defined["block"] = policy.FilterAction{Name: "block", Kind: sadb.Block}
	for _, a := range p.FilterActions {
		defined[a.Name] = a
	}
	var used []policy.FilterAction
	for _, r := range p.Rules {
		if a, ok := defined[r.FilterAction]; ok && !taken[a.Name] {
			a = c.action(p.Name, a)
			used, taken[a.Name], c.used[a.GUID] = append(used, a), true, true
		}
	}
	for _, a := range p.FilterActions {
		if !taken[a.Name] {
			c.spareActions = append(c.spareActions, a)
		}
	}
	p.FilterActions = used
}

func (c *completer) list(owner string, l policy.FilterList) policy.FilterList {
	what := fmt.Sprintf("filter list %q", l.Name)
	l.GUID = c.shared(c.lists, what, l.GUID, owner, extOfFilters(l.Filters))
	l.Filters = slices.Clone(l.Filters)
	for i := range l.Filters {
		f := &l.Filters[i]
		f.GUID = c.guid(fmt.Sprintf("%s, filter %d", what, i+1), f.GUID, "filter", l.GUID, strconv.Itoa(i))
	}
	return l
}

func (c *completer) action(owner string, a policy.FilterAction) policy.FilterAction {
	a.GUID = c.shared(c.actions, fmt.Sprintf("filter action %q", a.Name), a.GUID, owner, struct {
		Kind    GUID
		Setting extAction
	}{actionID(a), extOfAction(a)})
	return a
}

// shared is guid for what policies share: by its name alone where all of one name
// are the same, else by the policy too.
func (c *completer) shared(all map[GUID]any, what, own, owner string, content any) string {
	text := c.guid(what, own, what)
	g := mustGUID(text)
	if have, ok := all[g]; ok && own == "" && !same(have, content) {
		text = c.guid(what, own, what, owner)
		g = mustGUID(text)
	}
	all[g] = content
	return text
}
