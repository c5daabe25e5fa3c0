package nft

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/sadb"
)

// countAccepted counts in a what the table lets in, by a second table behind it.
// Discovery between the kernels counts too, unless only is an nft match that
// leaves it out.
func (l *lab) countAccepted(only ...string) {
	l.t.Helper()
	run(l.t, `echo 'table inet seen {
		counter accepted { }
		counter marked { }
		chain c {
			type filter hook prerouting priority -290; policy accept;
			iifname "lo" accept
			meta nfproto ipv4 meta mark & 0x01000000 != 0 counter name marked
			`+strings.Join(only, " ")+` counter name accepted
		}
	}' | ip netns exec `+l.a+" nft -f -")
}

func (l *lab) counter(name string) uint64 {
	l.t.Helper()
	var packets uint64
	out := l.inA("nft list counter inet seen " + name)
	_, after, _ := strings.Cut(out, "packets")
	if _, err := fmt.Sscan(after, &packets); err != nil {
		l.t.Fatalf("counter %q: %v", out, err)
	}
	return packets
}

// datagram is a UDP packet as it lies behind the IP header.
func datagram(from, to uint16) []byte {
	return append([]byte{byte(from >> 8), byte(from), byte(to >> 8), byte(to), 0, 20, 0, 0}, make([]byte, 12)...)
}

func ipv6(src, dst string, proto, hops byte, payload []byte) []byte {
	return slices.Concat([]byte{0x60, 0, 0, 0, 0, byte(len(payload)), proto, hops},
		netip.MustParseAddr(src).AsSlice(), netip.MustParseAddr(dst).AsSlice(), payload)
}

func TestInboundExemptions(t *testing.T) {
	l := newLab(t)
	l.waitLinkLocal()
	l.inB("sh -c 'echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6'") // b speaks when told to
	l.countAccepted()
	table := l.open()
	apply(t, table, oneWay(filter("all", require), sadb.In))
	l.bound(500, testConfig().Exempt)
	l.bound(4500, testConfig().Exempt)
	send := l.framer()
	icmp := func(typ, code byte, rest ...byte) []byte {
		return append(append([]byte{typ, code, 0, 0, 0, 0, 0, 0}, rest...), make([]byte, 8)...)
	}
	const a, b, a6, b6 = "10.9.0.1", "10.9.0.2", "fd09::1", "fd09::2"
	tooBig := func(proto byte, payload []byte) []byte { return icmp(3, 4, ipv4(a, b, proto, payload)...) }
	for _, c := range []struct {
		name   string
		packet []byte
		passes bool
	}{
		{"UDP", ipv4(b, a, unix.IPPROTO_UDP, datagram(7, 7)), false},
		{"IKE", ipv4(b, a, unix.IPPROTO_UDP, datagram(500, 500)), true},
		{"IKE behind NAT", ipv6(b6, a6, unix.IPPROTO_UDP, 64, datagram(4321, 4500)), true},
		{"from port 500", ipv4(b, a, unix.IPPROTO_UDP, datagram(500, 7)), false},
		{"from Kerberos' port", ipv4(b, a, unix.IPPROTO_UDP, datagram(88, 7)), false},
		{"ESP", ipv4(b, a, unix.IPPROTO_ESP, make([]byte, 40)), true},
		{"ESP over IPv6", ipv6(b6, a6, unix.IPPROTO_ESP, 64, make([]byte, 40)), true},
		{"AH", ipv4(b, a, unix.IPPROTO_AH, make([]byte, 40)), true},
		{"DHCP answer", ipv4(b, a, unix.IPPROTO_UDP, datagram(67, 68)), true},
		{"DHCP turned round", ipv4(b, a, unix.IPPROTO_UDP, datagram(68, 67)), false},
		{"DHCPv6 answer", ipv6("fe80::2", a6, unix.IPPROTO_UDP, 64, datagram(547, 546)), true},
		{"DHCPv6 from afar", ipv6(b6, a6, unix.IPPROTO_UDP, 64, datagram(547, 546)), false},
		{"neighbour solicitation", ipv6(b6, a6, unix.IPPROTO_ICMPV6, 255, icmp(135, 0)), true},
		{"neighbour solicitation from afar", ipv6(b6, a6, unix.IPPROTO_ICMPV6, 64, icmp(135, 0)), false},
		{"echo request with hop limit 255", ipv6(b6, a6, unix.IPPROTO_ICMPV6, 255, icmp(128, 0)), false},
		{"listener query", ipv6("fe80::2", a6, unix.IPPROTO_ICMPV6, 1, icmp(130, 0)), true},
		{"listener query from afar", ipv6(b6, a6, unix.IPPROTO_ICMPV6, 1, icmp(130, 0)), false},
		{"too big about ESP", ipv4(b, a, unix.IPPROTO_ICMP, tooBig(unix.IPPROTO_ESP, make([]byte, 8))), true},
		{"too big about ESP in UDP", ipv4(b, a, unix.IPPROTO_ICMP, tooBig(unix.IPPROTO_UDP, datagram(4500, 4500))), true},
		{"too big about UDP", ipv4(b, a, unix.IPPROTO_ICMP, tooBig(unix.IPPROTO_UDP, datagram(7, 7))), false},
		{"too big about ESP, IPv6", ipv6(b6, a6, unix.IPPROTO_ICMPV6, 64, icmp(2, 0, ipv6(a6, b6, unix.IPPROTO_ESP, 64, make([]byte, 8))...)), true},
		{"unreachable about ESP", ipv4(b, a, unix.IPPROTO_ICMP, icmp(3, 2, ipv4(a, b, unix.IPPROTO_ESP, make([]byte, 8))...)), false},
		{"echo request", ipv4(b, a, unix.IPPROTO_ICMP, icmp(8, 0)), false},
		{"truncated UDP", ipv4(b, a, unix.IPPROTO_UDP, []byte{1, 2}), false},
	} {
		before := l.counter("accepted")
		if err := send(c.packet); err != nil {
			t.Fatal(err)
		}
		if got := l.counter("accepted") > before; got != c.passes {
			t.Errorf("%s: passes %t, want %t", c.name, got, c.passes)
		}
	}
}

