package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// folders are the flags that name the folders of a host's programs.
func (h *host) folders() []string {
	return []string{"--state-dir", filepath.Join(h.dir, "state"), "--run-dir", h.dir, "--socket", h.socket(),
		"--policies-dir", filepath.Join(h.dir, "policies.d"), "--secrets-dir", filepath.Join(h.dir, "secrets.d"), "--config", h.config()}
}

// boot puts the boot filters in force as at the start of the host.
func (h *host) boot(settings string) string {
	h.t.Helper()
	config := h.write("boot.yaml", settings, 0o644)
	args := append([]string{"boot"}, h.folders()...)
	return h.must(filepath.Join(programs, "ipsecagent"), append(args, "--config", config)...)
}

// switchOff ends the agent and takes out of force what does not outlive the host:
// all of it.
func (h *host) switchOff() {
	h.t.Helper()
	h.agent.signal(h.t, syscall.SIGTERM)
	if h.drivenBy() == byKernel {
		h.forget()
		os.RemoveAll(filepath.Join(h.dir, "kernel")) // what is in /run
	} else {
		h.must(filepath.Join(programs, "ipsecagent"), append([]string{"datapath", "--stop"}, h.folders()...)...)
	}
	if left := h.must("nft", "list", "tables"); strings.Contains(left, "ipsecagent") {
		h.t.Fatalf("the host is not as after its start: %s", left)
	}
}

// TestNothingLeavesWhileThePolicyTakesOver: a host whose policy requires security
// starts under a flood that it sends itself. Not a packet in clear is on its wire,
// before its agent, while the agent is killed before and while it puts the policy
// in force, and after; then the traffic is secured.
func TestNothingLeavesWhileThePolicyTakesOver(t *testing.T) {
	a, b := newPair(t, "bootover")
	key := aKey("bootover")
	for _, h := range []*host{a, b} {
		h.startAgent(map[string]string{"require-all.yaml": requireAll})
		h.assign("require-all", key)
	}
	eventually(t, 60*time.Second, "traffic is secured", func() bool { return a.ping(b.v4, 1) == 1 })
	a.switchOff()

	if out := a.boot(""); !strings.Contains(out, `Boot mode block (policy "require-all" was in force`) {
		t.Fatalf("the mode does not follow the policy: %s", out)
	}
	wire := a.capture("wire")
	traffic := a.start("/usr/bin/python3", "traffic.py", fmt.Sprint(patient(12*time.Second).Seconds()), "wire", b.v4, b.v6, linkLocal(b)+"%wire")
	eventually(t, 10*time.Second, "traffic", func() bool { return strings.Contains(traffic.output(), "sending") })
	for i := range 4 {
		killed := a.start(filepath.Join(programs, "ipsecagent"), a.folders()...)
		time.Sleep(patient(time.Duration(10+25*i) * time.Millisecond)) // wherever it is then
		killed.cmd.Process.Kill()
		<-killed.done
	}
	a.startAgent(nil)
	<-traffic.done
	all := wire.end()

	var tried int
	fmt.Sscanf(traffic.output(), "sending\ntried %d", &tried)
	found, esp := leaks(all, nil), count(all, packet.esp)
	t.Logf("figure: %d packets tried from before the policy on, %d ESP packets on the wire, %d in clear", tried, esp, len(found))
	if tried < leastTried() {
		t.Errorf("only %d packets were tried: %s", tried, traffic.output())
	}
	if len(found) > 0 {
		t.Errorf("in clear, the first: %v", found[0])
	}
	eventually(t, 60*time.Second, "traffic is secured again", func() bool { return a.ping(b.v4, 1) == 1 && a.ping(b.v6, 1) == 1 })
	if out := a.must("nft", "list", "tables"); strings.Contains(out, "boot") {
		t.Errorf("the boot filters are still there: %s", out)
	}
}

// TestBootModes: what a host that has no policy in force yet exchanges with
// another under each mode, and that the policy takes their place.
func TestBootModes(t *testing.T) {
	a, b := newPair(t, "bootmode")
	a.startAgent(nil)
	a.assign("client", aKey("bootmode"))
	a.switchOff()
	ctl := func(args ...string) string {
		return a.must(filepath.Join(programs, "ipsecagent"), append(args, a.folders()...)...)
	}
	for _, m := range []struct {
		settings, says string
		out, in        int
	}{
		{"boot: {mode: permit}\n", "permit", 1, 1},
		{"", `stateful (policy "client" was in force`, 1, 0},
		{"boot: {mode: block}\n", "block (the setting", 0, 0},
		{"boot: {mode: block, exempt: [\"icmp:0:0:outbound\"]}\n", "block (the setting", 1, 0},
		{"boot: {mode: block, exempt: [\"icmp:0:0:inbound\"]}\n", "block (the setting", 0, 1},
	} {
		before := a.must("nft", "list", "ruleset")
		if said := a.boot(m.settings); !strings.Contains(said, "Boot mode "+m.says) {
			t.Errorf("%q: it says %s", m.settings, said)
		}
		if after := a.must("nft", "list", "ruleset"); m.out+m.in == 2 && after != before {
			t.Errorf("%q changes something: %s", m.settings, after)
		}
		if got := a.ping(b.v4, 1); got != m.out {
			t.Errorf("%q: outbound answered %d, want %d", m.settings, got, m.out)
		}
		if got := b.ping(a.v4, 1); got != m.in {
			t.Errorf("%q: inbound answered %d, want %d", m.settings, got, m.in)
		}
		ctl("boot", "--clear")
	}

	a.boot("boot: {mode: block}\n")
	if out, err := a.run(10*time.Second, filepath.Join(programs, "ipsecctl"), "--socket", a.socket(), "status"); err == nil || !strings.Contains(out, "boot filters (block) hold") {
		t.Errorf("status without an agent: %v %s", err, out)
	}
	a.startAgent(nil)
	eventually(t, 30*time.Second, "the policy has taken their place", func() bool { return b.ping(a.v4, 1) == 1 && a.ping(b.v4, 1) == 1 })
	if out := a.mustCtl("events"); !strings.Contains(out, "the boot filters are replaced by what is in force now: they were of mode block") {
		t.Errorf("no event of it:\n%s", out)
	}
}
