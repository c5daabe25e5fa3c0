package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEveryRequestIsAnswered(t *testing.T) {
	needsRoot(t)
	f := newFake()
	c := NewClient(serve(t, f), 10*time.Second)
	ctx := t.Context()

	status, err := c.Status(ctx)
	if err != nil || status.Agent.Host != "alice" {
		t.Errorf("Status = %+v, %v", status, err)
	}
	want := AssignRequest{Policy: "client", Auth: AuthPSKFile, Keys: "any: secret\n"}
	if got, err := c.Assign(ctx, want); err != nil || got.Policy != "client" || got.Filters != 3 {
		t.Errorf("Assign = %+v, %v", got, err)
	}
	if diff := cmp.Diff(want, <-f.assigned); diff != "" {
		t.Errorf("the backend got another request (-want +got):\n%s", diff)
	}
	if got, err := c.Unassign(ctx); err != nil || got.Policy != "" {
		t.Errorf("Unassign = %+v, %v", got, err)
	}
	if got, err := c.Reload(ctx); err != nil || got.Policy != "client" {
		t.Errorf("Reload = %+v, %v", got, err)
	}
	if got, err := c.Policies(ctx); err != nil || len(got.Policies) != 2 || !got.Policies[1].Assigned {
		t.Errorf("Policies = %+v, %v", got, err)
	}
	if got, err := c.Policy(ctx, "Server (Request Security)", true); err != nil || got.Name != "Server (Request Security)" || len(got.Filters) != 1 {
		t.Errorf("Policy = %+v, %v", got, err)
	}
	if got, err := c.Policy(ctx, "", false); err != nil || got.Name != "" || got.Filters != nil {
		t.Errorf("Policy = %+v, %v", got, err)
	}
	if _, err := c.SAs(ctx); err != nil {
		t.Errorf("SAs: %v", err)
	}
	if got, err := c.Version(ctx); err != nil || !strings.HasPrefix(got.Go, "go1.") {
		t.Errorf("Version = %+v, %v", got, err)
	}
}

func TestErrorsKeepTheirCode(t *testing.T) {
	needsRoot(t)
	tests := []struct {
		err  error
		want Error
	}{
		{&Error{NotFound, "no policy named x"}, Error{NotFound, "no policy named x"}},
		{fmt.Errorf("agent: %w", &Error{Invalid, "three problems"}), Error{Invalid, "three problems"}},
		{errors.New("disk full"), Error{Failed, "disk full"}},
	}
	for _, tt := range tests {
		f := newFake()
		f.err = tt.err
		_, err := NewClient(serve(t, f), 10*time.Second).Status(t.Context())
		var got *Error
		if !errors.As(err, &got) || *got != tt.want {
			t.Errorf("backend said %v, client got %#v", tt.err, err)
		}
	}
}

func TestEventsAreStreamed(t *testing.T) {
	needsRoot(t)
	f := newFake()
	c := NewClient(serve(t, f), 10*time.Second)
	f.events <- Event{Kind: EventSAUp, Peer: "10.0.0.2"}
	f.events <- Event{Kind: EventSADown, Peer: "10.0.0.2"}
	var kinds []string
	collect := func(e Event) error { kinds = append(kinds, e.Kind); return nil }
	if err := c.Events(t.Context(), false, collect); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{EventSAUp, EventSADown}, kinds); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestEventsFollowUntilCancelled(t *testing.T) {
	needsRoot(t)
	f := newFake()
	c := NewClient(serve(t, f), 10*time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	seen := 0
	f.events <- Event{Kind: EventAgent}
	err := c.Events(ctx, true, func(Event) error {
		seen++
		if seen == 3 {
			cancel()
			return nil
		}
		f.events <- Event{Kind: EventAgent} // comes while following
		return nil
	})
	if err != nil || seen != 3 {
		t.Errorf("Events = %v after %d events", err, seen)
	}
}

func TestEventStreamsAreBounded(t *testing.T) {
	needsRoot(t)
	f := newFake()
	path := serve(t, f)
	c := NewClient(path, 10*time.Second)
	follow := func() error { return c.Events(t.Context(), true, func(Event) error { return nil }) }
	for range maxStreams {
		go follow()
	}
	for range maxStreams {
		<-f.opened
	}
	err := follow()
	wantCode(t, err, Failed)
	if err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("one stream too many: %v", err)
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("Status beside %d streams: %v", maxStreams, err)
	}
}

// waitFor polls until f holds.
func waitFor(t *testing.T, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if f() {
			return
		}
	}
	t.Fatal("it did not come true within 10 s")
}

