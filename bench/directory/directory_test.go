package main

import (
	"context"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestASmallFleet: the whole of a run with few hosts. An unchanged poll keeps its
// limits, and a change reaches all.
func TestASmallFleet(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: a domain controller listens on the port of LDAP, in a network namespace")
	}
	for _, server := range serverNames() {
		t.Run(server, func(t *testing.T) {
			t.Parallel()
			o, err := parse([]string{"-servers", server, "-agents", "20", "-jitter", "1s", "-idle", "100ms", "-memory", "100"})
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			if err := run(t.Context(), o, &out); err != nil {
				t.Errorf("%v\n%s", err, out.String())
			}
			for _, row := range rows() {
				if !strings.Contains(out.String(), "| "+row.name+" |") {
					t.Errorf("%q is not printed:\n%s", row.name, out.String())
				}
			}
		})
	}
}

func TestParse(t *testing.T) {
	for _, args := range []string{"-servers nds", "-agents 0", "-agents 50001", "-at-once 0", "-jitter 10ms", "-bogus"} {
		if _, err := parse(strings.Fields(args)); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
}

// kept is what a fleet of 600 within a minute has kept.
func kept() *figures {
	p := phase{rates: slices.Repeat([]uint64{20}, 60)}
	return &figures{server: "x", agents: 600, held: 600, poll: phase{most: counts{requests: 3, bytes: 2048}},
		change: p, reached: []time.Duration{time.Second, time.Minute}}
}

func TestLimits(t *testing.T) {
	o := options{agents: 600, jitter: time.Minute}
	for _, c := range []struct {
		name, says string
		edit       func(*figures)
	}{
		{"all kept", "", func(*figures) {}},
		{"four requests", "took 4 requests", func(g *figures) { g.poll.most.requests = 4 }},
		{"too many bytes", "2049 bytes", func(g *figures) { g.poll.most.bytes = 2049 }},
		{"bound again", "not kept", func(g *figures) { g.poll.all.binds = 1 }},
		{"one did not start", "599 of 600", func(g *figures) { g.agents = 599 }},
		{"one has lost its connection", "599 connections", func(g *figures) { g.held = 599 }},
		{"one has no answer", "1 agents have no answer", func(g *figures) { g.failing = 1 }},
		{"late", "to reach all", func(g *figures) { g.reached[1] = 86 * time.Second }},
		{"a spike", "busiest second", func(g *figures) { g.change.rates[7] = 100 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := kept()
			c.edit(g)
			got := strings.Join(g.beyond(o), "; ")
			if c.says == "" && got != "" || !strings.Contains(got, c.says) {
				t.Errorf("%q", got)
			}
		})
	}
}

// TestTheMeter: what goes over a connection is counted, for the agent and for the
// second, and that it is held until it is closed, twice or not.
func TestTheMeter(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	a := &traffic{meter: &meter{began: time.Now()}}
	c, err := a.dial(func(context.Context, string, string) (net.Conn, error) { return near, nil })(t.Context(), "tcp", "dc:389")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		b := make([]byte, 4)
		_, _ = far.Read(b)
		_, _ = far.Write(b[:3])
	}()
	if _, err := c.Write([]byte("four")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 9)); err != nil {
		t.Fatal(err)
	}
	if got := a.now(); got != (counts{requests: 1, bytes: 7, binds: 1}) || a.meter.held.Load() != 1 {
		t.Errorf("%+v, %d held", got, a.meter.held.Load())
	}
	var sent, came uint64
	for i := range a.meter.requests {
		sent += a.meter.requests[i].Load()
		came += a.meter.received[i].Load()
	}
	c.Close()
	c.Close()
	if sent != 1 || came != 3 || a.meter.held.Load() != 0 {
		t.Errorf("%d requests and %d bytes in all seconds, %d held", sent, came, a.meter.held.Load())
	}
}

func TestTheLoadOfAProcess(t *testing.T) {
	for began := time.Now(); time.Since(began) < 5*time.Second; {
		if cpuOf("self") > 0 {
			break
		}
	}
	if cpuOf("self") == 0 || field("/proc/self/smaps_rollup", "Pss:") < 1<<20 || available() < 1<<20 {
		t.Errorf("%v, %d bytes, %d available", cpuOf("self"), field("/proc/self/smaps_rollup", "Pss:"), available())
	}
}

func TestNoHostStartsWithoutMemory(t *testing.T) {
	f := newFleet(&lab{}, options{agents: 3, atOnce: 1, memory: 1 << 40})
	if err := f.start(t.Context()); err == nil || !strings.Contains(err.Error(), "no host was started") || len(f.agents) > 0 {
		t.Errorf("%v, %d agents", err, len(f.agents))
	}
}
