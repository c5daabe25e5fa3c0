package agent

import (
	"strings"
	"testing"
	"testing/synctest"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
)

// TestALostStateOpensNothing: the state file knows of no policy, and something
// beside it does. The agent puts nothing in force by itself, until somebody says
// what is assigned.
func TestALostStateOpensNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []Enforcement
		r := newRig(t, func(c *Config) {
			c.Remembered = "sql-servers"
			c.Enforced = func(e Enforcement) { told = append(told, e) }
		})
		defer r.stop()
		s := r.status()
		if s.Policy.State != "held" || len(told) != 0 || !strings.Contains(strings.Join(s.Problems, " "), `policy "sql-servers" was in force`) {
			t.Errorf("told %+v, status %+v %v", told, s.Policy, s.Problems)
		}
		if _, err := r.agent.Unassign(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(told) != 1 || told[0] != (Enforcement{State: policy.None}) {
			t.Errorf("told %+v", told)
		}
	})
}

// TestWhatIsInForceIsTold, with whether it lets nothing pass in clear somewhere.
func TestWhatIsInForceIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last Enforcement
		r := newRig(t, func(c *Config) { c.Enforced = func(e Enforcement) { last = e } })
		defer r.stop()
		if last != (Enforcement{State: policy.None}) {
			t.Errorf("at the start: %+v", last)
		}
		for name, strict := range map[string]bool{"client": false, "server": false, "secure-server": true} {
			if _, err := r.agent.Assign(t.Context(), control.AssignRequest{Policy: name, Auth: control.AuthPSKFile, Keys: "a key"}); err != nil {
				t.Fatal(err)
			}
			if want := (Enforcement{State: policy.Assigned, Policy: name, Strict: strict}); last != want {
				t.Errorf("told %+v, want %+v", last, want)
			}
		}
	})
}
