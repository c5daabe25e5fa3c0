package ike

import (
	"crypto/sha256"
	"net/netip"
	"time"
)

// The schedule of retransmission: 0.5 s, each wait 1.8 times the one before,
// nine sends; the ninth wait ends 123.3 s after the first send.
const (
	firstWait = 500 * time.Millisecond
	maxSends  = 9
	giveUp    = 123300 * time.Millisecond
	// halfOpenLife is how long an exchange that waits for the peer lives
	// after its last message, and how long answers are kept.
	halfOpenLife = 125 * time.Second
	// hintSends is how many more sends an exchange gets after a message that
	// proves nothing said it is in vain.
	hintSends = 2
	// deleteSends is how often a delete goes out: nobody acknowledges it.
	deleteSends = 4
)

// wait returns the wait after the nth send, counted from 1.
func wait(n int) time.Duration {
	w := float64(firstWait)
	for ; n > 1; n-- {
		w *= 1.8
	}
	return time.Duration(w)
}

// path is the two ends of a datagram.
type path struct{ local, remote netip.AddrPort }

// repeater sends one datagram until it is stopped, its sends are used up or
// its time is over.
type repeater struct {
	path
	data  []byte
	sends int
	limit int
	until time.Time
	timer *timer
	over  func(now time.Time)
	// answered: an answer has come and is being worked on. Nil: none ever is.
	answered func() bool
}

// repeat sends data now and again on the schedule.
func (m *Machine) repeat(now time.Time, r *repeater) {
	m.sendAgain(r.path, r.data, r.sends)
	r.sends++
	next := now.Add(wait(r.sends))
	if next.After(r.until) {
		next = r.until
	}
	r.timer = m.timers.set(r.timer, next, func(now time.Time) { m.waited(now, r) })
}

// waited is called at the end of each wait. While an answer is being worked on
// nothing is sent and nothing given up: with a thousand exchanges under way it
// may take its time, and to begin anew would only make more work.
func (m *Machine) waited(now time.Time, r *repeater) {
	working := r.answered != nil && r.answered()
	switch {
	case !now.Before(r.until) || !working && r.sends >= r.limit:
		r.over(now)
	case working:
		r.timer = m.timers.set(r.timer, now.Add(firstWait), func(now time.Time) { m.waited(now, r) })
	default:
		m.repeat(now, r)
	}
}

// stopRepeat ends a repeater, which may be nil.
func (m *Machine) stopRepeat(r *repeater) {
	if r != nil {
		m.timers.stop(r.timer)
	}
}

// shorten leaves the repeater a few more sends.
func (r *repeater) shorten() {
	if r != nil {
		r.limit = min(r.limit, r.sends+hintSends)
	}
}

// answers is what an exchange has answered lately: a datagram seen before is
// known by its hash, before anything is decrypted, and gets the same answer.
type answers struct {
	last [2]answer // the newest last
}

// answer is what a datagram of this hash gets again.
type answer struct {
	sum   [32]byte
	reply []byte
}

// latest returns the answer to the last new datagram; zero: there was none.
func (a *answers) latest() answer { return a.last[1] }

// remember notes the answer to a datagram; nil: none yet, or none at all.
func (a *answers) remember(sum [32]byte, reply []byte) {
	for i := range a.last {
		if a.last[i].sum == sum {
			a.last[i].reply = reply
			return
		}
	}
	a.last[0], a.last[1] = a.last[1], answer{sum, reply}
}

// seen reports whether a datagram was answered before, and how. Nil has seen
// none.
func (a *answers) seen(sum [32]byte) (reply []byte, ok bool) {
	if a == nil {
		return nil, false
	}
	for _, e := range a.last {
		if e.sum == sum {
			return e.reply, true
		}
	}
	return nil, false
}

func checksum(datagram []byte) [32]byte { return sha256.Sum256(datagram) }
