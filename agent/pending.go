package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/ike"
	"ipsecagent/policy"
)

// retryRollback is how soon a rollback that failed is tried again.
const retryRollback = 10 * time.Second

// pending is a policy that is in force and that nobody has confirmed yet. What
// is assigned is still the one before: an agent that is started anew knows no
// other. Associations of the one before stay, too.
type pending struct {
	as       assignment
	document []byte
	applied  time.Time
	until    time.Time
	former   inForce
	timer    *timer
	problem  string // why it could not be rolled back; "": that was not tried
}

// pendingMark is what the store keeps of it: enough to say what became of it.
type pendingMark struct {
	Policy  string    `json:"policy"`
	Applied time.Time `json:"applied"`
}

// Apply puts the policy of a document in force, for good or until it is
// confirmed.
func (a *Agent) Apply(ctx context.Context, r control.ApplyRequest) (control.ApplyResult, error) {
	if err := r.Validate(); err != nil {
		return control.ApplyResult{}, err
	}
	if r.DryRun {
		return a.dryRun(ctx, r)
	}
	return ask(ctx, a, func(now time.Time) (control.ApplyResult, error) { return a.apply(now, r) })
}

// Confirm keeps the policy that waits. Who asks has to have come after it was
// applied: that a session from before goes on says nothing.
func (a *Agent) Confirm(ctx context.Context, began time.Time) (control.ApplyResult, error) {
	return ask(ctx, a, func(now time.Time) (control.ApplyResult, error) {
		p := a.pending
		switch {
		case p == nil:
			return control.ApplyResult{}, &control.Error{Code: control.NotFound, Message: "no policy waits to be confirmed: it has been confirmed or rolled back already (ipsecctl events says which)"}
		case !began.After(p.applied):
			return control.ApplyResult{}, &control.Error{Code: control.NotPermitted, Message: "this connection to the agent is older than the policy that waits: make a new one"}
		}
		if err := a.confirm(now); err != nil {
			return control.ApplyResult{}, err
		}
		a.event(now, control.EventConfirmed, "info", fmt.Sprintf("policy %q is confirmed and stays in force", p.as.Name),
			map[string]string{"policy": p.as.Name, "origin": a.inForce.origin, "before": p.former.name})
		return a.applyResult(), nil
	})
}

// Rollback puts in force again what was before the policy that waits, or else
// before the last one that was applied.
func (a *Agent) Rollback(ctx context.Context) (control.ApplyResult, error) {
	return ask(ctx, a, func(now time.Time) (control.ApplyResult, error) {
		if a.pending == nil {
			return a.rollBackConfirmed(now)
		}
		if err := a.rollBack(now, "asked for"); err != nil {
			return control.ApplyResult{}, err
		}
		return a.applyResult(), nil
	})
}

func (a *Agent) applyResult() control.ApplyResult {
	return control.ApplyResult{AssignResult: a.result(), Pending: a.pendingStatus()}
}

// pendingStatus says what waits to be confirmed; nil: nothing does.
func (a *Agent) pendingStatus() *control.Pending {
	p := a.pending
	if p == nil {
		return nil
	}
	return &control.Pending{Policy: p.as.Name, Before: p.former.name, Applied: p.applied, Until: p.until, Problem: p.problem}
}

// refusePending refuses what would decide over a policy that waits without
// saying so.
func (a *Agent) refusePending() error {
	if a.pending == nil {
		return nil
	}
	return &control.Error{Code: control.Failed, Message: fmt.Sprintf("policy %q is applied and waits until %s to be confirmed: ipsecctl confirm or ipsecctl rollback first",
		a.pending.as.Name, a.pending.until.Format(time.TimeOnly))}
}

func (a *Agent) apply(now time.Time, r control.ApplyRequest) (control.ApplyResult, error) {
	var none control.ApplyResult
	if err := errors.Join(a.refusePending(), a.refuseUnderDirectory()); err != nil {
		return none, err
	}
	c, err := a.applied(now, r)
	if err != nil {
		return none, err
	}
	if a.inForce.state == 0 && r.Confirm != 0 {
		return none, &control.Error{Code: control.Failed, Message: "what is in force now is not known, so that it could not be put in force again: assign a policy, or apply without --confirm"}
	}
	warnings, err := a.setKeys(now, control.AssignRequest{Keys: r.Keys})
	if err != nil {
		return none, err
	}
	if err := a.putPending(now, c, r); err != nil {
		return none, err
	}
	result := a.applyResult()
	result.Warnings = append(result.Warnings, warnings...)
	return result, nil
}

