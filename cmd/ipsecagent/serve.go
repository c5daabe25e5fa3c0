package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
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
	cfg.Ready = func() {
		if err := newNotifier(p.getenv).tell("READY=1"); err != nil {
			log.Warn("service manager", "error", err.Error())
		}
	}
	if err := user.Serve(ctx, cfg); err != nil {
		return err
	}
	if ctx.Err() == nil {
		return nil // taken out of force: said already
	}
	log.Warn("the data path has ended: what policy wants secured is dropped until it runs again; to take everything out of force: ipsecagent datapath --stop")
	return nil
}

// wantDataPath is an error where the kernel carries the associations instead,
// and an undecided one where that is not known. With settings that do not load
// the data path is wanted: when it is started it says what is wrong and fails,
// instead of being passed over.
func (p *program) wantDataPath(ctx context.Context, s *settings, errSettings error) error {
	if errSettings != nil {
		fmt.Fprintln(p.err, "ipsecagent: the settings do not load; whether a data path is needed is not known, so it is to be started, and says so:\n"+lines(errSettings))
		return nil
	}
	if s.Driver == driverKernel {
		return errors.New("no data path is needed: the kernel carries the associations (" + settingSays + ")")
	}
	c, err := chooseDriver(ctx, s)
	if err != nil {
		return undecided{err}
	}
	if c.driver == driverKernel {
		return fmt.Errorf("no data path is needed: the kernel carries the associations (%s)", c.why)
	}
	return nil
}

// stopTimeout is how long a data path or a holder may take to end.
const stopTimeout = 10 * time.Second

// stopDataPath ends the data path and takes everything out of force: the data
// path does so itself, in its own network namespace. Where none runs, what one
// has left behind in this namespace goes.
func (p *program) stopDataPath(ctx context.Context, s *settings) error {
	if err := needCapabilities(); err != nil {
		return err
	}
	if _, err := control.NewClient(s.Socket, time.Second).Version(ctx); err == nil {
		return fmt.Errorf("the agent runs (%s) and would start the data path again: stop it first (systemctl stop ipsecagent)", s.Socket)
	}
	pid, err := control.Listener(ctx, s.dataPathSocket())
	removed := true
	switch {
	case notRunning(err):
		removed, err = p.removeLeft(s)
	case err == nil:
		err = errors.Join(p.takeDown(ctx, s, pid), p.removeBeside(s))
	}
	if err != nil {
		return err
	}
	holder, err := endListener(ctx, s.holderSocket(), "the holder")
	if err != nil {
		return err
	}
	if holder {
		fmt.Fprintln(p.out, "The holder of the nftables table has ended.")
	}
	boot, err := s.endBoot(ctx)
	if err != nil {
		return err
	}
	if boot.Mode != "" {
		fmt.Fprintln(p.out, "The boot filters are out of force, too.")
	}
	if !removed && !holder && boot.Mode == "" {
		return nil
	}
	fmt.Fprintln(p.out, "TRAFFIC THERE IS NOT PROTECTED. To protect it again: systemctl start ipsecagent")
	return nil
}

// takeDown has the data path take itself out of force and waits for its end.
func (p *program) takeDown(ctx context.Context, s *settings, pid int) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	what := fmt.Sprintf("the data path (process %d)", pid)
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer unix.Close(process)
	where := whereRuns(pid)
	removed, err := user.TakeDown(ctx, s.dataPathSocket())
	if err != nil {
		return fmt.Errorf("%s is not taken out of force: %w: look at %s/datapath.log; if it hangs, end it with 'kill -KILL %d' and repeat this command in its network namespace", what, err, s.RunDir, pid)
	}
	if !awaitEnd(ctx, process) {
		return fmt.Errorf("%s is out of force but does not end: end it with 'kill -KILL %d'", what, pid)
	}
	fmt.Fprintf(p.out, "The data path (process %d) has ended. It has taken out of force, in %s: %s.\n", pid, where, strings.Join(removed, ", "))
	return nil
}

// removeBeside takes out of force what a kernel driver has left in this network
// namespace beside the data path.
func (p *program) removeBeside(s *settings) error {
	removed, err := removeKernel(s)
	if len(removed) > 0 {
		fmt.Fprintf(p.out, "What a kernel driver had left beside it in this network namespace is removed: %s.\n", strings.Join(removed, ", "))
	}
	return err
}

// whereRuns says in words whether a process is in this network namespace.
func whereRuns(pid int) string {
	own, errOwn := os.Readlink("/proc/self/ns/net")
	its, errIts := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if errors.Join(errOwn, errIts) != nil {
		return "its network namespace"
	}
	if own != its {
		return "its network namespace (" + its + ", not the one of this command)"
	}
	return "this network namespace"
}

// removeLeft takes out of force what a data path that runs no more has left in
// the kernel, in this network namespace, and says what it was; was reports that
// there was something.
func (p *program) removeLeft(s *settings) (was bool, err error) {
	log := s.logger(p.err)
	cfg, table := s.userConfig(log), newLease(s, log, p.err)
	defer table.close()
	cfg.TableSocket = table.take
	removed, err := user.Remove(cfg)
	if err == nil {
		var kernel []string
		kernel, err = removeKernel(s)
		removed = append(removed, kernel...)
	}
	if err != nil {
		return false, fmt.Errorf("take out of force what a data path has left: %w", err)
	}
	nobody := fmt.Sprintf("No data path runs (nobody listens on %s). ", s.dataPathSocket())
	if len(removed) == 0 {
		fmt.Fprintln(p.out, nobody+"Nothing of one was left in this network namespace: nothing was changed. If one ran in another network namespace and was killed, repeat this command there.")
		return false, nil
	}
	fmt.Fprintln(p.out, nobody+"What one had left in this network namespace is removed: "+strings.Join(removed, ", ")+".")
	return true, nil
}

// endListener ends the process that listens on the socket and waits until it
// is gone. None is no error; was reports that there was one.
func endListener(ctx context.Context, socket, what string) (was bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	pid, err := control.Listener(ctx, socket)
	if notRunning(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return true, fmt.Errorf("%s, process %d: %w", what, pid, err)
	}
	defer unix.Close(process)
	if err := unix.PidfdSendSignal(process, unix.SIGTERM, nil, 0); err != nil {
		return true, fmt.Errorf("end %s, process %d: %w", what, pid, err)
	}
	if !awaitEnd(ctx, process) {
		return true, fmt.Errorf("%s (process %d) does not end: end it with 'kill -KILL %d' and repeat this command", what, pid, pid)
	}
	return true, nil
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
