package user

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// datapathEnv makes the test binary a data path on that socket.
const datapathEnv = "IPSECAGENT_TEST_DATAPATH"

func TestMain(m *testing.M) {
	if socket := os.Getenv(datapathEnv); socket != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		log := slog.New(slog.NewTextHandler(os.Stderr, nil))
		if err := Serve(ctx, Config{Socket: socket, Log: log}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// lab is two hosts, alice and bob, joined by a bridge in a namespace of its own
// that counts what passes.
type lab struct {
	t          *testing.T
	alice, bob *host
	wire       string
}

// host is one network namespace with a data path and a client.
type host struct {
	t      *testing.T
	port   int // of the bridge
	ns     string
	v4, v6 netip.Addr
	socket string
	proc   *exec.Cmd
	stderr *bytes.Buffer
	c      *Client
	inbox  chan driver.Event // all but Resync
}

// labs numbers the labs of this process; names of namespaces need it.
var labs atomic.Uint32

// wireRules counts, for each host apart, what it puts on the wire.
const wireRules = `
table bridge wire {
  counter secured0 {}
  counter clear0 {}
  counter secured1 {}
  counter clear1 {}
  counter long6 {}
  chain long {
    type filter hook prerouting priority -1;
    ether type ip6 meta length > 1300 counter name long6
  }
  chain pre {
    type filter hook prerouting priority 0;
    ether type arp accept
    icmpv6 type { 130-137,143 } accept
    udp dport 500 accept
    iifname p0 ip protocol 50 counter name secured0 accept
    iifname p0 ip6 nexthdr 50 counter name secured0 accept
    iifname p0 frag nexthdr 50 counter name secured0 accept
    iifname p0 counter name clear0
    iifname p1 ip protocol 50 counter name secured1 accept
    iifname p1 ip6 nexthdr 50 counter name secured1 accept
    iifname p1 frag nexthdr 50 counter name secured1 accept
    iifname p1 counter name clear1
  }
}`

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces, TUN devices and nftables rules")
	}
	n := fmt.Sprintf("%d-%d", os.Getpid(), labs.Add(1))
	l := &lab{t: t, wire: "user-w" + n}
	l.alice = &host{t: t, port: 0, ns: "user-a" + n, v4: netip.MustParseAddr("10.77.0.1"), v6: netip.MustParseAddr("fd77::1")}
	l.bob = &host{t: t, port: 1, ns: "user-b" + n, v4: netip.MustParseAddr("10.77.0.2"), v6: netip.MustParseAddr("fd77::2")}
	for _, ns := range []string{l.wire, l.alice.ns, l.bob.ns} {
		run(t, "", "ip", "netns", "add", ns)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
	}
	run(t, l.wire, "ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
	run(t, l.wire, "ip", "link", "set", "br0", "up")
	for _, h := range []*host{l.alice, l.bob} {
		port := fmt.Sprintf("p%d", h.port)
		run(t, l.wire, "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", h.ns)
		run(t, l.wire, "ip", "link", "set", port, "master", "br0", "up")
		run(t, h.ns, "sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=0", "net.ipv6.conf.all.accept_ra=0")
		run(t, h.ns, "ip", "link", "set", "lo", "up")
		run(t, h.ns, "ip", "link", "set", "eth0", "up")
		run(t, h.ns, "ip", "addr", "add", h.v4.String()+"/24", "dev", "eth0")
		run(t, h.ns, "ip", "addr", "add", h.v6.String()+"/64", "dev", "eth0", "nodad")
	}
	feed(t, l.wire, wireRules, "nft", "-f", "-")
	return l
}

// start starts the data path of h and attaches to it.
func (h *host) start() {
	h.t.Helper()
	h.launch()
	h.attach()
}

func (h *host) launch() {
	h.t.Helper()
	h.socket = filepath.Join(h.t.TempDir(), "dp.sock")
	h.proc = exec.Command("ip", "netns", "exec", h.ns, os.Args[0])
	h.proc.Env = append(os.Environ(), datapathEnv+"="+h.socket)
	h.stderr = &bytes.Buffer{}
	h.proc.Stderr = h.stderr
	if err := h.proc.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(h.stop)
}

// attach attaches to the data path as a fresh agent.
func (h *host) attach() {
	h.t.Helper()
	c := h.dial()
	if e, ok := (<-c.Events()).(driver.Resync); !ok {
		h.t.Fatalf("%s: the first event is %T, not Resync", h.ns, e)
	}
	h.c, h.inbox = c, make(chan driver.Event, 4096)
	go filterEvents(c.Events(), h.inbox)
}

// dial dials until the data path is there.
func (h *host) dial() *Client {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 10*time.Second)
	defer cancel()
	for {
		c, err := Dial(ctx, h.socket)
		if err == nil {
			h.t.Cleanup(func() { c.Close() })
			return c
		}
		if ctx.Err() != nil {
			h.t.Fatalf("%s: data path does not come up: %v; it says: %s", h.ns, err, h.stderr)
		}
		pause(ctx, 20*time.Millisecond)
	}
}

