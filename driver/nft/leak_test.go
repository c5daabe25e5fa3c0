package nft

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/sadb"
)

// secured is a host a whose traffic must all be secured and that has no ip
// rule: nothing at all may arrive at b.
func secured(t *testing.T, filters ...sadb.Filter) (*lab, *Table) {
	l := newLab(t)
	l.warm()
	l.watchWire()
	table := l.open()
	if len(filters) == 0 {
		filters = []sadb.Filter{filter("all", require)}
	}
	apply(t, table, filters...)
	return l, table
}

// nothingArrived fails if a packet came to b in clear, or none was dropped.
func nothingArrived(t *testing.T, l *lab, table *Table, drops uint64) {
	t.Helper()
	s := stats(t, table)
	if n := l.arrived(); n != 0 {
		t.Errorf("%d packets arrived in clear", n)
	}
	if s.LastChain < drops {
		t.Errorf("the last chain dropped %d packets, want at least %d: the test sent nothing", s.LastChain, drops)
	}
}

func bindTo(device string) func(int) error {
	return func(fd int) error { return unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, device) }
}

func setMarkTo(mark int) func(int) error {
	return func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, mark) }
}

func TestLeakBoundToDevice(t *testing.T) {
	l, table := secured(t)
	l.inA("ip rule add fwmark 0x01000000/0x01000000 lookup 900 pref 900")
	l.inA("ip route add blackhole default table 900")
	for _, to := range []string{"10.9.0.2:7000", "[fd09::2]:7000"} {
		udp(t, l.a, "", to, 10, bindTo("va"))
	}
	nothingArrived(t, l, table, 0)
	// Without the rule the route by the device stays.
	l.inA("ip rule del pref 900")
	for _, to := range []string{"10.9.0.2:7000", "[fd09::2]:7000"} {
		udp(t, l.a, "", to, 10, bindTo("va"))
	}
	nothingArrived(t, l, table, 2)
	if s := stats(t, table); s.Filters[0].Packets < 4 {
		t.Errorf("steered %d packets, 4 were sent", s.Filters[0].Packets)
	}
}

func TestLeakSteeringMarkIsNotTrusted(t *testing.T) {
	l, table := secured(t)
	udp(t, l.a, "", "10.9.0.2:7000", 10, setMarkTo(0x01000000))
	nothingArrived(t, l, table, 1)
}

func TestExemptMarkPasses(t *testing.T) {
	l, _ := secured(t)
	if err := udp(t, l.a, "", "10.9.0.2:7000", 10, setMarkTo(0x02000000|0x4000)); err != nil {
		t.Fatal(err)
	}
	if l.arrived() != 1 {
		t.Error("a packet of our own socket did not leave")
	}
}

func TestOtherMarksStay(t *testing.T) {
	l, _ := secured(t)
	l.inA("ip rule add fwmark 0x01004000/0x01004000 lookup 900 pref 900")
	l.inA("ip route add default dev tun9 table 900")
	l.inA("ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:01 dev tun9")
	// Were the bit of another program lost, the rule would not match and the
	// last chain would drop.
	if err := udp(t, l.a, "", "10.9.0.2:7000", 10, setMarkTo(0x4000)); err != nil {
		t.Error(err)
	}
}

// TestLeakFromAnAddressThatHasGone: IPv6 lets a connected socket go on with the
// address it began with.
func TestLeakFromAnAddressThatHasGone(t *testing.T) {
	l, table := secured(t)
	var c net.Conn
	in(t, l.a, func() {
		var err error
		if c, err = net.Dial("udp", "[fd09::2]:7000"); err != nil {
			t.Error(err)
		}
	})
	defer c.Close()
	l.inA("ip addr add fd09::9/64 dev va nodad") // the link stays reachable
	l.inA("ip addr del fd09::1/64 dev va")
	if _, err := c.Write([]byte("in clear")); err != nil && !errors.Is(err, syscall.EPERM) {
		t.Fatal(err)
	}
	nothingArrived(t, l, table, 1)
}

func TestLeakLinkLocal(t *testing.T) {
	l, table := secured(t)
	var addr string
	in(t, l.b, func() {
		ifi, err := net.InterfaceByName("vb")
		if err != nil {
			t.Error(err)
			return
		}
		addrs, _ := ifi.Addrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsLinkLocalUnicast() {
				addr = p.Addr().String()
			}
		}
	})
	if addr == "" {
		t.Fatal("b has no link-local address")
	}
	l.waitLinkLocal()
	udp(t, l.a, "", fmt.Sprintf("[%s%%va]:7000", addr), 10, nil)
	nothingArrived(t, l, table, 1)
}

