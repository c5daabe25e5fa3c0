package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"ipsecagent/agent/control"
)

var update = flag.Bool("update", false, "write the golden files anew")

// serve runs an agent's control socket for the test.
func serve(t *testing.T, b control.Backend) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: the control socket lets root alone change")
	}
	socket := filepath.Join(t.TempDir(), "agent.sock")
	ln, err := control.Listen(socket, control.DefaultGroup)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func(ln net.Listener) {
		done <- control.Serve(ctx, ln, control.ServerConfig{Backend: b, Log: slog.New(slog.DiscardHandler),
			Version: control.VersionInfo{SchemaVersion: control.SchemaVersion, Version: "v1.2.3", Revision: "abcdef", Modified: true, Go: "go1.26"}})
	}(ln)
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return socket
}

// ctl runs one command line and returns what it printed and its exit code.
func ctl(t *testing.T, socket string, args ...string) (stdout, stderr string, code control.Code) {
	t.Helper()
	return ctlContext(t, t.Context(), socket, args...)
}

func ctlContext(t *testing.T, ctx context.Context, socket string, args ...string) (stdout, stderr string, code control.Code) {
	t.Helper()
	var out, err bytes.Buffer
	e := &env{out: &out, err: &err, now: now, zone: time.UTC, getenv: func(name string) string {
		if name == "IPSECAGENT_SOCKET" {
			return socket
		}
		return ""
	}}
	code = e.run(ctx, args)
	return out.String(), err.String(), code
}

// TestOutput compares what commands print with testdata/*.golden.
func TestOutput(t *testing.T) {
	socket := serve(t, newBackend())
	tests := []string{
		"status", "status -o json", "status -o yaml",
		"policy list", "policy list -o json", "policy list -o yaml",
		"policy show", "policy show --effective", "policy show client -o json", "policy show server --effective -o yaml",
		"sa list", "sa list -o json",
		"events", "events -o json", "events -o yaml",
		"why 10.0.0.5", "why 10.0.0.5 -o json", "why fd00::7", "why --help", "trace --help",
		"explain --help",
		"report", "report -o json", "report --help", "confirm", "confirm -o json", "rollback", "apply --help",
		"assign client", "unassign", "unassign -o json", "reload",
		"--help", "assign --help", "status --help", "policy --help", "policy show --help", "events --help",
	}
	for _, line := range tests {
		t.Run(line, func(t *testing.T) {
			out, stderr, code := ctl(t, socket, strings.Fields(line)...)
			if code != control.OK || stderr != "" {
				t.Fatalf("exit code %d, %s", code, stderr)
			}
			if strings.ContainsFunc(out, unprintable) {
				t.Errorf("a terminal would act on: %q", out)
			}
			// The socket of the test stands in the help as the default.
			golden(t, line, strings.ReplaceAll(out, socket, control.DefaultSocket))
		})
	}
}

