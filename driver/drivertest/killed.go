package drivertest

import (
	"bufio"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// Killed kills processes with SIGKILL, Moments times each, while they work and
// while both hosts flood each other: the agent, without which traffic goes on,
// and what carries the packets, if that is a process, without which nothing
// goes. Nothing leaves in clear, and the next start finds its way.
func Killed(t *testing.T, h Harness) {
	t.Run("agent", func(t *testing.T) { newKiller(t, h).repeat((*killer).agent) })
	if !h.Carrier {
		return // the kernel carries them
	}
	t.Run("what carries the packets", func(t *testing.T) { newKiller(t, h).repeat((*killer).carrier) })
}

// killer is two hosts, one of whose processes are killed.
type killer struct {
	*rig
	rand   *rand.Rand
	window time.Duration // from the agent's start to the end of the moments tried
	ready  sadb.SPI      // bob has associations for agents of alice below that
}

// room is how many associations bob has ready for an agent of alice.
const room = 16

func newKiller(t *testing.T, h Harness) *killer {
	return &killer{rig: newSecured(t, h), rand: rand.New(rand.NewPCG(9, 9))}
}

// repeat tries as many moments as the harness says.
func (k *killer) repeat(kill func(*killer)) {
	k.measure()
	k.converge()
	for i := range k.Moments {
		kill(k)
		k.converge()
		if k.Failed() {
			k.Fatalf("at moment %d of %d", i+1, k.Moments)
		}
	}
	k.Logf("figure: killed at %d moments within %s of work", k.Moments, k.window.Round(time.Millisecond))
}

// measure lets an agent work undisturbed to learn how long that takes.
func (k *killer) measure() {
	a := k.start()
	at := time.Now()
	a.awaits(jobWorks)
	k.window = time.Since(at)
	a.kill()
	k.alice.Driver = k.alice.Reopen(k.T)
}

// agent kills the agent.
func (k *killer) agent() {
	k.underFlood(func() {
		a := k.start()
		k.moment()
		a.kill()
		k.carries()
	})
	k.alice.Driver = k.alice.Reopen(k.T)
}

// carrier kills what carries the packets; the agent falls with it.
func (k *killer) carrier() {
	k.underFlood(func() {
		a := k.start()
		k.moment()
		k.alice.Crash()
		a.end()
		if to := []netip.Addr{k.bob.V4, k.bob.V6}[k.rand.IntN(2)]; k.alice.pings(to) {
			k.Errorf("%s answers though nothing carries the packets", to)
		}
		k.alice.Driver = k.alice.Reopen(k.T)
	})
	if s := k.alice.state(); len(s.SAs) != 0 {
		k.Errorf("associations came back from the dead: %+v", s.SAs)
	}
	k.alice.set(k.alice.everything()...)
	k.empty(k.bob, func(sadb.SA) bool { return false })
	k.ready = 0
	k.connect()
}

// moment lets a random part of the window pass.
func (k *killer) moment() { time.Sleep(time.Duration(k.rand.Int64N(int64(k.window)))) }

// converge does what a new agent does, and wants in force what it says.
func (k *killer) converge() {
	k.Helper()
	k.alice.events = nil
	k.alice.set(k.alice.everything()...)
	for _, id := range families {
		k.must(k.alice.Driver.RemoveFilter(k.ctx(), "over-"+id))
	}
	k.alice.wantOrder("v4", "v6", "rest")
	s := k.alice.state()
	keep, first := map[sadb.SAID]bool{}, k.unused()
	for _, to := range []netip.Addr{k.bob.V4, k.bob.V6} {
		sa, ok := newest(s, to)
		if !ok {
			k.Fatalf("no outbound association to %s is left", to)
		}
		keep[sa.ID] = true
	}
	for _, b := range k.bob.state().SAs {
		// What alice sends by, and what her next agent will.
		keep[b.SA.ID] = keep[b.SA.ID] || b.SA.Dir == sadb.Out || b.SA.ID.SPI >= first
	}
	k.empty(k.alice, func(sa sadb.SA) bool { return keep[sa.ID] })
	k.empty(k.bob, func(sa sadb.SA) bool { return keep[sa.ID] })
	k.carries()
	k.noClear()
}

// unused returns the first SPI that no agent of alice has taken: none is lower
// than one that is in force.
func (k *killer) unused() sadb.SPI {
	k.Helper()
	s := k.alice.state()
	first := sadb.SPI(0)
	for _, to := range []netip.Addr{k.bob.V4, k.bob.V6} {
		sa, _ := newest(s, to)
		first = max(first, sa.ID.SPI+1)
	}
	return first
}

// empty deletes every association of a host but those to keep.
func (k *killer) empty(e *end, keep func(sadb.SA) bool) {
	k.Helper()
	for _, s := range e.state().SAs {
		if !keep(s.SA) {
			e.remove(s.SA.ID)
		}
	}
	if i := slices.IndexFunc(e.state().SAs, func(s driver.SAState) bool { return !keep(s.SA) }); i >= 0 {
		k.Fatalf("%s: %s is not deleted", e.NS, e.state().SAs[i].SA.ID)
	}
}

// agentProcess is an agent at its job.
type agentProcess struct {
	k     *killer
	cmd   *exec.Cmd
	lines *bufio.Scanner
	said  *strings.Builder
}

// start starts an agent on alice, for whom bob has associations ready, and
// waits until it opens the driver.
func (k *killer) start() *agentProcess {
	k.Helper()
	local, peer := [2]netip.Addr{k.alice.V4, k.alice.V6}, [2]netip.Addr{k.bob.V4, k.bob.V6}
	first := k.unused()
	for k.ready = max(k.ready, first); k.ready < first+room; k.ready++ {
		for i, id := range families {
			k.inbound(k.bob, associationOf(id, k.ready, local[i], peer[i]))
		}
	}
	k.must(k.alice.Driver.Close())
	job := Job{Local: local, Peer: peer, SPI: first, Room: room, Seed: k.rand.Uint64(), Steps: k.Steps}
	a := &agentProcess{k: k, cmd: k.alice.Agent(k.T), said: &strings.Builder{}}
	if a.cmd.Env == nil {
		a.cmd.Env = os.Environ()
	}
	a.cmd.Env = append(a.cmd.Env, JobEnv+"="+job.String())
	a.cmd.Stderr = a.said
	out, err := a.cmd.StdoutPipe()
	k.must(err)
	k.must(a.cmd.Start())
	a.lines = bufio.NewScanner(out)
	a.awaits(jobOpens)
	return a
}

// awaits waits until the agent says so.
func (a *agentProcess) awaits(line string) {
	a.k.Helper()
	for a.lines.Scan() {
		if a.lines.Text() == line {
			return
		}
	}
	_ = a.cmd.Wait()
	a.k.Fatalf("the agent ended before it was killed: %s", a.said)
}

// kill kills the agent, which must not have ended before.
func (a *agentProcess) kill() {
	a.k.Helper()
	if how := a.end(); how != syscall.SIGKILL {
		a.k.Fatalf("the agent ended before it was killed: %s", a.said)
	}
}

// end kills the agent unless it has ended, and returns the signal that ended it.
func (a *agentProcess) end() syscall.Signal {
	_ = a.cmd.Process.Kill()
	for a.lines.Scan() {
	}
	_ = a.cmd.Wait()
	return a.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal()
}

// Moments returns how many moments to try: all 200, or so many where the
// everyday run samples.
func Moments(sample int) int {
	if full() {
		return 200
	}
	return sample
}

// full reports whether the run takes no samples.
func full() bool { return os.Getenv("IPSECAGENT_FULL") != "" }
