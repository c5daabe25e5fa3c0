package ike

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"ipsecagent/ike/wire"
)

// ServerConfig is what a Server needs.
type ServerConfig struct {
	Machine   *Machine // the Server's own from now on
	Transport Transport
	// Workers is how many goroutines do what takes long; 0: 2.
	Workers int
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

const (
	defaultWorkers = 2
	packetQueue    = 1024
	inputQueue     = 256
	// maxBacklog bounds the outputs that wait for their reader. Beyond it new
	// work is refused: no Initiate, no datagram; what concerns associations
	// that exist is still taken.
	maxBacklog = 4096
	// maxReceiveErrors in a row end the Server: the sockets are broken.
	maxReceiveErrors = 100
)

// Server runs a Machine on a Transport: one goroutine owns the Machine, one
// receives, a few do what takes long.
type Server struct {
	cfg       ServerConfig
	inputs    chan Input
	packets   chan Packet
	results   chan WorkDone
	jobs      chan Work
	outputs   chan Output
	queries   chan chan []ISAKMPSA
	done      chan struct{}
	broken    chan error
	overflows atomic.Int64 // datagrams that found the queue full
	crashes   atomic.Int64 // pieces of work that ended in a panic
	reliefs   atomic.Int64 // workers that stand in for slow ones
	running   sync.WaitGroup

	// The rest belongs to the loop.
	backlog []Output
	waiting [workOrders][]Work
	alarmAt time.Time
}

// NewServer returns a Server; Run starts it.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Workers <= 0 {
		cfg.Workers = defaultWorkers
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Server{
		cfg:     cfg,
		inputs:  make(chan Input, inputQueue),
		packets: make(chan Packet, packetQueue),
		results: make(chan WorkDone, cfg.Workers),
		jobs:    make(chan Work),
		outputs: make(chan Output),
		queries: make(chan chan []ISAKMPSA),
		done:    make(chan struct{}),
		broken:  make(chan error, 1),
	}
}

// Submit hands an input to the Machine. It waits for the loop at most, which
// waits for nobody. After the end of Run it does nothing.
func (s *Server) Submit(in Input) {
	select {
	case s.inputs <- in:
	case <-s.done:
	}
}

// Outputs is what the Machine puts out, without Send and Work, which the
// Server does itself. Closed at the end of Run.
func (s *Server) Outputs() <-chan Output { return s.outputs }

// SAs returns the established ISAKMP SAs, oldest first.
func (s *Server) SAs(ctx context.Context) ([]ISAKMPSA, error) {
	answer := make(chan []ISAKMPSA, 1)
	select {
	case s.queries <- answer:
		return <-answer, nil
	case <-s.done:
		return nil, errors.New("ike: list ISAKMP SAs: IKE has stopped")
	case <-ctx.Done():
		return nil, fmt.Errorf("ike: list ISAKMP SAs: %w", ctx.Err())
	}
}

// Run runs the Machine until ctx is done, which is no error, or the Transport
// breaks. It closes the Transport.
func (s *Server) Run(ctx context.Context) error {
	s.running.Go(s.receive)
	for range s.cfg.Workers {
		s.running.Go(s.worker)
	}
	err := s.loop(ctx)
	close(s.done)
	s.cfg.Transport.Close()
	s.running.Wait()
	close(s.outputs)
	return err
}

// loop owns the Machine.
func (s *Server) loop(ctx context.Context) error {
	alarm := time.NewTimer(0)
	defer alarm.Stop()
	for {
		s.drain()
		s.setAlarm(alarm)
		if stop, err := s.turn(ctx, alarm); stop {
			return err
		}
	}
}

// turn waits for one thing to happen and does it.
func (s *Server) turn(ctx context.Context, alarm *time.Timer) (stop bool, err error) {
	packets, outputs, jobs := s.packets, s.outputs, s.jobs
	if len(s.backlog) >= maxBacklog {
		packets = nil
	}
	next, job := s.nextOutput(), s.nextJob()
	if next == nil {
		outputs = nil
	}
	if job.Run == nil {
		jobs = nil
	}
	select {
	case <-ctx.Done():
		return true, nil
	case err := <-s.broken:
		return true, err
	case in := <-s.inputs:
		s.handle(in)
	case p := <-packets:
		s.handle(p)
	case r := <-s.results:
		s.handle(r)
	case outputs <- next:
		s.backlog = s.backlog[1:]
	case jobs <- job:
		s.startedJob()
	case answer := <-s.queries:
		answer <- s.cfg.Machine.SAs()
	case <-alarm.C:
		s.alarmAt = time.Time{}
		s.guard(func(now time.Time) { s.cfg.Machine.Tick(now) })
	}
	return false, nil
}

