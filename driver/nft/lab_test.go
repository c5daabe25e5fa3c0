package nft

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netns"
)

// lab is two hosts joined by a wire: "a" has the table, "b" is its peer. What
// b receives is what left a.
type lab struct {
	t    *testing.T
	a, b string
}

// newLab makes the hosts: a has 10.9.0.1, fd09::1 and a TUN that is a second
// wire; b has 10.9.0.2 and fd09::2.
func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces and nftables")
	}
	name := fmt.Sprintf("nft-%d-%s", os.Getpid(), strings.ToLower(strings.Map(letters, t.Name())))
	if len(name) > 40 {
		name = name[:40]
	}
	l := &lab{t: t, a: name + "a", b: name + "b"}
	t.Cleanup(func() {
		exec.Command("ip", "netns", "del", l.a).Run()
		exec.Command("ip", "netns", "del", l.b).Run()
	})
	for _, c := range []string{
		"ip netns add " + l.a, "ip netns add " + l.b,
		"ip link add va netns " + l.a + " type veth peer name vb netns " + l.b,
		"ip link add tun9 netns " + l.a + " type veth peer name tun8 netns " + l.b,
	} {
		run(t, c)
	}
	for _, c := range []string{
		"ip link set lo up", "ip addr add 10.9.0.1/24 dev va", "ip addr add fd09::1/64 dev va nodad",
		"ip link set va up", "ip link set tun9 up",
	} {
		l.inA(c)
	}
	for _, c := range []string{
		"ip link set lo up", "ip addr add 10.9.0.2/24 dev vb", "ip addr add fd09::2/64 dev vb nodad",
		"ip link set vb up", "ip link set tun8 up",
	} {
		l.inB(c)
	}
	return l
}

func letters(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
		return r
	}
	return -1
}

func run(t *testing.T, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

func (l *lab) inA(command string) string {
	l.t.Helper()
	return run(l.t, "ip netns exec "+l.a+" "+command)
}

func (l *lab) inB(command string) string {
	l.t.Helper()
	return run(l.t, "ip netns exec "+l.b+" "+command)
}

// in runs f on a thread that is in a namespace. Sockets made there stay there.
func in(t *testing.T, name string, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := netns.GetFromName(name)
		if err == nil {
			err = netns.Set(ns)
			ns.Close()
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("enter namespace %s: %v", name, err)
	}
}

func testConfig() Config {
	return Config{Table: "ipsecagent", Steer: 0x01000000, Exempt: 0x02000000, TUN: "tun9", LogGroup: 50}
}

// open opens the table of host a.
func (l *lab) open() *Table {
	l.t.Helper()
	table, err := l.tryOpen()
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { table.Close() })
	return table
}

func (l *lab) tryOpen() (table *Table, err error) {
	l.t.Helper()
	in(l.t, l.a, func() { table, err = Open(testConfig()) })
	return table, err
}
