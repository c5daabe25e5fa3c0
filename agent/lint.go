package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// Lint says what is probably not meant in a policy, with what this host knows of
// itself. The work is done outside of the loop.
func (a *Agent) Lint(ctx context.Context, r control.LintRequest) (control.LintResult, error) {
	env, err := r.Environment()
	if err != nil {
		return control.LintResult{}, err
	}
	var given *policy.Policy
	if r.Document != "" {
		if given, err = a.parsed(r.Document); err != nil {
			return control.LintResult{}, err
		}
	}
	subject, err := ask(ctx, a, func(time.Time) (linted, error) { return a.toLint(r.Policy, given, env) })
	if err != nil {
		return control.LintResult{}, err
	}
	found, err := policy.Lint(subject.policy, subject.env)
	if err != nil {
		return control.LintResult{}, refused(fmt.Sprintf("policy %q is not valid", subject.policy.Name), err)
	}
	return control.LintResult{SchemaVersion: control.SchemaVersion, Policy: subject.policy.Name, Origin: subject.origin, Host: true,
		Findings: control.Findings(found)}, nil
}

// parsed reads a document that a caller sends.
func (a *Agent) parsed(document string) (*policy.Policy, error) {
	if a.cfg.Library.Parse == nil {
		return nil, &control.Error{Code: control.Failed, Message: "this agent reads no documents"}
	}
	p, err := a.cfg.Library.Parse("document", []byte(document))
	if err != nil {
		return nil, refused("the document is not valid", err)
	}
	return p, nil
}

// linted is a policy and what is known of the host.
type linted struct {
	policy *policy.Policy
	origin string
	env    policy.Environment
}

// toLint returns the policy of a name, "" being the one in force, or the one
// given, with the facts of this host.
func (a *Agent) toLint(name string, given *policy.Policy, env policy.Environment) (linted, error) {
	l := linted{policy: given, origin: "document"}
	if given == nil {
		c, err := a.viewed(name)
		if err != nil {
			return linted{}, err
		}
		l.policy, l.origin = c.policy, c.origin
	}
	h := a.hostFor(l.policy)
	env.Host = &h
	for _, s := range h.Sets[policy.DNSServers] {
		if !s.IsLoopback() {
			env.Servers = append(env.Servers, policy.DNSServer(s)...)
		}
	}
	if a.carries.Name != "" {
		env.Suites, env.NoTunnels = slices.Clone(a.carries.Suites), !a.carries.ModeTunnel
	}
	env.Unusable, env.Secured = a.unusableMethods(l.policy), a.securedPeers()
	l.env = env
	return l, nil
}

// unusableMethods returns why this host cannot use an authentication method of a
// policy: asked now, in the loop, for all of them.
func (a *Agent) unusableMethods(p *policy.Policy) func(policy.AuthMethod) string {
	t := trial{unusable: a.cfg.Unusable, done: map[provable]string{}}
	for _, r := range p.Rules {
		t.add(nil, "", r.Authentication)
	}
	t.add(nil, "", p.DefaultResponse.Authentication)
	return t.method
}

// securedPeers returns with whom an association in transport mode is in force
// now.
func (a *Agent) securedPeers() func(netip.Addr) bool {
	peers := map[netip.Addr]bool{}
	for _, p := range a.book.All() {
		if p.Mode == sadb.Transport {
			peers[plain(p.Remote)] = true
		}
	}
	return func(peer netip.Addr) bool { return peers[plain(peer)] }
}
