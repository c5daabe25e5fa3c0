package main

import (
	"context"
	"log/slog"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/agent/control"
)

// TestTheHolder: it lends one and the same socket to one borrower at a time,
// and the command that takes everything down ends it.
func TestTheHolder(t *testing.T) {
	h := newHost(t, "cmd-hold")
	h.inside("mkdir", "-p", filepath.Join(h.dir, "run"))
	cmd := exec.Command("ip", "netns", "exec", h.ns, h.agent, "holder", "--config", "", "--run-dir", filepath.Join(h.dir, "run"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h.processes = append(h.processes, cmd)
	s := settings{RunDir: filepath.Join(h.dir, "run")}
	h.eventually("the holder listens", func() bool {
		_, err := control.Listener(context.Background(), s.holderSocket())
		return err == nil
	})

	log := slog.New(slog.DiscardHandler)
	first, second := newLease(&s, log, nil), newLease(&s, log, nil)
	fd, err := first.take()
	if err != nil {
		t.Fatal(err)
	}
	port := portOf(t, fd)
	if _, err := second.borrow(); err == nil {
		t.Error("two have the socket at once")
	}
	if _, err := control.Listener(t.Context(), s.holderSocket()); err != nil {
		t.Errorf("who listens is not to be had while the socket is lent: %v", err)
	}
	first.close()
	fd, err = second.take()
	if err != nil {
		t.Fatal(err)
	}
	if again := portOf(t, fd); again != port {
		t.Errorf("another socket: port %d, then %d", port, again)
	}
	second.close()

	again := exec.Command("ip", "netns", "exec", h.ns, h.agent, "holder", "--config", "", "--run-dir", s.RunDir)
	if out, err := again.CombinedOutput(); err == nil || !strings.Contains(string(out), "another holder") {
		t.Errorf("a second holder: %v\n%s", err, out)
	}
	h.stopDataPath()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the holder did not end well: %v", err)
	}
}

// portOf closes the socket and returns its port.
func portOf(t *testing.T, fd int) uint32 {
	t.Helper()
	defer unix.Close(fd)
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return name.(*unix.SockaddrNetlink).Pid
}

// TestTheLeaseStartsAHolder by the command line that the program knows.
func TestTheLeaseStartsAHolder(t *testing.T) {
	h := newHost(t, "cmd-less")
	s := settings{RunDir: filepath.Join(h.dir, "run")}
	h.inside("mkdir", "-p", s.RunDir)
	out := &transcript{}
	l := newLease(&s, slog.New(slog.NewTextHandler(out, nil)), out)
	l.command = func(args ...string) *exec.Cmd {
		return exec.Command("ip", slices.Concat([]string{"netns", "exec", h.ns, h.agent}, args)...)
	}
	fd, err := l.take()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	portOf(t, fd)
	pid, err := control.Listener(t.Context(), s.holderSocket())
	if err != nil {
		t.Fatal(err)
	}
	if sid, err := unix.Getsid(pid); err != nil || sid == ownSession(t) {
		t.Errorf("the holder is of this session: a terminal's signals reach it (%v)", err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.eventually("the loss of the holder is reported", func() bool { return strings.Contains(out.String(), "the holder has ended") })
	l.close()
}

func ownSession(t *testing.T) int {
	t.Helper()
	sid, err := unix.Getsid(0)
	if err != nil {
		t.Fatal(err)
	}
	return sid
}

// TestALeaseRefusesWhatIsNoHolder: what listens and gives nothing is an error, in time.
func TestALeaseRefusesWhatIsNoHolder(t *testing.T) {
	s := settings{RunDir: t.TempDir()}
	l, err := net.Listen("unix", s.holderSocket())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Write([]byte{0}) // a byte and no descriptor
			conn.Close()
		}
	}()
	begin := time.Now()
	if _, err := newLease(&s, slog.New(slog.DiscardHandler), nil).borrow(); err == nil || time.Since(begin) > 5*time.Second {
		t.Errorf("borrow: %v after %v", err, time.Since(begin))
	}
}

// TestALeaseOutlivesAHolderThatEnds while it is asked: another is started at once.
func TestALeaseOutlivesAHolderThatEnds(t *testing.T) {
	s := settings{RunDir: t.TempDir()}
	dying, err := net.Listen("unix", s.holderSocket())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		conn, err := dying.Accept()
		if err != nil {
			return
		}
		dying.Close()
		conn.Close()
	}()
	started := false
	l := newLease(&s, slog.New(slog.DiscardHandler), nil)
	l.command = func(...string) *exec.Cmd {
		started = true
		return exec.Command("false")
	}
	if _, err := l.take(); err == nil || !strings.Contains(err.Error(), "did not start") || !started {
		t.Errorf("another holder was started: %v (%v)", started, err)
	}
}
