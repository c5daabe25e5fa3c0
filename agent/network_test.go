package agent

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/auth"
	"ipsecagent/auth/psk"
	"ipsecagent/driver/drivertest"
	"ipsecagent/host"
	"ipsecagent/ike"
	"ipsecagent/sadb"
)

// network carries IKE datagrams between the hosts of a test.
type network struct {
	mu    sync.Mutex
	ends  map[netip.AddrPort]*endpoint
	cut   bool
	count int
}

// endpoint is one host's ike.Transport.
type endpoint struct {
	net    *network
	addr   netip.AddrPort
	in     chan datagram
	queue  []datagram // under way to it, in order
	closed chan struct{}
	once   sync.Once
}

type datagram struct {
	from netip.AddrPort
	data []byte
}

func (n *network) open(a netip.Addr) *endpoint {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := &endpoint{net: n, addr: addrPort(a), in: make(chan datagram, 256), closed: make(chan struct{})}
	n.ends[e.addr] = e
	return e
}

func (n *network) setCut(cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = cut
}

// Send delivers after a millisecond, or never.
func (e *endpoint) Send(b []byte, local, remote netip.AddrPort) error {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	e.net.count++
	to := e.net.ends[remote]
	if to == nil || e.net.cut {
		return nil
	}
	to.queue = append(to.queue, datagram{e.addr, append([]byte(nil), b...)})
	time.AfterFunc(time.Millisecond, to.arrive)
	return nil
}

// arrive delivers the first datagram under way.
func (e *endpoint) arrive() {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	d := e.queue[0]
	e.queue = e.queue[1:]
	select {
	case e.in <- d:
	default: // nobody reads any more
	}
}

// Recv returns the next datagram.
func (e *endpoint) Recv(b []byte) (int, netip.AddrPort, netip.AddrPort, error) {
	select {
	case d := <-e.in:
		return copy(b, d.data), e.addr, d.from, nil
	case <-e.closed:
		return 0, netip.AddrPort{}, netip.AddrPort{}, net.ErrClosed
	}
}

// Close ends Recv.
func (e *endpoint) Close() error {
	e.once.Do(func() { close(e.closed) })
	return nil
}

// machine is one host: an agent with a real key exchange on a fake driver.
type machine struct {
	t     *testing.T
	net   *network
	addr  netip.Addr
	dir   string // of its policies
	state string
	keys  *psk.Authenticator
	fake  *drivertest.Fake
	agent *Agent
	stop  func()
}

func (n *network) host(t *testing.T, a netip.Addr) *machine {
	t.Helper()
	m := &machine{t: t, net: n, addr: a, dir: t.TempDir(), state: filepath.Join(t.TempDir(), "state.db"), keys: psk.New(nil), fake: drivertest.New(time.Now)}
	m.run()
	return m
}

func (m *machine) run() {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	server := ike.NewServer(ike.ServerConfig{Machine: ike.New(ike.Config{Rand: rand.Reader, Auth: []auth.Authenticator{m.keys}}), Transport: m.net.open(m.addr)})
	a, err := New(Config{Driver: m.fake, IKE: IKE{Submit: server.Submit, Outputs: server.Outputs(), SAs: server.SAs}, Library: folder(m.dir),
		StateFile: m.state, Host: func() (host.Facts, error) { return host.Facts{Addresses: []netip.Addr{m.addr}}, nil },
		SetKeys: m.setKeys, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Hostname: m.addr.String()})
	if err != nil {
		m.t.Fatal(err)
	}
	m.agent = a
	var all sync.WaitGroup
	all.Go(func() { report(m.t, server.Run(ctx)) })
	all.Go(func() { report(m.t, a.Run(ctx)) })
	all.Go(func() { passTime(ctx, m.fake) })
	m.stop = func() {
		cancel()
		all.Wait()
	}
}

func report(t *testing.T, err error) {
	if err != nil {
		t.Errorf("Run: %v", err)
	}
}

func (m *machine) setKeys(text string) ([]string, error) {
	ring, err := psk.Parse("keys", []byte(text))
	if err == nil {
		m.keys.Replace(ring)
	}
	return nil, err
}

