package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// notifier tells systemd how the service is (sd_notify(3)). The zero value
// tells nobody.
type notifier struct {
	socket string
}

func newNotifier(getenv func(string) string) notifier { return notifier{getenv("NOTIFY_SOCKET")} }

// tell sends lines such as "READY=1".
func (n notifier) tell(state string) error {
	if n.socket == "" {
		return nil
	}
	name := n.socket
	if name[0] == '@' {
		name = "\x00" + name[1:] // an abstract socket
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("tell systemd %q: %w", state, err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("tell systemd %q: %w", state, err)
	}
	return nil
}

// watchdogInterval is how often systemd wants to hear of this process: half of
// what it allows. 0: never.
func watchdogInterval(getenv func(string) string) time.Duration {
	if pid := getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0 // meant for another process
	}
	usec, err := strconv.ParseUint(getenv("WATCHDOG_USEC"), 10, 63)
	if err != nil || usec/uint64(time.Second/time.Microsecond) > 1e9 {
		return 0
	}
	return time.Duration(usec) * time.Microsecond / 2
}

// watchdog tells systemd that the service is alive as long as healthy says so,
// until ctx ends.
func (n notifier) watchdog(ctx context.Context, every time.Duration, healthy func(context.Context) error, report func(error)) {
	if every <= 0 {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := n.beat(ctx, every, healthy); err != nil && ctx.Err() == nil {
			report(err)
		}
	}
}

func (n notifier) beat(ctx context.Context, within time.Duration, healthy func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := healthy(ctx); err != nil {
		return fmt.Errorf("the agent's loop does not answer, systemd is not told that it is alive: %w", err)
	}
	return n.tell("WATCHDOG=1")
}
