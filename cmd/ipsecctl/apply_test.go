package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ipsecagent/agent/control"
)

const sqlDocument = "apiVersion: ipsecagent/v1\nkind: Policy\nname: sql\n"

func documentFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sql.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestApplySendsTheDocument(t *testing.T) {
	b := newBackend()
	socket, path := serve(t, b), documentFile(t, sqlDocument)
	out, stderr, code := ctl(t, socket, "apply", path, "--confirm", "90s", "--auth", "kerberos", "--replace")
	if code != control.OK || stderr != "" {
		t.Fatalf("exit code %d, %s", code, stderr)
	}
	want := control.ApplyRequest{Document: sqlDocument, Source: path, Auth: "kerberos", Confirm: 90, Replace: true}
	if got := <-b.applied; got != want {
		t.Errorf("asked for %+v, want %+v", got, want)
	}
	for _, words := range []string{"NOT CONFIRMED", `policy "server" is in force again in 1m30s`, "ipsecctl confirm", "from a new session"} {
		if !strings.Contains(out, words) {
			t.Errorf("%q is not in:\n%s", words, out)
		}
	}
}

func TestDryRunShowsChanges(t *testing.T) {
	b := newBackend()
	out, _, code := ctl(t, serve(t, b), "apply", documentFile(t, sqlDocument), "--dry-run")
	if code != control.OK || !strings.Contains(out, "Nothing is changed.") || !strings.Contains(out, "added: tcp me port 1433") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	if got := <-b.applied; !got.DryRun {
		t.Errorf("asked for %+v", got)
	}
}

func TestApplyRefusesWhatCannotBe(t *testing.T) {
	b := newBackend()
	socket, path := serve(t, b), documentFile(t, sqlDocument)
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("a key for tests"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args []string
		code control.Code
		want string
	}{
		{[]string{"apply"}, control.Usage, "ipsecctl apply FILE"},
		{[]string{"apply", path + ".not"}, control.NotFound, "there is no file"},
		{[]string{"apply", filepath.Dir(path)}, control.Invalid, "not a regular file"},
		{[]string{"apply", path, "--confirm", "1s"}, control.Usage, "between 5s and 24h"},
		{[]string{"apply", path, "--confirm", "0s"}, control.Usage, "between 5s and 24h"},
		{[]string{"apply", path, "--confirm", "7500ms"}, control.Usage, "whole seconds"},
		{[]string{"apply", path, "--confirm", "60s", "--dry-run"}, control.Invalid, "nothing to confirm"},
		{[]string{"apply", path, "--confirm", "60s", "--auth", "psk-file:" + key}, control.Invalid, "secrets folder first"},
		{[]string{"apply", path, "--auth", "smoke"}, control.Usage, "--auth"},
		{[]string{"apply", documentFile(t, "")}, control.Invalid, "document is missing"},
		{[]string{"apply", documentFile(t, strings.Repeat("#", maxDocument+1))}, control.Invalid, "too large"},
		{[]string{"confirm", "now"}, control.Usage, "confirm"},
		{[]string{"rollback", "twice"}, control.Usage, "rollback"},
	}
	for _, tt := range tests {
		_, stderr, code := ctl(t, socket, tt.args...)
		if code != tt.code || !strings.Contains(stderr, tt.want) {
			t.Errorf("%q: exit code %d, %s", tt.args, code, stderr)
		}
	}
	if len(b.applied) > 0 {
		t.Errorf("it reached the agent: %+v", <-b.applied)
	}
}

func TestStatusShowsWhatWaitsAndWhatIsReported(t *testing.T) {
	b := newBackend()
	b.status.Pending = &control.Pending{Policy: "server", Before: "client", Applied: ago(20 * time.Second), Until: now().Add(40 * time.Second)}
	b.status.Report = &control.ReportStatus{Rules: 2, Until: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC), Peers: 3}
	out, _, _ := ctl(t, serve(t, b), "status")
	for _, want := range []string{`NOT CONFIRMED: applied 20 seconds ago, policy "client" is in force again in 40 seconds unless: ipsecctl confirm`,
		"REPORT ONLY: 2 rules, until 2026-12-01; traffic with 3 peers would have been blocked"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in:\n%s", want, out)
		}
	}
	b.status.Pending.Problem = "no room"
	if out, _, _ = ctl(t, serve(t, b), "status"); !strings.Contains(out, "could not be rolled back") {
		t.Errorf("a rollback that failed is not in:\n%s", out)
	}
}

// TestExplainMarksReportMode: offline too, and no longer than it lasts.
func TestExplainMarksReportMode(t *testing.T) {
	text := `apiVersion: ipsecagent/v1
kind: Policy
name: rollout
mode: report
reportUntil: UNTIL
filterLists:
  all: [{from: me, to: any}]
filterActions:
  require: {negotiate: {methods: [esp-aes256gcm]}}
rules:
  - {name: everything, filterList: all, filterAction: require, authentication: [psk]}
`
	for until, want := range map[string]bool{"2999-01-01": true, "2001-01-01": false} {
		path := documentFile(t, strings.Replace(text, "UNTIL", until, 1))
		out, stderr, code := ctl(t, "/nowhere", "explain", "--policy", path, "--dst", "198.51.100.1", "--proto", "tcp", "--dport", "80")
		if code != control.OK {
			t.Fatalf("exit code %d, %s", code, stderr)
		}
		if got := strings.Contains(out, "report: in clear it would have been blocked"); got != want {
			t.Errorf("until %s:\n%s", until, out)
		}
	}
}
