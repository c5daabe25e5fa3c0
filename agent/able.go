package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/auth"
	"ipsecagent/ike"
	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// What this host can do is not the policy's to know: which algorithms its data
// path carries, which identities it can prove, where its tunnels begin.

// tunnelEvery is how often the own end of tunnels is looked up again: a change
// of routes is not noticed otherwise.
const tunnelEvery = 15 * time.Second

// abilities is what the data path carries, as it last said.
type abilities struct {
	Name       string
	Suites     []sadb.Suite
	ModeTunnel bool
}

// hostFor returns the facts that compiling a policy needs.
func (a *Agent) hostFor(p *policy.Policy) policy.Host {
	h := policy.Host{Now: p.Moment(time.Now()), Addresses: a.facts.Addresses, NoUplift: a.cfg.NoUplift, Carries: a.carries.Suites, Exempt: a.cfg.Exemptions, Broadcasts: a.facts.Broadcasts,
		Names: addresses(a.lookups.Names), Sets: addresses(a.lookups.Sets)}
	h.Outer = a.outer(p, h)
	return h
}

// outer looks up where the tunnels of a policy begin on this host, as h knows
// it.
func (a *Agent) outer(p *policy.Policy, h policy.Host) map[netip.Addr]netip.Addr {
	found := map[netip.Addr]netip.Addr{}
	if a.cfg.Source == nil {
		return found
	}
	for _, endpoint := range p.TunnelEndpoints(h) {
		if own, err := a.cfg.Source(endpoint); err == nil && own.IsValid() {
			found[endpoint] = plain(own)
		}
	}
	return found
}

// watchTunnels looks up the own ends of the tunnels in force again and again,
// and compiles the policy anew when one has changed.
func (a *Agent) watchTunnels(now time.Time) {
	p := a.inForce.policy
	if p == nil || !slices.ContainsFunc(p.Rules, func(r policy.Rule) bool { return !r.Tunnel.IsZero() }) {
		return
	}
	turn := a.inForce.reloads
	a.timers.at(now.Add(tunnelEvery), func(now time.Time) {
		if turn != a.inForce.reloads {
			return // another watch has begun
		}
		a.recompile(now, "the way to a tunnel endpoint has changed")
		a.watchTunnels(now)
	})
}

// knowCarried finds out what the data path carries, unless it is known or there
// is none now.
func (a *Agent) knowCarried() {
	if a.lost == "" && a.carries.Name == "" {
		// An error is met again when the filters are put in force.
		_, _ = a.driverState()
	}
}

// carried refuses what the data path of this host cannot carry at all: what looks
// protected must be. It returns what is not offered, in words.
func (a *Agent) carried(c *policy.Compiled) (left []string, err error) {
	var problems []error
	for _, o := range offers(c) {
		switch words, none := a.leftWords(o); {
		case none:
			problems = append(problems, errors.New(words))
		case words != "":
			left = append(left, words)
		}
	}
	return left, errors.Join(append(problems, a.tunnelled(c)...)...)
}

// tunnelled refuses tunnels of a data path that has none.
func (a *Agent) tunnelled(c *policy.Compiled) (problems []error) {
	if a.carries.Name == "" || a.carries.ModeTunnel {
		return nil
	}
	said := map[string]bool{}
	for _, f := range c.Filters {
		if f.Mode == sadb.Tunnel && !said[f.Rule] {
			said[f.Rule] = true
			problems = append(problems, fmt.Errorf("rule %q: the data path (%s) carries no tunnels", f.Rule, a.carries.Name))
		}
	}
	return problems
}

// offer is what a rule negotiates.
type offer struct {
	rule string
	*policy.Negotiation
}

// offers returns what the rules and the default response of a policy negotiate.
func offers(c *policy.Compiled) []offer {
	var all []offer
	seen := map[*policy.Negotiation]bool{}
	for _, f := range c.Filters {
		if f.Negotiation != nil && !seen[f.Negotiation] { // a rule's filters share it
			seen[f.Negotiation] = true
			all = append(all, offer{fmt.Sprintf("rule %q", f.Rule), f.Negotiation})
		}
	}
	if c.DefaultResponse != nil {
		all = append(all, offer{"the default response rule", c.DefaultResponse})
	}
	return all
}

