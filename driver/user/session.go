package user

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/driver"
)

// sessionBuffer is how many messages wait for a slow agent; behind them there
// is room for the Resync that stands for the rest.
const sessionBuffer = 1024

// writeTimeout ends the session of an agent that takes nothing.
const writeTimeout = 10 * time.Second

// session is one attached agent. Its reader asks the engine, its writer sends
// replies and events; neither can hold the engine up.
type session struct {
	conn net.Conn
	out  chan message
	nat  []int         // sockets to lend
	over chan struct{} // closed when the session has ended
	lost bool          // the engine's: the last slot holds a Resync
}

// call is a request on its way to the engine.
type call struct {
	from  *session
	req   request
	reply chan reply // has room for the one reply
}

// listen makes the control socket: for root alone.
func listen(ctx context.Context, path string) (*net.UnixListener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }), err)
	}}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l.(*net.UnixListener), nil
}

// removeStale removes a socket that nobody listens on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s exists and is no socket: remove it or name another", path)
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return fmt.Errorf("another data path listens on %s: stop it first", path)
	}
	return os.Remove(path)
}

// accept lets agents in until the listener is closed.
func (e *engine) accept(ctx context.Context, l *net.UnixListener) {
	for {
		conn, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			pause(ctx, 100*time.Millisecond) // no file descriptors left
			continue
		}
		if err := mayControl(conn); err != nil {
			e.log.Warn("refused a client of the control socket", "error", err)
			conn.Close()
			continue
		}
		s := &session{conn: conn, out: make(chan message, sessionBuffer+1), nat: e.nat, over: make(chan struct{})}
		go s.serve(ctx, e.calls)
	}
}

// serve runs the session until either side ends it.
func (s *session) serve(ctx context.Context, calls chan<- call) {
	ctx, cancel := context.WithCancel(ctx)
	defer close(s.over)
	defer cancel()
	context.AfterFunc(ctx, func() { s.conn.Close() })
	go s.write(ctx, cancel)
	s.read(ctx, calls)
}

// mayControl admits root alone, by SO_PEERCRED.
func mayControl(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return err
	}
	if cred.Uid != 0 {
		return fmt.Errorf("process %d of user %d: only root may control the data path", cred.Pid, cred.Uid)
	}
	return nil
}

// read passes requests to the engine, one at a time.
func (s *session) read(ctx context.Context, calls chan<- call) {
	for {
		c := call{from: s, reply: make(chan reply, 1)}
		if err := readFrame(s.conn, &c.req); err != nil {
			return
		}
		if c.req.Verb == verbSockets {
			_ = s.lend(s.nat) // who has gone needs none
			return
		}
		select {
		case calls <- c:
		case <-ctx.Done():
			return
		}
		select {
		case r := <-c.reply:
			if !s.answer(ctx, r) {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// answer queues a reply; false when the session ends first.
func (s *session) answer(ctx context.Context, r reply) bool {
	select {
	case s.out <- message{Reply: &r}:
		return true
	case <-ctx.Done():
		return false
	}
}

// write sends what is queued until the session ends.
func (s *session) write(ctx context.Context, end func()) {
	defer end()
	for {
		select {
		case m := <-s.out:
			if s.conn.SetWriteDeadline(time.Now().Add(writeTimeout)) != nil || writeFrame(s.conn, m) != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// send queues an event without waiting. What does not fit is replaced by one
// Resync. Only the engine calls it.
func (s *session) send(ev driver.Event) {
	full := len(s.out) >= sessionBuffer-1 // one slot for a reply, one for the Resync
	if full && s.lost {
		return
	}
	if full {
		s.lost = true
		ev = driver.Resync{Reason: "events came faster than the agent took them"}
	} else {
		s.lost = false
	}
	select {
	case s.out <- message{Event: toWireEvent(ev)}:
	default:
		s.lost = false // the reply took the last slot: the next event tries again
	}
}

// attach makes s the one agent; an earlier one is cut off. It is told to look
// at State.
func (e *engine) attach(s *session) {
	if e.client != nil && e.client != s {
		e.client.conn.Close()
	}
	e.client, e.base = s, 0
	e.emit(driver.Resync{Reason: "attached to the data path"})
}

// repeat raises again what nobody has answered: for an agent that has read of a
// Resync and asks for the State.
func (e *engine) repeat() {
	for _, a := range e.wait.pending() {
		e.emit(a)
	}
	for _, a := range e.sas {
		if a.use.soft.Load() {
			e.emit(driver.Expire{ID: a.sa.ID})
		}
	}
}

// emit tells the agent, if there is one.
func (e *engine) emit(ev driver.Event) {
	if e.client != nil {
		e.client.send(ev)
	}
}
