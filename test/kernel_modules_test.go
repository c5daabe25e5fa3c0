//go:build esp

package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMachineWithoutAModule: the kernel's ESP for IPv6 goes away under agents that
// want it, and cannot be loaded again. IPv6 is dropped, not sent in clear, and the
// event says what is missing; IPv4 is secured as before. A new agent does not
// start and says why, and what was in force stays. With the module back
// again, IPv6 is secured.
func TestMachineWithoutAModule(t *testing.T) {
	if os.Getenv(machineEnv) == "" {
		t.Fatal("it takes a module from the kernel: run it in the machine of test/vm")
	}
	a, b := newPair(t, "kmod")
	key := aKey("kmod")
	for _, h := range []*host{a, b} {
		h.driver = byKernel
		h.startAgent(map[string]string{"require-all.yaml": requireAll})
		h.assign("require-all", key)
	}
	eventually(t, 60*time.Second, "IPv4 is secured", func() bool { return a.ping(b.v4, 1) == 1 })
	back := withoutESP6(t)
	wire := a.captureSent("wire")
	if a.ping(b.v6, 3) > 0 {
		t.Error("IPv6 passes without ESP for it")
	}
	eventually(t, 60*time.Second, "an event names the module", func() bool {
		return strings.Contains(a.mustCtl("events")+b.mustCtl("events"), "esp6")
	})
	if n := a.ping(b.v4, 3); n != 3 {
		t.Errorf("%d of 3 echo requests over IPv4 were answered", n)
	}
	a.agent.signal(t, syscall.SIGTERM)
	out, err := a.run(patient(20*time.Second), filepath.Join(programs, "ipsecagent"), a.folders()...)
	if err == nil || !strings.Contains(out, "esp6") {
		t.Errorf("without the module an agent says: %v %s", err, out)
	}
	if a.ping(b.v6, 2) > 0 || a.ping(b.v4, 2) != 2 {
		t.Error("what was in force has not stayed")
	}
	back()
	a.startAgent(nil)
	eventually(t, 90*time.Second, "IPv6 is secured", func() bool { return a.ping(b.v6, 1) == 1 })
	if found := leaks(wire.end(), nil); len(found) > 0 {
		t.Errorf("in clear: %v", found[0])
	}
	a.explain(t)
}

// withoutESP6 unloads the module and keeps the kernel from loading it; back undoes
// both.
func withoutESP6(t *testing.T) (back func()) {
	t.Helper()
	const loader = "/proc/sys/kernel/modprobe"
	was, err := os.ReadFile(loader)
	if err != nil {
		t.Fatal(err)
	}
	back = func() {
		os.WriteFile(loader, was, 0o644)
		must(t, "modprobe", "esp6")
	}
	t.Cleanup(back)
	if err := os.WriteFile(loader, []byte("/bin/false\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "esp6 is unloaded", func() bool { return exec.Command("rmmod", "esp6").Run() == nil })
	return back
}
