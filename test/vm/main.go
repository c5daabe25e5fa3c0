// Command vm runs one command as root in a throw-away virtual machine with a
// stock Debian kernel, which has the ESP and AH that the kernel of a build
// machine may lack.
//
//	vm [flags] COMMAND [ARGUMENT…]
//
// The guest's root is the host's, read only, under a file system in memory:
// every program and file of the host is there at its own path, and whatever is
// written is lost, except below -share. Output of the command comes out on
// standard output; its exit status is this program's. 124: the time is over;
// 125: the machine gave no status; 126: it could not be started.
//
// The same program is the guest's first process.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Exit statuses besides the command's own.
const (
	statusTime  = 124
	statusNone  = 125
	statusStart = 126
)

// options are what the caller asks for.
type options struct {
	memory  int // MiB
	cpus    int // 0: one under emulation, two with hardware
	timeout time.Duration
	accel   string // auto, kvm, tcg or accelCount
	console string // where the console's log is kept; "": nowhere
	cache   string
	job     job
}

// job is what the guest does. It reaches the guest as a file.
type job struct {
	Version string   // of the kernel
	Modules string   // directory of the kernel's modules
	Load    []string // modules to load first
	Shares  []string // directories of the host that may be written
	Dir     string
	Env     []string
	Command []string
}

func main() {
	if os.Getpid() == 1 {
		guest()
		return
	}
	o, prepare, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		fail(err)
	}
	k, err := prepareKernel(o.cache)
	if err != nil {
		fail(err)
	}
	if prepare {
		fmt.Printf("kernel %s is ready in %s\n", k.version, o.cache)
		return
	}
	status, err := run(o, k)
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
	}
	os.Exit(status)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "vm:", err)
	os.Exit(statusStart)
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func parse(args []string) (o options, prepare bool, err error) {
	f := flag.NewFlagSet("vm", flag.ContinueOnError)
	var shares, env, load list
	f.IntVar(&o.memory, "memory", 1024, "memory of the machine in `MiB`")
	f.IntVar(&o.cpus, "cpus", 0, "processors of the machine; 0: 1 where they are emulated, else 2")
	f.DurationVar(&o.timeout, "timeout", 5*time.Minute, "the machine is ended after that")
	f.StringVar(&o.accel, "accel", "auto", "auto, kvm, tcg (emulation) or count (emulation; the clock counts instructions)")
	f.StringVar(&o.console, "console", "", "keep the log of the kernel's console in this `file`")
	f.StringVar(&o.cache, "cache", defaultCache(), "`directory` of the kernel, filled once")
	f.BoolVar(&prepare, "prepare", false, "fill the cache and do no more")
	f.Var(&shares, "share", "`directory` of the host that the guest may write; may be repeated")
	f.Var(&env, "env", "`NAME=VALUE` for the command; may be repeated")
	f.Var(&load, "module", "kernel `module` to load first; may be repeated")
	if err := f.Parse(args); err != nil {
		return o, false, err
	}
	if f.NArg() == 0 && !prepare {
		return o, false, errors.New("no command is given (see -help)")
	}
	for i, s := range shares {
		if shares[i], err = filepath.EvalSymlinks(s); err != nil {
			return o, false, err
		}
		if shares[i], err = filepath.Abs(shares[i]); err != nil {
			return o, false, err
		}
	}
	dir, err := os.Getwd()
	if err != nil {
		return o, false, err
	}
	o.job = job{Shares: shares, Env: env, Load: load, Dir: dir, Command: f.Args()}
	return o, prepare, nil
}

// defaultCache is where the kernel is kept between runs.
func defaultCache() string {
	if d, err := os.UserCacheDir(); err == nil {
		return filepath.Join(d, "ipsecagent-vm")
	}
	return filepath.Join(os.TempDir(), "ipsecagent-vm")
}