// bound binds UDP sockets of host a to a port, of both families, with a mark.
func (l *lab) bound(port int, mark uint32) (unbind func()) {
	l.t.Helper()
	var fds []int
	in(l.t, l.a, func() {
		for family, any := range map[int]unix.Sockaddr{
			unix.AF_INET: &unix.SockaddrInet4{Port: port}, unix.AF_INET6: &unix.SockaddrInet6{Port: port},
		} {
			fd, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
			if err != nil {
				l.t.Fatal(err)
			}
			fds = append(fds, fd)
			if family == unix.AF_INET6 {
				err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
			}
			if err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)), unix.Bind(fd, any)); err != nil {
				l.t.Fatal(err)
			}
		}
	})
	unbind = func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
		fds = nil
	}
	l.t.Cleanup(unbind)
	return unbind
}

// TestPortsOfIKEAreNotOpenForOthers: the ports are open for the socket with the
// exempt mark alone.
func TestPortsOfIKEAreNotOpenForOthers(t *testing.T) {
	l := newLab(t)
	l.warm()
	l.countAccepted("meta l4proto udp")
	apply(t, l.open(), oneWay(filter("all", require), sadb.In))
	send := l.framer()
	passes := func(port uint16) bool {
		before := l.counter("accepted")
		if err := send(ipv4("10.9.0.2", "10.9.0.1", unix.IPPROTO_UDP, datagram(500, port))); err != nil {
			t.Fatal(err)
		}
		return l.counter("accepted") > before
	}
	for _, port := range []uint16{500, 4500} {
		if passes(port) {
			t.Errorf("port %d is open though nobody has it", port)
		}
		unbind := l.bound(int(port), 0)
		if passes(port) {
			t.Errorf("port %d is open for a stranger's socket", port)
		}
		unbind()
		l.bound(int(port), testConfig().Exempt)
		if !passes(port) {
			t.Errorf("port %d is closed for our own socket", port)
		}
	}
}

func TestNeighbourDiscoveryWorks(t *testing.T) {
	l, _ := secured(t)
	l.inA("ip -6 neigh flush dev va")
	l.inB("ip -6 neigh flush dev vb")
	udp(t, l.b, "", "[fd09::1]:7000", 10, nil)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if strings.Contains(l.inB("ip -6 neigh show fd09::1"), "REACHABLE") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("b does not find a: " + l.inB("ip -6 neigh"))
		}
	}
}

func TestProtocolUnreachableStaysHere(t *testing.T) {
	l := newLab(t)
	l.warm()
	table := l.open()
	apply(t, table, filter("all", permit))
	l.watchWire()
	send := l.sender(l.b)
	for _, p := range [][]byte{
		ipv4("10.9.0.2", "10.9.0.1", unix.IPPROTO_ESP, make([]byte, 40)),
		ipv4("10.9.0.2", "10.9.0.1", unix.IPPROTO_AH, make([]byte, 40)),
		ipv6("fd09::2", "fd09::1", unix.IPPROTO_ESP, 64, make([]byte, 40)),
	} {
		if err := send(p); err != nil {
			t.Fatal(err)
		}
	}
	if n := l.arrived(); n != 0 {
		t.Errorf("%d answers to ESP and AH", n)
	}
	if err := send(ipv4("10.9.0.2", "10.9.0.1", 200, make([]byte, 40))); err != nil || l.arrived() != 1 {
		t.Errorf("the kernel does not answer an unknown protocol either: the test shows nothing")
	}
}

