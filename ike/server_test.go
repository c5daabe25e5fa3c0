package ike

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"ipsecagent/auth"
	"ipsecagent/auth/psk"
	"ipsecagent/sadb"
)

// pipe is a Transport between two hosts.
type pipe struct {
	addr   netip.AddrPort
	in     chan Packet
	peer   *pipe
	closed chan struct{}
	lose   func() bool
}

func pipes(a, b string) (*pipe, *pipe) {
	make1 := func(addr string) *pipe {
		return &pipe{addr: netip.AddrPortFrom(netip.MustParseAddr(addr), 500), in: make(chan Packet, 64),
			closed: make(chan struct{}), lose: func() bool { return false }}
	}
	p, q := make1(a), make1(b)
	p.peer, q.peer = q, p
	return p, q
}

func (p *pipe) Recv(b []byte) (int, netip.AddrPort, netip.AddrPort, error) {
	select {
	case in := <-p.in:
		return copy(b, in.Data), in.Local, in.Remote, nil
	case <-p.closed:
		return 0, netip.AddrPort{}, netip.AddrPort{}, net.ErrClosed
	}
}

func (p *pipe) Send(b []byte, local, remote netip.AddrPort) error {
	if p.lose() {
		return nil
	}
	select {
	case p.peer.in <- Packet{Local: remote, Remote: local, Data: append([]byte(nil), b...)}:
		return nil
	default:
		return errors.New("full")
	}
}

func (p *pipe) Close() error { close(p.closed); return nil }

// served is a Server with an agent that grants everything.
type served struct {
	*Server
	established chan Established
	others      chan Output
}

func serve(ctx context.Context, t *testing.T, p *pipe, seed uint64) *served {
	t.Helper()
	m := New(Config{Rand: randomFrom(seed), Auth: []auth.Authenticator{psk.New(keyring(t, goodKey))}})
	s := &served{NewServer(ServerConfig{Machine: m, Transport: p}), make(chan Established, 8), make(chan Output, 8)}
	go func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("%s: %v", p.addr, err)
		}
	}()
	go s.agent(seed)
	s.Submit(SetPolicy{policyOf(mainOffer(t), QuickOffer{Proposals: proposals(t, "esp-aes256gcm")})})
	return s
}

func (s *served) agent(seed uint64) {
	spi := sadb.SPI(seed << 16)
	for o := range s.Outputs() {
		switch o := o.(type) {
		case ReserveSPI:
			spi++
			s.Submit(SPIReserved{ID: o.ID, SPI: spi})
		case Install:
			s.Submit(Installed{ID: o.ID})
		case Established:
			s.established <- o
		default:
			select {
			case s.others <- o:
			default:
			}
		}
	}
	close(s.others)
}

func (s *served) ask(t *testing.T, local, remote *pipe, request uint64) {
	s.Submit(Initiate{Request: request, Local: local.addr.Addr(), Remote: remote.addr.Addr(), Main: mainOffer(t),
		Quick: quickOffer(t, local.addr.Addr(), remote.addr.Addr())})
}

func TestServersEstablishAPairOverALossyPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p, q := pipes("192.0.2.1", "192.0.2.2")
		sent := 0
		p.lose = func() bool { sent++; return sent%2 == 1 } // the loop's goroutine alone sends
		a, b := serve(ctx, t, p, 1), serve(ctx, t, q, 2)
		a.ask(t, p, q, 9)
		ea, eb := <-a.established, <-b.established
		if ea.Request != 9 || ea.Pair.Out[0] != eb.Pair.In[0] || ea.Pair.In[0] != eb.Pair.Out[0] {
			t.Errorf("the pairs are %+v and %+v", ea.Pair, eb.Pair)
		}
		sas, err := a.SAs(ctx)
		if err != nil || len(sas) != 1 {
			t.Errorf("ISAKMP SAs: %v %v", sas, err)
		}
		cancel()
		synctest.Wait()
		a.Submit(Rekey{}) // after the end: returns
		if _, err := a.SAs(context.Background()); err == nil {
			t.Error("a stopped server lists SAs")
		}
	})
}

func TestServerReportsSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p, q := pipes("192.0.2.1", "192.0.2.2")
		p.lose = func() bool { return true }
		a := serve(ctx, t, p, 1)
		began := time.Now()
		a.ask(t, p, q, 4)
		f, ok := (<-a.others).(Failed)
		if !ok || f.Request != 4 || !f.Silence || f.Code != FailNoAnswer {
			t.Errorf("failed: %+v", f)
		}
		if d := time.Since(began); d < 120*time.Second || d > 125*time.Second {
			t.Errorf("given up after %s", d)
		}
		cancel()
		synctest.Wait()
	})
}

