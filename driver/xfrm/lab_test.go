//go:build esp

package xfrm

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"ipsecagent/driver/drivertest"
)

// patience is how long what should happen may take; in an emulated machine all
// takes long.
const patience = 20 * time.Second

// lab is two hosts, alice and bob, joined by a bridge in a namespace of its own
// that counts what passes.
type lab struct {
	t          *testing.T
	alice, bob *host
	wire       string
}

// host is one network namespace.
type host struct {
	t      *testing.T
	port   int // of the bridge
	ns     string
	v4, v6 netip.Addr
	dir    string // of the driver's book
	table  int    // the socket that owns its table
}

// labs numbers the labs of this process; names of namespaces need it.
var labs atomic.Uint32

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces and writes to XFRM")
	}
	n := fmt.Sprintf("%d-%d", os.Getpid(), labs.Add(1))
	l := &lab{t: t, wire: "xfm-w" + n}
	l.alice = &host{t: t, port: 0, ns: "xfm-a" + n, v4: netip.MustParseAddr("10.77.0.1"), v6: netip.MustParseAddr("fd77::1")}
	l.bob = &host{t: t, port: 1, ns: "xfm-b" + n, v4: netip.MustParseAddr("10.77.0.2"), v6: netip.MustParseAddr("fd77::2")}
	for _, ns := range []string{l.wire, l.alice.ns, l.bob.ns} {
		run(t, "", "ip", "netns", "add", ns)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
	}
	batch := "link add br0 type bridge mcast_snooping 0\nlink set br0 up\n"
	for _, h := range []*host{l.alice, l.bob} {
		h.dir = filepath.Join(t.TempDir(), "book")
		batch += fmt.Sprintf("link add p%d type veth peer name eth0 netns %s\nlink set p%d master br0 up\n", h.port, h.ns, h.port)
	}
	pipe(t, l.wire, batch, "ip", "-batch", "-")
	for _, h := range []*host{l.alice, l.bob} {
		pipe(t, h.ns, fmt.Sprintf("link set lo up\nlink set eth0 up\naddr add %s/24 dev eth0\naddr add %s/64 dev eth0 nodad\n", h.v4, h.v6), "ip", "-batch", "-")
	}
	pipe(t, l.wire, drivertest.WireRules, "nft", "-f", "-")
	return l
}

// open opens the driver in the host's namespace.
func (h *host) open() *Driver {
	h.t.Helper()
	if h.table == 0 {
		h.table = in(h, tableSocket)
		h.t.Cleanup(func() { unix.Close(h.table) })
	}
	d := in(h, func() (*Driver, error) {
		return Open(Config{Dir: h.dir, TableSocket: func() (int, error) { return unix.Dup(h.table) }})
	})
	h.t.Cleanup(func() { d.Close() })
	return d
}

// tableSocket opens the socket that owns the table on old kernels.
func tableSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, err
	}
	return fd, unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// ike opens the sockets that IKE would have on port 4500: the kernel takes ESP
// in UDP from them.
func (h *host) ike() {
	h.t.Helper()
	for network, family := range map[string]int{"udp4": unix.AF_INET, "udp6": unix.AF_INET6} {
		c := in(h, func() (*net.UDPConn, error) { return net.ListenUDP(network, &net.UDPAddr{Port: 4500}) })
		h.t.Cleanup(func() { c.Close() })
		raw, err := c.SyscallConn()
		if err != nil {
			h.t.Fatal(err)
		}
		var failed error
		if err := raw.Control(func(fd uintptr) {
			if failed = (Config{}).PrepareSocket(int(fd), family); failed == nil {
				failed = TakeESP(int(fd))
			}
		}); err != nil || failed != nil {
			h.t.Fatal(err, failed)
		}
	}
}

func (h *host) send(src, dst netip.AddrPort, payload []byte) {
	c := in(h, func() (*net.UDPConn, error) { return net.ListenUDP("udp", net.UDPAddrFromAddrPort(src)) })
	defer c.Close()
	_, _ = c.WriteToUDPAddrPort(payload, dst) // a refusal is of no interest
}

func (h *host) listen(t *testing.T, at netip.AddrPort) <-chan []byte {
	c := in(h, func() (*net.UDPConn, error) { return net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)) })
	t.Cleanup(func() { c.Close() })
	got := make(chan []byte, 100)
	go func() {
		buf := make([]byte, 65536)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			got <- append([]byte(nil), buf[:n]...)
		}
	}()
	return got
}

// run runs a command in a namespace ("": here) and returns its output.
func run(t *testing.T, ns string, args ...string) string {
	t.Helper()
	return pipe(t, ns, "", args...)
}

func pipe(t *testing.T, ns, stdin string, args ...string) string {
	t.Helper()
	out, err := try(ns, stdin, args...)
	if err != nil {
		t.Fatalf("%s: %s: %v\n%s", ns, strings.Join(args, " "), err, out)
	}
	return out
}

func try(ns, stdin string, args ...string) (string, error) {
	if ns != "" {
		args = append([]string{"ip", "netns", "exec", ns}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// wireCounter reads a counter of what h put on the wire.
func (l *lab) wireCounter(name string, h *host) int {
	return l.counter(fmt.Sprint(name, h.port))
}

// counter reads a counter of the wire.
func (l *lab) counter(name string) int {
	l.t.Helper()
	out := run(l.t, l.wire, "nft", "-j", "list", "counter", "bridge", "wire", name)
	var doc struct {
		Nftables []struct {
			Counter *struct{ Packets int }
		}
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		l.t.Fatal(err)
	}
	for _, o := range doc.Nftables {
		if o.Counter != nil {
			return o.Counter.Packets
		}
	}
	l.t.Fatalf("no counter %s: %s", name, out)
	return 0
}

// shown says what was in clear on the wire.
func (l *lab) shown() string {
	out, _ := try(l.wire, "", "nft", "list", "sets", "bridge")
	return out
}

// in runs f on a thread in the namespace of h: sockets it makes stay there.
func in[T any](h *host, f func() (T, error)) T {
	h.t.Helper()
	type result struct {
		v   T
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := netns.GetFromName(h.ns)
		if err == nil {
			err = netns.Set(ns)
			ns.Close()
		}
		var r result
		if r.err = err; err == nil {
			r.v, r.err = f()
		}
		done <- r
	}()
	r := <-done
	if r.err != nil {
		h.t.Fatalf("%s: %v", h.ns, r.err)
	}
	return r.v
}
