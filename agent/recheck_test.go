package agent

import (
	"strings"
	"testing"
	"time"
)

// TestAChangedIdentityIsWhyTheOtherEndFails: bob's rule changes to another
// identity than alice's has. What alice sees is what really differs, of a new
// negotiation, and not a quick mode refused under the old main mode.
func TestAChangedIdentityIsWhyTheOtherEndFails(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		alice.assignText("{methods: [esp-aes256gcm]}", "[{psk: {key: weak}}]", twoKeys)
		bob.assignText("{methods: [esp-aes256gcm]}", "[{psk: {key: weak}}]", twoKeys)
		if _, ok := connect(alice, bob); !ok {
			t.Fatalf("not connected: %+v", alice.status())
		}
		bob.assignText("{methods: [esp-aes256gcm]}", "[{psk: {key: strong}}]", twoKeys)
		alice.pass(time.Second)
		for _, m := range []*machine{alice, bob} {
			list, err := m.agent.SAs(t.Context())
			if err != nil || len(list.MainMode)+len(list.Pairs) != 0 {
				t.Errorf("%s: still there: %+v, %v", m.addr, list, err)
			}
		}
		packet(alice, bob, bob)
		alice.pass(150 * time.Second)
		f := alice.status().Failures
		if len(f) != 1 || !strings.HasPrefix(f[0].Step, "main mode") || strings.Contains(f[0].Reason, "in main mode") {
			t.Errorf("alice: %+v", f)
		}
		alice.assignText("{methods: [esp-aes256gcm]}", "[{psk: {key: strong}}]", twoKeys)
		if _, ok := connect(alice, bob); !ok {
			t.Fatalf("not connected again: %+v", alice.status())
		}
	})
}