// applied reads and prepares the document of a request. Nothing is changed.
func (a *Agent) applied(now time.Time, r control.ApplyRequest) (candidate, error) {
	if a.cfg.Library.Read == nil || a.cfg.Library.Save == nil || a.cfg.Library.Document == nil {
		return candidate{}, &control.Error{Code: control.Failed, Message: "this agent takes no documents"}
	}
	p, err := a.cfg.Library.Read(cmp.Or(r.Source, "document"), []byte(r.Document))
	if err != nil {
		return candidate{}, refused("the policy is not applied, nothing was changed", err)
	}
	if err := a.mayBeCalled(p.Name, r); err != nil {
		return candidate{}, err
	}
	as := assignment{Name: p.Name, Auth: r.Auth}
	if p, err = withAuth(p, as.Auth); err != nil {
		return candidate{}, &control.Error{Code: control.Usage, Message: err.Error()}
	}
	c, err := a.prepare(as, policy.Assignment{State: policy.Assigned, Policy: p, Origin: "applied, not confirmed"})
	if err == nil {
		err = a.assignable(now, p)
	}
	return c, err
}

// mayBeCalled refuses a name that belongs to another policy.
func (a *Agent) mayBeCalled(name string, r control.ApplyRequest) error {
	if err := control.CheckPolicyName(name); err != nil {
		return err
	}
	if _, ok := policy.Predefined(name); ok {
		return &control.Error{Code: control.Invalid, Message: fmt.Sprintf("policy %q has the name of a predefined policy; give it another name", name)}
	}
	text, origin, err := a.cfg.Library.Document(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return &control.Error{Code: control.Failed, Message: err.Error()}
	case string(text) == r.Document || r.Replace:
		return nil
	}
	former, errFormer := a.cfg.Library.Read(origin, text)
	given, errGiven := a.cfg.Library.Read(origin, []byte(r.Document))
	if errFormer == nil && errGiven == nil && reflect.DeepEqual(former, given) {
		return nil
	}
	return &control.Error{Code: control.Invalid, Message: fmt.Sprintf("%s holds another policy %q: give this one another name, or let it take the place of that one with --replace", origin, name)}
}

// putPending puts a candidate in force beside what is assigned, and, unless it
// is to wait, in its place.
func (a *Agent) putPending(now time.Time, c candidate, r control.ApplyRequest) error {
	wait := time.Duration(r.Confirm) * time.Second
	p := &pending{as: c.as, document: []byte(r.Document), applied: now, until: now.Add(wait), former: a.inForce}
	if err := a.store.keepPending(&pendingMark{c.as.Name, now}); err != nil {
		return &control.Error{Code: control.Failed, Message: err.Error()}
	}
	a.pending = p
	if _, err := a.enforce(now, c); err != nil {
		a.forgetPending(now)
		return err
	}
	p.applied = time.Now() // a connection from before the filters proves nothing
	a.pollLater(now)
	a.watchTunnels(now)
	if wait == 0 {
		return a.settlePending(now)
	}
	p.timer = a.timers.at(p.until, func(now time.Time) { a.rollBackLate(now, p) })
	a.event(now, control.EventPending, "warning", fmt.Sprintf("policy %q is in force for %s unless it is confirmed", c.as.Name, wait),
		map[string]string{"policy": c.as.Name, "before": p.former.name})
	return nil
}

// settlePending confirms at once what does not wait. What cannot be kept does
// not stay in force either.
func (a *Agent) settlePending(now time.Time) error {
	if err := a.confirm(now); err != nil {
		return errors.Join(err, a.rollBack(now, "it could not be kept"))
	}
	a.reportApplied(now, "applied")
	return nil
}

// forgetPending ends the waiting, however it was decided.
func (a *Agent) forgetPending(now time.Time) {
	a.timers.stop(a.pending.timer)
	a.pending = nil
	a.problem("rollback", "")
	if err := a.store.keepPending(nil); err != nil {
		a.event(now, control.EventAgent, "warning", err.Error(), nil)
	}
}

// confirm makes the policy that waits the one that is assigned: its document
// goes into the folder, and what it does not want ends.
func (a *Agent) confirm(now time.Time) error {
	p := a.pending
	before, err := a.beforeApply(p)
	if err != nil {
		return &control.Error{Code: control.Failed, Message: err.Error()}
	}
	origin, err := a.cfg.Library.Save(p.as.Name, p.document)
	if err != nil {
		return &control.Error{Code: control.Failed, Message: fmt.Sprintf("policy %q could not be kept and is not confirmed: %v", p.as.Name, err)}
	}
	f := a.inForce
	a.keep(now, candidate{state: f.state, as: p.as, origin: origin, policy: f.policy, compiled: f.compiled})
	if words := a.problems["assigned"]; words != "" {
		return &control.Error{Code: control.Failed, Message: fmt.Sprintf("policy %q is not confirmed: %s", p.as.Name, words)}
	}
	a.inForce.origin, a.assigned = origin, &p.as
	a.remember(now, before)
	a.problem("state", "")
	a.forgetPending(now)
	a.sweep(now)
	a.cfg.IKE.Submit(ike.Recheck{})
	a.reloadAfter(now)
	return nil
}

