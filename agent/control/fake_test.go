package control

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// fake is a Backend that answers what the test says and records what it was
// asked.
type fake struct {
	status    Status
	assigned  chan AssignRequest
	applied   chan ApplyRequest
	confirmed chan time.Time // when the connection began
	events    chan Event
	opened    chan struct{} // a token for each event stream
	err       error
	wait      chan struct{} // Status waits until it is closed, if it is set
}

func newFake() *fake {
	return &fake{
		status:    Status{SchemaVersion: SchemaVersion, Agent: AgentStatus{Host: "alice"}},
		assigned:  make(chan AssignRequest, 16),
		applied:   make(chan ApplyRequest, 16),
		confirmed: make(chan time.Time, 16),
		events:    make(chan Event, 64),
		opened:    make(chan struct{}, 64),
	}
}

func (f *fake) Status(ctx context.Context) (Status, error) {
	if f.wait != nil {
		select {
		case <-f.wait:
		case <-ctx.Done():
			return Status{}, ctx.Err()
		}
	}
	return f.status, f.err
}

func (f *fake) Assign(_ context.Context, r AssignRequest) (AssignResult, error) {
	f.assigned <- r
	return AssignResult{SchemaVersion: SchemaVersion, Policy: r.Policy, Filters: 3}, f.err
}

func (f *fake) Unassign(context.Context) (AssignResult, error) {
	return AssignResult{SchemaVersion: SchemaVersion}, f.err
}

func (f *fake) Apply(_ context.Context, r ApplyRequest) (ApplyResult, error) {
	f.applied <- r
	return ApplyResult{AssignResult: AssignResult{SchemaVersion: SchemaVersion, Policy: "applied"}}, f.err
}

func (f *fake) Confirm(_ context.Context, began time.Time) (ApplyResult, error) {
	f.confirmed <- began
	return ApplyResult{AssignResult: AssignResult{SchemaVersion: SchemaVersion, Policy: "confirmed"}}, f.err
}

func (f *fake) Rollback(context.Context) (ApplyResult, error) {
	return ApplyResult{AssignResult: AssignResult{SchemaVersion: SchemaVersion, Policy: "former"}}, f.err
}

func (f *fake) Reported(context.Context) (Report, error) {
	return Report{SchemaVersion: SchemaVersion, Policy: "reported"}, f.err
}

func (f *fake) Reload(context.Context) (AssignResult, error) {
	return AssignResult{SchemaVersion: SchemaVersion, Policy: "client"}, f.err
}

func (f *fake) Policies(context.Context) ([]PolicyInfo, error) {
	return []PolicyInfo{{Name: "client"}, {Name: "server", Assigned: true}}, f.err
}

func (f *fake) Policy(_ context.Context, name string, effective bool) (PolicyView, error) {
	v := PolicyView{SchemaVersion: SchemaVersion, Name: name}
	if effective {
		v.Filters = []FilterView{{ID: "f1"}}
	}
	return v, f.err
}

func (f *fake) SAs(context.Context) (SAList, error) {
	return SAList{SchemaVersion: SchemaVersion}, f.err
}

func (f *fake) Why(_ context.Context, peer netip.Addr) (Why, error) {
	return Why{SchemaVersion: SchemaVersion, Peer: peer.String(), State: PeerNever}, f.err
}

func (f *fake) Explain(_ context.Context, r ExplainRequest) (Explanation, error) {
	return Explanation{SchemaVersion: SchemaVersion, Flow: r.Flow, Direction: r.Direction, Outcome: r.Connection}, f.err
}

func (f *fake) Lint(_ context.Context, r LintRequest) (LintResult, error) {
	return LintResult{SchemaVersion: SchemaVersion, Policy: r.Policy, Origin: r.Document}, f.err
}

func (f *fake) Trace(ctx context.Context, r TraceRequest) (<-chan TraceLine, error) {
	out := make(chan TraceLine, 2)
	out <- TraceLine{Text: r.By, Remote: r.Peer.String()}
	if r.Keys {
		out <- TraceLine{Table: "esp_sa", Line: "a line"}
	}
	context.AfterFunc(ctx, func() { close(out) })
	return out, f.err
}

func (f *fake) Events(ctx context.Context, follow bool) (<-chan Event, error) {
	f.opened <- struct{}{}
	out := make(chan Event)
	go func() {
		defer close(out)
		for {
			select {
			case e := <-f.events:
				out <- e
			default:
				if !follow {
					return
				}
				select {
				case e := <-f.events:
					out <- e
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out, f.err
}

// serve runs a server for the test and returns its socket.
func serve(t *testing.T, b Backend) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "run", "agent.sock")
	ln, err := Listen(path, DefaultGroup)
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, ln, b)
	return path
}

func serveOn(t *testing.T, ln net.Listener, b Backend) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, ln, ServerConfig{Backend: b, Log: discard(), Version: ThisProgram()})
	}()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Serve does not end")
		}
	})
}

// needsRoot skips where the caller would not be permitted.
func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: the control socket lets root alone change")
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
