package agent

import (
	"container/heap"
	"time"
)

// timers runs functions of the loop at later times. One that is no longer
// meant finds that out from the state when it runs; none is taken back.
type timers struct {
	due []timer
}

type timer struct {
	at  time.Time
	run func(now time.Time)
}

// Len, Less, Swap, Push and Pop are heap.Interface.
func (t *timers) Len() int           { return len(t.due) }
func (t *timers) Less(i, j int) bool { return t.due[i].at.Before(t.due[j].at) }
func (t *timers) Swap(i, j int)      { t.due[i], t.due[j] = t.due[j], t.due[i] }
func (t *timers) Push(x any)         { t.due = append(t.due, x.(timer)) }
func (t *timers) Pop() any {
	last := t.due[len(t.due)-1]
	t.due[len(t.due)-1] = timer{}
	t.due = t.due[:len(t.due)-1]
	return last
}

// at runs f once at has come.
func (t *timers) at(at time.Time, f func(now time.Time)) { heap.Push(t, timer{at, f}) }

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
		heap.Pop(t).(timer).run(now)
	}
}
