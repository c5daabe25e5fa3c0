package policy

import (
	"fmt"
	"slices"
	"strings"

	"ipsecagent/sadb"
)

// maxProbes bounds how often a whole policy is asked about a packet.
const maxProbes = 200

// rules finds rules that cannot do on this host what they say, and actions that
// do not do what their names say.
func (l *linter) rules() {
	for i := range l.policy.Rules {
		rule := &l.policy.Rules[i]
		if action := l.objects.action(rule.FilterAction); !rule.Disabled && action.Kind == sadb.Negotiate {
			l.identity(at("rules", i, "authentication"), fmt.Sprintf("rule %q", rule.label()), rule.Authentication)
		}
	}
	if d := l.policy.DefaultResponse; d.Active {
		l.identity("defaultResponse.authentication", "the default response rule", d.Authentication)
	}
	l.suites("defaultResponse.methods", "the default response rule", l.compiled.DefaultResponse)
	for i := range l.compiled.Filters {
		f := &l.compiled.Filters[i]
		l.carried(f)
		l.route(f)
		l.sourcePort(i)
	}
	for _, u := range l.compiled.Unresolved {
		if l.env.Host != nil {
			l.add(Finding{Code: FoundNoAddress, Severity: WarningSeverity, Problem: Problem{Path: "filterLists", Message: u.String()},
				Object: fmt.Sprintf("rule %q", u.Rule), Do: "does the name exist, is the set configured on this host? until then write addresses"})
		}
	}
	l.mainMode()
	for i := range l.policy.FilterActions {
		l.name(i)
	}
}

// identity finds authentication that this host has not got.
func (l *linter) identity(path, what string, methods []AuthMethod) {
	if l.env.Unusable == nil {
		return
	}
	var reasons []string
	for _, m := range methods {
		if why := l.env.Unusable(m); why != "" {
			reasons = append(reasons, fmt.Sprintf("%s: %s", m, why))
		}
	}
	f := Finding{Code: FoundNoIdentity, Severity: ErrorSeverity, Object: what, Do: "give this host that identity, or the rule a method it can use"}
	f.Path, f.Message = path, fmt.Sprintf("%s can never negotiate on this host: %s", what, strings.Join(reasons, "; "))
	switch {
	case len(reasons) == 0:
		return
	case len(reasons) < len(methods):
		f.Severity, f.Message = NoteSeverity, fmt.Sprintf("%s: this host cannot use all its methods: %s", what, strings.Join(reasons, "; "))
	}
	l.add(f)
}

// carried finds what the data path of this host has not got.
func (l *linter) carried(f *CompiledFilter) {
	if l.env.NoTunnels && f.Mode == sadb.Tunnel {
		l.aboutFilter(FoundNotCarried, ErrorSeverity, f, "use transport mode, or another data path", "the data path of this host carries no tunnels")
	}
	l.suites(l.pathOf(f), fmt.Sprintf("rule %q", f.Rule), f.Negotiation)
}

// suites finds methods of a negotiation that the data path has not got.
func (l *linter) suites(path, what string, n *Negotiation) {
	if n == nil || len(n.Left) == 0 {
		return
	}
	f := Finding{Code: FoundNotCarried, Severity: WarningSeverity, Object: what, Do: "have the data path carry them, or remove them"}
	f.Path, f.Message = path, fmt.Sprintf("%s: the data path of this host does not carry %s: not offered", what, n.LeftWords())
	if len(n.Proposals) == 0 {
		f.Severity, f.Do = ErrorSeverity, "add a method that the data path carries"
		f.Message = fmt.Sprintf("%s can never negotiate on this host: its data path carries none of %s", what, n.LeftWords())
	}
	l.add(f)
}