func TestConnectionsAreBounded(t *testing.T) {
	needsRoot(t)
	path := serve(t, newFake())
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for range maxConnections {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	c := NewClient(path, 10*time.Second)
	wantCode(t, func() error { _, err := c.Status(t.Context()); return err }(), NotReachable)
	open[0].Close()
	waitFor(t, func() bool { _, err := c.Status(t.Context()); return err == nil })
}

func wantCode(t *testing.T, err error, code Code) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Code != code {
		t.Errorf("error %v, want one with code %d", err, code)
	}
}

func TestClientSaysWhatToDo(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead.sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	waiting := newFake()
	waiting.wait = make(chan struct{})
	tests := []struct {
		name, socket string
		timeout      time.Duration
		code         Code
		says         string
	}{
		{"no socket", filepath.Join(dir, "none.sock"), time.Second, NotReachable, "systemctl start ipsecagent"},
		{"nobody answers", dead, time.Second, NotReachable, "systemctl start ipsecagent"},
		{"too slow", serve(t, waiting), 50 * time.Millisecond, TimedOut, "--timeout"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := NewClient(tt.socket, tt.timeout).Status(t.Context())
			wantCode(t, err, tt.code)
			if !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), tt.socket) {
				t.Errorf("the error does not name the remedy and the socket: %v", err)
			}
		})
	}
	close(waiting.wait)
}

// TestMain doubles as a caller of another user: see TestStrangersAreRefused.
func TestMain(m *testing.M) {
	socket := os.Getenv("CONTROL_TEST_SOCKET")
	if socket == "" {
		os.Exit(m.Run())
	}
	c := NewClient(socket, 10*time.Second)
	_, look := c.Status(context.Background())
	_, change := c.Unassign(context.Background())
	fmt.Printf("%d %d\n", codeOf(look), codeOf(change))
}

func codeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return OK
}

// asUser asks the server as another user and returns the codes of a look and
// of a change.
func asUser(t *testing.T, socket string, cred *syscall.Credential) string {
	t.Helper()
	exe := filepath.Join(filepath.Dir(filepath.Dir(socket)), "caller")
	if err := copyProgram(exe); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = []string{"CONTROL_TEST_SOCKET=" + socket}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func copyProgram(to string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

// openFolder makes a folder that every user can enter.
func openFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "control")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestStrangersAreRefused(t *testing.T) {
	needsRoot(t)
	path := filepath.Join(openFolder(t), "run", "agent.sock")
	ln, err := Listen(path, DefaultGroup)
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, ln, newFake())
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
	if got := asUser(t, path, nobody); got != "5 5" {
		t.Errorf("a stranger at the closed socket got %s, want 5 5", got)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if got := asUser(t, path, nobody); got != "5 5" {
		t.Errorf("a stranger at an open socket got %s, want 5 5", got)
	}
}

func TestReadersLookAndChangeNothing(t *testing.T) {
	needsRoot(t)
	const readers = "daemon" // a group every Debian has
	gid, err := groupID(readers)
	if err != nil || gid == noGroup {
		t.Fatalf("group %s: %d, %v", readers, gid, err)
	}
	path := filepath.Join(openFolder(t), "run", "agent.sock")
	ln, err := Listen(path, readers)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, ln, ServerConfig{Backend: newFake(), Log: discard(), Group: readers})
	}()
	primary := asUser(t, path, &syscall.Credential{Uid: 65534, Gid: uint32(gid)})
	supplementary := asUser(t, path, &syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{4, uint32(gid)}})
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if primary != "0 5" || supplementary != "0 5" {
		t.Errorf("a reader got %s (primary group), %s (supplementary), want 0 5", primary, supplementary)
	}
}

func TestAccess(t *testing.T) {
	tests := []struct {
		name    string
		who     caller
		readers int64
		want    access
	}{
		{"root", caller{}, 100, accessChange},
		{"root without the group", caller{}, noGroup, accessChange},
		{"member", caller{uid: 7, gid: 100}, 100, accessRead},
		{"member by a second group", caller{uid: 7, gid: 7, groups: []uint32{3, 100}}, 100, accessRead},
		{"stranger", caller{uid: 7, gid: 7, groups: []uint32{0}}, 100, accessNone},
		{"stranger of root's group", caller{uid: 7, gid: 0}, 100, accessNone},
		{"no such group", caller{uid: 7, gid: 0xffffffff}, noGroup, accessNone},
	}
	for _, tt := range tests {
		if got := accessOf(tt.who, tt.readers); got != tt.want {
			t.Errorf("%s: access %d, want %d", tt.name, got, tt.want)
		}
	}
}