// TestFromDataPath: what comes out of the TUN is delivered or goes on, and is
// marked so that the route back leads there.
func TestFromDataPath(t *testing.T) {
	l := newLab(t)
	l.warm()
	l.countAccepted()
	table := l.open()
	apply(t, table, filter("all", require))
	l.sendFrom("tun8", "tun9", "10.9.0.2", "10.9.0.1", 1)
	if l.counter("marked") != 1 {
		t.Error("a packet from the TUN was not marked")
	}
	l.sendFrom("tun8", "tun9", "10.9.0.2", "192.0.2.9", 1)
	if l.counter("marked") != 2 || l.counter("accepted") < 2 {
		t.Error("a packet from the TUN for another host was not marked, or dropped")
	}
	l.sendFrom("vb", "va", "10.9.0.2", "10.9.0.1", 1)
	if s := stats(t, table); s.InClear != 1 {
		t.Errorf("a packet from the wire was not refused: %+v", s)
	}
}

// TestSegmentSize connects both ways and reads what the other end learnt.
func TestSegmentSize(t *testing.T) {
	for _, c := range []struct {
		network, listen string
		server          func(*lab) string
		client          func(*lab) string
		want            int
	}{
		{"out, IPv4", "10.9.0.2:7000", (*lab).hostB, (*lab).hostA, maxSegment4},
		{"out, IPv6", "[fd09::2]:7000", (*lab).hostB, (*lab).hostA, maxSegment6},
		{"in, IPv4", "10.9.0.1:7000", (*lab).hostA, (*lab).hostB, maxSegment4},
		{"in, IPv6", "[fd09::1]:7000", (*lab).hostA, (*lab).hostB, maxSegment6},
	} {
		l := newLab(t)
		l.warm()
		table := l.open()
		apply(t, table, filter("all", request))
		var listener net.Listener
		var client net.Conn
		var err error
		in(t, c.server(l), func() { listener, err = net.Listen("tcp", c.listen) })
		if err != nil {
			t.Fatal(err)
		}
		in(t, c.client(l), func() { client, err = net.DialTimeout("tcp", c.listen, 5*time.Second) })
		if err != nil {
			t.Fatal(c.network, err)
		}
		server, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		for _, end := range []net.Conn{server, client} {
			if got := segmentSize(t, end); got > c.want || got < c.want-40 {
				t.Errorf("%s: segments of %d bytes, want %d less options", c.network, got, c.want)
			}
			end.Close()
		}
		listener.Close()
	}
}

func (l *lab) hostA() string { return l.a }

func (l *lab) hostB() string { return l.b }

func segmentSize(t *testing.T, c net.Conn) (size int) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err == nil {
		raw.Control(func(fd uintptr) { size, err = unix.GetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_MAXSEG) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return size
}

func TestRestoredWhenGone(t *testing.T) {
	l, table := secured(t)
	err := table.do(func(e *engine) error {
		// The owner alone can do what another would have to have done.
		var b batch
		e.deleteTable(&b)
		if err := e.conn.commit(&b); err != nil {
			return err
		}
		table.check(e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-table.Tampered():
		if !r.Restored || !strings.Contains(r.What, "ipsecagent: removed") {
			t.Errorf("report %+v", r)
		}
	default:
		t.Error("no report")
	}
	udp(t, l.a, "", "10.9.0.2:7000", 10, nil)
	nothingArrived(t, l, table, 1)
}

func TestCloseLeavesInForce(t *testing.T) {
	l, table := secured(t)
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	if err := table.Close(); err != nil {
		t.Error("second close:", err)
	}
	if err := table.Apply(nil); err == nil {
		t.Error("a closed table took filters")
	}
	udp(t, l.a, "", "10.9.0.2:7000", 10, nil)
	again := l.open()
	udp(t, l.a, "", "10.9.0.2:7000", 10, nil)
	apply(t, again, filter("all", require))
	udp(t, l.a, "", "10.9.0.2:7000", 10, nil)
	nothingArrived(t, l, again, 3)
}

// TestAnswersToTheAgentsOwnSocketsPass: a port opens nothing, the mark of the
// socket does.
func TestAnswersToTheAgentsOwnSocketsPass(t *testing.T) {
	l := newLab(t)
	l.warm()
	l.countAccepted("meta l4proto udp")
	apply(t, l.open(), oneWay(filter("all", require), sadb.In))
	send := l.framer()
	passes := func(port uint16) bool {
		before := l.counter("accepted")
		if err := send(ipv4("10.9.0.2", "10.9.0.1", unix.IPPROTO_UDP, datagram(88, port))); err != nil {
			t.Fatal(err)
		}
		return l.counter("accepted") > before
	}
	if passes(40088) {
		t.Error("source port 88 opens a port that nobody has")
	}
	unbind := l.bound(40088, 0)
	if passes(40088) {
		t.Error("source port 88 opens a stranger's socket")
	}
	unbind()
	l.bound(40088, testConfig().Exempt)
	if !passes(40088) {
		t.Error("an answer to the agent's own socket is dropped")
	}
}