func (s *Server) handle(in Input) {
	if r, ok := in.(Initiate); ok && len(s.backlog) >= maxBacklog {
		s.backlog = append(s.backlog, Failed{Request: r.Request, Local: r.Local, Remote: r.Remote, Filter: r.Quick.Filter,
			Step: "start", Code: FailLocal, Reason: "IKE has more under way than it can report; tried again later"})
		return
	}
	s.guard(func(now time.Time) { s.cfg.Machine.Handle(now, in) })
}

// guard calls the Machine. A panic in it is a mistake of ours that a datagram
// must not turn into an outage: it is counted, and the loop goes on.
func (s *Server) guard(call func(now time.Time)) {
	now := s.cfg.Now()
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Machine.drop(now, netip.AddrPort{}, fmt.Sprintf("%s: %T", InternalError, p))
		}
	}()
	call(now)
	if n := s.crashes.Swap(0); n > 0 {
		s.cfg.Machine.dropMany(now, netip.AddrPort{}, InternalError+" while computing", int(n))
	}
	if n := s.overflows.Swap(0); n > 0 {
		s.cfg.Machine.dropMany(now, netip.AddrPort{}, "more datagrams than could be taken", int(n))
	}
}

// drain takes what the Machine has put out.
func (s *Server) drain() {
	for o, ok := s.cfg.Machine.Poll(); ok; o, ok = s.cfg.Machine.Poll() {
		switch o := o.(type) {
		case Send:
			// A datagram that cannot be sent is a datagram lost.
			_ = s.cfg.Transport.Send(o.Data, o.Local, o.Remote)
		case Work:
			at := o.order()
			s.waiting[at] = append(s.waiting[at], o)
		default:
			s.backlog = append(s.backlog, o)
		}
	}
}

func (s *Server) nextOutput() Output {
	if len(s.backlog) == 0 {
		return nil
	}
	return s.backlog[0]
}

// workOrders is how many orders of work there are (Work.order).
const workOrders = 4

// order says which of the lists of waiting work it stands in, the first first.
func (w Work) order() int {
	switch {
	case w.Low:
		return 3
	case w.Unproven:
		return 2
	case w.Near:
		return 0
	}
	return 1
}

// nextJob returns the work to do next.
func (s *Server) nextJob() Work {
	for _, list := range s.waiting {
		if len(list) > 0 {
			return list[0]
		}
	}
	return Work{}
}

// startedJob takes out what nextJob has returned.
func (s *Server) startedJob() {
	for i, list := range s.waiting {
		if len(list) > 0 {
			s.waiting[i] = list[1:]
			return
		}
	}
}

func (s *Server) setAlarm(alarm *time.Timer) {
	deadline := s.cfg.Machine.Deadline()
	if deadline.Equal(s.alarmAt) {
		return
	}
	s.alarmAt = deadline
	if deadline.IsZero() {
		alarm.Stop()
		return
	}
	alarm.Reset(deadline.Sub(s.cfg.Now()))
}

// receive hands datagrams to the loop and drops them where it cannot keep up:
// peers repeat what matters.
func (s *Server) receive() {
	buffer := make([]byte, wire.MaxMessage+1)
	failures := 0
	for failures < maxReceiveErrors {
		n, local, remote, err := s.cfg.Transport.Recv(buffer)
		if errors.Is(err, net.ErrClosed) {
			s.broken <- fmt.Errorf("ike: receive: %w", err)
			return
		}
		if err != nil {
			failures++
			continue
		}
		failures = 0
		select {
		case s.packets <- Packet{Local: local, Remote: remote, Data: append([]byte(nil), buffer[:n]...)}:
		default:
			s.overflows.Add(1)
		}
	}
	s.broken <- errors.New("ike: receive: the sockets fail again and again; see whether the network stack of this host is in order")
}
