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
	cfg, table := s.userConfig(log), newLease(s, log, p.err)
	defer table.close()
	cfg.TableSocket = table.take
	if err := user.Serve(ctx, cfg); err != nil {
		return err
	}
	log.Warn("the data path has ended: what policy wants secured is dropped until it runs again; to take everything out of force: ipsecagent datapath --stop")
	return nil
}

// stopTimeout is how long a data path or a holder may take to end.
const stopTimeout = 10 * time.Second

// stopDataPath ends the data path and takes everything out of force.
func (p *program) stopDataPath(ctx context.Context, s *settings) error {
	if err := needCapabilities(); err != nil {
		return err
	}
	if _, err := control.NewClient(s.Socket, time.Second).Version(ctx); err == nil {
		return fmt.Errorf("the agent runs (%s) and would start the data path again: stop it first (systemctl stop ipsecagent)", s.Socket)
	}
	if err := endListener(ctx, s.dataPathSocket(), "the data path"); err != nil {
		return err
	}
	if err := p.remove(s); err != nil {
		return fmt.Errorf("take the data path out of force: %w", err)
	}
	if err := endListener(ctx, s.holderSocket(), "the holder"); err != nil {
		return err
	}
	fmt.Fprintln(p.out, "No data path runs, and nothing of it is in force in this network namespace any more: filters, associations, nftables table, ip rule and routes are removed.")
	fmt.Fprintln(p.out, "TRAFFIC OF THIS HOST IS NOT PROTECTED. To protect it again: systemctl start ipsecagent")
	return nil
}

// remove takes everything out of force that is left in the kernel.
func (p *program) remove(s *settings) error {
	log := s.logger(p.err)
	cfg, table := s.userConfig(log), newLease(s, log, p.err)
	defer table.close()
	cfg.TableSocket = table.take
	return user.Remove(cfg)
}

// endListener ends the process that listens on the socket and waits until it
// is gone. None is no error.
func endListener(ctx context.Context, socket, what string) error {
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
		return fmt.Errorf("%s, process %d: %w", what, pid, err)
	}
	defer unix.Close(process)
	if err := unix.PidfdSendSignal(process, unix.SIGTERM, nil, 0); err != nil {
		return fmt.Errorf("end %s, process %d: %w", what, pid, err)
	}
	if !awaitEnd(ctx, process) {
		return fmt.Errorf("%s (process %d) does not end: end it with 'kill -KILL %d' and repeat this command", what, pid, pid)
	}
	return nil
}

// awaitEnd waits until the process has ended, and reports whether it has.
func awaitEnd(ctx context.Context, process int) bool {
	for ctx.Err() == nil {
		fds := []unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 100); n > 0 && err == nil {
			return true
		}
	}
	return false
}
