// Command ipsecctl asks and directs the agent of this host by its control
// socket: the only tool an administrator needs. It holds no state, decides
// nothing and touches no packet.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	os.Exit(int(run()))
}

func run() (code exitCode) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	e := &env{
		out:    os.Stdout,
		err:    os.Stderr,
		getenv: os.Getenv,
		now:    time.Now,
		zone:   time.Local,
	}
	return e.run(ctx, os.Args[1:])
}
