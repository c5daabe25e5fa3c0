package agent

import (
	"slices"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// Enforcement is what has just been put in force (Config.Enforced).
type Enforcement struct {
	State policy.State
	// Policy is its name; "" with the state None.
	Policy string
	// Strict: a filter blocks, or wants traffic secured whatever the peer can.
	Strict bool
}

// tellEnforced says outside that the driver has taken a policy's filters.
func (a *Agent) tellEnforced(c candidate) {
	if a.cfg.Enforced == nil {
		return
	}
	strict := slices.ContainsFunc(c.compiled.SPD(), func(f sadb.Filter) bool {
		return f.Action.Kind == sadb.Block || f.Action.Kind == sadb.Negotiate && !f.Action.AllowClear
	})
	a.cfg.Enforced(Enforcement{State: c.state, Policy: c.as.Name, Strict: strict})
}
