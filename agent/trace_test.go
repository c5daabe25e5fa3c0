package agent

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"ipsecagent/agent/control"
	"ipsecagent/ike"
)

// trace begins to read the exchanges with a peer.
func (r *rig) trace(peer netip.Addr, keys bool) (lines <-chan control.TraceLine, stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	lines, err := r.agent.Trace(ctx, control.TraceRequest{Peer: peer, Keys: keys, By: "user 0"})
	if err != nil {
		r.t.Fatal(err)
	}
	return lines, func() { cancel(); synctest.Wait() }
}

func step(peer netip.Addr, text string) ike.Traced {
	return ike.Traced{Local: addrPort(alice()), Remote: addrPort(peer), Text: text}
}

func TestTraceShowsOnePeer(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		lines, stop := r.trace(bob(), false)
		if in := one[ike.SetTrace](r); len(in.Peers) != 1 || in.Peers[0] != bob() || in.Keys || in.All {
			t.Errorf("%+v", in)
		}
		r.out(step(carol(), "hers"))
		r.out(ike.KeyLog{Table: "esp_sa", Line: "secret"})
		r.out(step(bob(), "his"))
		if got := <-lines; got.Text != "his" || got.Remote != "192.0.2.2:500" {
			t.Errorf("%+v", got)
		}
		if len(lines) != 0 {
			t.Errorf("%d lines more: %+v", len(lines), <-lines)
		}
		stop()
		if _, open := <-lines; open {
			t.Error("the stream does not end")
		}
		if in := one[ike.SetTrace](r); len(in.Peers) != 0 {
			t.Errorf("after the end %+v is traced", in)
		}
	})
}

func TestKeysAreTracedOnRequestAndNoted(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		plain, _ := r.trace(carol(), false)
		withKeys, stop := r.trace(bob(), true)
		if got := taken[ike.SetTrace](r); !got[len(got)-1].Keys || len(got[len(got)-1].Peers) != 2 {
			t.Errorf("%+v", got)
		}
		r.out(ike.KeyLog{Table: "esp_sa", Line: "secret"})
		if got := <-withKeys; got.Table != "esp_sa" || got.Line != "secret" {
			t.Errorf("%+v", got)
		}
		if len(plain) != 0 {
			t.Error("a reader that did not ask for keys gets them")
		}
		if e := r.eventOf(control.EventTraceBegan); e.Severity != "warning" || e.Fields["keys"] != "yes" || e.Fields["by"] != "user 0" {
			t.Errorf("event %+v", e)
		}
		stop()
		if got := taken[ike.SetTrace](r); got[len(got)-1].Keys {
			t.Error("keys are still put out")
		}
		c, _ := r.agent.Events(t.Context(), false)
		for e := range c {
			if strings.Contains(fmt.Sprint(e), "secret") {
				t.Errorf("a key is in event %+v", e)
			}
		}
	})
}

func TestSlowReaderOfATraceIsToldWhatItMissed(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		lines, stop := r.trace(bob(), false)
		for i := range traceSlack + 7 {
			r.out(step(bob(), fmt.Sprint(i)))
		}
		for range traceSlack {
			if got := <-lines; got.Lost != 0 {
				t.Fatalf("%+v", got)
			}
		}
		r.out(step(bob(), strings.Repeat("x", 2*maxTraceText)))
		if got := <-lines; got.Lost != 7 || len(got.Text) > maxTraceText+3 {
			t.Errorf("lost %d, %d bytes", got.Lost, len(got.Text))
		}
		stop()
		if e := r.eventOf(control.EventTraceEnded); e.Fields["missed"] != "7" {
			t.Errorf("event %+v", e)
		}
	})
}

func TestTracesAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		for range maxTracers {
			r.trace(bob(), false)
		}
		_, err := r.agent.Trace(t.Context(), control.TraceRequest{Peer: bob()})
		wantCode(t, err, control.Failed)
	})
}
