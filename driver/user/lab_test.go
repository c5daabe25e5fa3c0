package user

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
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
	"ipsecagent/driver/drivertest"
)

// datapathEnv makes the test binary a data path on that socket.
const datapathEnv = "IPSECAGENT_TEST_DATAPATH"

// remoteEnv names that data path's interfaces of remote access, between commas.
const remoteEnv = "IPSECAGENT_TEST_REMOTE_ACCESS"

func TestMain(m *testing.M) {
	if job := os.Getenv(drivertest.JobEnv); job != "" {
		fmt.Fprintln(os.Stderr, work(job))
		os.Exit(1)
	}
	if socket := os.Getenv(datapathEnv); socket != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		log := slog.New(slog.NewTextHandler(os.Stderr, nil))
		if err := Serve(ctx, Config{Socket: socket, Log: log, RemoteAccess: strings.FieldsFunc(os.Getenv(remoteEnv), func(r rune) bool { return r == ',' })}); err != nil {
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

	remoteAccess string // interfaces, between commas
}

// labs numbers the labs of this process; names of namespaces need it.
var labs atomic.Uint32

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
	feed(t, l.wire, drivertest.WireRules, "nft", "-f", "-")
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
	h.proc.Env = append(os.Environ(), datapathEnv+"="+h.socket, remoteEnv+"="+h.remoteAccess)
	h.stderr = &bytes.Buffer{}
	h.proc.Stderr = h.stderr
	if err := h.proc.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(h.stop)
}

// report says what a failed test leaves behind.
func (h *host) report() {
	if !h.t.Failed() || h.c == nil {
		return
	}
	s, err := h.c.State(context.Background())
	h.t.Logf("%s: %+v, %d associations, %v; data path says: %s", h.ns, s.Counters, len(s.SAs), err, h.stderr)
}

// attach attaches to the data path as a fresh agent.
func (h *host) attach() {
	h.t.Helper()
	c := h.dial()
	h.t.Cleanup(h.report) // before the connection is closed
	if e, ok := (<-c.Events()).(driver.Resync); !ok {
		h.t.Fatalf("%s: the first event is %T, not Resync", h.ns, e)
	}
	h.c, h.inbox = c, make(chan driver.Event, 4096)
	go filterEvents(c.Events(), h.inbox)
}

// dial dials until the data path is there.
func (h *host) dial() *Client {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
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
	timeout := time.After(patience)
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
			h.t.Fatalf("%s: no %T within %s", h.ns, want, patience)
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
			l.t.Fatalf("%d packets in clear on the wire from %s: %s", n, h.ns, l.shown())
		}
	}
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
