package udp

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what must come.
const patience = 10 * time.Second

// namespace moves the test into a network namespace of its own with the
// loopback up. It ends with the test's thread.
func namespace(t *testing.T) netns.NsHandle {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a network namespace")
	}
	runtime.LockOSThread() // for ever: the thread is of no use to others
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	up(t, "lo")
	return ns
}

func up(t *testing.T, name string) netlink.Link {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func open(t *testing.T, c Config) *Transport {
	t.Helper()
	tr, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close() })
	return tr
}

// received is what Recv gave.
type received struct {
	data          string
	local, remote netip.AddrPort
}

func recv(t *testing.T, tr *Transport) received {
	t.Helper()
	got := make(chan received, 1)
	go func() {
		b := make([]byte, MaxDatagram)
		n, local, remote, err := tr.Recv(b)
		if err != nil {
			t.Errorf("Recv: %v", err)
		}
		got <- received{string(b[:n]), local, remote}
	}()
	select {
	case r := <-got:
		return r
	case <-time.After(patience):
		t.Fatal("Recv: nothing came")
	}
	return received{}
}

// peer is a plain socket at an address of the loopback.
func peer(t *testing.T, at string) *net.UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(ap(at)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func write(t *testing.T, conn *net.UDPConn, to, data string) {
	t.Helper()
	if _, err := conn.WriteToUDPAddrPort([]byte(data), ap(to)); err != nil {
		t.Fatal(err)
	}
}

func TestAddressesOfEachDatagram(t *testing.T) {
	namespace(t)
	tr := open(t, Config{})
	for _, c := range []struct{ local, remote, wire string }{
		{"127.0.0.7:500", "127.0.0.9:1234", "request"},
		{"127.0.0.8:4500", "127.0.0.9:1235", "\x00\x00\x00\x00request"},
		{"[::1]:500", "[::1]:1236", "request"},
		{"[::1]:4500", "[::1]:1237", "\x00\x00\x00\x00request"},
	} {
		conn := peer(t, c.remote)
		write(t, conn, c.local, c.wire)
		got := recv(t, tr)
		if want := (received{"request", ap(c.local), ap(c.remote)}); got != want {
			t.Errorf("received %+v, want %+v", got, want)
		}
		if err := tr.Send([]byte("answer"), got.local, got.remote); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		n, from, err := conn.ReadFromUDPAddrPort(b)
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.Replace(c.wire, "request", "answer", 1); string(b[:n]) != want || from != ap(c.local) {
			t.Errorf("the peer got %q from %v, want %q from %v", b[:n], from, want, c.local)
		}
	}
}

func TestLinkLocal(t *testing.T) {
	far := namespace(t)
	near, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "crypt-a"}, PeerName: "crypt-b", PeerNamespace: netlink.NsFd(int(far))}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	address(t, "crypt-a", "fe80::a/64")
	a := open(t, Config{})
	if err := netns.Set(far); err != nil {
		t.Fatal(err)
	}
	address(t, "crypt-b", "fe80::b/64")
	b := open(t, Config{})
	settle(t, func() error { return b.Send([]byte("first"), ap("[fe80::b%crypt-b]:500"), ap("[fe80::a%crypt-b]:500")) })
	linkLocal(t, recv(t, a), "first", "fe80::a", "fe80::b")
	if err := netns.Set(near); err != nil {
		t.Fatal(err)
	}
	settle(t, func() error {
		return a.Send([]byte("second"), ap("[fe80::a%crypt-a]:500"), ap("[fe80::b%crypt-a]:500"))
	})
	linkLocal(t, recv(t, b), "second", "fe80::b", "fe80::a")
}

// linkLocal checks what was received. Which name the zone has depends on the
// namespace of the thread that looked it up; that there is one does not.
func linkLocal(t *testing.T, got received, data, local, remote string) {
	t.Helper()
	same := func(a netip.Addr, s string) bool { return a.WithZone("") == netip.MustParseAddr(s) }
	if got.data != data || !same(got.local.Addr(), local) || !same(got.remote.Addr(), remote) {
		t.Errorf("received %q at %v from %v", got.data, got.local, got.remote)
	}
	if zone := got.local.Addr().Zone(); zone == "" || zone != got.remote.Addr().Zone() {
		t.Errorf("zones of %v and %v", got.local, got.remote)
	}
}

