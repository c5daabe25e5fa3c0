package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"time"

	"ipsecagent/auth"
	"ipsecagent/auth/psk"
	"ipsecagent/ike"
	"ipsecagent/ike/udp"
	"ipsecagent/sadb"
)

// endCommand makes this program one of our two ends.
const endCommand = "end"

// presharedKey is the same on both ends.
const presharedKey = "a preshared key of the benchmark 0617"

// The words an end says and hears, a line each.
const (
	wordReady = "ready"
	wordGo    = "go"
	wordDone  = "done"
)

// end is one of our two ends: an IKE server on its sockets, and in the place of
// agent and driver somebody who grants everything.
type end struct {
	initiator bool
	peers     int
	window    int
	certs     string
	main      ike.MainOffer
	quick     ike.QuickOffer
	server    *ike.Server
	spi       sadb.SPI
	begun     int
	done      int
	dropped   map[string]int // datagrams by reason
}

func runEnd(args []string) error {
	e := end{dropped: map[string]int{}}
	var name, profile string
	f := flag.NewFlagSet(endCommand, flag.ContinueOnError)
	f.BoolVar(&e.initiator, "initiator", false, "begin the handshakes")
	f.IntVar(&e.peers, "peers", 0, "how many")
	f.IntVar(&e.window, "window", 0, "how many at once")
	f.StringVar(&name, "auth", "", "how they authenticate")
	f.StringVar(&e.certs, "certificates", "", "directory of the certificates")
	f.StringVar(&profile, "profile", "", "where the CPU profile goes")
	if err := f.Parse(args); err != nil {
		return err
	}
	s, err := findScenario(name)
	if err != nil {
		return err
	}
	if profile != "" {
		stop, err := startProfile(filepath.Join(profile, fmt.Sprintf("%s-initiator-%t.pprof", name, e.initiator)))
		if err != nil {
			return err
		}
		defer stop()
	}
	return e.run(s)
}

func startProfile(path string) (stop func(), err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return pprof.StopCPUProfile, pprof.StartCPUProfile(f)
}

// authenticator returns the method of a scenario and what a rule asks of it.
func (e *end) authenticator(s scenario) (auth.Authenticator, auth.Requirement, error) {
	if s.method == auth.PSK {
		ring, err := psk.Parse("benchmark", []byte(presharedKey))
		return psk.New(ring), auth.Requirement{Method: s.method}, err
	}
	names := []string{serverName}
	if e.initiator {
		names = names[:0]
		for n := range identities {
			names = append(names, peerName(n))
		}
	}
	a, err := certificates(e.certs, names, s.method)
	return a, auth.Requirement{Method: s.method, CA: caName}, err
}

func (e *end) run(s scenario) error {
	a, requirement, err := e.authenticator(s)
	if err != nil {
		return err
	}
	if err := e.offer(s, requirement); err != nil {
		return err
	}
	t, err := udp.Open(udp.Config{})
	if err != nil {
		return err
	}
	e.server = ike.NewServer(ike.ServerConfig{Transport: t,
		Machine: ike.New(ike.Config{Rand: rand.Reader, Auth: []auth.Authenticator{a}})})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	broken := make(chan error, 1)
	go func() { broken <- e.server.Run(ctx) }()
	e.server.Submit(ike.SetPolicy{Policy: e.policy()})
	return e.work(broken)
}

func (e *end) offer(s scenario, r auth.Requirement) error {
	main, err := sadb.ParseISAKMPSuite(s.main)
	if err != nil {
		return err
	}
	quick, err := sadb.ParseSuite(s.qm)
	if err != nil {
		return err
	}
	e.main = ike.MainOffer{Suites: []sadb.ISAKMPSuite{main}, Lifetime: 8 * time.Hour, Auth: []auth.Requirement{r}}
	e.quick = ike.QuickOffer{Filter: "benchmark", Proposals: []sadb.Proposal{{Suites: []sadb.Suite{quick},
		Lifetime: sadb.Limits{Time: time.Hour, Bytes: 100 << 30}}}}
	return nil
}

func (e *end) policy() ike.Policy {
	return ike.Policy{
		Main: func(ike.MainQuery) (ike.MainOffer, error) { return e.main, nil },
		Quick: func(q ike.QuickQuery) (ike.QuickOffer, error) {
			o := e.quick
			o.Selector = q.Selector
			return o, nil
		},
	}
}

// work talks with the parent on standard input and output.
func (e *end) work(broken <-chan error) error {
	lines := bufio.NewScanner(os.Stdin)
	fmt.Println(wordReady)
	if !lines.Scan() || lines.Text() != wordGo {
		return fmt.Errorf("told %q: %w", lines.Text(), lines.Err())
	}
	begin := e.initiator
	if begin {
		e.next()
	}
	for o := range e.server.Outputs() {
		if err := e.answer(o); err != nil {
			return err
		}
		if e.done == e.peers {
			fmt.Println(wordDone)
			lines.Scan() // the parent closes
			for reason, n := range e.dropped {
				fmt.Fprintf(os.Stderr, "initiator %t: %d datagrams dropped: %s\n", e.initiator, n, reason)
			}
			return nil
		}
	}
	return <-broken
}

// next begins as many handshakes as may be under way.
func (e *end) next() {
	for ; e.begun < e.peers && (e.window == 0 || e.begun < e.done+e.window); e.begun++ {
		local := peerAddr(e.begun)
		quick := e.quick
		quick.Selector = sadb.Selector{}.Narrow(local, server())
		e.server.Submit(ike.Initiate{Request: uint64(e.begun + 1), Local: local, Remote: server(), Main: e.main, Quick: quick})
	}
}

// answer grants what IKE asks for.
func (e *end) answer(o ike.Output) error {
	switch o := o.(type) {
	case ike.ReserveSPI:
		e.spi++
		e.server.Submit(ike.SPIReserved{ID: o.ID, SPI: 0x1000 + e.spi})
	case ike.Install:
		e.server.Submit(ike.Installed{ID: o.ID})
	case ike.Established:
		e.done++
		if e.initiator {
			e.next()
		}
	case ike.Failed:
		return fmt.Errorf("%s with %s: %s", o.Step, o.Remote, o.Reason)
	case ike.Dropped:
		e.dropped[o.Reason] += o.Count
	}
	return nil
}
