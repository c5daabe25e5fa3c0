package user

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// scripted is a data path whose answers the test gives.
func scripted(t *testing.T, answer func(conn net.Conn, r request)) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dp.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		for {
			var r request
			if readFrame(conn, &r) != nil {
				return
			}
			answer(conn, r)
		}
	}()
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func used(i int) driver.Used {
	return driver.Used{ID: sadb.SAID{Dst: netip.MustParseAddr("192.0.2.1"), Proto: sadb.ESP, SPI: sadb.SPI(i)}}
}

func TestSlowReaderOfEventsGetsResyncAndThenWhatIsUnanswered(t *testing.T) {
	const many = eventBuffer + 100
	asked := make(chan bool, 10)
	c := scripted(t, func(conn net.Conn, r request) {
		if r.Verb == verbAbandon { // stands for "everything happens now"
			for i := range many {
				_ = writeFrame(conn, message{Event: toWireEvent(used(i))})
			}
		}
		if r.Verb == verbState {
			asked <- r.Again
		}
		_ = writeFrame(conn, message{Reply: &reply{ID: r.ID, State: &wireState{}}})
	})
	if err := c.Abandon(t.Context(), driver.Acquire{}); err != nil {
		t.Fatal(err)
	}
	for i := range eventBuffer {
		if e := <-c.Events(); e != driver.Event(used(i)) {
			t.Fatalf("event %d: %+v", i, e)
		}
	}
	if e, ok := (<-c.Events()).(driver.Resync); !ok {
		t.Fatalf("in place of what was lost: %T", e)
	}
	for _, want := range []bool{true, false} {
		if _, err := c.State(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := <-asked; got != want {
			t.Errorf("asks for what is unanswered: %v, want %v", got, want)
		}
	}
}

func TestReplyOfACallThatGaveUpIsNotTakenForAnother(t *testing.T) {
	hold := make(chan struct{})
	c := scripted(t, func(conn net.Conn, r request) {
		if r.Verb == verbAllocSPI && r.Proto == sadb.AH {
			<-hold
		}
		_ = writeFrame(conn, message{Reply: &reply{ID: r.ID, SPI: sadb.SPI(r.Proto)}})
	})
	a := netip.MustParseAddr("192.0.2.1")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.AllocSPI(ctx, a, a, sadb.AH); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	close(hold)
	if spi, err := c.AllocSPI(t.Context(), a, a, sadb.ESP); err != nil || spi != sadb.SPI(sadb.ESP) {
		t.Errorf("got %d, %v", spi, err)
	}
}

func TestCallsFailWhenTheDataPathGoesAway(t *testing.T) {
	c := scripted(t, func(conn net.Conn, r request) {
		if r.Verb != verbAttach {
			conn.Close()
			return
		}
		_ = writeFrame(conn, message{Reply: &reply{ID: r.ID}})
	})
	for range 2 {
		if _, err := c.State(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
	if _, open := <-c.Events(); open {
		t.Error("events go on")
	}
}

func TestEngineIsNotHeldUpByAnAgentThatTakesNothing(t *testing.T) {
	s := &session{out: make(chan message, sessionBuffer+1)}
	for i := range 3 * sessionBuffer {
		s.send(used(i))
	}
	n := len(s.out)
	if n < sessionBuffer-1 || n > sessionBuffer {
		t.Fatalf("%d messages wait", n)
	}
	var last message
	for range n {
		last = <-s.out
	}
	if last.Event.Resync == nil {
		t.Errorf("the last is %+v, not Resync", last.Event)
	}
	s.send(used(1))
	if m := <-s.out; m.Event.Used == nil {
		t.Errorf("after that: %+v", m.Event)
	}
}

func TestSocketIsForRootAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dp.sock")
	l, err := listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := listen(t.Context(), path); err == nil || !strings.Contains(err.Error(), "another data path") {
		t.Errorf("a second listener: %v", err)
	}
	file := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(t.Context(), file); err == nil {
		t.Error("a file that is no socket was removed")
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dp.sock")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Close(fd)); err != nil {
		t.Fatal(err)
	}
	l, err := listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestPreparedSocketCarriesTheExemptMark(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: sets a socket mark")
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := PrepareSocket(fd, syscall.AF_INET); err != nil {
		t.Fatal(err)
	}
	if mark, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK); err != nil || mark != DefaultExempt {
		t.Errorf("mark %#x, %v", mark, err)
	}
	if err := PrepareSocket(-1, 0); err == nil {
		t.Error("no error for no socket")
	}
}
