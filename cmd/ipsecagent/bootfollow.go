package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"ipsecagent/agent"
	"ipsecagent/agent/control"
	"ipsecagent/driver/nft"
	"ipsecagent/driver/user"
)

// bootProblem is the kind of the problem that boot filters are in force instead
// of a policy, memoryProblem that the next start will not know the policy.
const (
	bootProblem   = "boot"
	memoryProblem = "boot memory"
	// routingProblem: what a data path has left in routing could not be removed.
	routingProblem = "routing"
)

// retryBoot is how soon boot filters that could not be removed are tried again.
const retryBoot = 10 * time.Second

// bootFollower lets the boot filters go when a policy has taken their place, and
// remembers the policy for the next start.
type bootFollower struct {
	settings *settings
	backend  backend
	enforced <-chan agent.Enforcement
	looked   chan struct{} // closed when they have been looked at once
	gone     bool          // the boot filters; none come back while an agent runs
	due      bool          // they could not be removed, and are to be tried again
	tidied   bool          // nothing of a data path is left in routing
}

// newest returns a function that puts a value into a channel in the place of one
// that nobody has taken yet, and never waits. One goroutine calls it.
func newest[T any](c chan T) func(T) {
	return func(v T) {
		select {
		case <-c:
		default:
		}
		c <- v
	}
}

// follow runs until ctx ends.
func (f *bootFollower) follow(ctx context.Context) error {
	f.look(ctx)
	close(f.looked)
	for {
		var again <-chan time.Time
		if f.due {
			again = time.After(retryBoot)
		}
		select {
		case <-ctx.Done():
			return f.last()
		case e := <-f.enforced:
			f.replace(ctx, e)
		case <-again:
			f.end(ctx)
		}
	}
}

// last remembers the policy that was put in force right before the end.
func (f *bootFollower) last() error {
	select {
	case e := <-f.enforced:
		return f.settings.remember(e)
	default:
		return nil
	}
}

// look sees whether a policy was put in force when the agent started.
func (f *bootFollower) look(ctx context.Context) {
	// The loop answers when it has tried to.
	if _, err := f.backend.Status(ctx); err != nil {
		return // the part that failed says why
	}
	select {
	case e := <-f.enforced:
		f.replace(ctx, e)
	default:
		f.sayHeld(ctx)
	}
}

// sayHeld makes it a problem that boot filters stay because no policy could be
// put in force.
func (f *bootFollower) sayHeld(ctx context.Context) {
	state, err := nft.Boot(f.settings.DataPath.Table)
	if err == nil && state.Mode == "" {
		return
	}
	words := fmt.Sprintf("no policy is in force, the boot filters (%s) hold: mend what is listed here, or assign or unassign a policy; to end them as they are: ipsecagent boot --clear", state.Mode)
	if err != nil {
		words = "whether boot filters are in force is not known: " + err.Error()
	}
	f.problem(ctx, bootProblem, words)
}

// replace comes after the filters of a policy are in force, and never before:
// in between both hold, and what either forbids does not pass.
func (f *bootFollower) replace(ctx context.Context, e agent.Enforcement) {
	words := ""
	if err := f.settings.remember(e); err != nil {
		words = "which policy is in force could not be written, so that the next start would not know it: " + err.Error()
	}
	f.problem(ctx, memoryProblem, words)
	if !f.gone {
		f.end(ctx)
	}
	if !f.tidied && f.settings.Driver == driverKernel {
		f.tidy(ctx)
	}
}

// tidy removes the ip rules and routes that a userspace data path has left: the
// kernel driver's filters are in force, and nothing of it is needed by them.
func (f *bootFollower) tidy(ctx context.Context) {
	removed, err := user.RemoveRouting(f.settings.userConfig(nil))
	words := ""
	if err != nil {
		words = fmt.Sprintf("ip rules or routes that the userspace data path has left could not be removed: %v: 'ip rule' and 'ip route show table %d' show them", err, f.settings.DataPath.RouteTable)
	}
	f.tidied = err == nil
	f.problem(ctx, routingProblem, words)
	if len(removed) > 0 {
		// An error: the agent is ending, and says so itself.
		_ = f.backend.Report(ctx, control.EventAgent, "info", "removed what the userspace data path had left, which the kernel driver does not need: "+strings.Join(removed, ", "), nil)
	}
}

func (f *bootFollower) end(ctx context.Context) {
	was, err := f.settings.endBoot(ctx)
	f.gone, f.due = err == nil, err != nil
	if err != nil {
		f.problem(ctx, bootProblem, fmt.Sprintf("a policy is in force, and the boot filters could not be removed, so that both hold: %v: ipsecagent boot --clear", err))
		return
	}
	f.problem(ctx, bootProblem, "")
	if was.Mode != "" {
		// An error: the agent is ending, and says so itself.
		_ = f.backend.Report(ctx, control.EventAgent, "info", "the boot filters are replaced by what is in force now: they were of mode "+bootWords(was), nil)
	}
}

func (f *bootFollower) problem(ctx context.Context, kind, words string) {
	// An error: the agent is ending, and says so itself.
	_ = f.backend.Problem(ctx, kind, words)
}

// remembered names the policy that was in force last, for an agent whose state
// file has forgotten it.
func (w *wiring) remembered() string {
	m, err := w.settings.recall()
	switch {
	case err != nil:
		w.log.Warn("boot", "error", err.Error())
		return "of an unknown name"
	case m != nil:
		return m.Policy
	}
	return ""
}
