package iketest

import "time"

// event is a delivery that is due; sequence orders those of the same time.
type event struct {
	at       time.Time
	sequence uint64
	d        Delivery
}

// queue is a heap (container/heap) with the earliest event on top.
type queue []event

func (q queue) Len() int      { return len(q) }
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

func (q queue) Less(i, j int) bool {
	if q[i].at.Equal(q[j].at) {
		return q[i].sequence < q[j].sequence
	}
	return q[i].at.Before(q[j].at)
}

// Push and Pop serve container/heap alone.
func (q *queue) Push(e any) { *q = append(*q, e.(event)) }

func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	*q = (*q)[:last]
	return e
}
