package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
)

// previous is what was assigned before the last policy that was applied: one
// step back.
type previous struct {
	Assigned assignment `json:"assigned"`
	Last     *lastGood  `json:"last,omitempty"` // nil: no policy was in force
	// Document is the text in the folder that the applied one took the place
	// of; empty: none.
	Document []byte `json:"document,omitempty"`
	Applied  string `json:"applied"` // the policy that was applied
}

// beforeApply returns what is to be remembered when p is confirmed; nil: what
// was in force before is not known.
func (a *Agent) beforeApply(p *pending) (*previous, error) {
	if p.former.state == 0 {
		return nil, nil
	}
	b := &previous{Assigned: p.former.as(), Last: a.last, Applied: p.as.Name}
	if p.former.from != "" { // nothing was assigned on this host
		b.Assigned = assignment{}
	}
	text, _, err := a.cfg.Library.Document(p.as.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case string(text) != string(p.document):
		b.Document = text
	}
	return b, nil
}

// remember keeps what a rollback puts in force; nil: there is nothing.
func (a *Agent) remember(now time.Time, b *previous) {
	a.previous = b
	if err := a.store.keepPrevious(b); err != nil {
		a.event(now, control.EventAgent, "warning", "a rollback will not be possible after a restart: "+err.Error(), nil)
	}
}

// rollBackConfirmed goes one step back from the policy that was applied last.
func (a *Agent) rollBackConfirmed(now time.Time) (control.ApplyResult, error) {
	b := a.previous
	if b == nil {
		return control.ApplyResult{}, &control.Error{Code: control.NotFound, Message: "nothing is to be rolled back: no policy was applied since the last assignment or rollback"}
	}
	undo, err := a.exchange(b)
	if err != nil {
		return control.ApplyResult{}, &control.Error{Code: control.Failed, Message: fmt.Sprintf("policy %q is not rolled back: %v", b.Applied, err)}
	}
	c, err := a.back(b)
	if err == nil {
		_, err = a.putAssigned(now, c, "rolled back")
	}
	if err != nil {
		return control.ApplyResult{}, errors.Join(err, undo())
	}
	a.remember(now, nil)
	a.event(now, control.EventRolledBack, "warning", fmt.Sprintf("policy %q is rolled back: asked for; %s", b.Applied, inForceWords(c)),
		map[string]string{"policy": b.Applied, "before": c.as.Name, "cause": "asked for"})
	return a.applyResult(), nil
}

// exchange puts the document that an applied one took the place of back into the
// folder, and returns what puts the applied one there again.
func (a *Agent) exchange(b *previous) (undo func() error, err error) {
	if b.Document == nil {
		return func() error { return nil }, nil
	}
	applied, _, err := a.cfg.Library.Document(b.Applied)
	if err != nil {
		return nil, err
	}
	if _, err := a.cfg.Library.Save(b.Applied, b.Document); err != nil {
		return nil, err
	}
	return func() error {
		_, err := a.cfg.Library.Save(b.Applied, applied)
		return err
	}, nil
}

// back prepares what was assigned before, from its source or, where that does
// not load any more, from its kept copy.
func (a *Agent) back(b *previous) (candidate, error) {
	if b.Assigned.Name == "" {
		return a.prepare(b.Assigned, policy.Assignment{State: policy.None})
	}
	c, err := a.candidate(b.Assigned)
	if err == nil || b.Last == nil {
		return c, err
	}
	got, errKept := a.source.restore(b.Last)
	if errKept != nil {
		return candidate{}, errors.Join(err, errKept)
	}
	c, errKept = a.prepare(b.Assigned, got)
	c.warnings = append(c.warnings, fmt.Sprintf("policy %q does not load any more, its kept copy is in force: %s", b.Assigned.Name, firstLine(err.Error())))
	return c, errKept
}
