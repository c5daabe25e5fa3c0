package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/ike"
	"ipsecagent/sadb"
)

// TestRecordsOfClearEndWithAnAssociation: what went in clear before a peer was
// secured is not said of it afterwards, and why says what was.
func TestRecordsOfClearEndWithAnAssociation(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		p := r.secure(tcp(bob(), 80)) // its first packet went in clear
		r.pass(time.Minute)
		r.out(ike.Ended{Pair: p.ID, Reason: "deleted by the peer", ByPeer: true})
		if w := r.why(); w.State != control.PeerEnded || len(w.InClear) != 0 ||
			!strings.Contains(w.Words, "deleted by the peer") || !strings.Contains(w.Words, "dropped until") {
			t.Errorf("within the grace: %q, %s, %+v", w.State, w.Words, w.InClear)
		}
		r.pass(shortGrace + time.Second)
		if w := r.why(); w.State != control.PeerEnded || len(w.InClear) != 0 || strings.Contains(w.Words, "dropped until") {
			t.Errorf("after the grace: %q, %s, %+v", w.State, w.Words, w.InClear)
		}
		ended := time.Now().Add(-shortGrace - time.Second)
		r.send(tcp(bob(), 80))
		w := r.why()
		if len(w.InClear) != 1 || w.InClear[0].Since.Before(ended.Add(-time.Second)) {
			t.Errorf("in clear again: %+v, the association ended at %v", w.InClear, ended)
		}
	})
}

func TestLastEndsAreBounded(t *testing.T) {
	l := lastEnds{}
	begin := time.Unix(1000, 0)
	for i := range 2 * maxLastEnds {
		l.note(endKey{sadb.FilterID(fmt.Sprint(i)), alice(), bob()}, lastEnd{at: begin.Add(time.Duration(i) * time.Second)})
	}
	if last, ok := l.of(bob()); len(l) != maxLastEnds || !ok || !last.at.Equal(begin.Add((2*maxLastEnds-1)*time.Second)) {
		t.Errorf("%d ends, the last %v", len(l), last.at)
	}
}