func filterEvents(in <-chan driver.Event, out chan<- driver.Event) {
	for e := range in {
		if _, ok := e.(driver.Resync); !ok {
			out <- e
		}
	}
	close(out)
}

// stop ends the data path as systemd would.
func (h *host) stop() { h.end(syscall.SIGTERM) }

// kill ends it without warning.
func (h *host) kill() { h.end(syscall.SIGKILL) }

func (h *host) end(sig syscall.Signal) {
	if h.proc == nil {
		return
	}
	_ = h.proc.Process.Signal(sig)
	err := h.proc.Wait()
	if sig == syscall.SIGTERM && err != nil {
		h.t.Errorf("%s: data path ended with %v: %s", h.ns, err, h.stderr)
	}
	h.proc = nil
}

// expect returns the next event of type E and skips others.
func expect[E driver.Event](h *host) E {
	h.t.Helper()
	timeout := time.After(5 * time.Second)
	for {
		select {
		case e, ok := <-h.inbox:
			if got, is := e.(E); is {
				return got
			}
			if !ok {
				h.t.Fatalf("%s: connection ended while waiting for an event; data path says: %s", h.ns, h.stderr)
			}
		case <-timeout:
			var want E
			h.t.Fatalf("%s: no %T within 5 s", h.ns, want)
		}
	}
}

// none fails if an event of type E is there or comes within the time.
func none[E driver.Event](h *host, within time.Duration) {
	h.t.Helper()
	timeout := time.After(within)
	for {
		select {
		case e := <-h.inbox:
			if _, is := e.(E); is {
				h.t.Fatalf("%s: unexpected %#v", h.ns, e)
			}
		case <-timeout:
			return
		}
	}
}

