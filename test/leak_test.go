package test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// requireAll lets nothing pass in clear in either direction.
const requireAll = `apiVersion: ipsecagent/v1
kind: Policy
name: require-all
filterLists:
  everything:
    - {from: me, to: any}
filterActions:
  require:
    negotiate:
      methods: [esp-aes256gcm]
rules:
  - {name: everything, filterList: everything, filterAction: require, authentication: [psk]}
`

// secured makes two hosts that secure everything between them, with an
// association in force.
func secured(t *testing.T, tag string) (a, b *host) {
	t.Helper()
	a, b = newPair(t, tag)
	key := aKey(tag)
	for _, h := range []*host{a, b} {
		h.startAgent(map[string]string{"require-all.yaml": requireAll,
			"other.yaml": strings.NewReplacer("require-all", "other", "esp-aes256gcm", "esp-aes128gcm").Replace(requireAll)})
		h.assign("require-all", key)
	}
	for _, to := range []string{b.v4, b.v6} {
		eventually(t, 60*time.Second, "traffic to "+to+" is secured", func() bool { return a.ping(to, 1) == 1 })
	}
	return a, b
}

// linkLocal returns the link-local address of a host's wire.
func linkLocal(h *host) string {
	h.t.Helper()
	for _, field := range strings.Fields(h.must("ip", "-6", "-o", "addr", "show", "dev", "wire", "scope", "link")) {
		if ip, _, ok := strings.Cut(field, "/"); ok && strings.HasPrefix(ip, "fe80") {
			return ip
		}
	}
	h.t.Fatal("no link-local address")
	return ""
}

// leakCase is something that goes wrong while a host sends.
type leakCase struct {
	name string
	// act happens while traffic is sent to the addresses it returns, besides
	// the peer's own.
	act func(t *testing.T, a, b *host)
	// also are further addresses to send to.
	also func(t *testing.T, a, b *host) []string
	// heals: afterwards secured traffic passes again.
	heals bool
}

func leakCases() []leakCase {
	return []leakCase{
		{name: "undisturbed", act: func(*testing.T, *host, *host) {}, heals: true},
		{name: "agent killed", act: func(t *testing.T, a, b *host) { a.agent.signal(t, syscall.SIGKILL) }, heals: true},
		{name: "agent stopped", act: func(t *testing.T, a, b *host) { a.agent.signal(t, syscall.SIGTERM) }, heals: true},
		{name: "nft flush ruleset", act: func(t *testing.T, a, b *host) { a.run(5*time.Second, "nft", "flush", "ruleset") }, heals: true},
		{name: "destination NAT to the peer", act: func(*testing.T, *host, *host) {}, heals: true,
			also: func(t *testing.T, a, b *host) []string {
				a.must("nft", "add table ip nat; add chain ip nat out { type nat hook output priority -100; }; add rule ip nat out ip daddr 10.99.0.1 dnat to "+b.v4)
				a.must("ip", "route", "add", "10.99.0.1/32", "dev", "wire")
				return []string{"10.99.0.1"}
			}},
		{name: "addresses added and used at once", act: addAddresses, heals: true},
		{name: "policy reloaded 200 times", act: reloadOften, heals: true},
	}
}

// userLeakCases are of the userspace driver alone: its process, its steering.
func userLeakCases() []leakCase {
	return []leakCase{
		{name: "data path killed", act: func(t *testing.T, a, b *host) { syscall.Kill(datapath(a), syscall.SIGKILL) }, heals: true},
		{name: "agent and data path killed", act: func(t *testing.T, a, b *host) {
			a.agent.cmd.Process.Kill()
			syscall.Kill(datapath(a), syscall.SIGKILL)
		}},
		{name: "ip rules deleted", act: func(t *testing.T, a, b *host) {
			for _, family := range []string{"-4", "-6"} {
				a.must("ip", family, "rule", "del", "pref", "900")
			}
		}, heals: true},
		{name: "routes flushed", act: func(t *testing.T, a, b *host) {
			for _, family := range []string{"-4", "-6"} {
				a.must("ip", family, "route", "flush", "table", "900")
			}
		}, heals: true},
	}
}

