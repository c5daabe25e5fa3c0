package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
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
		if in := one[ike.SetTrace](r); len(in.Peers) != 1 || in.Peers[0] != bob() || len(in.Keys) != 0 || in.All {
			t.Errorf("%+v", in)
		}
		r.out(step(carol(), "hers"))
		r.out(keyOf(bob(), 0, "secret"))
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
		taken[ike.SetTrace](r)
		withKeys, stop := r.trace(bob(), true)
		if got := one[ike.SetTrace](r); !slices.Equal(got.Keys, []netip.Addr{bob()}) || len(got.Peers) != 2 || got.Show != bob() || got.For == 0 {
			t.Errorf("%+v", got)
		}
		r.out(keyOf(bob(), 0, "secret"))
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
		if got := taken[ike.SetTrace](r); len(got[len(got)-1].Keys) != 0 {
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

func keyOf(peer netip.Addr, to uint64, line string) ike.KeyLog {
	return ike.KeyLog{Remote: addrPort(peer), Table: "esp_sa", Line: line, For: to}
}

// TestKeysGoToThoseWhoAskedForThisPeersAlone: who reads the keys of one peer
// gets none of another that is traced too, and who comes later gets those that
// are there, which who has them already does not get again.
func TestKeysGoToThoseWhoAskedForThisPeersAlone(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		his, _ := r.trace(bob(), true)
		hers, _ := r.trace(carol(), true)
		steps, _ := r.trace(bob(), false)
		taken[ike.SetTrace](r)
		late, _ := r.trace(netip.AddrFrom16(bob().As16()), true)
		in := one[ike.SetTrace](r)
		if in.Show != bob() || in.For == 0 {
			t.Errorf("%+v", in)
		}
		r.out(keyOf(bob(), in.For, "there already"))
		r.out(keyOf(bob(), 0, "new"))
		r.out(keyOf(carol(), 0, "of carol"))
		for name, c := range map[string]struct {
			lines <-chan control.TraceLine
			want  []string
		}{"bob's": {his, []string{"new"}}, "carol's": {hers, []string{"of carol"}}, "steps": {steps, nil}, "late": {late, []string{"there already", "new"}}} {
			var got []string
			for len(c.lines) > 0 {
				got = append(got, (<-c.lines).Line)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%s: %q", name, got)
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
