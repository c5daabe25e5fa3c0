package main

import (
	"context"
	"fmt"
	"io"
	"time"
)

// phase is what happened in a part of a run.
type phase struct {
	took   time.Duration
	all    counts
	most   counts // of one agent
	cpu    time.Duration
	memory uint64 // of the servers at its end
	// Requests of LDAP, and bytes from the server, second by second.
	rates, flow []uint64
	// troubled is how many agents had to try again, one says why.
	troubled int
	trouble  error
}

// figures are what was measured with one server.
type figures struct {
	server                string
	agents, held, failing int
	processes             int
	empty                 uint64 // memory of the servers before
	start, settle         phase
	idle, poll, change    phase
	reached               []time.Duration // when each agent had the change
	jitter                time.Duration
}

// measure measures one server.
func measure(ctx context.Context, o options, name, dir string, out io.Writer) (*figures, error) {
	fmt.Fprintf(out, "%s: making a server with %d accounts\n", name, o.agents)
	l, err := newLab(ctx, o, name, dir)
	if err != nil {
		return nil, err
	}
	defer l.close()
	f := newFleet(l, o)
	running, stop := context.WithCancel(ctx)
	defer f.run.Wait()
	defer stop()
	g := &figures{server: name, jitter: o.jitter, empty: loadOf(l.net).memory}
	for _, p := range []struct {
		name string
		of   *phase
		do   func(context.Context) error
	}{
		{"start", &g.start, f.start},
		{"settle", &g.settle, f.settle},
		{"idle", &g.idle, func(ctx context.Context) error { return rest(ctx, o.idle) }},
		{"poll", &g.poll, f.refresh},
		{"change", &g.change, func(ctx context.Context) error { return f.alter(ctx, g) }},
	} {
		if *p.of, err = f.during(running, p.do); err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		fmt.Fprintf(out, "%s: %s\n", name, p.of.line(p.name, len(f.agents)))
	}
	g.agents, g.held, g.failing = len(f.agents), int(f.meter.held.Load()), f.failing()
	g.processes = loadOf(l.net).processes
	return g, nil
}

// during counts what happens while something is done.
func (f *fleet) during(ctx context.Context, do func(context.Context) error) (phase, error) {
	before, load, second, began := f.each(), loadOf(f.lab.net), f.meter.second(), time.Now()
	if err := do(ctx); err != nil {
		return phase{}, err
	}
	p := phase{took: time.Since(began)}
	p.troubled, p.trouble = f.troubled()
	for i, c := range f.each() {
		if i < len(before) {
			c = c.minus(before[i])
		}
		p.all = p.all.plus(c)
		p.most.requests, p.most.bytes = max(p.most.requests, c.requests), max(p.most.bytes, c.bytes)
	}
	after := loadOf(f.lab.net)
	p.cpu, p.memory = after.cpu-load.cpu, after.memory
	for s := second; s <= f.meter.second(); s++ {
		p.rates = append(p.rates, f.meter.requests[s].Load())
		p.flow = append(p.flow, f.meter.received[s].Load())
	}
	return p, nil
}

// settle lets agents look once more, as each does after it has begun to watch.
func (f *fleet) settle(ctx context.Context) error { return rest(ctx, f.o.jitter+2*time.Second) }

// rest does nothing for a while.
func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// alter changes the policy as an administrator does and waits until every agent
// has it. Agents that are not told of changes ask within the jitter.
func (f *fleet) alter(ctx context.Context, g *figures) error {
	const words = "changed"
	if err := f.lab.publish(ctx, words); err != nil {
		return err
	}
	asked := make(chan error, 1)
	go func() {
		if !f.o.noWatch {
			asked <- nil
			return
		}
		asked <- f.refresh(ctx)
	}()
	var err error
	if g.reached, err = f.follow(ctx, words); err != nil {
		return err
	}
	return <-asked
}
