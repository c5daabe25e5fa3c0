package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
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
