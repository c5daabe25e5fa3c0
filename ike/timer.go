package ike

import (
	"container/heap"
	"time"
)

// timer is something to do at a time.
type timer struct {
	at    time.Time
	seq   uint64 // equal times fire in the order they were set
	index int    // in the heap; -1: not set
	fire  func(now time.Time)
}

// timers is a heap of timers, the next one first.
type timers struct {
	heap timerHeap
	seq  uint64
}

// set arms a timer; the zero t is replaced by a new one.
func (ts *timers) set(t *timer, at time.Time, fire func(now time.Time)) *timer {
	ts.stop(t)
	ts.seq++
	t = &timer{at: at, seq: ts.seq, fire: fire}
	heap.Push(&ts.heap, t)
	return t
}

// stop disarms t, which may be nil or over.
func (ts *timers) stop(t *timer) {
	if t != nil && t.index >= 0 {
		heap.Remove(&ts.heap, t.index)
	}
}

// next returns the time of the next timer, zero when there is none.
func (ts *timers) next() time.Time {
	if len(ts.heap) == 0 {
		return time.Time{}
	}
	return ts.heap[0].at
}

// due takes out the next timer that is due.
func (ts *timers) due(now time.Time) (*timer, bool) {
	if len(ts.heap) == 0 || ts.heap[0].at.After(now) {
		return nil, false
	}
	return heap.Pop(&ts.heap).(*timer), true
}

type timerHeap []*timer

func (h timerHeap) Len() int { return len(h) }

func (h timerHeap) Less(i, j int) bool {
	if !h[i].at.Equal(h[j].at) {
		return h[i].at.Before(h[j].at)
	}
	return h[i].seq < h[j].seq
}

func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push is for container/heap.
func (h *timerHeap) Push(x any) {
	t := x.(*timer)
	t.index = len(*h)
	*h = append(*h, t)
}

// Pop is for container/heap.
func (h *timerHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.index = -1
	return t
}
