package drivertest

import (
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netns"
)

// namespace is a network namespace, as ip-netns(8) names it.
type namespace string

// command is a command there.
func (ns namespace) command(args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", string(ns)}, args...)...)
}

// try runs a command there, of words between spaces.
func (ns namespace) try(line string) (output string, err error) {
	out, err := ns.command(strings.Fields(line)...).CombinedOutput()
	return string(out), err
}

// run runs a command there that has to succeed.
func (ns namespace) run(t *testing.T, line string) string {
	t.Helper()
	out, err := ns.try(line)
	if err != nil {
		t.Fatalf("%s: %s: %v\n%s", ns, line, err, out)
	}
	return out
}

// feed runs a command there, which has to succeed, with that input.
func (ns namespace) feed(t *testing.T, input, line string) {
	t.Helper()
	cmd := ns.command(strings.Fields(line)...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %s: %v\n%s", ns, line, err, out)
	}
}

// dial makes a connected UDP socket there.
func (ns namespace) dial(t *testing.T, to netip.AddrPort) net.Conn {
	t.Helper()
	return inside(t, ns, func() (net.Conn, error) { return net.Dial("udp", to.String()) })
}

// inside runs f on a thread in a namespace: sockets made there stay there.
func inside[T any](t *testing.T, ns namespace, f func() (T, error)) T {
	t.Helper()
	type result struct {
		v   T
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		h, err := netns.GetFromName(string(ns))
		if err == nil {
			err = netns.Set(h)
			h.Close()
		}
		var r result
		if r.err = err; err == nil {
			r.v, r.err = f()
		}
		done <- r
	}()
	r := <-done
	if r.err != nil {
		t.Fatalf("%s: %v", ns, r.err)
	}
	return r.v
}