func address(t *testing.T, name, addr string) {
	t.Helper()
	link := up(t, name)
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	a.Flags = unix.IFA_F_NODAD
	if err := netlink.AddrAdd(link, a); err != nil {
		t.Fatal(err)
	}
}

// settle repeats what fails until the new link carries traffic.
func settle(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

func TestESPAndKeepAlivesAreNoIKE(t *testing.T) {
	namespace(t)
	tr := open(t, Config{})
	conn := peer(t, "127.0.0.9:14500")
	for _, data := range []string{"\xff", "", "\x00\x00\x00", "\x00\x00\x01\x00ESP", "\x00\x00\x00\x00IKE"} {
		write(t, conn, "127.0.0.1:4500", data)
	}
	if got := recv(t, tr); got.data != "IKE" {
		t.Errorf("received %q", got.data)
	}
}

// TestKeepAliveIsOneByte: on the port for address translation every message
// stands behind the marker, a keep-alive does not (RFC 3948 §2.3).
func TestKeepAliveIsOneByte(t *testing.T) {
	namespace(t)
	tr := open(t, Config{})
	conn := peer(t, "127.0.0.9:1500")
	for sent, want := range map[string]string{"\xff": "\xff", "\xff\xff": "\x00\x00\x00\x00\xff\xff"} {
		if err := tr.Send([]byte(sent), ap("127.0.0.1:4500"), ap("127.0.0.9:1500")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 10)
		if n, _, err := conn.ReadFromUDPAddrPort(b); err != nil || string(b[:n]) != want {
			t.Errorf("the peer got %q for %q, %v", b[:n], sent, err)
		}
	}
}

func TestOtherPortsAndSizes(t *testing.T) {
	namespace(t)
	tr := open(t, Config{Port: 5500, NATPort: 5501})
	conn := peer(t, "127.0.0.9:500")
	for _, to := range []string{"127.0.0.1:5500", "127.0.0.1:5501"} {
		marker := ""
		if to == "127.0.0.1:5501" {
			marker = "\x00\x00\x00\x00"
		}
		write(t, conn, to, marker+strings.Repeat("x", MaxDatagram+1))
		write(t, conn, to, marker+strings.Repeat("y", MaxDatagram))
		if got := recv(t, tr); len(got.data) != MaxDatagram || got.data[0] != 'y' {
			t.Errorf("%s: received %d bytes of %.1s", to, len(got.data), got.data)
		}
	}
	if err := tr.Send(make([]byte, MaxDatagram+1), ap("127.0.0.1:5500"), ap("127.0.0.9:500")); err == nil {
		t.Error("a message that is too large was sent")
	}
	if err := tr.Send([]byte("x"), ap("127.0.0.1:500"), ap("127.0.0.9:500")); err == nil {
		t.Error("a message was sent from a port that is not open")
	}
	if _, err := Open(Config{Port: 4500}); err == nil {
		t.Error("one port for both kinds was accepted")
	}
}

func TestSourceCanBeLeftToTheKernel(t *testing.T) {
	namespace(t)
	tr := open(t, Config{})
	conn := peer(t, "127.0.0.9:1500")
	if err := tr.Send([]byte("hello"), ap("0.0.0.0:500"), ap("127.0.0.9:1500")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	if n, from, err := conn.ReadFromUDPAddrPort(b); err != nil || string(b[:n]) != "hello" || from.Port() != 500 {
		t.Errorf("the peer got %q from %v, %v", b[:n], from, err)
	}
}

func TestForeignSourceIsRefused(t *testing.T) {
	namespace(t)
	tr := open(t, Config{})
	for _, local := range []string{"192.0.2.1:500", "[2001:db8::1]:500", "[fe80::1%nosuch]:500"} {
		remote := ap("127.0.0.9:500")
		if ap(local).Addr().Is6() {
			remote = ap("[::1]:500")
		}
		if err := tr.Send([]byte("x"), ap(local), remote); err == nil {
			t.Errorf("sent from %s, which is no address of this host", local)
		}
	}
}

func TestBroadcastAndMulticastAreDropped(t *testing.T) {
	namespace(t)
	tr := open(t, Config{})
	conn := peer(t, "127.0.0.9:1000")
	write(t, conn, "127.255.255.255:500", "broadcast")
	write(t, conn, "127.0.0.1:500", "unicast")
	if got := recv(t, tr); got.data != "unicast" {
		t.Errorf("received %q", got.data)
	}
	six := unix.PktInfo6(&unix.Inet6Pktinfo{Addr: netip.MustParseAddr("ff02::1").As16(), Ifindex: 1})
	if to, ok := destination(six, netip.MustParseAddr("fe80::1%lo")); ok {
		t.Errorf("destination %v is taken", to)
	}
}

func TestFloodOfOnePortLeavesTheOtherOpen(t *testing.T) {
	namespace(t)
	tr := open(t, Config{})
	conn := peer(t, "127.0.0.9:1000")
	for i := range 3 * waiting {
		write(t, conn, "127.0.0.1:500", fmt.Sprintf("flood %d", i))
	}
	settle(t, func() error {
		if len(tr.plain) < waiting {
			return errors.New("the queue is not full")
		}
		return nil
	})
	write(t, conn, "127.0.0.1:4500", "\x00\x00\x00\x00other")
	for range waiting + 1 {
		if recv(t, tr).data == "other" {
			return
		}
	}
	t.Error("the message on the other port was lost")
}

func TestPortInUse(t *testing.T) {
	namespace(t)
	for _, c := range []struct {
		other string
		reuse bool
	}{{"0.0.0.0:500", false}, {"127.0.0.1:500", true}, {"0.0.0.0:4500", true}, {"[::]:500", true}} {
		other := peer(t, c.other)
		if c.reuse {
			raw, _ := other.SyscallConn()
			raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
		}
		_, err := Open(Config{})
		if !errors.Is(err, unix.EADDRINUSE) {
			t.Fatalf("beside %s: %v", c.other, err)
		}
		name, _ := os.ReadFile("/proc/self/comm")
		want := fmt.Sprintf("%s (process %d)", bytes.TrimSpace(name), os.Getpid())
		if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "stop and disable") {
			t.Errorf("beside %s: %q does not name %q and the remedy", c.other, err, want)
		}
		other.Close()
	}
	open(t, Config{}) // the failed ones have left nothing open
}

func TestHolderIsUnknownWithoutASocket(t *testing.T) {
	namespace(t)
	if got := holder(500); got != unknownHolder {
		t.Errorf("holder %q of a free port", got)
	}
}

func TestNoPermission(t *testing.T) {
	namespace(t)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData // of this thread alone, which ends with the test
	if err := unix.Capset(&header, &none[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{}); !errors.Is(err, unix.EACCES) || !strings.Contains(err.Error(), "CAP_NET_BIND_SERVICE") {
		t.Errorf("error %v", err)
	}
}

func TestPrepare(t *testing.T) {
	namespace(t)
	var families []int
	open(t, Config{Prepare: func(fd, family int) error {
		families = append(families, family)
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 7)
	}})
	if want := []int{unix.AF_INET, unix.AF_INET, unix.AF_INET6, unix.AF_INET6}; !slices.Equal(families, want) {
		t.Errorf("prepared families %v, want %v", families, want)
	}
	broken := errors.New("no mark")
	if _, err := Open(Config{Port: 600, NATPort: 601, Prepare: func(int, int) error { return broken }}); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}

func TestWithoutIPv6(t *testing.T) {
	namespace(t)
	tr := open(t, Config{Prepare: func(_, family int) error {
		if family == unix.AF_INET6 {
			return unix.EAFNOSUPPORT
		}
		return nil
	}})
	if len(tr.sockets) != 2 {
		t.Fatalf("%d sockets, want those of IPv4", len(tr.sockets))
	}
	write(t, peer(t, "127.0.0.9:1000"), "127.0.0.1:500", "hello")
	if got := recv(t, tr); got.data != "hello" {
		t.Errorf("received %q", got.data)
	}
}

func TestCloseEndsRecv(t *testing.T) {
	namespace(t)
	tr := open(t, Config{})
	ended := make(chan error, 2)
	for range cap(ended) {
		go func() {
			_, _, _, err := tr.Recv(make([]byte, 10))
			ended <- err
		}()
	}
	if err := tr.Close(); err != nil {
		t.Error(err)
	}
	for range cap(ended) {
		select {
		case err := <-ended:
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("error %v", err)
			}
		case <-time.After(patience):
			t.Fatal("Recv does not end")
		}
	}
	if err := tr.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if err := tr.Send([]byte("x"), ap("127.0.0.1:500"), ap("127.0.0.9:500")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Send after Close: %v", err)
	}
}

