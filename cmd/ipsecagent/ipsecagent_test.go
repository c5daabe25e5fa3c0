package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/auth"
	"ipsecagent/policy"
	"ipsecagent/policy/file"
)

// run runs a command line of the program.
func run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, err bytes.Buffer
	p := &program{out: &out, err: &err, getenv: func(string) string { return "" }}
	code = p.main(t.Context(), args)
	return out.String(), err.String(), code
}

// folders returns flags that keep a run inside of a folder of the test.
func folders(dir string) []string {
	config := filepath.Join(dir, "agent.yaml")
	if _, err := os.Stat(config); err != nil {
		config = "" // one that is named must be there
	}
	return []string{
		"--config", config, "--state-dir", filepath.Join(dir, "state"), "--run-dir", filepath.Join(dir, "run"),
		"--policies-dir", filepath.Join(dir, "policies.d"), "--secrets-dir", filepath.Join(dir, "secrets.d"),
	}
}

// serverDocument is the predefined policy 'server' under another name, by
// preshared key.
func serverDocument(t *testing.T, name string) string {
	t.Helper()
	p, ok := policy.Predefined("server")
	if !ok {
		t.Fatal("server is not predefined")
	}
	p = policy.WithAuthentication(p, []policy.AuthMethod{{Kind: policy.PresharedKey}})
	p.Name = name
	doc, err := file.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(doc)
}

const aKey = "q2tYp7uB0cN5aLw8Zr1xKd4e"

func TestCheckAcceptsWhatIsValid(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "policies.d", "mine.yaml"), serverDocument(t, "mine"))
	write(t, filepath.Join(dir, "policies.d", "shared.yaml"), "apiVersion: ipsecagent/v1\nkind: Shared\nfilterLists: {common: [{from: me, to: 10.0.0.1}]}\n")
	write(t, filepath.Join(dir, "secrets.d", "keys.yaml"), aKey+"\n")
	out, stderr, code := run(t, append(folders(dir), "--check")...)
	if code != 0 || !strings.Contains(out, "valid: settings, 1 policy, 1 group of keys") {
		t.Errorf("exit code %d\n%s%s", code, out, stderr)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 2 {
		t.Errorf("--check made files: %v", left)
	}
}

func TestCheckAcceptsAHostWithoutAnything(t *testing.T) {
	out, stderr, code := run(t, append(folders(t.TempDir()), "--check")...)
	if code != 0 || !strings.Contains(out, "0 policies") {
		t.Errorf("exit code %d\n%s%s", code, out, stderr)
	}
}

func TestCheckReportsEveryMistakeAtOnce(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "agent.yaml"), "colour: green\n")
	write(t, filepath.Join(dir, "policies.d", "a.yaml"), serverDocument(t, "a")+"shape: round\n")
	write(t, filepath.Join(dir, "policies.d", "b.yaml"), "apiVersion: ipsecagent/v1\nkind: Nothing\n")
	key := write(t, filepath.Join(dir, "secrets.d", "keys.yaml"), aKey+"\n")
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	out, stderr, code := run(t, append(folders(dir), "--check")...)
	if code != int(control.Invalid) || out != "" {
		t.Errorf("exit code %d, %s", code, out)
	}
	for _, want := range []string{"agent.yaml:1:", "colour", "a.yaml:", "shape", "b.yaml:", "keys.yaml", "chmod 600"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("it does not say %q:\n%s", want, stderr)
		}
	}
	if strings.Contains(stderr, aKey) {
		t.Error("it shows the key")
	}
}

func TestInvalidSettingsDoNotStart(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "agent.yaml"), "colour: green\n")
	if _, stderr, code := run(t, folders(dir)...); code != int(control.Invalid) || !strings.Contains(stderr, "colour") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, "state")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it made its state folder: %v", err)
	}
}

func TestWrongCommandLines(t *testing.T) {
	for _, line := range []string{"--colour", "start", "datapath now", "--log-level loud"} {
		if _, stderr, code := run(t, strings.Fields(line)...); code != int(control.Usage) || !strings.Contains(stderr, "--help") {
			t.Errorf("%s: exit code %d: %s", line, code, stderr)
		}
	}
	if out, _, code := run(t, "--version"); code != 0 || !strings.HasPrefix(out, "ipsecagent version ") {
		t.Errorf("--version: %d, %q", code, out)
	}
}

