package main

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
	"ipsecagent/policy/file"
)

// Lint answers as an agent does that cannot use Kerberos.
func (b *backend) Lint(_ context.Context, r control.LintRequest) (control.LintResult, error) {
	if b.err != nil {
		return control.LintResult{}, b.err
	}
	p := policy.SecureServer()
	origin := "predefined"
	if r.Document != "" {
		var err error
		if p, err = file.Parse("document", []byte(r.Document)); err != nil {
			return control.LintResult{}, err
		}
		origin = "document"
	}
	env, err := r.Environment()
	if err != nil {
		return control.LintResult{}, err
	}
	env.Unusable = func(m policy.AuthMethod) string {
		if m.Kind == policy.Kerberos {
			return "this host has no keytab"
		}
		return ""
	}
	found, err := policy.Lint(p, env)
	return control.LintResult{SchemaVersion: control.SchemaVersion, Policy: p.Name, Origin: origin, Host: true, Findings: control.Findings(found)}, err
}

const cluttered = `apiVersion: ipsecagent/v1
kind: Policy
name: web
filterLists:
  web: [{from: me, to: any, protocol: tcp, sourcePort: 80}]
  again: [{from: me, to: any, protocol: tcp, sourcePort: 80}]
  outside:
    - {from: me, to: any}
rules:
  - {name: closed, filterList: web, filterAction: block}
  - {name: open, filterList: again, filterAction: permit}
  - {name: rest, filterList: outside, filterAction: block}
`

func TestLint(t *testing.T) {
	socket := serve(t, newBackend())
	dir := documents(t, map[string]string{"clean.yaml": withoutSpare(document), "cluttered.yaml": cluttered, "broken.yaml": "kind: Policy\n"})
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, tc := range []struct {
		name, socket string
		args         []string
		code         control.Code
	}{
		{"clean", "/nowhere", []string{at("clean.yaml")}, control.OK},
		{"clean strict", socket, []string{at("clean.yaml"), "--strict"}, control.OK},
		{"cluttered", "/nowhere", []string{at("cluttered.yaml"), "--server", "dns=10.0.0.53"}, control.Invalid},
		{"warnings", "/nowhere", []string{"../../examples/fleet.yaml", "--offline"}, control.OK},
		{"in force", socket, nil, control.Invalid},
		{"by name", socket, []string{"secure-server", "--offline"}, control.OK},
	} {
		out, stderr, code := ctl(t, tc.socket, append([]string{"policy", "lint"}, tc.args...)...)
		if code != tc.code {
			t.Errorf("%s: exit code %d: %s", tc.name, code, stderr)
		}
		golden(t, "lint "+tc.name, strings.ReplaceAll(out, dir+"/", ""))
	}
}

// withoutSpare is a document without the list that nothing uses.
func withoutSpare(document string) string {
	return strings.Replace(document, "  spare: [{from: me, to: 10.0.0.1}]\n", "", 1)
}

func TestLintStrictCountsWarnings(t *testing.T) {
	dir := documents(t, map[string]string{"warned.yaml": document})
	path := filepath.Join(dir, "warned.yaml")
	if _, stderr, code := ctl(t, "/nowhere", "policy", "lint", path); code != control.OK || stderr != "" {
		t.Errorf("%d %s", code, stderr)
	}
	if _, stderr, code := ctl(t, "/nowhere", "policy", "lint", path, "--strict"); code != control.Invalid || !strings.Contains(stderr, "1 warning") {
		t.Errorf("strict: %d %s", code, stderr)
	}
}

func TestLintRefuses(t *testing.T) {
	dir := documents(t, map[string]string{"broken.yaml": "kind: Policy\n",
		"shared.yaml": "apiVersion: ipsecagent/v1\nkind: Shared\nfilterLists: {web: [{from: me, to: any}]}\n"})
	for line, want := range map[string]control.Code{
		dir + "/broken.yaml":           control.Invalid,
		dir + "/missing.yaml":          control.NotFound,
		dir + "/shared.yaml":           control.Invalid,
		"":                             control.NotReachable,
		"in-force":                     control.NotReachable,
		"--offline":                    control.Usage,
		"no-such-policy":               control.NotFound,
		"client --server wins=1.2.3.4": control.Usage,
		"client server":                control.Usage,
	} {
		if _, stderr, code := ctl(t, "/nowhere", append([]string{"policy", "lint"}, strings.Fields(line)...)...); code != want || stderr == "" {
			t.Errorf("lint %s: exit code %d, want %d: %s", line, code, want, stderr)
		}
	}
}

func TestSSHFlow(t *testing.T) {
	for connection, want := range map[string]string{
		"10.0.8.5 50000 10.0.0.1 22":               "tcp 10.0.8.5:50000 -> me=10.0.0.1:22",
		"2001:db8::5 50000 2001:db8::1 22":         "tcp [2001:db8::5]:50000 -> me=[2001:db8::1]:22",
		"fe80::5%eth0 50000 fe80::1%eth0 22":       "tcp [fe80::5]:50000 -> me=[fe80::1]:22",
		"::ffff:10.0.8.5 50000 ::ffff:10.0.0.1 22": "tcp 10.0.8.5:50000 -> me=10.0.0.1:22",
		"":               "",
		"10.0.8.5 50000": "",
	} {
		got := sshFlow(connection)
		if got != want {
			t.Errorf("%q: %q, want %q", connection, got, want)
		}
		if _, err := (control.LintRequest{SSH: got}).Environment(); err != nil {
			t.Errorf("%q: %v", connection, err)
		}
	}
}

func TestLintSendsWhatIsShared(t *testing.T) {
	dir := documents(t, map[string]string{
		"shared.yaml": "apiVersion: ipsecagent/v1\nkind: Shared\nfilterLists: {web: [{from: me, to: any}]}\n",
		"closed.yaml": "apiVersion: ipsecagent/v1\nkind: Policy\nname: closed\nrules: [{name: r, filterList: web, filterAction: block}]\n"})
	out, stderr, code := ctl(t, serve(t, newBackend()), "policy", "lint", filepath.Join(dir, "closed.yaml"))
	if code != control.Invalid || !strings.Contains(out, "closed.yaml:4:9: error: ") || !strings.Contains(out, "with the facts of this host") {
		t.Errorf("%d %s\n%s", code, stderr, out)
	}
}
