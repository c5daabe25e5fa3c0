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

// list returns the index of a filter list, -1 when there is none.
func (p *Policy) list(name string) int {
	for i := range p.FilterLists {
		if p.FilterLists[i].Name == name {
			return i
		}
	}
	return -1
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

// identity is what names a rule for ever: its GUID, or its name.
func (r *Rule) identity() string {
	if r.GUID != "" {
		return r.GUID
	}
	return r.Name
}
