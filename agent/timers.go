package agent

import (
	"container/heap"
	"time"
)

// timers runs functions of the loop at later times. One that is no longer
// meant finds that out from the state when it runs, or is stopped.
type timers struct {
	due []*timer
}

type timer struct {
	at    time.Time
	run   func(now time.Time)
	index int // in due; -1: not there any more
}

// Len, Less, Swap, Push and Pop are heap.Interface.
func (t *timers) Len() int           { return len(t.due) }
func (t *timers) Less(i, j int) bool { return t.due[i].at.Before(t.due[j].at) }
func (t *timers) Swap(i, j int) {
	t.due[i], t.due[j] = t.due[j], t.due[i]
	t.due[i].index, t.due[j].index = i, j
}
func (t *timers) Push(x any) {
	last := x.(*timer)
	last.index = len(t.due)
	t.due = append(t.due, last)
}
func (t *timers) Pop() any {
	last := t.due[len(t.due)-1]
	t.due[len(t.due)-1] = nil
	t.due = t.due[:len(t.due)-1]
	last.index = -1
	return last
}

// at runs f once at has come.
func (t *timers) at(at time.Time, f func(now time.Time)) *timer {
	x := &timer{at: at, run: f}
	heap.Push(t, x)
	return x
}

// stop takes a timer back that has not run yet.
func (t *timers) stop(x *timer) {
	if x.pending() {
		heap.Remove(t, x.index)
	}
}

// pending reports whether x is still to run; nil is not.
func (x *timer) pending() bool { return x != nil && x.index >= 0 }

// next returns when the earliest is due.
func (t *timers) next() (time.Time, bool) {
	if len(t.due) == 0 {
		return time.Time{}, false
	}
	return t.due[0].at, true
}

// run runs what is due, in order, also what that adds, if due.
func (t *timers) run(now time.Time) {
	for len(t.due) > 0 && !t.due[0].at.After(now) {
		heap.Pop(t).(*timer).run(now)
	}
}
