package agent

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
)

func (r *rig) lint(req control.LintRequest) control.LintResult {
	r.t.Helper()
	v, err := r.agent.Lint(r.t.Context(), req)
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

func has(v control.LintResult, code policy.Code, severity policy.Severity) bool {
	for _, f := range v.Findings {
		if f.Code == string(code) && f.Severity == severity.String() {
			return true
		}
	}
	return false
}

func TestLintKnowsThisHost(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		const mine = "tcp 192.0.2.2:50000 -> me=192.0.2.1:22"
		v := r.lint(control.LintRequest{Policy: "secure-server", SSH: mine})
		if !v.Host || v.Policy != "secure-server" || !has(v, policy.FoundNoIdentity, policy.ErrorSeverity) || !has(v, policy.FoundCutOffSSH, policy.ErrorSeverity) {
			t.Errorf("before: %+v", v)
		}
		r.assign("server")
		r.secure(tcp(bob(), 80))
		if v = r.lint(control.LintRequest{SSH: mine}); v.Policy != "server" || has(v, policy.FoundCutOffSSH, policy.ErrorSeverity) {
			t.Errorf("in force: %+v", v)
		}
		if v = r.lint(control.LintRequest{Policy: "secure-server", SSH: mine}); has(v, policy.FoundCutOffSSH, policy.ErrorSeverity) {
			t.Errorf("with an association: %+v", v)
		}
	}, func(c *Config) {
		c.Source = func(netip.Addr) (netip.Addr, error) { return alice(), nil }
	}, func(c *Config) { c.Unusable = onlyPSK })
}

func TestLintOfADocument(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		document := "apiVersion: ipsecagent/v1\nkind: Policy\nname: closed\nfilterLists: {all: [{from: me, to: any}]}\n" +
			"rules: [{name: r, filterList: all, filterAction: block}]\n"
		v := r.lint(control.LintRequest{Document: document, Servers: []string{"dns=10.0.0.53"}})
		if v.Policy != "closed" || !has(v, policy.FoundCutOffSSH, policy.ErrorSeverity) || !has(v, policy.FoundCutOffServer, policy.ErrorSeverity) {
			t.Errorf("%+v", v)
		}
		for name, req := range map[string]control.LintRequest{
			"broken":  {Document: "kind: Policy\n"},
			"unknown": {Policy: "no-such-policy"},
			"none":    {},
			"SSH":     {Policy: "server", SSH: "tcp"},
			"servers": {Policy: "server", Servers: []string{"x"}},
		} {
			_, err := r.agent.Lint(t.Context(), req)
			var coded *control.Error
			if !errors.As(err, &coded) || strings.TrimSpace(coded.Message) == "" {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}
