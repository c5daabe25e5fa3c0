package agent

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/ike"
)

const (
	// maxTracers bounds the readers of exchanges.
	maxTracers = 8
	// traceSlack is how many lines a reader may lag behind.
	traceSlack = 512
	// maxTraceText bounds one line of a trace in bytes; it is a whole message.
	maxTraceText = 32 << 10
)

// tracer is a reader of the exchanges with one peer.
type tracer struct {
	id    uint64
	peer  netip.Addr
	keys  bool
	by    string
	lines chan control.TraceLine
	// lost is how many lines it has missed since the last it got, missed how
	// many in all.
	lost, missed int
}

// Trace returns the exchanges with a peer, from now until ctx ends.
func (a *Agent) Trace(ctx context.Context, r control.TraceRequest) (<-chan control.TraceLine, error) {
	t, err := ask(ctx, a, func(now time.Time) (*tracer, error) { return a.beginTrace(now, r) })
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() {
		select {
		case a.calls <- func(now time.Time) { a.endTrace(now, t) }:
		case <-a.done:
		}
	})
	return t.lines, nil
}

func (a *Agent) beginTrace(now time.Time, r control.TraceRequest) (*tracer, error) {
	if len(a.tracers) >= maxTracers {
		return nil, &control.Error{Code: control.Failed, Message: fmt.Sprintf("%d traces run already; end one of them", maxTracers)}
	}
	a.lastTracer++
	t := &tracer{id: a.lastTracer, peer: plain(r.Peer), keys: r.Keys, by: r.By, lines: make(chan control.TraceLine, traceSlack)}
	a.tracers[t] = true
	a.setTrace(t)
	severity := "info"
	if t.keys {
		severity = "warning"
	}
	a.event(now, control.EventTraceBegan, severity, fmt.Sprintf("the exchanges with %s are being read%s", t.peer, withKeys(t.keys)), t.fields())
	return t, nil
}

func withKeys(keys bool) string {
	if keys {
		return ", with the keys"
	}
	return ""
}

func (t *tracer) fields() map[string]string {
	f := map[string]string{"peer": t.peer.String(), "by": t.by, "keys": "no"}
	if t.keys {
		f["keys"] = "yes"
	}
	return f
}

func (a *Agent) endTrace(now time.Time, t *tracer) {
	if !a.tracers[t] {
		return
	}
	delete(a.tracers, t)
	close(t.lines)
	a.setTrace(nil)
	f := t.fields()
	f["missed"] = strconv.Itoa(t.missed)
	a.event(now, control.EventTraceEnded, "info", fmt.Sprintf("the exchanges with %s are no longer read", t.peer), f)
}

// setTrace tells the key exchange which peers are traced by anybody, and asks
// it for the keys that a new reader may have and that are there already.
func (a *Agent) setTrace(fresh *tracer) {
	var in ike.SetTrace
	for t := range a.tracers {
		in.Peers = append(in.Peers, t.peer)
		if t.keys {
			in.Keys = append(in.Keys, t.peer)
		}
	}
	if fresh != nil && fresh.keys {
		in.Show, in.For = fresh.peer, fresh.id
	}
	a.cfg.IKE.Submit(in)
}

// traced hands a step to those who read the exchanges with its peer.
func (a *Agent) traced(now time.Time, o ike.Traced) {
	for t := range a.tracers {
		if t.peer == plain(o.Remote.Addr()) {
			t.give(control.TraceLine{Time: now, Local: o.Local.String(), Remote: o.Remote.String(), Sent: o.Sent, Text: bounded(o.Text)})
		}
	}
}

// keyLog hands a line of a key table to those who have asked for the keys of
// its peer; what was there already, to the one who does not have it yet.
func (a *Agent) keyLog(now time.Time, o ike.KeyLog) {
	for t := range a.tracers {
		if t.keys && t.peer == plain(o.Remote.Addr()) && (o.For == 0 || o.For == t.id) {
			t.give(control.TraceLine{Time: now, Table: o.Table, Line: o.Line})
		}
	}
}

func bounded(text string) string {
	if len(text) > maxTraceText {
		return text[:maxTraceText] + "..."
	}
	return text
}

// give hands a line over. A reader that is too slow misses lines, and is told
// how many with the next one it gets: the loop waits for nobody.
func (t *tracer) give(l control.TraceLine) {
	l.Lost = t.lost
	select {
	case t.lines <- l:
		t.lost = 0
	default:
		t.lost++
		t.missed++
	}
}
