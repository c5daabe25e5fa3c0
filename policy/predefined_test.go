package policy_test

import (
	"reflect"
	"testing"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// The originals' structure, as every Active Directory holds it.
func TestPredefinedPoliciesHaveTheStructureOfTheOriginals(t *testing.T) {
	for _, tc := range []struct {
		name              string
		rules             int
		allowClear, quiet bool
	}{
		{policy.ClientName, 1, false, true},
		{policy.ServerName, 2, true, false},
		{policy.SecureServerName, 2, false, false},
	} {
		p, ok := policy.Predefined(tc.name)
		if !ok {
			t.Fatalf("no policy %q", tc.name)
		}
		if !p.DefaultResponse.Active || len(p.DefaultResponse.Methods) != 3 {
			t.Errorf("%s: default response %+v", tc.name, p.DefaultResponse)
		}
		if len(p.Rules) != tc.rules {
			t.Errorf("%s: %d rules, want %d", tc.name, len(p.Rules), tc.rules)
		}
		if tc.quiet {
			if len(p.FilterActions) != 1 || p.FilterActions[0].Kind != sadb.Permit {
				t.Errorf("%s: it must ask nobody for security: %+v", tc.name, p.FilterActions)
			}
			continue
		}
		action := p.FilterActions[1]
		if action.Kind != sadb.Negotiate || !action.AcceptUnsecured || action.AllowClear != tc.allowClear {
			t.Errorf("%s: filter action %+v", tc.name, action)
		}
	}
}

func TestPredefinedKnowsNoOtherName(t *testing.T) {
	if p, ok := policy.Predefined("Server"); ok || p != nil {
		t.Errorf("Predefined(Server) = %v, %v", p, ok)
	}
}

func TestPredefinedPoliciesAuthenticateByKerberos(t *testing.T) {
	for _, name := range policy.PredefinedNames() {
		p, _ := policy.Predefined(name)
		original, ok := policy.Original(name)
		if !ok {
			t.Fatalf("%s has no original", name)
		}
		for _, p := range []*policy.Policy{p, original} {
			c, err := policy.Compile(p, policy.Host{})
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range c.DefaultResponse.Authentication {
				if m.Kind != policy.Kerberos {
					t.Errorf("%s: default response by %v", p.Name, m)
				}
			}
		}
	}
}

func TestWithAuthenticationLeavesTheOriginalAlone(t *testing.T) {
	p := policy.Server()
	methods := []policy.AuthMethod{{Kind: policy.PresharedKey, Key: "a"}, {Kind: policy.PresharedKey, Key: "b"}}
	got := policy.WithAuthentication(p, methods)
	for _, r := range got.Rules {
		if !reflect.DeepEqual(r.Authentication, methods) {
			t.Errorf("rule %q: %v", r.Name, r.Authentication)
		}
	}
	if !reflect.DeepEqual(got.DefaultResponse.Authentication, methods) {
		t.Errorf("default response: %v", got.DefaultResponse.Authentication)
	}
	if !reflect.DeepEqual(p, policy.Server()) {
		t.Error("the policy itself was changed")
	}
	methods[0].Key = "changed"
	if got.Rules[0].Authentication[0].Key != "a" || got.DefaultResponse.Authentication[0].Key != "a" {
		t.Error("the copy shares the caller's slice")
	}
}