// addAddresses adds an address a hundred times and sends from it at once.
func addAddresses(t *testing.T, a, b *host) {
	a.must("/usr/bin/python3", "-c", fmt.Sprintf(`
import socket, subprocess
for i in range(100):
    me = "10.77.0.%%d" %% (100 + i)
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND: bind before it is there
    s.bind((me, 0))
    subprocess.run(["ip", "addr", "add", me + "/24", "dev", "wire"], check=True)
    s.sendto(b"leak-test-in-clear", ("%s", 4242))
`, b.v4))
}

// reloadOften changes the policy in force two hundred times, every other time
// to the other one.
func reloadOften(t *testing.T, a, b *host) {
	for i := range 100 {
		a.mustCtl("reload")
		a.mustCtl("assign", []string{"other", "require-all"}[i%2])
	}
}

// TestNothingLeaks: with everything required, nothing but ESP, IKE, ARP and
// discovery is on the wire, whatever goes wrong on the sending host.
func TestNothingLeaks(t *testing.T) {
	for i, c := range append(leakCases(), userLeakCases()...) {
		t.Run(c.name, func(t *testing.T) { nothingLeaks(t, fmt.Sprintf("leak%d", i), c) })
	}
}

// leastTried is how many packets a flood of some seconds tries to send at least.
func leastTried() int {
	if os.Getenv(machineEnv) != "" {
		return 50
	}
	return 1000
}

func nothingLeaks(t *testing.T, tag string, c leakCase) {
	t.Helper()
	a, b := secured(t, tag)
	to := []string{b.v4, b.v6, linkLocal(b) + "%wire"}
	if c.also != nil {
		to = append(to, c.also(t, a, b)...)
	}
	wire := a.capture("wire")
	traffic := a.start("/usr/bin/python3", append([]string{"traffic.py", "4", "wire"}, to...)...)
	eventually(t, 10*time.Second, "traffic", func() bool { return strings.Contains(traffic.output(), "sending") })
	c.act(t, a, b)
	<-traffic.done
	all := wire.end()

	var tried int
	fmt.Sscanf(traffic.output(), "sending\ntried %d", &tried)
	if tried < leastTried() {
		t.Fatalf("only %d packets were tried: %s", tried, traffic.output())
	}
	found, esp := leaks(all, nil), count(all, packet.esp)
	t.Logf("figure: %d packets tried, %d ESP packets on the wire, %d in clear", tried, esp, len(found))
	if len(found) > 0 {
		t.Errorf("in clear, the first: %v", found[0])
	}
	if esp == 0 {
		t.Error("no ESP on the wire: nothing was carried at all")
	}
	if c.heals {
		eventually(t, 60*time.Second, "secured traffic passes again", func() bool {
			return a.ping(b.v4, 1) == 1 && a.ping(b.v6, 1) == 1
		})
	}
}

// TestForwardedTrafficIsNotLaunderedIntoMyAddress: what a host forwards and
// masquerades has its own address as source on the wire, and policy covers it.
func TestForwardedTrafficIsNotLaunderedIntoMyAddress(t *testing.T) {
	a, b := secured(t, "fwd")
	inner := "fwd-c"
	must(t, "ip", "netns", "add", inner)
	c := &host{t: t, ns: inner, dir: t.TempDir()}
	t.Cleanup(c.remove)
	must(t, "ip", "link", "add", "inside", "netns", a.ns, "type", "veth", "peer", "name", "wire", "netns", inner)
	a.must("ip", "addr", "add", "10.88.0.1/24", "dev", "inside")
	a.must("ip", "link", "set", "inside", "up")
	a.must("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
	a.must("nft", "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }; add rule ip nat post oifname wire ip saddr 10.88.0.0/24 masquerade")
	c.must("ip", "addr", "add", "10.88.0.2/24", "dev", "wire")
	c.must("ip", "link", "set", "wire", "up")
	c.must("ip", "route", "add", "default", "via", "10.88.0.1")

	wire := a.capture("wire")
	traffic := c.start("/usr/bin/python3", "traffic.py", "3", "wire", b.v4)
	<-traffic.done
	if found := leaks(wire.end(), nil); len(found) > 0 {
		t.Errorf("%d packets in clear, the first: %v", len(found), found[0])
	}
	if out := a.must("ip", "-s", "link", "show", "dev", "inside"); !strings.Contains(out, "RX") {
		t.Errorf("nothing came to be forwarded:\n%s", out)
	}
}
