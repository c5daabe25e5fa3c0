package ike

import (
	"slices"
	"time"
)

// finishedQuick is what is left of a quick mode for a while: the answer to its
// last message, which may be repeated. Whoever sent that one has the answers to
// all before.
type finishedQuick struct {
	id     uint32
	answer answer
	life   *timer
}

// keepAnswer takes q, which is over, out of all tables and keeps its answer.
func (m *Machine) keepAnswer(now time.Time, q *quickMode) {
	m.forgetQuick(q)
	s, f := q.sa, finishedQuick{id: q.id, answer: q.answers.latest()}
	if f.answer.reply == nil {
		return
	}
	f.life = m.timers.set(nil, now.Add(halfOpenLife), func(time.Time) { s.forgetFinished(f.id) })
	s.finished = append(s.finished, f)
}

func (s *isakmp) forgetFinished(id uint32) {
	s.finished = slices.DeleteFunc(s.finished, func(f finishedQuick) bool { return f.id == id })
	if len(s.finished) == 0 {
		s.finished = nil
	}
}

// repeated answers a message of a quick mode that is over; false: it belongs to
// none that has an answer.
func (m *Machine) repeated(s *isakmp, msg message) bool {
	i := slices.IndexFunc(s.finished, func(f finishedQuick) bool { return f.id == msg.MessageID && f.answer.sum == msg.sum })
	if i < 0 {
		return false
	}
	m.send(s.path, s.finished[i].answer.reply)
	return true
}

// forgetAnswers forgets them all: s is over.
func (m *Machine) forgetAnswers(s *isakmp) {
	for _, f := range s.finished {
		m.timers.stop(f.life)
	}
	s.finished = nil
}
