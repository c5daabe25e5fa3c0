// Command handshakes measures how many main and quick modes a second two IKE
// daemons make with each other: ours with ours, and strongSwan's charon with
// charon, in turn, in the same two network namespaces, 1000 peers with an
// address each towards one.
//
// It owns the laboratory (namespaces, certificates, processes) and the figures.
// It measures no data path: our ends answer every wish for an SPI or an
// association with yes, charon runs on the shim of test/peers, which makes the
// kernel do as much.
//
// It needs root, a C compiler and strongSwan.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

// options is what a run is asked to do.
type options struct {
	peers  int
	rounds int
	window int // handshakes under way at once; 0: all
	names  []string
	shim   string // source of the shim
	cpu    string // where our responder puts its profile
	only   string // "ours" or "charon"; "": both
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == endCommand {
		exit(runEnd(os.Args[2:]))
	}
	o, err := parse(os.Args[1:])
	if err == nil {
		err = run(o, os.Stdout)
	}
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "handshakes:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func parse(args []string) (options, error) {
	var o options
	var names string
	f := flag.NewFlagSet("handshakes", flag.ContinueOnError)
	f.IntVar(&o.peers, "peers", 1000, "how many peers, each with an address of its own (at most 60000)")
	f.IntVar(&o.rounds, "rounds", 5, "how often each is measured; the median counts")
	f.IntVar(&o.window, "window", 0, "how many handshakes are under way at once; 0: all")
	f.StringVar(&names, "auth", strings.Join(scenarioNames(), ","), "which authentications")
	f.StringVar(&o.shim, "shim", "test/peers/xfrmnull.c", "source of the shim that charon runs on")
	f.StringVar(&o.cpu, "profile", "", "directory for CPU profiles of our two ends")
	f.StringVar(&o.only, "only", "", "measure only \"ours\" or \"charon\"")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.names = strings.Split(names, ",")
	if o.peers < 1 || o.peers > 60000 || o.rounds < 1 {
		return o, fmt.Errorf("%d peers in %d rounds cannot be measured", o.peers, o.rounds)
	}
	return o, nil
}

// patience is how long one measurement may take before it has failed.
const patience = 3 * time.Minute
