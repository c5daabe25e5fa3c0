package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"ipsecagent/policy"
	"ipsecagent/policy/directory"
)

// fleet is the agents that run.
type fleet struct {
	lab    *lab
	meter  *meter
	o      options
	agents []*agent
	run    sync.WaitGroup
	full   bool // memory was short before all had started
}

// agent is one simulated host.
type agent struct {
	source  *directory.Source
	trouble error // of the last attempt that gave no answer, while it was waited for
	traffic
}

// Bounds of waiting.
const (
	patience = 10 * time.Minute       // for one agent
	look     = 100 * time.Millisecond // how often it is looked
)

func newFleet(l *lab, o options) *fleet {
	return &fleet{lab: l, o: o, meter: &meter{began: time.Now()}}
}

// start starts all agents, some at once, and returns when each has its policy.
// When memory is short it starts no more.
func (f *fleet) start(ctx context.Context) error {
	slots := make(chan struct{}, f.o.atOnce)
	failed := make(chan error, f.o.agents)
	var starting sync.WaitGroup
	for n := range f.o.agents {
		slots <- struct{}{}
		if f.full = available() < f.o.memory<<20; f.full || len(failed) > 0 || ctx.Err() != nil {
			break
		}
		a, err := f.add(ctx, n)
		if err != nil {
			return err
		}
		starting.Go(func() {
			defer func() { <-slots }()
			if err := a.await(ctx, holds("")); err != nil {
				failed <- fmt.Errorf("%s: %w", hostName(n), err)
			}
		})
	}
	starting.Wait()
	switch {
	case len(failed) > 0:
		return <-failed
	case len(f.agents) == 0 && f.full:
		return fmt.Errorf("fewer than %d MiB of memory are free: no host was started", f.o.memory)
	}
	return ctx.Err()
}

// add starts one agent.
func (f *fleet) add(ctx context.Context, n int) (*agent, error) {
	a := &agent{}
	a.meter = f.meter
	config, err := f.lab.host(n, &a.traffic)
	if err != nil {
		return nil, err
	}
	a.source, err = directory.NewSource(directory.SourceConfig{Config: config, Jitter: f.o.jitter, NoWatch: f.o.noWatch})
	if err != nil {
		return nil, err
	}
	f.agents = append(f.agents, a)
	f.run.Go(func() { _ = a.source.Run(ctx) }) // it ends with ctx, without an error
	return a, nil
}

// holds is whether an agent has the policy with a description.
func holds(description string) func(directory.Status) bool {
	return func(s directory.Status) bool {
		return s.Err == nil && s.Answer != nil && s.Answer.State == policy.Assigned && s.Answer.Policy.Name == policyName &&
			(description == "" || s.Answer.Policy.Description == description)
	}
}

// await waits until an agent's status is as it should be.
func (a *agent) await(ctx context.Context, is func(directory.Status) bool) error {
	for began := time.Now(); !a.has(is); {
		if time.Since(began) > patience {
			return fmt.Errorf("it has no policy after %s: %v", patience, a.source.Status().Err)
		}
		select {
		case <-a.source.Changed():
		case <-time.After(look):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// has asks for an agent's status, and notes trouble.
func (a *agent) has(is func(directory.Status) bool) bool {
	s := a.source.Status()
	if s.Err != nil && !errors.Is(s.Err, directory.ErrPending) {
		a.trouble = s.Err
	}
	return is(s)
}

// troubled counts the agents that had trouble since it was last asked, and says
// what one of them had.
func (f *fleet) troubled() (n int, one error) {
	for _, a := range f.agents {
		if a.trouble != nil {
			n, one = n+1, a.trouble
		}
		a.trouble = nil
	}
	return n, one
}

// refresh has every agent ask once, evenly spread over the jitter.
func (f *fleet) refresh(ctx context.Context) error {
	var asking sync.WaitGroup
	failed := make(chan error, len(f.agents))
	for n, a := range f.agents {
		asking.Go(func() {
			select {
			case <-time.After(f.o.jitter * time.Duration(n) / time.Duration(len(f.agents))):
				failed <- a.source.Refresh(ctx)
			case <-ctx.Done():
				failed <- ctx.Err()
			}
		})
	}
	asking.Wait()
	for range f.agents {
		if err := <-failed; err != nil {
			return err
		}
	}
	return nil
}

// follow waits until every agent holds the policy with a description, and
// returns how long each took, sorted.
func (f *fleet) follow(ctx context.Context, description string) ([]time.Duration, error) {
	began := time.Now()
	var took []time.Duration
	is, left := holds(description), slices.Clone(f.agents)
	for len(left) > 0 {
		left = slices.DeleteFunc(left, func(a *agent) bool {
			there := a.has(is)
			if there {
				took = append(took, time.Since(began))
			}
			return there
		})
		if time.Since(began) > patience+f.o.jitter {
			return nil, fmt.Errorf("%d agents do not have the change after %s; one says: %v", len(left), patience+f.o.jitter, left[0].source.Status().Err)
		}
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return took, nil
}

// each returns what every agent has done.
func (f *fleet) each() []counts {
	all := make([]counts, len(f.agents))
	for i, a := range f.agents {
		all[i] = a.now()
	}
	return all
}

// failing counts the agents whose last attempt has failed.
func (f *fleet) failing() int {
	n := 0
	for _, a := range f.agents {
		if a.source.Status().Err != nil {
			n++
		}
	}
	return n
}