func TestPoliciesAreFoundByTheirName(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "some-file.yaml"), serverDocument(t, "wanted"))
	write(t, filepath.Join(dir, "broken.yaml"), serverDocument(t, "broken")+"shape: round\n")
	p, origin, err := loadPolicy(dir, "wanted")
	if err != nil || p.Name != "wanted" || origin != filepath.Join(dir, "some-file.yaml") {
		t.Errorf("wanted: %+v, %s, %v", p, origin, err)
	}
	if _, _, err := loadPolicy(dir, "broken"); err == nil || !strings.Contains(err.Error(), "shape") || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a document that does not load: %v", err)
	}
	if _, _, err := loadPolicy(dir, "some-file"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), `"wanted"`) {
		t.Errorf("a file by its name: %v", err)
	}
	if _, _, err := loadPolicy(dir, "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
	if _, _, err := loadPolicy(filepath.Join(dir, "nowhere"), "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	write(t, filepath.Join(dir, "common.yaml"), "apiVersion: ipsecagent/v1\nkind: Shared\nfilterLists: {common: [{from: me, to: 10.0.0.1}]}\n")
	write(t, filepath.Join(dir, "user.yaml"), "apiVersion: ipsecagent/v1\nkind: Policy\nname: user\nrules: [{name: r, filterList: common, filterAction: block}]\n")
	if p, _, err := loadPolicy(dir, "user"); err != nil || len(p.FilterLists) != 1 || p.FilterLists[0].Name != "common" {
		t.Errorf("a policy with a shared list: %+v, %v", p, err)
	}
	if _, _, err := loadPolicy(dir, "common"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "holds lists and actions for policies") {
		t.Errorf("what is shared by its file's name: %v", err)
	}
	list, err := listPolicies(dir)
	if err != nil || len(list) != 3 || list[1].Name != "wanted" || list[2].Name != "user" || list[0].Name != "broken" || list[0].Err == nil {
		t.Errorf("list: %+v, %v", list, err)
	}
}

func TestPoliciesFolderIsWatchedBeforeItExistsAndAfter(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "policies.d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	changed := watchFolder(ctx, dir, slog.New(slog.DiscardHandler))
	// The watch begins some time after the call: write until it is seen.
	deadline := time.After(20 * time.Second)
	for again := time.Tick(500 * time.Millisecond); ; {
		select {
		case <-changed:
			return
		case <-again:
			write(t, filepath.Join(dir, "a.yaml"), "x")
		case <-deadline:
			t.Fatal("no hint")
		}
	}
}

// keyFor returns the keys an initiator would use with a peer.
func keyFor(t *testing.T, k *keys, peer string) string {
	t.Helper()
	s, err := k.method.Start(auth.Request{Initiator: true, Local: netip.MustParseAddr("10.0.0.1"), Remote: netip.MustParseAddr(peer), Requirement: auth.Requirement{Method: auth.PSK}})
	if err != nil {
		return ""
	}
	return string(s.Seeds()[0])
}

func testKeys(t *testing.T) (*keys, string) {
	t.Helper()
	s := defaults()
	s.SecretsDir = filepath.Join(t.TempDir(), "secrets.d")
	return newKeys(&s), s.SecretsDir
}

func TestAssignedKeysAreKeptAndInForce(t *testing.T) {
	k, dir := testKeys(t)
	if _, err := k.load(); err != nil {
		t.Fatalf("without a folder: %v", err)
	}
	if _, err := k.set(aKey + "\n"); err != nil {
		t.Fatal(err)
	}
	if got := keyFor(t, k, "10.0.0.2"); got != aKey {
		t.Errorf("in force is %q", got)
	}
	path := filepath.Join(dir, "assigned.yaml")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	s := defaults()
	s.SecretsDir = dir
	again := newKeys(&s)
	if _, err := again.load(); err != nil || keyFor(t, again, "10.0.0.2") != aKey {
		t.Errorf("after a restart: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left in the folder: %v", left)
	}
}

func TestKeysThatAreNotValidChangeNothing(t *testing.T) {
	k, dir := testKeys(t)
	if _, err := k.set(aKey + "\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := k.set("short\n"); err == nil || strings.Contains(err.Error(), "short\n") {
		t.Errorf("a short key: %v", err)
	}
	// Valid by itself, but another file has a group of the same name.
	other := write(t, filepath.Join(dir, "other.yaml"), "apiVersion: ipsecagent/v1\nkind: PresharedKeys\nkeys: [{name: taken, keys: [\"another key that is long enough\"]}]\n")
	text := "apiVersion: ipsecagent/v1\nkind: PresharedKeys\nkeys: [{name: taken, keys: [\"a third key that is long enough\"]}]\n"
	if _, err := k.set(text); err == nil || !strings.Contains(err.Error(), other) {
		t.Errorf("a name taken: %v", err)
	}
	if got := keyFor(t, k, "10.0.0.2"); got != aKey {
		t.Errorf("in force is %q", got)
	}
	kept, err := os.ReadFile(filepath.Join(dir, "assigned.yaml"))
	if err != nil || string(kept) != aKey+"\n" {
		t.Errorf("kept is %q, %v", kept, err)
	}
}

func TestTheFirstKeysThatAreNotValidLeaveNoFile(t *testing.T) {
	k, dir := testKeys(t)
	write(t, filepath.Join(dir, "other.yaml"), "the one key of the host: default\n")
	if _, err := k.set(aKey + "\n"); err == nil {
		t.Fatal("two groups of the same name")
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left in the folder: %v", left)
	}
}

// systemd listens as systemd would.
func systemd(t *testing.T) (*net.UnixConn, notifier) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, newNotifier(func(name string) string { return map[string]string{"NOTIFY_SOCKET": path}[name] })
}

