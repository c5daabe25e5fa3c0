package ike

import "time"

const (
	// slowWork is how long a piece of work may take before it is taken to
	// wait for something: a key distribution centre, a revocation list, a
	// smart card. Another worker stands in for its own until it is done.
	slowWork = 200 * time.Millisecond
	// maxReliefs bounds the workers that stand in for others.
	maxReliefs = 32
)

// worker does what takes long.
func (s *Server) worker() {
	for {
		select {
		case job := <-s.jobs:
			result, relieved := s.timed(job)
			select {
			case s.results <- WorkDone{job.ID, result}:
			case <-s.done:
				return
			}
			if relieved {
				s.reliefs.Add(-1)
				return
			}
		case <-s.done:
			return
		}
	}
}

// timed does one piece of work and reports whether another worker has taken
// this one's place meanwhile.
func (s *Server) timed(job Work) (result any, relieved bool) {
	came := make(chan bool, 1)
	slow := time.AfterFunc(slowWork, func() { came <- s.relieve() })
	result = s.run(job)
	return result, !slow.Stop() && <-came
}

// relieve starts a worker in the place of one that waits.
func (s *Server) relieve() bool {
	if s.reliefs.Add(1) > maxReliefs {
		s.reliefs.Add(-1)
		return false
	}
	s.running.Go(s.worker)
	return true
}

// run does one piece of work; a panic becomes its result.
func (s *Server) run(job Work) (result any) {
	defer func() {
		if recover() != nil {
			s.crashes.Add(1)
			result = errWork
		}
	}()
	return job.Run()
}