// restart runs another agent on what this one left; fresh: the driver has lost
// everything too, as in a reboot.
func (m *machine) restart(fresh bool) {
	m.stop()
	m.fake.Close()
	if fresh {
		m.fake = drivertest.New(time.Now)
	} else {
		m.fake = m.fake.Reopen()
	}
	m.run()
	m.pass(10 * time.Millisecond)
}

func (m *machine) assign(policy, key string) {
	m.t.Helper()
	_, err := m.agent.Assign(m.t.Context(), control.AssignRequest{Policy: policy, Auth: "psk-file", Keys: key})
	if err != nil {
		m.t.Fatalf("%s: assign %s: %v", m.addr, policy, err)
	}
}

// assignText assigns a policy of one rule between this host and any other.
func (m *machine) assignText(action, authentication, keys string) {
	m.t.Helper()
	text := `apiVersion: ipsecagent/v1
kind: Policy
name: text
filterLists: {all: [{from: me, to: any}]}
filterActions: {action: {negotiate: ` + action + `}}
rules: [{name: rule, filterList: all, filterAction: action, authentication: ` + authentication + `}]
`
	if err := os.WriteFile(filepath.Join(m.dir, "text.yaml"), []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
	if _, err := m.setKeys(keys); err != nil {
		m.t.Fatal(err)
	}
	if _, err := m.agent.Assign(m.t.Context(), control.AssignRequest{Policy: "text"}); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) unassign() {
	m.t.Helper()
	if _, err := m.agent.Unassign(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	m.pass(time.Second)
}

func (m *machine) status() control.Status {
	m.t.Helper()
	s, err := m.agent.Status(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

func (m *machine) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (m *machine) events(kind string) []control.Event {
	m.t.Helper()
	c, err := m.agent.Events(m.t.Context(), false)
	if err != nil {
		m.t.Fatal(err)
	}
	var got []control.Event
	for e := range c {
		if e.Kind == kind {
			got = append(got, e)
		}
	}
	return got
}

// packet sends one TCP packet of a connection to port 80 of server and says
// what became of it: how it left, and how it arrived.
func packet(from, to *machine, server *machine) (left, arrived drivertest.Outcome) {
	out := sadb.Flow{Local: from.addr, LocalMe: true, Remote: to.addr, Proto: sadb.TCP, LocalPort: 40000, RemotePort: 80}
	if from == server {
		out.LocalPort, out.RemotePort = 80, 40000
	}
	in := sadb.Flow{Local: to.addr, LocalMe: true, Remote: from.addr, Proto: sadb.TCP, LocalPort: out.RemotePort, RemotePort: out.LocalPort}
	left, via := from.fake.Send(out, 100)
	if left == drivertest.Dropped || left == drivertest.Held {
		return left, drivertest.Dropped
	}
	if left == drivertest.Passed || left == drivertest.Clear {
		via = sadb.SAID{}
	}
	return left, to.fake.Receive(in, 100, via)
}

// connect sends SYN, SYN-ACK and ACK, with a second between, until all three
// have arrived, and reports how they left; false after half a minute.
func connect(client, server *machine) (kinds string, ok bool) {
	var left [3]drivertest.Outcome
	for range 30 {
		got := 0
		for i, hop := range [][2]*machine{{client, server}, {server, client}, {client, server}} {
			var arrived drivertest.Outcome
			if left[i], arrived = packet(hop[0], hop[1], server); arrived == drivertest.Dropped {
				break
			}
			got++
		}
		client.pass(time.Second)
		if got == 3 {
			return strings.Join([]string{left[0].String(), left[1].String(), left[2].String()}, " "), true
		}
	}
	return "", false
}

// twoHosts runs f with alice and bob in virtual time.
func twoHosts(t *testing.T, f func(t *testing.T, alice, bob *machine)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := &network{ends: map[netip.AddrPort]*endpoint{}}
		a, b := n.host(t, alice()), n.host(t, bob())
		defer func() { a.stop(); b.stop() }()
		f(t, a, b)
	})
}