// waitLinkLocal waits until a's link-local address may be used.
func (l *lab) waitLinkLocal() {
	l.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if out := l.inA("ip -6 addr show dev va scope link"); out != "" && !strings.Contains(out, "tentative") {
			return
		}
	}
	l.t.Fatal("link-local address stays tentative")
}

func TestLeakDestinationNAT(t *testing.T) {
	l := newLab(t)
	l.warm()
	l.watchWire()
	table := l.open()
	f := filter("peer", require)
	f.Selector.Remote = sadb.Addr(netip.MustParseAddr("10.9.0.2"))
	apply(t, table, f)
	l.inA("ip route add 192.0.2.0/24 via 10.9.0.3")
	l.inA("nft add table ip n")
	l.inA("nft 'add chain ip n o { type nat hook output priority -100; }'")
	l.inA("nft add rule ip n o ip daddr 192.0.2.1 dnat to 10.9.0.2")
	udp(t, l.a, "", "192.0.2.1:7000", 10, nil)
	nothingArrived(t, l, table, 1)
	if s := stats(t, table); s.Filters[0].Packets != 1 {
		t.Errorf("steering does not see the destination after NAT: %+v", s)
	}
}

func TestLeakMasqueraded(t *testing.T) {
	l := newLab(t)
	l.warm()
	l.watchWire()
	// The third interface: not the TUN, whose packets the data path has made.
	run(t, "ip link add vc netns "+l.a+" type veth peer name vd netns "+l.b)
	l.inA("ip addr add 172.16.0.1/24 dev vc")
	l.inA("ip link set vc up")
	l.inB("ip link set vd up")
	l.inA("sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'")
	l.inA("nft add table ip n")
	l.inA("nft 'add chain ip n p { type nat hook postrouting priority 100; }'")
	l.inA("nft add rule ip n p ip saddr 172.16.0.0/24 masquerade")
	table := l.open()
	send := func() { l.sendFrom("vd", "vc", "172.16.0.2", "10.9.0.2", 1) }
	apply(t, table, oneWay(filter("all", require), sadb.Out))
	send()
	nothingArrived(t, l, table, 1)
	apply(t, table, oneWay(filter("all", permit), sadb.Out))
	send()
	if l.arrived() != 1 {
		t.Errorf("%d forwarded packets arrived when permitted: the test's router does not work", l.arrived())
	}
}

func TestLeakFragments(t *testing.T) {
	port := udpFilter("port", 7000, require)
	l, table := secured(t, port)
	for _, to := range []string{"10.9.0.2:7000", "[fd09::2]:7000"} {
		udp(t, l.a, "", to, 4000, nil)
	}
	nothingArrived(t, l, table, 2)
	// The other port goes, in fragments.
	udp(t, l.a, "", "10.9.0.2:7001", 4000, nil)
	if l.arrived() < 3 {
		t.Errorf("%d fragments arrived", l.arrived())
	}
}

func TestFragmentsInbound(t *testing.T) {
	l := newLab(t)
	l.warm()
	table := l.open()
	f := filter("port", require)
	f.Dir, f.Selector.Proto, f.Selector.LocalPorts = sadb.In, sadb.UDP, sadb.Port(7000)
	apply(t, table, f)
	for _, c := range []struct {
		to   string
		want bool
	}{{"10.9.0.1:7000", false}, {"[fd09::1]:7000", false}, {"10.9.0.1:7001", true}, {"[fd09::1]:7001", true}} {
		got := l.receiver(c.to)
		if err := udp(t, l.b, "", c.to, 4000, nil); err != nil {
			t.Fatal(err)
		}
		if d := got(); d != c.want {
			t.Errorf("%s: delivered %t", c.to, d)
		}
	}
	if s := stats(t, table); s.InClear != 2 {
		t.Errorf("counters %+v: fragments were not decided as one packet", s)
	}
}

func TestLeakNewAddress(t *testing.T) {
	l, table := secured(t)
	for i := range 100 {
		addr := fmt.Sprintf("10.9.1.%d", i+1)
		l.inA("ip addr add " + addr + "/32 dev va")
		if err := udp(t, l.a, addr+":0", "10.9.0.2:7000", 10, nil); err == nil {
			t.Errorf("%s: the packet left", addr)
		}
	}
	nothingArrived(t, l, table, 100)
}

