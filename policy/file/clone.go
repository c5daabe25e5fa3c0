package file

import (
	"slices"

	"ipsecagent/policy"
)

// What a Store is given shares no memory with the documents: an editor may
// change it in place.

func cloneList(l policy.FilterList) policy.FilterList {
	l.Filters = slices.Clone(l.Filters)
	return l
}

func cloneAction(a policy.FilterAction) policy.FilterAction {
	a.Methods = cloneMethods(a.Methods)
	return a
}

func cloneMethods(methods []policy.SecurityMethod) []policy.SecurityMethod {
	methods = slices.Clone(methods)
	for i := range methods {
		methods[i].Suites = slices.Clone(methods[i].Suites)
	}
	return methods
}

func cloneAuthentication(methods []policy.AuthMethod) []policy.AuthMethod {
	methods = slices.Clone(methods)
	for i := range methods {
		methods[i].AcceptPrincipals = slices.Clone(methods[i].AcceptPrincipals)
	}
	return methods
}

func clonePolicy(p policy.Policy) policy.Policy {
	p.KeyExchange.Methods = slices.Clone(p.KeyExchange.Methods)
	p.FilterLists = slices.Clone(p.FilterLists)
	for i, l := range p.FilterLists {
		p.FilterLists[i] = cloneList(l)
	}
	p.FilterActions = slices.Clone(p.FilterActions)
	for i, a := range p.FilterActions {
		p.FilterActions[i] = cloneAction(a)
	}
	p.Rules = slices.Clone(p.Rules)
	for i := range p.Rules {
		p.Rules[i].Authentication = cloneAuthentication(p.Rules[i].Authentication)
	}
	p.DefaultResponse.Methods = cloneMethods(p.DefaultResponse.Methods)
	p.DefaultResponse.Authentication = cloneAuthentication(p.DefaultResponse.Authentication)
	p.Tests = slices.Clone(p.Tests)
	return p
}
