package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
)

var _ control.Backend = (*Agent)(nil)

// Assign puts a policy in force and remembers it. A policy that is not valid
// changes nothing.
func (a *Agent) Assign(ctx context.Context, r control.AssignRequest) (control.AssignResult, error) {
	return ask(ctx, a, func(now time.Time) (control.AssignResult, error) { return a.assign(now, r) })
}

// Unassign takes the policy out of force: all filters and associations go,
// traffic passes unprotected.
func (a *Agent) Unassign(ctx context.Context) (control.AssignResult, error) {
	return ask(ctx, a, func(now time.Time) (control.AssignResult, error) {
		if err := a.refusePending(); err != nil {
			return control.AssignResult{}, err
		}
		c, err := a.prepare(assignment{}, policy.Assignment{State: policy.None})
		if err != nil {
			return control.AssignResult{}, err
		}
		a.remember(now, nil)
		return a.putAssigned(now, c, "unassigned")
	})
}

// Reload reads the host's facts and the policy source again and puts what they
// say in force.
func (a *Agent) Reload(ctx context.Context) (control.AssignResult, error) {
	return ask(ctx, a, func(now time.Time) (control.AssignResult, error) {
		a.readHost(now)
		a.forgiveAll(now) // keys may have changed, or the administrator knows better
		if err := a.reload(now, "asked for"); err != nil {
			return control.AssignResult{}, err
		}
		result := a.result()
		if a.pending != nil {
			result.Warnings = slices.Concat(result.Warnings, []string{"a policy waits to be confirmed: what the folder says is looked at when that is decided"})
		}
		result.Warnings = slices.Concat(result.Warnings, a.broken)
		return result, nil
	})
}

// Problem sets what makes the state degraded, by kind: something that the
// agent's surroundings know. Words "" end it.
func (a *Agent) Problem(ctx context.Context, kind, words string) error {
	_, err := ask(ctx, a, func(now time.Time) (struct{}, error) {
		if words != "" && words != a.problems[kind] {
			a.event(now, control.EventAgent, "error", words, nil)
		}
		a.problem(kind, words)
		return struct{}{}, nil
	})
	return err
}

// Report records something that the agent's surroundings know, as an event of
// a kind that control declares.
func (a *Agent) Report(ctx context.Context, kind, severity, words string, fields map[string]string) error {
	_, err := ask(ctx, a, func(now time.Time) (struct{}, error) {
		a.event(now, kind, severity, words, fields)
		return struct{}{}, nil
	})
	return err
}

// Events returns the events of the past and, with follow, those to come until
// ctx ends.
func (a *Agent) Events(ctx context.Context, follow bool) (<-chan control.Event, error) {
	events, err := ask(ctx, a, func(time.Time) (chan control.Event, error) { return a.journal.follow(follow) })
	if err != nil {
		return nil, err
	}
	if follow {
		context.AfterFunc(ctx, func() { a.leave(events) })
	}
	return events, nil
}

// leave ends a follower whose reader has gone.
func (a *Agent) leave(events chan control.Event) {
	select {
	case a.calls <- func(time.Time) { a.journal.unfollow(events) }:
	case <-a.done:
	}
}

func (a *Agent) assign(now time.Time, r control.AssignRequest) (control.AssignResult, error) {
	if err := checkAssign(r, a.cfg.SetKeys != nil); err != nil {
		return control.AssignResult{}, err
	}
	if err := a.refusePending(); err != nil {
		return control.AssignResult{}, err
	}
	c, err := a.candidate(assignment{Name: r.Policy, Auth: r.Auth, Compat: r.Compat})
	if err != nil { // before the keys change
		a.reportProblems(now, r.Policy, err)
		return control.AssignResult{}, err
	}
	if err := a.assignable(now, c.policy); err != nil {
		a.reportProblems(now, r.Policy, err)
		return control.AssignResult{}, err
	}
	warnings, err := a.setKeys(now, r)
	if err != nil {
		return control.AssignResult{}, err
	}
	result, err := a.putAssigned(now, c, "assigned")
	a.remember(now, nil)
	result.Warnings = append(result.Warnings, warnings...)
	return result, err
}

func checkAssign(r control.AssignRequest, takesKeys bool) error {
	usage := func(words string) error { return &control.Error{Code: control.Usage, Message: words} }
	switch {
	case r.Policy == "":
		return usage("no policy is named: ipsecctl assign NAME, for example client; to end all protection: ipsecctl unassign")
	case r.Auth == control.AuthPSKFile && r.Keys == "":
		return usage("psk-file needs the preshared keys; the file is empty")
	case r.Auth != control.AuthPSKFile && r.Keys != "":
		return usage("preshared keys are given, but not --auth psk-file:FILE")
	case r.Keys != "" && !takesKeys:
		return usage("this agent takes no preshared keys")
	}
	if r.Auth == "" {
		return nil
	}
	if _, err := authOf(r.Auth); err != nil {
		return usage(err.Error())
	}
	return nil
}

// assignable refuses a policy that is right and yet not to be assigned now, on
// this host.
func (a *Agent) assignable(now time.Time, p *policy.Policy) error {
	if err := a.checkProvable(p); err != nil {
		return err
	}
	if err := policy.CheckReport(p, now); err != nil {
		return refused(fmt.Sprintf("policy %q is not assigned, nothing was changed", p.Name), each(err))
	}
	return nil
}

// setKeys puts the keys of a request in force, if it has any.
func (a *Agent) setKeys(now time.Time, r control.AssignRequest) ([]string, error) {
	if r.Keys == "" {
		return nil, nil
	}
	warnings, err := a.cfg.SetKeys(r.Keys)
	if err != nil {
		return nil, &control.Error{Code: control.Invalid, Message: err.Error()}
	}
	a.forgiveAll(now)
	return warnings, nil
}

// candidate loads and prepares what is to be assigned.
func (a *Agent) candidate(as assignment) (candidate, error) {
	got, err := a.source.load(as)
	if err != nil {
		return candidate{}, unreadable(as.Name, err)
	}
	return a.prepare(as, got)
}

// putAssigned puts a candidate in force as what is assigned from now on.
func (a *Agent) putAssigned(now time.Time, c candidate, cause string) (control.AssignResult, error) {
	if a.inForce.from == fromDirectory {
		return a.below(now, c), nil
	}
	enforced, err := a.persistentInstead(c)
	if err == nil {
		err = a.put(now, enforced, cause)
	}
	if err != nil {
		return control.AssignResult{}, err
	}
	if enforced.as.From != "" {
		a.keepLocal(now, c)
	}
	a.assigned = &c.as
	a.problem("state", "")
	return a.result(), nil
}

// result says what is in force now.
func (a *Agent) result() control.AssignResult {
	r := control.AssignResult{SchemaVersion: control.SchemaVersion, Policy: a.inForce.name, Origin: a.inForce.origin, Warnings: slices.Concat(a.reportOnly(), a.inForce.warnings)}
	if words := a.problems[identitiesProblem]; words != "" {
		r.Warnings = append(r.Warnings, words)
	}
	if a.inForce.compiled != nil {
		r.Filters = len(a.inForce.compiled.Filters)
	}
	return r
}
