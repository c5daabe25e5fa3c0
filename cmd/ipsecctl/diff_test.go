package main

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"ipsecagent/agent/control"
)

func TestDiff(t *testing.T) {
	dir := documents(t, map[string]string{
		"before.yaml": document,
		"after.yaml": strings.NewReplacer("sourcePort: 80}", "sourcePort: 80}, {from: me, to: 10.0.0.1}", "  spare: [{from: me, to: 10.0.0.1}]\n", "",
			"{name: closed, filterList: web, filterAction: block}", "{name: closed, filterList: web, filterAction: permit}\n  - {name: new, filterList: web, filterAction: block, connections: all}").Replace(document),
		"names.yaml": strings.Replace(document, "to: 10.0.0.1", "to: {name: db.example}", 1),
	})
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, tc := range map[string]struct {
		args []string
		code control.Code
	}{
		"files":      {[]string{at("before.yaml"), at("after.yaml")}, control.Differs},
		"itself":     {[]string{at("before.yaml"), at("before.yaml")}, control.OK},
		"predefined": {[]string{"server", "secure-server"}, control.Differs},
	} {
		out, stderr, code := ctl(t, "/nowhere", append([]string{"policy", "diff"}, tc.args...)...)
		if code != tc.code || stderr != "" {
			t.Errorf("%s: exit code %d: %s", name, code, stderr)
		}
		golden(t, "diff "+name, strings.ReplaceAll(out, dir+"/", ""))
	}
}

// The fake agent has a policy of its own in force, without any filter.
func TestDiffWithWhatIsInForce(t *testing.T) {
	socket := serve(t, documentBackend{newBackend()})
	out, stderr, code := ctl(t, socket, "policy", "diff", "server", "-o", "json")
	var v diffed
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != control.Differs || stderr != "" {
		t.Fatalf("%d %s %v", code, stderr, err)
	}
	if v.Before.Policy != "empty" || !strings.Contains(v.Before.Origin, "in force") || v.After.Policy != "server" || len(v.Flows) == 0 {
		t.Errorf("%+v", v)
	}
	if _, _, code := ctl(t, socket, "policy", "diff", "in-force", "in-force"); code != control.OK {
		t.Errorf("with itself: %d", code)
	}
	if _, stderr, code := ctl(t, socket, "policy", "diff", "known-to-the-agent"); code != control.OK {
		t.Errorf("with one of another folder: %d %s", code, stderr)
	}
}

func TestDiffRefuses(t *testing.T) {
	dir := documents(t, map[string]string{"broken.yaml": "kind: Policy\n"})
	for line, want := range map[string]control.Code{
		"":                               control.Usage,
		"a b c":                          control.Usage,
		"server":                         control.NotReachable,
		"server no-such-policy":          control.NotFound,
		"server " + dir + "/broken.yaml": control.Invalid,
		"server " + dir + "/none.yaml":   control.NotFound,
	} {
		if _, stderr, code := ctl(t, "/nowhere", append([]string{"policy", "diff"}, strings.Fields(line)...)...); code != want || stderr == "" {
			t.Errorf("diff %s: exit code %d, want %d: %s", line, code, want, stderr)
		}
	}
}

// documentBackend is an agent whose policy in force is a whole document.
type documentBackend struct{ *backend }

func (documentBackend) Policy(context.Context, string, bool) (control.PolicyView, error) {
	return control.PolicyView{SchemaVersion: control.SchemaVersion, Name: "empty", Origin: "/etc/ipsecagent/policies.d/empty.yaml", Assigned: true,
		Document: "apiVersion: ipsecagent/v1\nkind: Policy\nname: empty\n"}, nil
}

// A policy of Windows may have a slash in its name; what is no file is a name.
func TestANameWithASlashIsNoFile(t *testing.T) {
	for arg, want := range map[string]bool{"HTTP/S servers": false, "./a": true, "../a/b": true, "/a": true, "a/b.yaml": true, "client": false, "testdata/help.golden": true, "testdata/": true} {
		if got := isFile(arg); got != want {
			t.Errorf("%q: %v", arg, got)
		}
	}
}
