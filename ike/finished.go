package ike

import "time"

// finishedQuick is what is left of a quick mode for a while: the answers to
// messages that may be repeated.
type finishedQuick struct {
	answers answers
	life    *timer
}

// keepAnswers takes q, which is over, out of all tables and keeps its answers.
func (m *Machine) keepAnswers(now time.Time, q *quickMode) {
	m.forgetQuick(q)
	s, id := q.sa, q.id
	life := m.timers.set(nil, now.Add(halfOpenLife), func(time.Time) { delete(s.finished, id) })
	s.finished[id] = &finishedQuick{q.answers, life}
}

// repeated answers a message of a quick mode that is over.
func (m *Machine) repeated(s *isakmp, f *finishedQuick, msg message) error {
	reply, ok := f.answers.seen(msg.sum)
	if !ok {
		return errBusy
	}
	if reply != nil {
		m.send(s.path, reply)
	}
	return nil
}

// forgetAnswers forgets them all: s is over.
func (m *Machine) forgetAnswers(s *isakmp) {
	for _, f := range s.finished {
		m.timers.stop(f.life)
	}
	clear(s.finished)
}
