package policy

import (
	"fmt"
	"slices"

	"ipsecagent/sadb"
)

// Warnings reports what is allowed and probably not meant: objects that no
// rule uses, rules that are disabled, filters that never decide, algorithms that
// are no longer safe. It returns nil when there is nothing to say.
func Warnings(p *Policy) []*Problem {
	r := &report{}
	p.warnUnused(r)
	p.warnTunnels(r)
	for i, s := range p.KeyExchange.Methods {
		if s.Weak() {
			r.add(at("keyExchange.methods", i, ""), "main-mode method %v is weak; keep it for old peers only", s)
		}
	}
	for i, a := range p.FilterActions {
		warnMethods(r, at("filterActions", i, "negotiate.methods"), fmt.Sprintf("filter action %q", a.Name), a.Methods)
	}
	warnMethods(r, "defaultResponse.methods", "the default response rule", p.DefaultResponse.Methods)
	return Problems(r.err())
}

// warnTunnels looks at tunnels of two rules, one for each direction: what one
// gateway takes from the first the other takes from the second.
func (p *Policy) warnTunnels(r *report) {
	o := p.objects()
	ways := p.oneWays(o)
	for i := range p.Rules {
		rule := &p.Rules[i]
		list := o.list(rule.FilterList)
		if rule.Disabled || rule.Tunnel.IsZero() || list < 0 {
			continue
		}
		for j := range p.FilterLists[list].Filters {
			f := &p.FilterLists[list].Filters[j]
			other := ways[wayOf(f).back()]
			if f.Mirrored || other == nil || rule.identity() >= other.identity() {
				continue
			}
			if rule.FilterAction != other.FilterAction || !slices.EqualFunc(rule.Authentication, other.Authentication, sameMethod) {
				r.add(at("rules", i, ""), "rules %q and %q are the two directions of one tunnel and differ in filter action or authentication: each gateway goes by the rule for its own outbound traffic, so the two may not agree", rule.label(), other.label())
			}
		}
	}
}

func sameMethod(a, b AuthMethod) bool {
	return a.String() == b.String() && a.ExcludeCAName == b.ExcludeCAName && a.MapToAccount == b.MapToAccount
}

func (p *Policy) warnUnused(r *report) {
	lists, actions := map[string]bool{}, map[string]bool{}
	for i, rule := range p.Rules {
		lists[rule.FilterList] = true
		actions[rule.FilterAction] = true
		if rule.Disabled {
			r.add(at("rules", i, "disabled"), "rule %q is disabled", rule.label())
		}
	}
	for i, l := range p.FilterLists {
		if !lists[l.Name] {
			r.add(at("filterLists", i, ""), "no rule uses filter list %q", l.Name)
		}
		for j, f := range l.Filters {
			if loopback(f.From.Addrs) || loopback(f.To.Addrs) {
				r.add(at(at("filterLists", i, "filters"), j, ""), "filter list %q, filter %d names loopback addresses, whose traffic is never filtered", l.Name, j+1)
			}
		}
	}
	for i, a := range p.FilterActions {
		if !actions[a.Name] {
			r.add(at("filterActions", i, ""), "no rule uses filter action %q", a.Name)
		}
	}
}

// loopback reports whether every address of a is one of the loopback.
func loopback(a sadb.Addrs) bool {
	first, last, ok := a.Bounds()
	return ok && first.IsLoopback() && last.IsLoopback()
}

func warnMethods(r *report, path, what string, methods []SecurityMethod) {
	for i, m := range methods {
		for _, s := range m.Suites {
			if s.Weak() {
				r.add(at(path, i, ""), "%s: security method %v is weak; keep it for old peers only", what, s)
			}
		}
		if defaultBytesOf(m.Suites) == defaultBytes64 && m.Bytes > 10*defaultBytes64 {
			r.add(at(path, i, "bytes"), "%s: %d bytes under one key are too many for a cipher of 64-bit blocks; 100MB is safe", what, m.Bytes)
		}
	}
}
