package agent

import (
	"bytes"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
)

// keep writes what is assigned, and the policy itself for the day its source
// does not load.
func (a *Agent) keep(now time.Time, c candidate) {
	switch c.as.From {
	case "":
		a.keepLocal(now, c)
	case fromDirectory:
		last := a.copyOf(now, c)
		if last == nil || c.cached && !a.copyFailed && a.domain.says(last) {
			return // it is the copy itself
		}
		a.domain = last
		a.keepDirectory(last)
	}
}

// says reports whether two copies are of the same policy.
func (g *lastGood) says(other *lastGood) bool {
	return g != nil && g.Name == other.Name && bytes.Equal(g.Document, other.Document)
}

// copyOf is the copy of a policy for the day its source does not load; nil: there
// is none.
func (a *Agent) copyOf(now time.Time, c candidate) *lastGood {
	if c.state != policy.Assigned || a.cfg.Library.Marshal == nil {
		return nil
	}
	document, err := a.cfg.Library.Marshal(c.policy)
	if err != nil {
		a.event(now, control.EventAgent, "warning", "the policy has no copy for a restart without its source: "+err.Error(), nil)
		return nil
	}
	return &lastGood{Name: c.as.Name, Auth: c.as.Auth, Compat: c.as.Compat, Origin: c.origin, Document: document, Applied: now}
}

// keepLocal writes what is assigned on this host.
func (a *Agent) keepLocal(now time.Time, c candidate) {
	last := a.copyOf(now, c)
	a.problem("assigned", "")
	if err := a.store.assign(c.as, last); err != nil {
		a.problem("assigned", "what is assigned could not be written and would be forgotten at a restart: "+err.Error())
		return
	}
	a.last = last
}