// route finds tunnels whose other gateway cannot be reached: they compile to
// blocking filters.
func (l *linter) route(f *CompiledFilter) {
	i, ok := l.rule[f.Rule]
	if !ok || l.policy.Rules[i].Tunnel.IsZero() || f.Mode == sadb.Tunnel {
		return
	}
	l.add(Finding{Code: FoundNoRoute, Severity: ErrorSeverity, Problem: Problem{Path: at("rules", i, "tunnel"),
		Message: fmt.Sprintf("rule %q: this host has no route to the other gateway %s, so the traffic of the tunnel is blocked", f.Rule, l.policy.Rules[i].Tunnel)},
		Object: fmt.Sprintf("rule %q", f.Rule), Do: "give this host a route, or correct the endpoint"})
}

// mainMode finds a policy whose negotiations current systems refuse.
func (l *linter) mainMode() {
	weak := func(s sadb.ISAKMPSuite) bool { return s.Weak() }
	modern := func(s sadb.ISAKMPSuite) bool { return !weak(s) }
	negotiates := l.compiled.DefaultResponse != nil || slices.ContainsFunc(l.compiled.Filters, func(f CompiledFilter) bool { return f.Negotiation != nil })
	if !negotiates || slices.ContainsFunc(l.compiled.KeyExchange.Methods, modern) {
		return
	}
	l.add(Finding{Code: FoundOldMainMode, Severity: WarningSeverity, Problem: Problem{Path: "keyExchange.methods",
		Message: "every main-mode method is weak: systems of today accept none of them, so that no rule can be negotiated with them"},
		Object: fmt.Sprintf("policy %q", l.policy.Name), Do: "list a modern method first, or set uplift: true"})
}

// sourcePort finds permit filters that let in whoever chooses the port to send
// from, where something narrower was meant to stand in the way.
func (l *linter) sourcePort(i int) {
	f := &l.compiled.Filters[i]
	s := f.Selector
	if f.Action.Kind != sadb.Permit || f.Dir&sadb.In == 0 || s.RemotePorts.IsAny() || !s.LocalPorts.IsAny() || f.Rule == ExemptRule {
		return
	}
	if _, one := s.Remote.Single(); one || l.probes == 0 {
		return
	}
	l.probes--
	for family, r := range spaceOf(&f.Filter) {
		if r == nil {
			continue
		}
		q := r.packet(sadb.In, families()[family])
		x := Explain(l.compiled, q)
		if x.Decided != f || x.Next == nil || x.Next.Action.Kind == sadb.Permit || x.Next.Rule == f.Rule {
			continue
		}
		l.aboutFilter(FoundSourcePort, WarningSeverity, f, "let the filter name the port of the other side with one address, or negotiate instead of permitting",
			"lets in whoever sends from port %s, to every %s port of this host: filters are stateless, and the reply of a connection cannot be told from its beginning; without it, %s would say %s",
			s.RemotePorts, sadb.ProtoName(s.Proto), filterName(x.Next), x.Next.Action)
		return
	}
}

// name finds filter actions whose names promise more than they do.
func (l *linter) name(i int) {
	a := &l.policy.FilterActions[i]
	if a.Kind != sadb.Negotiate {
		return
	}
	promises := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(strings.ToLower(a.Name), w) })
	}
	say := func(field, do, format string, args ...any) {
		l.add(Finding{Code: FoundMisleading, Severity: WarningSeverity, Problem: Problem{Path: at("filterActions", i, field), Message: fmt.Sprintf(format, args...)},
			Object: fmt.Sprintf("filter action %q", a.Name), Do: do})
	}
	if promises("require", "must", "enforce", "mandatory", "secure only") && a.AllowClear {
		say("negotiate.allowClear", "take allowClear out, or give it a name that says so", "filter action %q lets traffic go in clear when a peer does not negotiate", a.Name)
	}
	plain := func(m SecurityMethod) bool {
		return !slices.ContainsFunc(m.Suites, func(s sadb.Suite) bool { return s.Encrypts() })
	}
	if promises("encrypt", "confidential") && slices.ContainsFunc(a.Methods, plain) {
		say("negotiate.methods", "take the methods without encryption out, or give it a name that says so", "filter action %q accepts methods that do not encrypt", a.Name)
	}
}