func TestMulticastAndBroadcast(t *testing.T) {
	for _, c := range []struct {
		action  sadb.Action
		arrives bool
	}{{require, false}, {request, true}} {
		l := newLab(t)
		l.warm()
		l.waitLinkLocal()
		l.watchWire()
		table := l.open()
		apply(t, table, filter("all", c.action))
		broadcast := func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1) }
		sent := 0
		for _, to := range []string{"10.9.0.255:7000", "224.0.0.9:7000", "[ff02::9%va]:7000"} {
			if err := udp(t, l.a, "10.9.0.1:0", to, 10, broadcast); err == nil {
				sent++
			} else if err := udp(t, l.a, "", to, 10, broadcast); err == nil {
				sent++
			}
		}
		if c.arrives && (sent != 3 || l.arrived() < 3) || !c.arrives && l.arrived() != 0 {
			t.Errorf("%s: sent %d, %d arrived", c.action, sent, l.arrived())
		}
		if n := len(table.Asked()); n != 0 {
			t.Errorf("%s: %d negotiations asked for with multicast or broadcast", c.action, n)
		}
	}
}

// TestLeakReload exchanges lists under traffic: a packet must never meet a
// moment without rules. (Sets of ranges made in the transaction that exchanges
// the rules let thousands of packets out here, on Linux 6.18.)
func TestLeakReload(t *testing.T) {
	l, table := secured(t)
	var stop atomic.Bool
	var sent atomic.Uint64
	done := make(chan struct{})
	in(t, l.a, func() {
		c, err := net.Dial("udp", "10.9.0.2:7000")
		if err != nil {
			t.Error(err)
			close(done)
			return
		}
		go func() {
			defer close(done)
			defer c.Close()
			for !stop.Load() {
				c.Write([]byte("secret"))
				sent.Add(1)
			}
		}()
	})
	rounds := 200
	if testing.Short() {
		rounds = 20
	}
	for i := range rounds {
		apply(t, table, ranges256(i)...)
	}
	stop.Store(true)
	<-done
	if sent.Load() < uint64(rounds) {
		t.Fatalf("only %d packets were tried", sent.Load())
	}
	nothingArrived(t, l, table, uint64(rounds))
}

func TestUnreadablePortsAreDropped(t *testing.T) {
	l, table := secured(t, udpFilter("port", 7000, require))
	// A UDP header of 3 bytes, from a raw socket.
	in(t, l.a, func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_UDP)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(fd)
		err = unix.Sendto(fd, []byte{1, 2, 3}, 0, &unix.SockaddrInet4{Addr: [4]byte{10, 9, 0, 2}})
		if err != syscall.EPERM {
			t.Errorf("send: %v", err)
		}
	})
	if s := stats(t, table); s.Opaque != 1 || l.arrived() != 0 {
		t.Errorf("counters %+v, %d arrived", s, l.arrived())
	}
}

func TestHandMadeFragmentsAreDecided(t *testing.T) {
	l, table := secured(t, udpFilter("port", 7000, require))
	in(t, l.a, func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_NODEFRAG, 1); err != nil {
			t.Error(err)
		}
		// The second fragment of a datagram: no ports in it.
		p := ipv4("10.9.0.1", "10.9.0.2", unix.IPPROTO_UDP, make([]byte, 64))
		p[7] = 8 // offset 64
		if err := unix.Sendto(fd, p, 0, &unix.SockaddrInet4{Addr: [4]byte{10, 9, 0, 2}}); err != syscall.EPERM {
			t.Errorf("send: %v", err)
		}
	})
	if s := stats(t, table); s.Opaque != 1 || l.arrived() != 0 {
		t.Errorf("counters %+v, %d arrived", s, l.arrived())
	}
}

// ranges256 is a list in which sets of ranges decide, another one each time:
// only the network b is in, with or without others.
func ranges256(i int) []sadb.Filter {
	var list []sadb.Filter
	for n := range 256 {
		f := filter(fmt.Sprint("range", n), require)
		f.Selector.Remote = sadb.Prefix(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(n), 0}), 24))
		f.Selector.Proto, f.Selector.RemotePorts = sadb.UDP, sadb.Ports{From: 6000, To: uint16(7000 + i)}
		list = append(list, f)
	}
	return list
}
