package test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ipsecagent/agent/control"
)

// killWindow is how long after its start an agent lives at most: by then it has
// taken up what is in force, renewed it and put other filters in force.
const killWindow = 2 * time.Second

// batch is how many kills one capture covers.
const batch = 20

// TestKilledAgentsLeakAndLoseNothing: an agent is killed with SIGKILL again and
// again, while it starts, takes up associations, renews them and reloads a policy
// that changes, and while its host sends what must be secured in every way a
// program can. Nothing leaves in clear, traffic goes on without an agent, and the
// last one has all in force.
func TestKilledAgentsLeakAndLoseNothing(t *testing.T) {
	times := 8
	if full() {
		times = 200
	}
	killedAgents(t, "kill", times)
}

func killedAgents(t *testing.T, tag string, times int) {
	t.Helper()
	a, b := secured(t, tag)
	a.agent.signal(t, syscall.SIGKILL)
	k := &kills{a: a, b: b, up: map[string]bool{b.v4: true, b.v6: true}}
	r := rand.New(rand.NewPCG(5, 5))
	tried, esp := 0, 0
	for done := 0; done < times; done += batch {
		n := min(batch, times-done)
		all := a.underTraffic(b, n, func() {
			for range n {
				k.once(time.Duration(r.Int64N(int64(patient(killWindow)))))
			}
		})
		tried, esp = tried+len(all), esp+count(all, packet.esp)
		if found := leaks(all, nil); len(found) > 0 {
			t.Fatalf("%d packets in clear within the first %d kills, the first: %v", len(found), done+n, found[0])
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("figure: agent killed %d times, %d packets on the wire, %d of them ESP; of %d associations left %d were asked for traffic and gave it",
		k.done, tried, esp, 2*k.done, k.carried)
	if k.carried < k.done {
		t.Errorf("only %d of %d associations were there to carry traffic", k.carried, 2*k.done)
	}
	if esp < 100*times {
		t.Errorf("only %d ESP packets were seen", esp)
	}
	a.recovers(b)
}

// kills is an agent of a that is killed again and again.
type kills struct {
	a, b    *host
	done    int
	up      map[string]bool // peers with associations
	carried int             // times that traffic without an agent was wanted
}

// underTraffic does something that takes n kills while a sends to b in every
// way, and returns what was on the wire.
func (h *host) underTraffic(b *host, n int, do func()) []packet {
	h.t.Helper()
	wire := h.captureHeaders(fmt.Sprint("wire", n), 128)
	seconds := fmt.Sprint(patient(killWindow+20*time.Second).Seconds() * float64(n))
	traffic := h.start("/usr/bin/python3", "traffic.py", seconds, "wire", b.v4, b.v6, linkLocal(b)+"%wire")
	eventually(h.t, 10*time.Second, "traffic", func() bool { return strings.Contains(traffic.output(), "sending") })
	do()
	traffic.signal(h.t, syscall.SIGKILL)
	return wire.end()
}

// once starts an agent, keeps it busy and kills it after a time. Where the
// driver has associations then, they carry traffic without it.
func (k *kills) once(after time.Duration) {
	k.a.t.Helper()
	k.done++
	agent := k.a.launchAgent()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for n := k.done; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
				k.a.changed(n)
				k.a.ctl("reload") // fails while the agent starts
			}
		}
	}()
	time.Sleep(after)
	select {
	case <-agent.done:
		k.a.t.Errorf("kill %d: the agent ended by itself: %s", k.done, tail(agent.output(), 2000))
	default:
	}
	agent.signal(k.a.t, syscall.SIGKILL)
	close(stop)
	<-stopped
	k.installed(agent.output())
	for _, to := range []string{k.b.v4, k.b.v6} {
		if !k.up[to] {
			continue
		}
		k.carried++
		if k.a.ping(to, int(patient(3))) == 0 { // in an emulated machine an answer takes long
			k.a.t.Errorf("kill %d, after %s: no traffic to %s without the agent", k.done, after, to)
		}
	}
}

// installed learns from what an agent said to which peers it has left
// associations. One that took up nothing has also removed nothing.
func (k *kills) installed(said string) {
	if !strings.Contains(said, "event="+control.EventPolicyApplied) {
		return
	}
	pairs := map[string]int{}
	for line := range strings.Lines(said) {
		for event, n := range map[string]int{control.EventAdopted: 1, control.EventSAUp: 1, control.EventSADown: -1} {
			if _, rest, ok := strings.Cut(line, "event="+event+" "); ok {
				_, peer, _ := strings.Cut(rest, "peer=")
				peer, _, _ = strings.Cut(peer, " ")
				pairs[peer] += n
			}
		}
	}
	for peer := range k.up {
		k.up[peer] = pairs[peer] > 0
	}
}

// changed writes the policy with filters that are another number each time; all
// of them require security.
func (h *host) changed(i int) {
	h.t.Helper()
	more := "    - {from: me, to: any}\n"
	for n := range i % 5 {
		more += fmt.Sprintf("    - {from: me, to: 198.51.100.%d}\n", 10*(i%7)+n)
	}
	h.write(filepath.Join("policies.d", "require-all.yaml"), strings.Replace(requireAll, "    - {from: me, to: any}\n", more, 1), 0o644)
}

// recovers starts an agent that is left alone, and wants everything in force and
// no more than one pair for each address.
func (h *host) recovers(b *host) {
	h.t.Helper()
	h.changed(0)
	wire := h.capture("recovers")
	h.startAgent(nil)
	if s := h.status(); s.Policy.Name != "require-all" || s.Policy.State != "assigned" {
		h.t.Errorf("in force is %+v", s.Policy)
	}
	for _, to := range []string{b.v4, b.v6} {
		if n := h.ping(to, 10); n != 10 {
			h.t.Errorf("%d of 10 echo requests to %s were answered", n, to)
		}
	}
	pairs := func(h *host) map[string]int {
		n := map[string]int{}
		for _, p := range h.pairs() {
			n[p.Peer]++
		}
		return n
	}
	eventually(h.t, 90*time.Second, "one pair for each address is left", func() bool {
		mine, theirs := pairs(h), pairs(b)
		return mine[b.v4] == 1 && mine[b.v6] == 1 && theirs[h.v4] == 1 && theirs[h.v6] == 1
	})
	if out := h.mustCtl("events", "-o", "json"); !strings.Contains(out, control.EventAdopted) {
		h.t.Errorf("the agent has adopted nothing:\n%s", out)
	}
	if found := leaks(wire.end(), nil); len(found) > 0 {
		h.t.Errorf("in clear: %v", found[0])
	}
}
