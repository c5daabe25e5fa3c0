package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lease is the data path's claim on the holder's socket: it lasts as long as
// the connection to the holder.
type lease struct {
	settings *settings
	log      *slog.Logger
	out      io.Writer // of a holder that cannot start
	command  func(args ...string) *exec.Cmd
	conn     *net.UnixConn
}

func newLease(s *settings, log *slog.Logger, out io.Writer) *lease {
	return &lease{settings: s, log: log, out: out, command: thisProgram}
}

// thisProgram runs the program again.
func thisProgram(args ...string) *exec.Cmd {
	exe, err := os.Executable()
	cmd := exec.Command(exe, args...)
	if err != nil {
		cmd.Err = err // Start returns it
	}
	return cmd
}

// take gets the socket that owns the table from the holder, which is started
// where none runs (nft.Config.Socket).
func (l *lease) take() (int, error) {
	fd, err := l.borrow()
	if err != nil && !notRunning(err) {
		fd, err = l.await(nil)
	}
	if notRunning(err) {
		var ended <-chan error
		if ended, err = l.start(); err != nil {
			return -1, err
		}
		fd, err = l.await(ended)
	}
	if err != nil {
		return -1, fmt.Errorf("holder: %w", err)
	}
	go l.watch()
	return fd, nil
}

// await asks until the holder gives the socket: one that was just started
// listens in a moment, and a data path that was killed leaves it in a moment. With
// none started (ended is nil) one that ends meanwhile is not waited for.
func (l *lease) await(ended <-chan error) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	for {
		fd, err := l.borrow()
		if err == nil {
			return fd, nil
		}
		if ended == nil && notRunning(err) {
			return -1, err
		}
		select {
		case <-ended:
			return -1, fmt.Errorf("it did not start (%w)", err)
		case <-ctx.Done():
			return -1, fmt.Errorf("it does not give the table's socket: does another data path run? (%w)", err)
		case <-time.After(startPoll):
		}
	}
}

// start starts a holder: a process of a session of its own, so that it
// outlives this one.
func (l *lease) start() (<-chan error, error) {
	cmd := l.command("holder", "--config", "", "--run-dir", l.settings.RunDir)
	cmd.Dir = "/"
	cmd.Env = []string{}
	cmd.Stdout, cmd.Stderr = l.out, l.out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the holder: %w", err)
	}
	l.log.Info("holder started: this kernel removes the nftables table with its owner", "process", cmd.Process.Pid)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return ended, nil
}

// borrow asks the holder for the socket.
func (l *lease) borrow() (int, error) {
	path := l.settings.holderSocket()
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return -1, err
	}
	conn := c.(*net.UnixConn)
	fd, err := receiveSocket(conn)
	if err != nil {
		conn.Close()
		return -1, fmt.Errorf("%s: %w", path, err)
	}
	l.conn = conn
	return fd, nil
}

func receiveSocket(conn *net.UnixConn) (int, error) {
	if !isRoot(conn) {
		return -1, errors.New("not root listens")
	}
	if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return -1, err
	}
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 1), oob) // close-on-exec
	if err != nil {
		return -1, err
	}
	list, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return -1, err
	}
	if len(list) != 1 {
		return -1, errors.New("it is in use")
	}
	fds, err := unix.ParseUnixRights(&list[0])
	if err != nil {
		return -1, err
	}
	return fds[0], conn.SetReadDeadline(time.Time{})
}

// watch says so when the holder ends before this process.
func (l *lease) watch() {
	_, err := l.conn.Read(make([]byte, 1))
	if !errors.Is(err, net.ErrClosed) {
		l.log.Error("the holder has ended: the nftables table goes with this data path, and traffic passes in clear then until a new one is in force; to have a holder again, take everything down and up in a moment without traffic: systemctl stop ipsecagent; ipsecagent datapath --stop; systemctl start ipsecagent")
	}
}

// close gives the socket back, if it was taken.
func (l *lease) close() {
	if l.conn != nil {
		l.conn.Close()
	}
}