func golden(t *testing.T, line, got string) {
	t.Helper()
	path := filepath.Join("testdata", strings.NewReplacer(" ", "_", "-", "").Replace(line)+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func TestStatusOfAnIdleHost(t *testing.T) {
	b := newBackend()
	b.status = control.Status{SchemaVersion: control.SchemaVersion, Policy: control.PolicyStatus{State: "none"},
		Agent: control.AgentStatus{Version: "v1.2.3", PID: 1, Started: now(), Host: "bob"}, DataPath: control.DataPath{Driver: "user", Started: now()}}
	out, _, code := ctl(t, serve(t, b), "status", "--check")
	if code != control.OK {
		t.Errorf("exit code %d", code)
	}
	golden(t, "status idle", out)
}

// TestStatusOfFiltersThatAreLeftInPlace: an agent that does not know what is
// assigned opens nothing, and must not say that it has.
func TestStatusOfFiltersThatAreLeftInPlace(t *testing.T) {
	b := newBackend()
	b.status = control.Status{SchemaVersion: control.SchemaVersion, Policy: control.PolicyStatus{State: "held", Error: "nothing is known to be assigned"},
		Agent: control.AgentStatus{Version: "v1.2.3", PID: 1, Started: now(), Host: "bob"}, DataPath: control.DataPath{Driver: "user", Started: now()},
		Problems: []string{"nothing is known to be assigned"}}
	out, _, code := ctl(t, serve(t, b), "status", "--check")
	if code != control.Degraded || !strings.Contains(out, "stays as it is") || strings.Contains(out, "passes in clear") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	var p printer
	printDeciding(&p, control.Why{State: control.PeerHeld})
	if p.text.Len() != 0 {
		t.Errorf("why says of the filters: %s", &p.text)
	}
}

// TestJSONIsWhatTheAgentSaid: nothing is lost or renamed on the way.
func TestJSONIsWhatTheAgentSaid(t *testing.T) {
	out, _, _ := ctl(t, serve(t, newBackend()), "status", "-o", "json")
	var got control.Status
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(busyStatus(), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestYAMLSaysTheSameAsJSON(t *testing.T) {
	socket := serve(t, newBackend())
	asJSON, _, _ := ctl(t, socket, "status", "-o", "json")
	asYAML, _, _ := ctl(t, socket, "status", "-o", "yaml")
	var j, y any
	if err := yaml.Unmarshal([]byte(asJSON), &j); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(asYAML), &y); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(j, y); diff != "" {
		t.Errorf("(-json +yaml):\n%s", diff)
	}
}

func TestExitCodes(t *testing.T) {
	b := newBackend()
	socket := serve(t, b)
	refusing := newBackend()
	refusing.err = &control.Error{Code: control.NotFound, Message: "there is no policy \"x\"\x1b[2J"}
	refusingSocket := serve(t, refusing)
	tests := []struct {
		line   string
		socket string
		code   control.Code
		says   string
	}{
		{"status --check", socket, control.Degraded, ""},
		{"frobnicate", socket, control.Usage, "Try 'ipsecctl --help'"},
		{"assign", socket, control.Usage, "an argument is missing: ipsecctl assign client|server|secure-server|NAME"},
		{"assign a b", socket, control.Usage, `"a b" does not fit; the form is: ipsecctl assign `},
		{"policy validate", socket, control.Usage, "Try 'ipsecctl policy validate --help'"},
		{"status extra", socket, control.Usage, "extra"},
		{"status --no-such-flag", socket, control.Usage, "no-such-flag"},
		{"status -o xml", socket, control.Usage, "xml"},
		{"status --timeout 0s", socket, control.Usage, "--timeout"},
		{"policy", socket, control.Usage, "list, show"},
		{"policy erase", socket, control.Usage, "erase"},
		{"assign client --auth ntlm", socket, control.Usage, "kerberos, cert:CA-NAME, psk-file:FILE"},
		{"assign client --auth cert:", socket, control.Invalid, "distinguished name"},
		{"assign client --compat windows95", socket, control.Invalid, "windows2000"},
		{"assign client --auth psk-file:", socket, control.Usage, "psk-file:FILE"},
		{"assign client --auth psk-file:/no/such/file", socket, control.NotFound, "/no/such/file"},
		{"assign ../x", socket, control.Invalid, "/"},
		{"assign x", refusingSocket, control.NotFound, `\u001b`},
		{"why", socket, control.Usage, "ipsecctl why PEER"},
		{"why web1", socket, control.Usage, "the address of a peer"},
		{"why 10.0.0.5", refusingSocket, control.NotFound, `\u001b`},
		{"status", filepath.Join(t.TempDir(), "none"), control.NotReachable, "systemctl start ipsecagent"},
		{"version", filepath.Join(t.TempDir(), "none"), control.NotReachable, "systemctl start ipsecagent"},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			_, stderr, code := ctl(t, tt.socket, strings.Fields(tt.line)...)
			if code != tt.code {
				t.Errorf("exit code %d, want %d: %s", code, tt.code, stderr)
			}
			if !strings.Contains(stderr, tt.says) || strings.ContainsFunc(stderr, unprintable) {
				t.Errorf("it says %q", stderr)
			}
		})
	}
}

// TestTrace: the stream of the test ends by itself, that of an agent does not.
func TestTrace(t *testing.T) {
	socket := serve(t, newBackend())
	out, stderr, code := ctl(t, socket, "trace", "10.0.0.5")
	if code != control.NotReachable || strings.ContainsFunc(out, unprintable) {
		t.Errorf("code %d, %s", code, stderr)
	}
	golden(t, "trace", out)
}

func TestKeysGoToFilesOfTheirOwn(t *testing.T) {
	socket := serve(t, newBackend())
	dir := t.TempDir()
	out, _, _ := ctl(t, socket, "trace", "10.0.0.5", "--keylog", dir)
	ctl(t, socket, "trace", "10.0.0.5", "--keylog", filepath.Join(dir, "x"))
	for name, want := range map[string]string{
		"ikev1_decryption_table": "0102,0304\n", "esp_sa": "\"IPv4\",\"10.0.0.1\"\n", "x.esp_sa": "\"IPv4\",\"10.0.0.1\"\n",
	} {
		path := filepath.Join(dir, name)
		text, err := os.ReadFile(path)
		if err != nil || string(text) != want {
			t.Errorf("%s: %q, %v", name, text, err)
		}
		if info, err := os.Stat(path); err == nil && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
	if strings.Contains(out, "0304") {
		t.Error("a key is on the terminal")
	}
}

func TestKeysDoNotGoWhereOthersRead(t *testing.T) {
	socket := serve(t, newBackend())
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "esp_sa"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := ctl(t, socket, "trace", "10.0.0.5", "--keylog", dir)
	if code != control.Failed || !strings.Contains(stderr, "others can use it") {
		t.Errorf("code %d, %s", code, stderr)
	}
}

func writeKey(t *testing.T, mode os.FileMode, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	return path
}

func TestAssignSendsTheKeysOfThePrivateFile(t *testing.T) {
	b := newBackend()
	socket := serve(t, b)
	path := writeKey(t, 0o600, "a key for tests\n")
	_, stderr, code := ctl(t, socket, "assign", "server", "--auth", "psk-file:"+path)
	if code != control.OK {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	want := control.AssignRequest{Policy: "server", Auth: control.AuthPSKFile, Keys: "a key for tests\n"}
	if diff := cmp.Diff(want, <-b.assigned); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAssignRefusesKeysThatOthersKnow(t *testing.T) {
	b := newBackend()
	socket := serve(t, b)
	foreign := writeKey(t, 0o600, "a key\n")
	if err := os.Chown(foreign, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	tests := map[string]string{
		"readable by the group":  writeKey(t, 0o640, "a key\n"),
		"readable by all":        writeKey(t, 0o604, "a key\n"),
		"of another user":        foreign,
		"empty":                  writeKey(t, 0o600, "\n"),
		"too large":              writeKey(t, 0o600, strings.Repeat("k", maxKeyFile+1)),
		"a folder, not a file":   t.TempDir(),
		"a device, not a secret": "/dev/zero",
	}
	for name, path := range tests {
		_, stderr, code := ctl(t, socket, "assign", "server", "--auth", "psk-file:"+path)
		if code != control.Invalid {
			t.Errorf("%s: exit code %d: %s", name, code, stderr)
		}
		if strings.Contains(stderr, "a key\n") {
			t.Errorf("%s: the key is in the error: %s", name, stderr)
		}
	}
	if len(b.assigned) > 0 {
		t.Error("one of them was sent to the agent")
	}
}

func TestEventsFollowEndsOnInterrupt(t *testing.T) {
	socket := serve(t, newBackend())
	ctx, cancel := context.WithCancel(t.Context())
	out := &watched{seen: cancel, want: "forged line"}
	e := &env{out: out, err: out, now: now, zone: time.UTC, getenv: func(string) string { return socket }}
	if code := e.run(ctx, []string{"events", "-f"}); code != control.OK {
		t.Errorf("exit code %d: %s", code, out.text.String())
	}
	if n := strings.Count(out.text.String(), "\n"); n != 3 {
		t.Errorf("%d lines for 3 events:\n%s", n, out.text.String())
	}
}

// watched calls seen when want was written.
type watched struct {
	text bytes.Buffer
	want string
	seen func()
}

func (w *watched) Write(b []byte) (int, error) {
	n, err := w.text.Write(b)
	if strings.Contains(w.text.String(), w.want) {
		w.seen()
	}
	return n, err
}

func TestVersionShowsBoth(t *testing.T) {
	out, _, code := ctl(t, serve(t, newBackend()), "version")
	if code != control.OK || !strings.Contains(out, "ipsecagent  v1.2.3, revision abcdef with changes, go1.26") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	out, _, _ = ctl(t, serve(t, newBackend()), "version", "-o", "json")
	var v versions
	if err := json.Unmarshal([]byte(out), &v); err != nil || v.Agent == nil || v.Agent.Revision != "abcdef" {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestCompletionKnowsThePoliciesOfTheAgent(t *testing.T) {
	socket := serve(t, newBackend())
	for _, line := range []string{"assign", "policy show"} {
		out, _, code := ctl(t, socket, append(append([]string{"__complete"}, strings.Fields(line)...), "s")...)
		if code != control.OK || !strings.Contains(out, "server\tAsks") || !strings.Contains(out, "sql") || strings.Contains(out, "client") {
			t.Errorf("completion of %q: code %d\n%s", line+" s", code, out)
		}
	}
	key := writeKey(t, 0o600, "a key\n")
	for begun, want := range map[string]string{"p": "psk-file:\n", "psk-file:" + key[:len(key)-2]: "psk-file:" + key + "\n"} {
		if out, _, _ := ctl(t, socket, "__complete", "assign", "client", "--auth", begun); !strings.HasPrefix(out, want) {
			t.Errorf("completion of --auth %s:\n%s", begun, out)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out, _, code := ctl(t, socket, "completion", shell); code != control.OK || !strings.Contains(out, "ipsecctl") {
			t.Errorf("completion %s: code %d, %d bytes", shell, code, len(out))
		}
	}
}

func TestHumanSizesAndTimes(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 9949: "9.9 kB", 10_000: "10 kB", 999_499: "999 kB", 999_500: "1.0 MB", 100e9: "100 GB", 1<<64 - 1: "18 EB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "less than a second", time.Second: "1 second", 119 * time.Second: "1 minute", 49 * time.Hour: "2 days"} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %q, want %q", d, got, want)
		}
	}
	if got := grouped(1234567); got != "1 234 567" {
		t.Errorf("grouped = %q", got)
	}
}

// TestManualNamesEverything: the manual page has every command, flag and exit
// code.
func TestManualNamesEverything(t *testing.T) {
	page, err := os.ReadFile("../../docs/man/ipsecctl.8")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(page), `\-`, "-")
	help, _, _ := ctl(t, "/nowhere", "--help")
	for _, c := range rootCommand(&env{getenv: func(string) string { return "" }}).Commands() {
		if c.Name() == "help" {
			continue
		}
		if !strings.Contains(text, c.Name()) || !strings.Contains(help, c.Name()) {
			t.Errorf("command %s is missing in the manual or the help", c.Name())
		}
	}
	for _, flag := range []string{"--socket", "--timeout", "--output", "--auth", "--check", "--effective", "--follow", "IPSECAGENT_SOCKET"} {
		if !strings.Contains(text, flag) {
			t.Errorf("%s is missing in the manual", flag)
		}
	}
	for _, c := range exitCodes() {
		if !strings.Contains(text, fmt.Sprintf(".B %d\n%s", c.code, c.name)) {
			t.Errorf("exit code %d (%s) is missing in the manual", c.code, c.name)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("plain")
	f.Add("\x1b[31m")
	f.Add("\xff\u202e\u009b")
	f.Fuzz(func(t *testing.T, s string) {
		if got := clean(s); strings.ContainsFunc(got, notPrint) {
			t.Errorf("clean(%q) = %q", s, got)
		}
		text, err := toYAML(map[string]string{"k": s})
		if err != nil || strings.ContainsFunc(string(text), unprintable) {
			t.Errorf("toYAML(%q) = %q, %v", s, text, err)
		}
		text, err = toJSON(map[string]string{"k": s}, "  ")
		if err != nil || strings.ContainsFunc(string(text), unprintable) || !json.Valid(text) {
			t.Errorf("toJSON(%q) = %q, %v", s, text, err)
		}
		sameText(t, s)
	})
}

// sameText checks that JSON and YAML give the text back that went in.
func sameText(t *testing.T, s string) {
	t.Helper()
	in := map[string]string{"k": string([]rune(s))} // invalid bytes are U+FFFD
	asJSON, _ := toJSON(in, "")
	asYAML, _ := toYAML(in)
	var j, y map[string]string
	if err := json.Unmarshal(asJSON, &j); err != nil || j["k"] != in["k"] {
		t.Errorf("JSON gives %q for %q: %v", j["k"], in["k"], err)
	}
	if err := yaml.Unmarshal(asYAML, &y); err != nil || y["k"] != in["k"] {
		t.Errorf("YAML gives %q for %q (%s): %v", y["k"], in["k"], asYAML, err)
	}
}
