package nft

import (
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"ipsecagent/sadb"
)

func TestRemoteAccessByNameAndType(t *testing.T) {
	r := RemoteAccess{"wg0", "tun*"}
	for name, want := range map[string]bool{"wg0": true, "wg01": false, "tun": true, "tun7": true, "atun7": false, "eth0": false, "*": false} {
		if got := r.Is(name, false); got != want {
			t.Errorf("%s: %t", name, got)
		}
		if !r.Is(name, true) {
			t.Errorf("%s of the type PPP is not remote access", name)
		}
	}
	if err := r.Validate(); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "*", "a b", "a*b", "**", "a/b", "sixteen-bytes-xx"} {
		if err := (RemoteAccess{"wg0", bad}).Validate(); err == nil || !strings.Contains(err.Error(), "names and a star") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := make(RemoteAccess, maxRemoteAccess+1).Validate(); err == nil {
		t.Error("any number of patterns is taken")
	}
}

// dialed is a lab whose table takes interfaces by names for remote access.
func dialed(t *testing.T) (*lab, *Table) {
	l := newLab(t)
	cfg := testConfig()
	cfg.RemoteAccess = RemoteAccess{"nothing0", "dial*"}
	table, err := l.openWith(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	return l, table
}

// wire adds a wire from a to b.
func (l *lab) wire(name, a, b string) {
	l.t.Helper()
	run(l.t, "ip link add "+name+" netns "+l.a+" type veth peer name "+name+" netns "+l.b)
	for _, c := range []string{"ip link set " + name + " up", "ip addr add " + a + "/24 dev " + name} {
		l.inA(c)
	}
	for _, c := range []string{"ip link set " + name + " up", "ip addr add " + b + "/24 dev " + name} {
		l.inB(c)
	}
	l.inA("ping -c 1 -W 2 " + b)
}

// typed returns a list in which each type of connection has a filter of its own.
func typed(remote, lan sadb.Action) []sadb.Filter {
	r, l := filter("remote", remote), filter("lan", lan)
	r.Connections, l.Connections = sadb.RemoteAccess, sadb.LAN
	return []sadb.Filter{r, l}
}

// TestConnectionTypes: a filter for one type of connection decides on its
// interfaces alone, outbound and inbound.
func TestConnectionTypes(t *testing.T) {
	l, table := dialed(t)
	l.wire("dial0", "10.10.0.1", "10.10.0.2")
	l.wire("lan0", "10.11.0.1", "10.11.0.2")
	near := map[string]string{"dial0": "10.10.0.1:7000", "lan0": "10.11.0.1:7000"}
	far := map[string]string{"dial0": "10.10.0.2:7000", "lan0": "10.11.0.2:7000"}
	received := map[string]func() bool{}
	for device, at := range near {
		received[device] = l.receiver(at)
	}
	for _, c := range []struct {
		list      []sadb.Filter
		dial, lan bool // passes
	}{
		{typed(block, permit), false, true},
		{typed(permit, block), true, false},
		{typed(require, permit), false, true},
		{typed(permit, require), true, false},
		{[]sadb.Filter{typed(permit, permit)[0], filter("rest", block)}, true, false},
		{[]sadb.Filter{typed(permit, permit)[1], filter("rest", block)}, false, true},
	} {
		apply(t, table, c.list...)
		for device, want := range map[string]bool{"dial0": c.dial, "lan0": c.lan} {
			if err := udp(t, l.a, "", far[device], 10, nil); (err == nil) != want {
				t.Errorf("%s, %s: out of %s: %v", c.list[0].Action, c.list[1].Action, device, err)
			}
			if err := udp(t, l.b, "", near[device], 10, nil); err != nil {
				t.Fatal(err)
			}
			if received[device]() != want {
				t.Errorf("%s, %s: in by %s: delivered %t", c.list[0].Action, c.list[1].Action, device, !want)
			}
		}
	}
}

// TestConnectionOfForwarded: what is forwarded belongs into a tunnel by the
// interface it is about to leave by.
func TestConnectionOfForwarded(t *testing.T) {
	l, table := dialed(t)
	l.wire("dial0", "10.10.0.1", "10.10.0.2")
	l.wire("lan0", "10.11.0.1", "10.11.0.2")
	l.inA("sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'")
	for _, c := range []string{"ip neigh replace 10.10.0.9 lladdr 02:00:00:00:00:01 nud permanent dev dial0",
		"ip neigh replace 10.11.0.9 lladdr 02:00:00:00:00:01 nud permanent dev lan0"} {
		l.inA(c)
	}
	tunnel := oneWay(typed(require, permit)[0], sadb.Out)
	tunnel.Selector, tunnel.Mode = sadb.Selector{}, sadb.Tunnel
	rest := oneWay(filter("rest", permit), sadb.Out)
	rest.Selector = sadb.Selector{}
	apply(t, table, tunnel, rest)
	for _, to := range []string{"10.10.0.9", "10.11.0.9"} {
		l.sendFrom("vb", "va", "10.9.0.77", to, 1)
	}
	s := stats(t, table)
	if s.Filters[0].Packets != 1 || s.LastChain != 1 || s.Filters[1].Packets != 1 {
		t.Errorf("counters %+v, want one packet steered and dropped for want of a tunnel, and one passed", s)
	}
}

// TestConnectionOfNewInterface: an interface that appears is of its type from
// its first packet.
func TestConnectionOfNewInterface(t *testing.T) {
	l, table := dialed(t)
	apply(t, table, typed(require, permit)...)
	for range 20 {
		run(t, "ip link add dial7 netns "+l.a+" type veth peer name dial8 netns "+l.b)
		l.inB("ip link set dial8 up")
		l.inA("ip link set dial7 up")
		l.inA("ip addr add 10.12.0.1/24 dev dial7")
		l.inA("ip neigh replace 10.12.0.2 lladdr 02:00:00:00:00:01 nud permanent dev dial7")
		if err := udp(t, l.a, "", "10.12.0.2:7000", 10, nil); err == nil {
			t.Fatal("a packet left in clear by an interface of remote access")
		}
		l.inA("ip link del dial7")
	}
	if s := stats(t, table); s.LastChain < 20 {
		t.Errorf("the last chain dropped %d packets, 20 were sent", s.LastChain)
	}
}

// pppLink makes an interface of host a of the hardware type PPP and returns what
// leaves by it.
func (l *lab) pppLink(name string) *os.File {
	l.t.Helper()
	var f *os.File
	in(l.t, l.a, func() {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			l.t.Error(err)
			return
		}
		var ifr struct {
			name  [unix.IFNAMSIZ]byte
			flags uint16
			_     [22]byte
		}
		copy(ifr.name[:], name)
		ifr.flags = unix.IFF_TUN | unix.IFF_NO_PI
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&ifr))); e != 0 {
			l.t.Error(e)
			return
		}
		if err := unix.IoctlSetInt(fd, unix.TUNSETLINK, unix.ARPHRD_PPP); err != nil {
			l.t.Error(err)
		}
		f = os.NewFile(uintptr(fd), name)
	})
	if f == nil {
		l.t.Fatal("no interface of the type PPP")
	}
	l.t.Cleanup(func() { f.Close() })
	for _, c := range []string{"ip link set " + name + " up", "ip addr add 10.13.0.1 peer 10.13.0.2 dev " + name} {
		l.inA(c)
	}
	return f
}

// TestConnectionOfPPP: an interface of the hardware type PPP is of remote access
// whatever its name is.
func TestConnectionOfPPP(t *testing.T) {
	l := newLab(t)
	l.pppLink("line0")
	table := l.open()
	for _, c := range []struct {
		remote sadb.Action
		passes bool
	}{{block, false}, {permit, true}, {require, false}} {
		lan := permit
		if c.passes {
			lan = block
		}
		apply(t, table, typed(c.remote, lan)...)
		if err := udp(t, l.a, "", "10.13.0.2:7000", 10, nil); (err == nil) != c.passes {
			t.Errorf("remote access %s: %v", c.remote, err)
		}
	}
	if s := stats(t, table); s.Filters[0].Packets == 0 || s.Filters[1].Packets != 0 {
		t.Errorf("counters %+v", s.Filters)
	}
}
