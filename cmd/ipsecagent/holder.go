package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// holder keeps the socket that owns the table open until ctx ends, and lends
// it to one data path at a time. It never reads or writes it.
func (p *program) holder(ctx context.Context, s *settings) error {
	if err := errors.Join(needCapabilities(), harden()); err != nil {
		return err
	}
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	table, err := openTableSocket()
	if err != nil {
		return err
	}
	defer unix.Close(table)
	l, err := listenHolder(ctx, s.holderSocket())
	if err != nil {
		return err
	}
	if err := releaseOutput(); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	err = lend(l, table)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("the holder stops: %w", err)
}

// releaseOutput lets go of what standard output and error are connected to: it
// belongs to a process that this one outlives.
func releaseOutput() error {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	return errors.Join(unix.Dup3(int(null.Fd()), 1, 0), unix.Dup3(int(null.Fd()), 2, 0))
}

// openTableSocket opens a socket and gives it the port by which the kernel
// knows the table's owner.
func openTableSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, fmt.Errorf("open netfilter netlink: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("bind netfilter netlink: %w", err)
	}
	return fd, nil
}

// listenHolder listens for root alone. A socket of a holder that was killed
// goes.
func listenHolder(ctx context.Context, path string) (*net.UnixListener, error) {
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("another holder listens on %s: a run folder has one", path)
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		os.Remove(path) // what is in the way then is said by Listen
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

// lend gives each caller the table's socket while the one before has gone.
func lend(l *net.UnixListener, table int) error {
	var borrower *net.UnixConn
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return err
		}
		if borrower != nil && !gone(borrower) || !isRoot(conn) {
			conn.Close() // it asks again or gives up
			continue
		}
		if borrower != nil {
			borrower.Close()
		}
		borrower = conn
		// One that has gone already leaves the socket free.
		conn.WriteMsgUnix([]byte{0}, unix.UnixRights(table), nil)
	}
}

// onSocket calls f with the descriptor of a connection.
func onSocket(conn *net.UnixConn, f func(fd int) error) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	return errors.Join(raw.Control(func(fd uintptr) { inner = f(int(fd)) }), inner)
}

// gone reports whether the other end of a connection, which never writes, is
// closed.
func gone(conn *net.UnixConn) bool {
	err := onSocket(conn, func(fd int) error {
		_, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_DONTWAIT)
		return err
	})
	return !errors.Is(err, unix.EAGAIN)
}

// isRoot reports whether root is at the other end, as the kernel recorded it.
func isRoot(conn *net.UnixConn) bool {
	err := onSocket(conn, func(fd int) error {
		cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil && cred.Uid != 0 {
			err = unix.EPERM
		}
		return err
	})
	return err == nil
}