func heard(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 100)
	n, err := conn.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestSystemdIsToldAsLongAsTheAgentIsHealthy(t *testing.T) {
	conn, n := systemd(t)
	if err := n.tell("READY=1"); err != nil || heard(t, conn) != "READY=1" {
		t.Errorf("READY: %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	beats, reported := 0, make(chan error, 1)
	healthy := func(context.Context) error {
		beats++
		if beats > 1 {
			return errors.New("stuck")
		}
		return nil
	}
	go n.watchdog(ctx, 10*time.Millisecond, healthy, func(err error) {
		select {
		case reported <- err:
		default:
		}
	})
	if got := heard(t, conn); got != "WATCHDOG=1" {
		t.Errorf("heard %q", got)
	}
	if err := <-reported; !strings.Contains(err.Error(), "stuck") {
		t.Errorf("reported %v", err)
	}
	stop()
	conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 100)); err == nil {
		t.Errorf("an agent that is stuck was said to be alive (%d bytes)", n)
	}
	if err := (notifier{}).tell("READY=1"); err != nil {
		t.Errorf("without systemd: %v", err)
	}
}

func TestWatchdogInterval(t *testing.T) {
	tests := []struct {
		usec, pid string
		want      time.Duration
	}{
		{"30000000", "", 15 * time.Second},
		{"30000000", "1", 0},
		{"", "", 0},
		{"-1", "", 0},
		{"99999999999999999", "", 0},
	}
	for _, tt := range tests {
		got := watchdogInterval(func(name string) string {
			return map[string]string{"WATCHDOG_USEC": tt.usec, "WATCHDOG_PID": tt.pid}[name]
		})
		if got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}

func TestTogetherEndsAllWhenOneFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("boom")
		ended := false
		err := together(t.Context(),
			func(ctx context.Context) error { <-ctx.Done(); ended = true; return nil },
			func(context.Context) error { time.Sleep(time.Second); return boom },
		)
		if !errors.Is(err, boom) || !ended {
			t.Errorf("%v, the other ended: %v", err, ended)
		}
		ctx, stop := context.WithTimeout(t.Context(), time.Hour)
		defer stop()
		if err := together(ctx, func(ctx context.Context) error { <-ctx.Done(); return nil }); err != nil {
			t.Errorf("told to end: %v", err)
		}
	})
}

func TestDataPathThatDoesNotStartSaysWhy(t *testing.T) {
	log := filepath.Join(t.TempDir(), "datapath.log")
	f, err := os.OpenFile(log, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := lastLine(f, 0); !strings.Contains(got, log) {
		t.Errorf("nothing written: %q", got)
	}
	f.WriteString("of an earlier one\n")
	from, _ := f.Seek(0, 2)
	f.WriteString("first\nipsecagent: there is no TUN\n\n")
	if got := lastLine(f, from); got != "ipsecagent: there is no TUN" {
		t.Errorf("last line %q", got)
	}
}

func TestNotRunningIsToldFromOtherErrors(t *testing.T) {
	for err, want := range map[error]bool{
		&net.OpError{Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}: true,
		&net.OpError{Err: os.NewSyscallError("connect", syscall.ENOENT)}:       true,
		&net.OpError{Err: os.NewSyscallError("connect", syscall.EACCES)}:       false,
		context.DeadlineExceeded: false,
		nil:                      false,
	} {
		if got := notRunning(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}

func TestHardeningHolds(t *testing.T) {
	if err := harden(); err != nil {
		t.Fatal(err)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_CORE, &limit); err != nil || limit.Cur != 0 {
		t.Errorf("core limit %+v, %v", limit, err)
	}
}
