// Command directory measures what a fleet of hosts costs a directory server: a
// domain controller of Samba, and OpenLDAP with a KDC of MIT, each in a network
// namespace of its own. Every simulated host is the released policy source
// (policy/directory) with an account, keys, tickets and a sealed connection of
// its own; there is no agent around it and no driver.
//
// It owns the laboratory (servers, accounts, keys) and the figures, and says
// which of them are beyond their limits. It needs root, Samba, slapd and MIT's
// KDC.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options is what a run is asked to do.
type options struct {
	agents  int
	atOnce  int           // agents that are starting at the same time
	jitter  time.Duration // over how long they spread what all of them do
	idle    time.Duration // how long nothing happens
	noWatch bool          // the server is not asked to tell of changes
	model   string        // how Samba makes processes
	memory  uint64        // MiB that have to stay free
	servers []string
}

func main() {
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err = run(ctx, o, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "directory:", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	var o options
	var names string
	f := flag.NewFlagSet("directory", flag.ContinueOnError)
	f.IntVar(&o.agents, "agents", 5_000, fmt.Sprintf("how many hosts (at most %d)", maxAgents))
	f.IntVar(&o.atOnce, "at-once", 16, "how many hosts start at the same time")
	f.DurationVar(&o.jitter, "jitter", time.Minute, "over how long hosts spread what all of them do (refreshJitter)")
	f.DurationVar(&o.idle, "idle", 20*time.Second, "how long the fleet is watched while nothing happens")
	f.BoolVar(&o.noWatch, "no-watch", false, "the server is not asked to tell of changes: hosts find a change when they ask, all within -jitter")
	f.StringVar(&o.model, "model", "prefork", "how Samba makes processes: single, prefork or standard")
	f.Uint64Var(&o.memory, "memory", 2048, "MiB of memory that have to stay free: below, no more hosts start")
	f.StringVar(&names, "servers", strings.Join(serverNames(), ","), "which servers")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.servers = strings.Split(names, ",")
	for _, name := range o.servers {
		if !slices.Contains(serverNames(), name) {
			return o, fmt.Errorf("no server %q; there are %v", name, serverNames())
		}
	}
	if o.agents < 1 || o.agents > maxAgents || o.atOnce < 1 || o.jitter < time.Second {
		return o, errors.New("the numbers do not fit together (see -help)")
	}
	return o, nil
}

// maxAgents is how many accounts the names of the laboratory can tell apart; what
// one process can hold open is less in most places.
const maxAgents = 50_000

// run measures one server after the other. The error names the limits that were
// not kept.
func run(ctx context.Context, o options, out io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root, for network namespaces and the ports of a domain controller")
	}
	if err := roomForFiles(o.agents); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench-directory-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var all []*figures
	var beyond []string
	for _, name := range o.servers {
		got, err := measure(ctx, o, name, dir, out)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		all, beyond = append(all, got), append(beyond, got.beyond(o)...)
	}
	table(out, all)
	if beyond != nil {
		return errors.New("beyond the limits: " + strings.Join(beyond, "; "))
	}
	return nil
}

// filesOfAServer is what a process opens beside a connection for each agent.
const filesOfAServer = 500

// roomForFiles lets this process and the servers hold a connection for each
// agent.
func roomForFiles(agents int) error {
	var now syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &now); err != nil {
		return err
	}
	need := uint64(agents + filesOfAServer)
	want := syscall.Rlimit{Cur: max(now.Max, need), Max: max(now.Max, need)}
	// Set even if it is as it should be: what a program has set for itself, its
	// children inherit.
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want); err != nil {
		return fmt.Errorf("%d agents need %d open files, and the limit is %d (ulimit -Hn): %w", agents, need, now.Max, err)
	}
	return nil
}
