package agent

import (
	"fmt"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
)

// Where an assignment comes from; "": an administrator of this host made it.
const (
	fromDirectory  = "directory"
	fromPersistent = "persistent" // it is in force where nothing else is assigned
)

// decided returns what is to be in force: what the directory assigns, else what
// is assigned on this host, else the persistent policy. Not known: nobody has
// ever said anything, or the directory's word is still to come; what is in force
// stays then.
func (a *Agent) decided() (as assignment, got policy.Assignment, known bool, err error) {
	got, heard, err := a.fromDirectory()
	switch {
	case err != nil:
		return assignment{Name: a.domain.Name, From: fromDirectory}, got, true, err
	case heard && got.State == policy.Assigned:
		return assignment{Name: got.Policy.Name, From: fromDirectory}, got, true, nil
	case !heard && a.inForce.from == fromDirectory:
		return as, got, false, nil
	case a.assigned != nil:
		as = *a.assigned
	case !heard && a.cfg.Persistent == "":
		return as, got, false, nil
	case a.held != "" && a.cfg.Persistent == "":
		return as, got, false, nil // that the directory assigns nothing is no reason to open what an earlier agent left
	}
	if as.Name == "" && a.cfg.Persistent != "" {
		as = assignment{Name: a.cfg.Persistent, From: fromPersistent}
	}
	a.source.assigned = as
	got, err = a.source.Fetch(a.ctx)
	return as, got, true, err
}

// fromDirectory returns what the directory assigns: what it says now or, while
// nothing is known of it, the kept copy of what it said last. Not heard: there
// is neither.
func (a *Agent) fromDirectory() (got policy.Assignment, heard bool, err error) {
	if a.cfg.Directory == nil {
		return got, false, nil
	}
	got, err = a.cfg.Directory.Fetch(a.ctx)
	if err == nil {
		a.forgetDirectory(got)
		return got, true, nil
	}
	if a.domain == nil {
		return got, false, nil
	}
	got, err = a.source.restore(a.domain)
	return got, true, err
}

// forgetDirectory drops the kept copy once the directory assigns no policy, and
// tries again while that cannot be written.
func (a *Agent) forgetDirectory(got policy.Assignment) {
	if got.State != policy.None || a.domain == nil && !a.copyFailed {
		return
	}
	a.domain = nil
	a.keepDirectory(nil)
}

// keepDirectory writes what the directory assigned; nil: nothing.
func (a *Agent) keepDirectory(last *lastGood) {
	a.problem("directory copy", "")
	err := a.store.keepDirectory(last)
	a.copyFailed = err != nil
	if err != nil {
		a.problem("directory copy", "what the directory assigned could not be written and would be forgotten at a restart: "+err.Error())
	}
}

// directoryChanged hints that the directory says something else.
func (a *Agent) directoryChanged() <-chan struct{} {
	if a.cfg.Directory == nil {
		return nil
	}
	return a.cfg.Directory.Changed()
}

// followDirectory puts in force what the directory says now.
func (a *Agent) followDirectory(now time.Time) {
	a.noteDirectory(now)
	// What does not take is a problem by itself.
	_ = a.reload(now, "the directory says so")
}

// noteDirectory says how it stands with the directory.
func (a *Agent) noteDirectory(now time.Time) {
	s := a.directoryStatus()
	if s == nil {
		return
	}
	a.problem("directory", s.Problem)
	if s.State == a.directoryState {
		return
	}
	former := a.directoryState
	a.directoryState = s.State
	fields := map[string]string{"state": s.State, "server": s.Server, "site": s.Site}
	switch {
	case s.Problem != "":
		a.event(now, control.EventDirectory, "warning", s.Problem, fields)
	case s.State == control.DirectoryFresh && former != "" && former != control.DirectoryPending:
		a.event(now, control.EventDirectory, "info", "the directory answers again", fields)
	}
}

// directoryStatus says how it stands with the directory; nil: this host takes
// no policy from one.
func (a *Agent) directoryStatus() *control.DirectoryStatus {
	if a.cfg.DirectoryStatus == nil {
		return nil
	}
	s := a.cfg.DirectoryStatus()
	if a.inForce.from == fromDirectory && a.domain != nil {
		s.Copied = a.domain.Applied
	}
	return &s
}

// refuseUnderDirectory refuses what is of no effect while the policy of the
// directory is in force.
func (a *Agent) refuseUnderDirectory() error {
	if a.inForce.from != fromDirectory {
		return nil
	}
	return &control.Error{Code: control.Failed, Message: fmt.Sprintf("policy %q of the directory is in force on this host and overrides its own: change it in the directory; 'ipsecctl assign' says what counts once the directory assigns none", a.inForce.name)}
}

// below keeps what is assigned on this host, while the policy of the directory is
// in force.
func (a *Agent) below(now time.Time, c candidate) control.AssignResult {
	a.keepLocal(now, c)
	a.assigned = &c.as
	r := a.result()
	r.Warnings = nil // they are of another policy
	words := "no policy is assigned on this host now"
	if c.state == policy.Assigned {
		words = fmt.Sprintf("policy %q is assigned on this host and waits", c.as.Name)
	}
	r.Warnings = append(r.Warnings, fmt.Sprintf("%s: policy %q of the directory is in force, which overrides it until the directory assigns none", words, a.inForce.name))
	return r
}

// persistentInstead returns the persistent policy where c would leave this host
// without one.
func (a *Agent) persistentInstead(c candidate) (candidate, error) {
	if c.state != policy.None || a.cfg.Persistent == "" {
		return c, nil
	}
	return a.candidate(assignment{Name: a.cfg.Persistent, From: fromPersistent})
}
