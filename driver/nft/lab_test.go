package nft

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"golang.org/x/sys/unix"

	"ipsecagent/sadb"
)

// labs numbers the labs of this process.
var labs atomic.Uint32

// lab is two hosts joined by a wire: "a" has the table, "b" is its peer. What
// b receives is what left a.
type lab struct {
	t    *testing.T
	a, b string
	kept *os.File // the table's owner, where the process keeps it
}

// newLab makes the hosts: a has 10.9.0.1, fd09::1 and a TUN that is a second
// wire; b has 10.9.0.2 and fd09::2.
func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces and nftables")
	}
	name := fmt.Sprintf("nft-%d-%d", os.Getpid(), labs.Add(1))
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
	return l.openWith(testConfig())
}

// openWith opens the table of host a. This process keeps its owner where the
// kernel has no persistent tables.
func (l *lab) openWith(cfg Config) (table *Table, err error) {
	l.t.Helper()
	cfg.Socket = l.socket
	in(l.t, l.a, func() { table, err = Open(cfg) })
	return table, err
}

// socket is Config.Socket: the same socket of host a each time.
func (l *lab) socket() (int, error) {
	if l.kept == nil {
		in(l.t, l.a, func() {
			fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
			if err != nil {
				l.t.Error(err)
				return
			}
			l.kept = os.NewFile(uintptr(fd), "table")
			if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
				l.t.Error(err)
			}
		})
		l.t.Cleanup(func() { l.kept.Close() })
	}
	return unix.FcntlInt(l.kept.Fd(), unix.F_DUPFD_CLOEXEC, 0)
}

// apply puts filters in force or fails the test.
func apply(t *testing.T, table *Table, filters ...sadb.Filter) {
	t.Helper()
	if err := table.Apply(filters); err != nil {
		t.Fatal(err)
	}
}

// watchWire counts what arrives at b from a, but for neighbour and multicast
// listener discovery.
func (l *lab) watchWire() {
	l.t.Helper()
	rules := `table inet wire {
		counter arrived { }
		chain c {
			type filter hook prerouting priority -350; policy accept;
			iifname != "vb" accept
			icmpv6 type { 130-137, 143 } accept
			ip6 daddr ff02::16 ip6 nexthdr 0 accept
			counter name arrived
		}
	}`
	run(l.t, fmt.Sprintf("echo '%s' | ip netns exec %s nft -f -", rules, l.b))
}

// arrived returns what watchWire has counted.
func (l *lab) arrived() uint64 {
	l.t.Helper()
	var packets, bytes uint64
	out := l.inB("nft list counter inet wire arrived")
	_, after, _ := strings.Cut(out, "packets")
	if _, err := fmt.Sscanf(after, "%d bytes %d", &packets, &bytes); err != nil {
		l.t.Fatalf("counter %q: %v", out, err)
	}
	return packets
}

// udp sends one datagram from a host. control prepares the socket.
func udp(t *testing.T, host, from, to string, size int, control func(fd int) error) (err error) {
	t.Helper()
	in(t, host, func() {
		d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
			var e error
			c.Control(func(fd uintptr) {
				if control != nil {
					e = control(int(fd))
				}
			})
			return e
		}}
		if from != "" {
			d.LocalAddr = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from))
		}
		var c net.Conn
		if c, err = d.Dial("udp", to); err != nil {
			return
		}
		defer c.Close()
		_, err = c.Write(make([]byte, size))
	})
	return err
}

// stats reads the counters or fails the test.
func stats(t *testing.T, table *Table) Stats {
	t.Helper()
	s, err := table.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// warm makes both hosts know each other's hardware addresses.
func (l *lab) warm() {
	l.t.Helper()
	l.inA("ping -c 1 -W 2 10.9.0.2")
	l.inA("ping -c 1 -W 2 fd09::2")
}

// receiver listens in a and returns a function that says whether a datagram
// has come. Datagrams from b are delivered before the sender's call returns,
// so that nothing is waited for that will not come.
func (l *lab) receiver(at string) func() bool {
	l.t.Helper()
	var c net.PacketConn
	var err error
	in(l.t, l.a, func() { c, err = net.ListenPacket("udp", at) })
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	return func() bool {
		c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		_, _, err := c.ReadFrom(make([]byte, 100))
		return err == nil
	}
}

// sendFrom sends an IPv4 packet out of an interface of b, as another host on
// that wire would, to the other end of the wire, in a.
func (l *lab) sendFrom(device, to, src, dst string, packets int) {
	l.t.Helper()
	var mac net.HardwareAddr
	in(l.t, l.a, func() {
		if ifi, err := net.InterfaceByName(to); err == nil {
			mac = ifi.HardwareAddr
		}
	})
	payload := append([]byte{0x1b, 0x58, 0x1b, 0x58, 0, 18, 0, 0}, make([]byte, 10)...) // UDP 7000 to 7000
	frame := slices.Concat(mac, make([]byte, 6), []byte{8, 0}, ipv4(src, dst, unix.IPPROTO_UDP, payload))
	in(l.t, l.b, func() {
		ifi, err := net.InterfaceByName(device)
		if err != nil {
			l.t.Error(err)
			return
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			l.t.Error(err)
			return
		}
		defer unix.Close(fd)
		for range packets {
			if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: ifi.Index}); err != nil {
				l.t.Error(err)
			}
		}
	})
}

// ipv4 makes a packet with a right header checksum.
func ipv4(src, dst string, proto byte, payload []byte) []byte {
	s, d := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
	p := slices.Concat([]byte{0x45, 0, 0, 0, 0, 1, 0, 0, 64, proto, 0, 0}, s[:], d[:], payload)
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum+sum>>16))
	return p
}