// leftWords says which methods of an offer the data path does not carry; "": it
// carries all. none: nothing is left.
func (a *Agent) leftWords(o offer) (words string, none bool) {
	switch {
	case len(o.Left) == 0:
		return "", false
	case len(o.Proposals) == 0:
		return fmt.Sprintf("%s: the data path (%s) does not carry %s, and the rule has no other method; add one that it carries, or choose another driver (ipsecctl doctor)", o.rule, a.carries.Name, o.LeftWords()), true
	}
	return fmt.Sprintf("%s: the data path (%s) does not carry %s: not offered", o.rule, a.carries.Name, o.LeftWords()), false
}

// authWarnings names the methods by which this host cannot prove itself now.
func (a *Agent) authWarnings(p *policy.Policy) []string {
	var words []string
	for _, u := range a.unusable(p) {
		for _, w := range u.Why {
			if !slices.Contains(words, w) {
				words = append(words, w)
			}
		}
	}
	return words
}

func (a *Agent) unusable(p *policy.Policy) []Unprovable { return UnprovableRules(p, a.cfg.Unusable) }

// trial asks for each requirement once: an answer may cost a chain of
// certificates, and thousands of rules may ask for the same.
type trial struct {
	unusable func(auth.Requirement) string
	done     map[provable]string
}

// add adds a rule if one of its methods cannot be used.
func (t trial) add(to []Unprovable, rule string, methods []policy.AuthMethod) []Unprovable {
	u := Unprovable{Rule: rule}
	for _, m := range methods {
		if why := t.method(m); why != "" {
			u.Why = append(u.Why, why)
		}
	}
	if len(u.Why) == 0 {
		return to
	}
	u.All = len(u.Why) == len(methods)
	return append(to, u)
}

// method says why this host cannot prove itself by a method of the policy; "": it
// can, in at least one of the ways that the method has.
func (t trial) method(m policy.AuthMethod) string {
	why := ""
	for _, r := range requirements([]policy.AuthMethod{m}) {
		if why = t.requirement(r); why == "" {
			return ""
		}
	}
	return why
}

func (t trial) requirement(r auth.Requirement) string {
	if t.unusable == nil {
		return ""
	}
	why, tried := t.done[provableOf(r)]
	if !tried {
		why = t.unusable(r)
		t.done[provableOf(r)] = why
	}
	return why
}

// identitiesChanged offers what this host can prove now, and tries anew what
// failed: keys and certificates come and go while a policy is in force.
func (a *Agent) identitiesChanged(now time.Time, watching bool) {
	if !watching {
		a.cfg.IdentitiesChanged = nil
		return
	}
	if a.inForce.compiled == nil {
		return
	}
	a.inForce.snapshot = newSnapshot(a.inForce.compiled, a.cfg.Unusable).at(a.facts)
	a.cfg.IKE.Submit(ike.SetPolicy{Policy: a.inForce.snapshot.ikePolicy(a.inForce.state)})
	a.forgiveAll(now)
	a.noteUnprovable(now)
}

// identitiesProblem is the kind of the problem that noteUnprovable makes.
const identitiesProblem = "identities"

// noteUnprovable makes it a problem that a rule in force asks for an identity
// that this host does not have (any more).
func (a *Agent) noteUnprovable(now time.Time) {
	var all []string
	if a.inForce.policy != nil {
		for _, u := range UnprovableRules(a.inForce.policy, a.unprovable) {
			if u.All {
				all = append(all, u.Rule+" can secure nothing: "+strings.Join(u.Why, "; "))
			}
		}
	}
	words := strings.Join(all, "; ")
	if words != "" && words != a.problems[identitiesProblem] {
		a.event(now, control.EventAgent, "warning", words, nil)
	}
	a.problem(identitiesProblem, words)
}

// unprovable says why this host cannot satisfy a requirement of the policy in
// force; "": it can.
func (a *Agent) unprovable(r auth.Requirement) string {
	switch {
	case r.Method == auth.PSK && a.cfg.NoKey != nil:
		return a.cfg.NoKey(r.Key)
	case a.cfg.Unusable == nil:
		return ""
	}
	return a.cfg.Unusable(r)
}

// checkProvable refuses to assign a policy under which this host could talk to
// nobody that a rule requires to be secured, for want of any identity.
func (a *Agent) checkProvable(p *policy.Policy) error {
	for _, u := range a.unusable(p) {
		if u.All {
			return &control.Error{Code: control.Invalid, Message: fmt.Sprintf("%s cannot be used on this host, nothing was changed: %s; or choose another method: --auth %s",
				u.Rule, strings.Join(u.Why, "; "), control.AuthWords)}
		}
	}
	return nil
}