func TestFailureOfASocketReachesRecv(t *testing.T) {
	tr := &Transport{plain: make(chan message), marked: make(chan message), failed: make(chan error, 1), closed: make(chan struct{})}
	tr.fail(unix.EIO)
	tr.fail(unix.EIO) // does not block
	if _, _, _, err := tr.Recv(nil); !errors.Is(err, unix.EIO) {
		t.Errorf("error %v", err)
	}
}

// Port 4500 borrowed: it serves like one opened here, is replaced, and is given
// back.
func TestBorrowedSockets(t *testing.T) {
	namespace(t)
	tr := open(t, Config{Borrowed: true})
	if err := tr.Send([]byte("early"), ap("127.0.0.1:4500"), ap("127.0.0.9:14500")); err == nil {
		t.Error("sent from a port that nobody has lent")
	}
	conn := peer(t, "127.0.0.9:14500")
	for range 2 {
		lent, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(ap("127.0.0.1:4500")))
		if err != nil {
			t.Fatal(err)
		}
		file, err := lent.File()
		if err != nil {
			t.Fatal(err)
		}
		lent.Close()
		if err := tr.Borrow([]*os.File{file}); err != nil {
			t.Fatal(err)
		}
		write(t, conn, "127.0.0.1:4500", "\x00\x00\x00\x00IKE")
		if got := recv(t, tr); got.data != "IKE" {
			t.Errorf("received %q", got.data)
		}
		if err := tr.Send([]byte("answer"), ap("127.0.0.1:4500"), ap("127.0.0.9:14500")); err != nil {
			t.Error(err)
		}
		if err := tr.Borrow(nil); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Borrow([]*os.File{file}); err == nil {
		t.Error("a file that is no socket was accepted")
	}
}

