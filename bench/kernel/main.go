// Command kernel measures the kernel driver on a kernel that has ESP: how long
// it takes to put policies and associations in force, what it asks the kernel
// when little or nothing changes, how soon an association is there after the
// kernel has asked for one, whether a storm of rekeying loses packets, and how
// much memory all that takes. What can be compared is compared with ip(8) of
// iproute2 or with strongSwan, in turn on the same machine.
//
// It owns the laboratory (namespaces, processes, captures) and the figures, and
// says which of them are beyond their limits. It needs root, the kernel modules
// esp4, xfrm_user and nlmon, and strongSwan for one of the measurements.
package main

import (
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
	filters  int
	pairs    int
	storm    int // pairs that are replaced
	rounds   int
	peers    int    // to which associations are asked for
	only     string // names of measurements
	programs string // directory of ipsecagent and ipsecctl
	profile  string // directory for profiles of the driver; "": none
}

// measurement is one of those that a run can make.
type measurement struct {
	name string
	run  func(*bench) error
}

func measurements() []measurement {
	return []measurement{
		{"messages", (*bench).messages},
		{"filters", (*bench).filters},
		{"associations", (*bench).associations},
		{"storm", (*bench).storm},
		{"acquire", (*bench).acquire},
	}
}

// bench is a run: what is asked for, where figures go, what they have shown.
type bench struct {
	options
	out    io.Writer
	dir    string
	failed []string // limits that were not kept
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == stationCommand {
		exit(runStation(os.Args[2:], os.Stdin, os.Stdout))
	}
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err == nil {
		err = run(o, os.Stdout)
	}
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "kernel:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func parse(args []string) (options, error) {
	var o options
	var names []string
	for _, m := range measurements() {
		names = append(names, m.name)
	}
	f := flag.NewFlagSet("kernel", flag.ContinueOnError)
	f.IntVar(&o.filters, "filters", 10_000, "how many filters (at most 60000)")
	f.IntVar(&o.pairs, "pairs", 5_000, "how many pairs of associations, at most as many as filters")
	f.IntVar(&o.storm, "storm", 1_000, "how many pairs are replaced under traffic, at most as many as pairs")
	f.IntVar(&o.rounds, "rounds", 3, "how often what is compared is measured; the median counts")
	f.IntVar(&o.peers, "peers", 15, "to how many peers an association is asked for (at most 250)")
	f.StringVar(&o.only, "only", strings.Join(names, ","), "which measurements")
	f.StringVar(&o.programs, "programs", "bin", "directory of ipsecagent and ipsecctl")
	f.StringVar(&o.profile, "profile", "", "directory for CPU profiles of the driver")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	for _, name := range strings.Split(o.only, ",") {
		if !slices.Contains(names, name) {
			return o, fmt.Errorf("no measurement %q; there are %v", name, names)
		}
	}
	ascending := []int{1, o.storm, o.pairs, o.filters, maxPeers}
	if !slices.IsSorted(ascending) || o.rounds < 1 || o.peers < 1 || o.peers > 250 {
		return o, errors.New("the numbers do not fit together (see -help)")
	}
	return o, nil
}

// run makes the measurements that are asked for. The error names the limits
// that were not kept.
func run(o options, out io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root, for network namespaces and XFRM")
	}
	dir, err := os.MkdirTemp("", "bench-kernel-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	defer removeNamespaces()
	stop := cleanOnSignal(dir)
	defer stop()
	b := &bench{options: o, out: out, dir: dir}
	for _, m := range measurements() {
		if !slices.Contains(strings.Split(o.only, ","), m.name) {
			continue
		}
		if err := m.run(b); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	if b.failed != nil {
		return errors.New("beyond the limits: " + strings.Join(b.failed, "; "))
	}
	return nil
}

// cleanOnSignal takes the laboratory down when somebody ends the run early.
func cleanOnSignal(dir string) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	over := make(chan struct{})
	go func() {
		select {
		case <-signals:
			removeNamespaces()
			os.RemoveAll(dir)
			exit(errors.New("ended early"))
		case <-over:
		}
	}()
	return func() { signal.Stop(signals); close(over) }
}

// say prints a line of the result.
func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.out, format+"\n", args...) }

// limit notes a limit that a figure is beyond.
func (b *bench) limit(kept bool, format string, args ...any) {
	if !kept {
		b.failed = append(b.failed, fmt.Sprintf(format, args...))
	}
}

// median returns the middle of values.
func median[T float64 | time.Duration](values []T) T {
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	return (s[(n-1)/2] + s[n/2]) / 2
}

// ratios returns the median of a by b, round by round, with the lowest and the
// highest.
func ratios(a, b []time.Duration) (middle float64, words string) {
	var all []float64
	for i := range a {
		all = append(all, float64(a[i])/float64(b[i]))
	}
	middle = median(all)
	return middle, fmt.Sprintf("%.2f (%.2f–%.2f)", middle, slices.Min(all), slices.Max(all))
}