func TestServerEndsWhenItsSocketsBreak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := pipes("192.0.2.1", "192.0.2.2")
		close(p.closed)
		p2 := &brokenPipe{pipe: p}
		s := NewServer(ServerConfig{Machine: New(Config{Rand: randomFrom(1)}), Transport: p2})
		if err := s.Run(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
		p2.err = errors.New("no buffer space")
		s = NewServer(ServerConfig{Machine: New(Config{Rand: randomFrom(1)}), Transport: p2})
		if err := s.Run(t.Context()); err == nil || p2.calls != maxReceiveErrors {
			t.Errorf("broken: %v after %d calls", err, p2.calls)
		}
	})
}

// brokenPipe fails to receive.
type brokenPipe struct {
	*pipe
	err   error
	calls int
}

func (p *brokenPipe) Recv(b []byte) (int, netip.AddrPort, netip.AddrPort, error) {
	if p.err == nil {
		return p.pipe.Recv(b)
	}
	p.calls++
	return 0, netip.AddrPort{}, netip.AddrPort{}, p.err
}

func (p *brokenPipe) Close() error { return nil }

// TestServerWithoutReaderRefusesNewWorkOnly: nobody reads the outputs. New
// requests are refused, what concerns associations is still taken, and Submit
// never hangs.
func TestServerWithoutReaderRefusesNewWorkOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p, _ := pipes("192.0.2.1", "192.0.2.2")
		s := NewServer(ServerConfig{Machine: New(Config{Rand: randomFrom(1)}), Transport: p})
		go s.Run(ctx)
		bad := Initiate{Request: 1} // refused by the Machine at once: one output each
		for range maxBacklog {
			s.Submit(bad)
		}
		s.Submit(Initiate{Request: 2})
		pair := sadb.Pair{ID: 5, Local: p.addr.Addr(), Remote: p.peer.addr.Addr()}
		s.Submit(Adopt{Pair: pair})
		s.Submit(Close{Pair: 5, Reason: "swept"})
		synctest.Wait()
		var refused, ended int
		for range maxBacklog + 2 {
			switch o := (<-s.Outputs()).(type) {
			case Failed:
				if o.Request == 2 && o.Code == FailLocal {
					refused++
				}
			case Ended:
				ended++
			}
		}
		if refused != 1 || ended != 1 {
			t.Errorf("refused %d, ended %d", refused, ended)
		}
		cancel()
		synctest.Wait()
	})
}

// panicking is an authenticator with a mistake in it.
type panicking struct{}

func (panicking) Method() auth.Method                      { return auth.PSK }
func (panicking) Start(auth.Request) (auth.Session, error) { panic("secret") }

func TestServerSurvivesAPanicInWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p, q := pipes("192.0.2.1", "192.0.2.2")
		m := New(Config{Rand: randomFrom(3), Auth: []auth.Authenticator{panicking{}}})
		a := &served{NewServer(ServerConfig{Machine: m, Transport: p}), make(chan Established, 8), make(chan Output, 8)}
		go a.Run(ctx)
		go a.agent(3)
		serve(ctx, t, q, 2)
		for request := range uint64(2) {
			a.ask(t, p, q, request+1)
			f, ok := (<-a.others).(Failed)
			if !ok || f.Request != request+1 || f.Code != FailLocal {
				t.Fatalf("%+v", f)
			}
		}
		cancel()
		synctest.Wait()
	})
}

func TestServerDropsWhatItCannotTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p, _ := pipes("192.0.2.1", "192.0.2.2")
		a := serve(ctx, t, p, 1)
		a.overflows.Store(3)
		p.peer.Send([]byte("not ISAKMP"), p.peer.addr, p.addr)
		counts := map[string]int{}
		for range 2 {
			d := (<-a.others).(Dropped)
			counts[d.Reason] += d.Count
		}
		if counts["more datagrams than could be taken"] != 3 || len(counts) != 2 {
			t.Errorf("dropped: %v", counts)
		}
		cancel()
		synctest.Wait()
	})
}

func TestOrderOfWork(t *testing.T) {
	s := NewServer(ServerConfig{Machine: New(Config{Rand: randomFrom(1)})})
	for _, w := range []Work{{ID: 5, Low: true}, {ID: 4, Unproven: true}, {ID: 2}, {ID: 3}, {ID: 1, Near: true}} {
		s.cfg.Machine.put(w)
	}
	s.drain()
	for want := range uint64(5) {
		if got := s.nextJob().ID; got != want+1 {
			t.Errorf("work %d comes as number %d", got, want+1)
		}
		s.startedJob()
	}
	if s.nextJob().ID != 0 {
		t.Error("there is work left")
	}
}
