package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/agent/control"
	"ipsecagent/driver/user"
)

// dataPath runs the data path in this process until ctx ends.
func (p *program) dataPath(ctx context.Context, s *settings) error {
	if err := errors.Join(needCapabilities(), needDataPath(), harden()); err != nil {
		return err
	}
	// It outlives the agent, whatever its log was connected to.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	if err := os.MkdirAll(s.RunDir, 0o755); err != nil {
		return fmt.Errorf("make the folder of the data path's socket: %w", err)
	}
	log := s.logger(p.err)
	if err := user.Serve(ctx, s.userConfig(log)); err != nil {
		return err
	}
	log.Warn("the data path has ended: what policy wants secured is dropped until it runs again; to take everything out of force: ipsecagent datapath --stop")
	return nil
}

// stopTimeout is how long a data path may take to end.
const stopTimeout = 10 * time.Second

// stopDataPath ends the data path and takes everything out of force.
func (p *program) stopDataPath(ctx context.Context, s *settings) error {
	if err := needCapabilities(); err != nil {
		return err
	}
	if _, err := control.NewClient(s.Socket, time.Second).Version(ctx); err == nil {
		return fmt.Errorf("the agent runs (%s) and would start the data path again: stop it first (systemctl stop ipsecagent)", s.Socket)
	}
	if err := endDataPath(ctx, s.dataPathSocket()); err != nil {
		return err
	}
	if err := user.Remove(s.userConfig(s.logger(p.err))); err != nil {
		return fmt.Errorf("take the data path out of force: %w", err)
	}
	fmt.Fprintln(p.out, "The data path is down, and everything it had in force is removed: filters, associations, nftables table, ip rule, routes.")
	fmt.Fprintln(p.out, "TRAFFIC OF THIS HOST IS NOT PROTECTED. To protect it again: systemctl start ipsecagent")
	return nil
}

// endDataPath ends the process that listens on the socket and waits until it
// is gone. None is no error.
func endDataPath(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	pid, err := control.Listener(ctx, socket)
	if notRunning(err) {
		return nil
	}
	if err != nil {
		return err
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("data path, process %d: %w", pid, err)
	}
	defer unix.Close(process)
	if err := unix.PidfdSendSignal(process, unix.SIGTERM, nil, 0); err != nil {
		return fmt.Errorf("end the data path, process %d: %w", pid, err)
	}
	return awaitEnd(ctx, process, pid)
}

// awaitEnd waits until the process has ended.
func awaitEnd(ctx context.Context, process, pid int) error {
	for ctx.Err() == nil {
		fds := []unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 100); n > 0 && err == nil {
			return nil
		}
	}
	return fmt.Errorf("the data path (process %d) does not end: end it with 'kill -KILL %d' and repeat this command", pid, pid)
}