func (h *host) state() driver.State {
	h.t.Helper()
	s, err := h.c.State(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// run runs a command in a namespace ("": here) and returns its output.
func run(t *testing.T, ns string, args ...string) string {
	t.Helper()
	return feed(t, ns, "", args...)
}

func feed(t *testing.T, ns, stdin string, args ...string) string {
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

// noClear fails if anything but ESP, IKE, ARP or neighbour discovery was on
// the wire.
func (l *lab) noClear() {
	l.t.Helper()
	for _, h := range []*host{l.alice, l.bob} {
		if n := l.wireCounter("clear", h); n != 0 {
			l.t.Fatalf("%d packets in clear on the wire from %s", n, h.ns)
		}
	}
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

// suite returns a suite by name.
func suite(t *testing.T, name string) sadb.Suite {
	t.Helper()
	s, err := sadb.ParseSuite(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// require returns the filter "secure all traffic with peer".
func require(id sadb.FilterID, peer netip.Addr) sadb.Filter {
	return sadb.Filter{ID: id, Name: string(id), Dir: sadb.Both,
		Selector: sadb.Selector{Local: sadb.Me(), Remote: sadb.Addr(peer)},
		Action:   sadb.Action{Kind: sadb.Negotiate}}
}

// requireAll puts the filters "v4" and "v6" in force on both hosts.
func (l *lab) requireAll() {
	l.t.Helper()
	for _, h := range []*host{l.alice, l.bob} {
		peer := l.peer(h)
		if err := h.c.SetFilters(l.t.Context(), []sadb.Filter{require("v4", peer.v4), require("v6", peer.v6)}); err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l *lab) peer(h *host) *host {
	if h == l.alice {
		return l.bob
	}
	return l.alice
}

// oneWay returns the two ends of an association from one host to the other.
func oneWay(s sadb.Suite, filter sadb.FilterID, src, dst netip.Addr, spi sadb.SPI) (out, in sadb.SA) {
	key := bytes.Repeat([]byte{byte(spi)}, s.EncKeyLen())
	auth := bytes.Repeat([]byte{byte(spi) + 1}, s.Integrity.KeyLen())
	out = sadb.SA{
		ID: sadb.SAID{Dst: dst, Proto: sadb.ESP, SPI: spi}, Src: src, Dir: sadb.Out, Suite: s,
		EncKey: sadb.NewSecret(key), AuthKey: sadb.NewSecret(auth),
		Selector: sadb.Selector{Local: sadb.Addr(src), Remote: sadb.Addr(dst)},
		Filter:   filter,
	}
	in = out
	in.Dir, in.Replay = sadb.In, 1024
	in.Selector = out.Selector.Mirror()
	return out, in
}

// connect installs associations both ways, inbound ends first.
func (l *lab) connect(s sadb.Suite, base sadb.SPI) {
	l.t.Helper()
	for _, p := range []struct {
		filter   sadb.FilterID
		from, to *host
		src, dst netip.Addr
		spi      sadb.SPI
	}{
		{"v4", l.alice, l.bob, l.alice.v4, l.bob.v4, base},
		{"v4", l.bob, l.alice, l.bob.v4, l.alice.v4, base + 1},
		{"v6", l.alice, l.bob, l.alice.v6, l.bob.v6, base + 2},
		{"v6", l.bob, l.alice, l.bob.v6, l.alice.v6, base + 3},
	} {
		out, in := oneWay(s, p.filter, p.src, p.dst, p.spi)
		l.add(p.to, in)
		l.add(p.from, out)
	}
}

func (l *lab) add(h *host, sa sadb.SA) {
	l.t.Helper()
	if err := h.c.AddSA(l.t.Context(), sa); err != nil {
		l.t.Fatal(err)
	}
}

// secured returns a lab with both data paths, filters and associations.
func secured(t *testing.T) *lab {
	t.Helper()
	l := newLab(t)
	l.alice.start()
	l.bob.start()
	l.requireAll()
	l.connect(suite(t, "esp-aes256gcm"), 0x1000)
	return l
}

// ping sends from h; extra arguments go to ping.
func (h *host) ping(to netip.Addr, extra ...string) error {
	args := append([]string{"ping", "-c", "2", "-i", "0.05", "-W", "2", "-q"}, extra...)
	out, err := try(h.ns, "", append(args, to.String())...)
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// echo runs a TCP echo server on h until the test ends, and returns its address.
func (h *host) echo(addr netip.Addr) string {
	h.t.Helper()
	l := in(h, func() (net.Listener, error) { return net.Listen("tcp", netip.AddrPortFrom(addr, 0).String()) })
	h.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					if _, err := c.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// exchange sends n bytes over TCP from h and checks that they come back.
func (h *host) exchange(addr string, n int) error {
	c := in(h, func() (net.Conn, error) { return net.DialTimeout("tcp", addr, 10*time.Second) })
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	want := bytes.Repeat([]byte("secured!"), n/8)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(want)
		sent <- err
	}()
	got := make([]byte, len(want))
	for at := 0; at < len(got); {
		k, err := c.Read(got[at:])
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", at, len(got), err)
		}
		at += k
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("other bytes came back")
	}
	return <-sent
}