// FuzzHandle: whatever comes on either port, it is IKE without its marker or
// nothing.
func FuzzHandle(f *testing.F) {
	for _, seed := range []string{"", "\xff", "\x00\x00\x00\x00", "\x00\x00\x00\x00message", "\x00\x00\x00\x01ESP", "message"} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, marked bool) {
		tr := &Transport{plain: make(chan message, 1), marked: make(chan message, 1)}
		tr.handle(&socket{marked: marked}, message{data: data})
		zero := bytes.HasPrefix(data, make([]byte, markerLen))
		wantIKE := len(data) >= markerLen && len(data) <= MaxDatagram && (!marked || zero)
		if got := len(tr.plain)+len(tr.marked) == 1; got != wantIKE {
			t.Fatalf("IKE: %v, want %v", got, wantIKE)
		}
		if marked && wantIKE && !bytes.Equal((<-tr.marked).data, data[markerLen:]) {
			t.Error("the marker was not taken off")
		}
	})
}

// FuzzDestination: control messages come from the kernel, and still nothing in
// them may crash the reader.
func FuzzDestination(f *testing.F) {
	f.Add(unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: [4]byte{127, 0, 0, 1}, Addr: [4]byte{127, 0, 0, 1}}))
	f.Add(unix.PktInfo6(&unix.Inet6Pktinfo{Addr: netip.MustParseAddr("fe80::1").As16(), Ifindex: 7}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, control []byte) {
		local, ok := destination(control, netip.Addr{})
		if ok && (!local.IsValid() || local.IsMulticast() && local.Is6()) {
			t.Errorf("destination %v", local)
		}
	})
}

func TestZones(t *testing.T) {
	control := unix.PktInfo6(&unix.Inet6Pktinfo{Addr: netip.MustParseAddr("fe80::1").As16(), Ifindex: 7})
	if got, ok := destination(control, netip.MustParseAddr("2001:db8::1")); !ok || got != netip.MustParseAddr("fe80::1%7") {
		t.Errorf("destination %v, %v", got, ok)
	}
	if got, err := sourceControl(netip.MustParseAddr("fe80::1%7")); err != nil || !bytes.Equal(got, control) {
		t.Errorf("control message %x, %v", got, err)
	}
	if _, ok := destination(nil, netip.Addr{}); ok {
		t.Error("a destination without control messages")
	}
}
