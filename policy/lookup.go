package policy

import "ipsecagent/sadb"

// The filter actions that exist in every policy without a definition.
const (
	builtinPermit = "permit"
	builtinBlock  = "block"
)

// builtin returns the filter action of a built-in name.
func builtin(name string) (*FilterAction, bool) {
	switch name {
	case builtinPermit:
		return &FilterAction{Name: name, Kind: sadb.Permit}, true
	case builtinBlock:
		return &FilterAction{Name: name, Kind: sadb.Block}, true
	}
	return nil, false
}

// objects finds filter lists and actions by name: a policy may have thousands.
type objects struct {
	lists   map[string]int
	actions map[string]*FilterAction
}

// objects indexes p. Of two of one name, which Validate refuses, the first counts.
func (p *Policy) objects() objects {
	o := objects{make(map[string]int, len(p.FilterLists)), make(map[string]*FilterAction, len(p.FilterActions))}
	for i := range p.FilterLists {
		if _, again := o.lists[p.FilterLists[i].Name]; !again {
			o.lists[p.FilterLists[i].Name] = i
		}
	}
	for i := range p.FilterActions {
		if _, again := o.actions[p.FilterActions[i].Name]; !again {
			o.actions[p.FilterActions[i].Name] = &p.FilterActions[i]
		}
	}
	return o
}

// list returns the index of a filter list, -1 when there is none.
func (o objects) list(name string) int {
	if i, ok := o.lists[name]; ok {
		return i
	}
	return -1
}

// action returns the filter action of that name, built-in ones included, nil
// when there is none.
func (o objects) action(name string) *FilterAction {
	if a, ok := builtin(name); ok {
		return a
	}
	return o.actions[name]
}

// action returns the filter action of that name, built-in ones included, nil
// when there is none.
func (p *Policy) action(name string) *FilterAction {
	if a, ok := builtin(name); ok {
		return a
	}
	for i := range p.FilterActions {
		if p.FilterActions[i].Name == name {
			return &p.FilterActions[i]
		}
	}
	return nil
}

// Negotiates reports whether the action of a rule negotiates security.
func (p *Policy) Negotiates(r Rule) bool {
	a := p.action(r.FilterAction)
	return a != nil && a.Kind == sadb.Negotiate
}

// label is the rule in the words of an administrator: its name, or its GUID.
func (r *Rule) label() string {
	if r.Name != "" {
		return r.Name
	}
	return r.GUID
}

// identity is what names a rule for ever: its GUID, or its name.
func (r *Rule) identity() string {
	if r.GUID != "" {
		return r.GUID
	}
	return r.Name
}