// post sends a raw body and returns status and answer.
func post(t *testing.T, path, route, body string) (int, string) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}}
	resp, err := c.Post("http://agent"+route, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestMalformedRequestsAreRefused(t *testing.T) {
	needsRoot(t)
	f := newFake()
	path := serve(t, f)
	tests := []struct {
		name, route, body string
		status            int
	}{
		{"unknown field", "/v1/assign", `{"policy":"client","force":true}`, 400},
		{"two objects", "/v1/assign", `{"policy":"client"}{}`, 400},
		{"no object", "/v1/assign", `["client"]`, 400},
		{"no name", "/v1/assign", `{}`, 400},
		{"empty", "/v1/assign", ``, 400},
		{"leaves the folder", "/v1/assign", `{"policy":"../secrets.d/keys"}`, 400},
		{"hidden file", "/v1/assign", `{"policy":".client"}`, 400},
		{"control characters", "/v1/assign", `{"policy":"client\u001b[2J"}`, 400},
		{"long name", "/v1/assign", `{"policy":"` + strings.Repeat("a", 256) + `"}`, 400},
		{"unknown authentication", "/v1/assign", `{"policy":"client","auth":"none"}`, 400},
		{"keys without use", "/v1/assign", `{"policy":"client","keys":"k"}`, 400},
		{"no keys", "/v1/assign", `{"policy":"client","auth":"psk-file","keys":" \n"}`, 400},
		{"too large", "/v1/assign", `{"policy":"client","auth":"psk-file","keys":"` + strings.Repeat("k", MaxRequest) + `"}`, 400},
		{"parameters of unassign", "/v1/unassign", `{"policy":"client"}`, 400},
		{"parameters of reload", "/v1/reload", `{"now":true}`, 400},
		{"unknown request", "/v1/erase", `{}`, 404},
		{"wrong method", "/v1/status", `{}`, 404},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, answer := post(t, path, tt.route, tt.body)
			if status != tt.status || !strings.Contains(answer, `"message":"`) {
				t.Errorf("status %d, answer %s", status, answer)
			}
		})
	}
	if len(f.assigned) > 0 {
		t.Errorf("a malformed request reached the backend: %+v", <-f.assigned)
	}
}

func TestQueriesAreChecked(t *testing.T) {
	needsRoot(t)
	path := serve(t, newFake())
	for _, q := range []string{
		"/v1/policy?nam=x", "/v1/policy?name=a&name=b", "/v1/policy?effective=1", "/v1/policy?name=..%2Fx", "/v1/events?follow=yes", "/v1/events?since=1",
	} {
		req, err := http.NewRequest(http.MethodGet, "http://agent"+q, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := NewClient(path, 10*time.Second).http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 400 {
			t.Errorf("%s answered %s", q, resp.Status)
		}
	}
}

func TestListenReplacesADeadSocketOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	first, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path, ""); err == nil || !strings.Contains(err.Error(), "another agent answers") {
		t.Errorf("Listen beside a living agent: %v", err)
	}
	first.SetUnlinkOnClose(false)
	first.Close()
	second, err := Listen(path, "")
	if err != nil {
		t.Fatalf("Listen over a dead socket: %v", err)
	}
	defer second.Close()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file, ""); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("Listen over a file: %v", err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file was touched: %q, %v", b, err)
	}
}

func TestClientRefusesAnotherSchema(t *testing.T) {
	needsRoot(t)
	f := newFake()
	f.status.SchemaVersion = "2.0"
	_, err := NewClient(serve(t, f), 10*time.Second).Status(t.Context())
	wantCode(t, err, Failed)
	if !strings.Contains(err.Error(), `"2.0"`) {
		t.Errorf("%v", err)
	}
}

func TestEveryPrefixOfARequestIsRefused(t *testing.T) {
	whole := `{"policy":"client","auth":"psk-file","keys":"any: k"}`
	if _, err := decodeAssign(strings.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if r, err := decodeAssign(strings.NewReader(whole[:n])); err == nil {
			t.Errorf("the prefix %q was taken as %+v", whole[:n], r)
		}
	}
}

func FuzzDecodeAssign(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `{"policy":"client"}`, `{"policy":"a/b"}`, `{"policy":"x","auth":"psk-file","keys":"k"}`, `{"policy":1}`, "{\"policy\":\"\xff\"}", `{"policy":"a"} x`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		r, err := decodeAssign(strings.NewReader(body))
		if err != nil {
			if r != (AssignRequest{}) || codeOf(err) != Invalid {
				t.Fatalf("refused with %+v, %v", r, err)
			}
			return
		}
		if filepath.Base(r.Policy) != r.Policy || r.Policy == ".." || strings.ContainsFunc(r.Policy, notPrintable) {
			t.Fatalf("accepted the name %q", r.Policy)
		}
		if (r.Auth == AuthPSKFile) != (r.Keys != "") {
			t.Fatalf("accepted authentication %q with keys %q", r.Auth, r.Keys)
		}
	})
}