// rollBackLate rolls back a policy that nobody has confirmed in time.
func (a *Agent) rollBackLate(now time.Time, p *pending) {
	if a.pending != p {
		return
	}
	if err := a.rollBack(now, "it was not confirmed in time"); err != nil {
		p.timer = a.timers.at(now.Add(retryRollback), func(now time.Time) { a.rollBackLate(now, p) })
	}
}

// rollBack puts in force again what was before the policy that waits. If that
// cannot be, the policy that waits stays, and nothing is opened.
func (a *Agent) rollBack(now time.Time, cause string) error {
	p := a.pending
	c := a.formerly(p.former)
	a.pending = nil // its associations go now, those of the one before stay
	if _, err := a.enforce(now, c); err != nil {
		a.pending = p
		a.failRollback(now, err)
		return err
	}
	a.pending = p
	a.forgetPending(now)
	a.pollLater(now)
	a.watchTunnels(now)
	a.event(now, control.EventRolledBack, "warning", fmt.Sprintf("policy %q is rolled back: %s; %s", p.as.Name, cause, inForceWords(c)),
		map[string]string{"policy": p.as.Name, "before": c.as.Name, "cause": cause})
	a.reloadAfter(now)
	return nil
}

// reloadAfter has what changed at the source, while a policy waited, its turn.
func (a *Agent) reloadAfter(now time.Time) {
	// What does not load is a problem by itself, and changes nothing.
	_ = a.reload(now, "the waiting policy is decided")
}

// formerly returns what was in force, for what the host is now. Where it cannot
// be compiled any more, its former filters are as good as ever.
func (a *Agent) formerly(f inForce) candidate {
	c := candidate{state: f.state, as: f.as(), origin: f.origin, cached: f.cached,
		policy: f.policy, compiled: f.compiled, warnings: f.warnings}
	if f.state != policy.Assigned {
		return c
	}
	if again := c; a.compile(&again) == nil {
		again.warnings = f.warnings
		return again
	}
	return c
}

func (a *Agent) failRollback(now time.Time, err error) {
	p := a.pending
	words := fmt.Sprintf("policy %q could not be rolled back and stays in force, it is tried again: %s", p.as.Name, firstLine(err.Error()))
	if p.problem != words {
		a.event(now, control.EventRolledBack, "error", words, map[string]string{"policy": p.as.Name, "before": p.former.name})
	}
	p.problem = words
	a.problem("rollback", words)
}

func inForceWords(c candidate) string {
	if c.state != policy.Assigned {
		return "no policy is in force, as before"
	}
	return fmt.Sprintf("policy %q is in force again", c.as.Name)
}

// reportLost says that a policy which an earlier process had applied was never
// confirmed: what is assigned is the one before.
func (a *Agent) reportLost(now time.Time, lost *pendingMark) {
	if lost == nil {
		return
	}
	a.event(now, control.EventRolledBack, "warning", fmt.Sprintf("policy %q, applied %s, was not confirmed before the agent was started anew: what was assigned before it counts again", lost.Policy, lost.Applied.Format(time.DateTime)),
		map[string]string{"policy": lost.Policy, "cause": "the agent was started anew"})
	if err := a.store.keepPending(nil); err != nil {
		a.event(now, control.EventAgent, "warning", err.Error(), nil)
	}
}

// maxChanges bounds what a dry run lists.
const maxChanges = 200

// dryRun says what the policy of a document would change. The comparing is done
// outside of the loop.
func (a *Agent) dryRun(ctx context.Context, r control.ApplyRequest) (control.ApplyResult, error) {
	type sides struct {
		before, after policy.Side
		c             candidate
	}
	s, err := ask(ctx, a, func(now time.Time) (sides, error) {
		c, err := a.applied(now, r)
		if err != nil {
			return sides{}, err
		}
		before := policy.Side{Policy: a.inForce.policy, Compiled: a.inForce.compiled}
		if a.inForce.state != policy.Assigned {
			before = policy.Side{Policy: &policy.Policy{}, Compiled: &policy.Compiled{}}
		}
		return sides{before, policy.Side{Policy: c.policy, Compiled: c.compiled}, c}, nil
	})
	if err != nil {
		return control.ApplyResult{}, err
	}
	c := s.c
	return control.ApplyResult{DryRun: true, Changes: changes(policy.Diff(s.before, s.after)), AssignResult: control.AssignResult{
		SchemaVersion: control.SchemaVersion, Policy: c.as.Name, Origin: c.origin, Filters: len(c.compiled.Filters), Warnings: c.warnings}}, nil
}

// changes says in words which traffic would be treated differently.
func changes(d policy.Difference) []string {
	var words []string
	for i, f := range d.Flows {
		if i == maxChanges {
			break
		}
		partly := ""
		if f.Partly {
			partly = ", in part"
		}
		words = append(words, fmt.Sprintf("%s, %s%s: %s -> %s (for example %s)", f.Traffic, f.Dir, partly, f.Before, f.After, f.Example))
	}
	if more := len(d.Flows) + d.MoreFlows - len(words); more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	if !d.Whole {
		words = append(words, "not all traffic was compared: there are too many filters")
	}
	return words
}
