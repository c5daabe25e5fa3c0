package ike

import (
	"testing"
	"time"
)

// TestNoRepetitionWhileTheAnswerIsWorkedOn: this host has so much to compute
// that the work for message 4 takes longer than three waits. It neither asks
// again nor begins anew, and goes on when it can.
func TestNoRepetitionWhileTheAnswerIsWorkedOn(t *testing.T) {
	w, a, b := two(t, 3)
	w.ask(a, b, 1)
	w.run(35 * time.Millisecond) // message 3 is on its way
	if len(a.sent) != 2 {
		t.Fatalf("%d messages sent, should be 2", len(a.sent))
	}
	a.hold = true
	w.run(20 * time.Second)
	if len(a.sent) != 2 || len(a.held) != 1 {
		t.Errorf("%d messages sent while %d pieces of work waited", len(a.sent), len(a.held))
	}
	a.release(w)
	w.run(time.Second)
	if len(a.established) != 1 || len(b.established) != 1 || len(a.failed)+len(b.failed) != 0 {
		t.Errorf("established %d and %d, failed %+v %+v", len(a.established), len(b.established), a.failed, b.failed)
	}
}

// TestWorkThatNeverEndsIsGivenUp: the budget of the exchange bounds the waiting.
func TestWorkThatNeverEndsIsGivenUp(t *testing.T) {
	w, a, b := two(t, 3)
	w.ask(a, b, 1)
	w.run(35 * time.Millisecond)
	a.hold = true
	w.run(halfOpenLife + time.Second)
	if len(a.failed) != 1 || len(a.m.mains) != 0 {
		t.Errorf("failed %+v, %d exchanges are left", a.failed, len(a.m.mains))
	}
}
