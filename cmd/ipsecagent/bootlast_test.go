package main

import (
	"testing"

	"ipsecagent/agent"
	"ipsecagent/policy"
)

// TestAPolicyPutInForceRightBeforeTheEndIsRemembered: an agent that is ended
// right after an assignment leaves no start that takes the host for one without
// a policy.
func TestAPolicyPutInForceRightBeforeTheEndIsRemembered(t *testing.T) {
	enforced := make(chan agent.Enforcement, 1)
	f := &bootFollower{settings: &settings{StateDir: t.TempDir()}, enforced: enforced}
	enforced <- agent.Enforcement{State: policy.Assigned, Policy: "secure-server", Strict: true}
	if err := f.last(); err != nil {
		t.Fatal(err)
	}
	m, err := f.settings.recall()
	if err != nil || m == nil || m.Policy != "secure-server" || !m.Strict {
		t.Errorf("remembered: %+v, %v", m, err)
	}
	if err := f.last(); err != nil {
		t.Errorf("with nothing new: %v", err)
	}
}
