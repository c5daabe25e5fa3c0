package agent

import (
	"maps"
	"reflect"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
)

// hostDelay gathers changes of the host.
const hostDelay = 500 * time.Millisecond

// hostChanged has the facts of the host read again soon: changes come in
// crowds, and "me" is symbolic in the driver, so nothing is in a hurry.
func (a *Agent) hostChanged(now time.Time, watching bool) {
	if !watching {
		a.cfg.HostChanged = nil
		if a.ctx.Err() == nil {
			a.problem("host", "the addresses of this host are not watched any more: restart the agent")
		}
		return
	}
	if a.hostDue {
		return
	}
	a.hostDue = true
	a.timers.at(now.Add(hostDelay), a.followHost)
}

// followHost reads the facts of the host and follows what has changed.
func (a *Agent) followHost(now time.Time) {
	a.hostDue = false
	former := a.facts
	if !a.readHost(now) || reflect.DeepEqual(former, a.facts) {
		return
	}
	a.recompile(now, "the addresses or the configuration of this host have changed")
	if !reflect.DeepEqual(former.Sets, a.facts.Sets) {
		a.keepLookups()
	}
	for _, p := range a.book.All() {
		if former.Owns(p.Local) && !a.facts.Owns(p.Local) {
			a.endPair(now, p.ID, ending{reason: "this host has lost the address " + p.Local.String(), tell: true})
			a.deleteSAs(now, p.In) // nothing of it is welcome any more
		}
	}
}

// readHost reads the facts of the host. It keeps the last ones on an error, and
// while the host has no address at all: a link that is down says nothing about
// what the policy is to mean.
func (a *Agent) readHost(now time.Time) bool {
	facts, err := a.cfg.Host()
	if err != nil {
		a.problem("host", "the addresses of this host cannot be read: "+err.Error())
		a.event(now, control.EventAgent, "warning", "the addresses of this host cannot be read: "+err.Error(), nil)
		return false
	}
	a.problem("host", "")
	if hasAddress(a.facts) && !hasAddress(facts) {
		a.problem("host", "this host has lost all its addresses: what is in force stays as it is until it has one")
		return false
	}
	a.facts = facts
	a.lookups.takeSets(now, facts.Sets)
	return true
}

// recompile compiles the policy in force for what the host is now, whatever has
// become of its source since. When that cannot be, the filters stay that are in
// force.
func (a *Agent) recompile(now time.Time, cause string) {
	former := a.inForce
	if former.state != policy.Assigned || a.lost != "" {
		a.reload(now, cause)
		return
	}
	host := a.hostFor(former.policy)
	if reflect.DeepEqual(host, former.host) && maps.Equal(former.snapshot.remoteAccess, remoteAccess(a.facts)) {
		return
	}
	if err := a.enforceAnew(now, cause); err != nil {
		a.problem("recompile", "the filters of the policy do not follow this host, those before stay in force: "+firstLine(err.Error()))
		turn := a.inForce.reloads
		a.timers.at(now.Add(retryDriver), func(now time.Time) {
			if turn == a.inForce.reloads && a.problems["recompile"] != "" {
				a.recompile(now, cause)
			}
		})
	}
}

// enforceAnew compiles and enforces the policy in force once more.
func (a *Agent) enforceAnew(now time.Time, cause string) error {
	former, rejected := a.inForce, a.problems["policy"]
	c := candidate{state: former.state, origin: former.origin, cached: former.cached, policy: former.policy, as: former.as()}
	if err := a.compile(&c); err != nil {
		return err
	}
	left, err := a.carried(c.compiled)
	if err != nil {
		return err
	}
	c.warnings = append(c.warnings, left...)
	changed, err := a.enforce(now, c)
	if err != nil {
		return err
	}
	// A newer version of the policy that was refused stays refused.
	a.inForce.rejected, a.inForce.applied = former.rejected, former.applied
	a.problem("policy", rejected)
	if changed {
		a.reportApplied(now, cause)
	}
	return nil
}
