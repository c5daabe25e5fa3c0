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

const key = "correct horse battery staple 7"

func TestSecureServerAndClient(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		bob.assign("secure-server", key)
		if kinds, ok := connect(alice, bob); ok {
			t.Fatalf("a host without policy reaches the secure server: %s", kinds)
		}
		alice.assign("client", key)
		kinds, ok := connect(alice, bob)
		if !ok {
			t.Fatalf("the client does not reach the secure server: %+v, %+v", alice.status(), bob.status())
		}
		kinds, _ = connect(alice, bob)
		if kinds != "secured secured secured" {
			t.Errorf("once connected, packets go %s", kinds)
		}
		sa, sb := alice.status(), bob.status()
		if len(sa.Secured) != 1 || len(sb.Secured) != 1 || sa.Secured[0].SPIIn != sb.Secured[0].SPIOut || sa.Secured[0].Rule != "default response" {
			t.Errorf("alice %+v, bob %+v", sa.Secured, sb.Secured)
		}
		if sb.Secured[0].Suite != "esp-aes256gcm" || sb.Secured[0].Principal != "psk:default" {
			t.Errorf("bob %+v", sb.Secured)
		}
		sameKeys(t, alice, bob)
		alice.unassign()
		if kinds, ok := connect(alice, bob); ok {
			t.Errorf("after unassign the server is reached: %s", kinds)
		}
		bob.assign("server", key)
		if kinds, ok := connect(alice, bob); !ok || kinds != "passed clear passed" {
			t.Errorf("with policy server, packets go %q", kinds)
		}
		if s := bob.status(); len(s.InClear) == 0 || s.InClear[0].Peer != alice.addr.String() || s.InClear[0].Why == "" {
			t.Errorf("bob's peers in clear: %+v", s.InClear)
		}
	})
}

// sameKeys checks that both ends hold the same keys for each association.
func sameKeys(t *testing.T, a, b *machine) {
	t.Helper()
	theirs := map[sadb.SAID]sadb.SA{}
	for _, sa := range b.fake.SAs() {
		theirs[sa.ID] = sa
	}
	mine := a.fake.SAs()
	if len(mine) == 0 || len(mine) != len(theirs) {
		t.Errorf("%d associations here, %d there", len(mine), len(theirs))
	}
	for _, sa := range mine {
		other, ok := theirs[sa.ID]
		if !ok || !sa.EncKey.Equal(other.EncKey) || sa.EncKey.Len() == 0 || sa.Dir == other.Dir {
			t.Errorf("%s is not the same at both ends", sa.ID)
		}
	}
}

func TestRequestIsClearThenSecuredThenRequired(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		alice.assign("server", key)
		bob.assign("server", key)
		if left, arrived := packet(alice, bob, bob); left != drivertest.Clear || arrived != drivertest.Clear {
			t.Fatalf("the first packet leaves %v and arrives %v", left, arrived)
		}
		alice.pass(5 * time.Second)
		if left, arrived := packet(alice, bob, bob); left != drivertest.Secured || arrived != drivertest.Secured {
			t.Fatalf("negotiated, a packet leaves %v and arrives %v: %+v", left, arrived, alice.status())
		}
		forged := sadb.Flow{Local: bob.addr, LocalMe: true, Remote: alice.addr, Proto: sadb.TCP, LocalPort: 80, RemotePort: 40000}
		if got := bob.fake.Receive(forged, 100, sadb.SAID{}); got != drivertest.Dropped {
			t.Errorf("a clear packet in alice's name is %v", got)
		}
		for _, m := range []*machine{alice, bob} {
			if s := m.status(); len(s.Secured) != 1 || len(s.InClear) != 0 || len(s.Failures) != 0 {
				t.Errorf("%s: %+v", m.addr, s)
			}
		}
	})
}

func TestWrongKeyFailsOnBothSidesWithItsReason(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		alice.assign("secure-server", key)
		bob.assign("client", "another key altogether")
		packet(alice, bob, bob)
		alice.pass(30 * time.Second)
		if s := alice.status(); len(s.Failures) != 1 || len(s.Secured) != 0 {
			t.Errorf("alice: %+v", s)
		}
		failed := bob.events(control.EventFailed)
		if len(failed) == 0 || !strings.Contains(failed[0].Message, "preshared key does not match") {
			t.Errorf("bob's events: %+v", failed)
		}
		if left, _ := packet(alice, bob, bob); left != drivertest.Held {
			t.Errorf("alice's packet is %v", left)
		}
		alice.assign("secure-server", "another key altogether")
		alice.pass(30 * time.Second)
		packet(alice, bob, bob)
		alice.pass(5 * time.Second)
		if left, arrived := packet(alice, bob, bob); left != drivertest.Secured || arrived != drivertest.Secured {
			t.Errorf("with the right key a packet leaves %v and arrives %v", left, arrived)
		}
	})
}

func TestSilentPeerOfARequest(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		alice.assign("server", key)
		alice.net.setCut(true)
		packet(alice, bob, bob)
		alice.pass(130 * time.Second)
		s := alice.status()
		if len(s.InClear) != 1 || len(s.Failures) != 1 || s.Failures[0].Code != string(ike.FailNoAnswer) {
			t.Fatalf("%+v", s)
		}
		if left, _ := packet(alice, bob, bob); left != drivertest.Clear {
			t.Errorf("the packet is %v", left)
		}
	})
}

func TestBothHostsSurviveARestart(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		alice.assign("secure-server", key)
		bob.assign("secure-server", key)
		if _, ok := connect(alice, bob); !ok {
			t.Fatalf("not connected: %+v", alice.status())
		}
		before := alice.status().Secured[0].SPIIn
		for _, m := range []*machine{alice, bob} {
			m.restart(false)
			if left, arrived := packet(alice, bob, bob); left != drivertest.Secured || arrived != drivertest.Secured {
				t.Errorf("%s has restarted: a packet leaves %v and arrives %v", m.addr, left, arrived)
			}
			m.pass(2 * time.Minute)
			if len(m.events(control.EventAdopted)) == 0 {
				t.Errorf("%s has adopted nothing", m.addr)
			}
			if left, arrived := packet(alice, bob, bob); left != drivertest.Secured || arrived != drivertest.Secured {
				t.Errorf("%s has renewed: a packet leaves %v and arrives %v", m.addr, left, arrived)
			}
		}
		if after := alice.status().Secured; len(after) != 1 || after[0].SPIIn == before {
			t.Errorf("not renewed: %+v, before %s", after, before)
		}
		sameKeys(t, alice, bob)
	})
}

func TestRebootedHostIsReachedAgain(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		alice.assign("secure-server", key)
		bob.assign("client", key)
		if _, ok := connect(bob, alice); !ok {
			t.Fatalf("not connected: %+v", alice.status())
		}
		bob.restart(true)
		bob.pass(20 * time.Second)
		if kinds, ok := connect(bob, alice); !ok || kinds != "secured secured secured" {
			t.Errorf("after bob's reboot packets go %q: %+v, %+v", kinds, alice.status(), bob.status())
		}
	})
}

func TestRekeyLosesNothing(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		alice.assign("secure-server", key)
		bob.assign("secure-server", key)
		if _, ok := connect(alice, bob); !ok {
			t.Fatalf("not connected: %+v", alice.status())
		}
		lost := 0
		for range 3 * 60 * 6 {
			alice.pass(10 * time.Second)
			for _, hop := range [][2]*machine{{alice, bob}, {bob, alice}} {
				if left, arrived := packet(hop[0], hop[1], bob); left != drivertest.Secured || arrived != drivertest.Secured {
					lost++
				}
			}
		}
		if lost > 0 {
			t.Errorf("%d packets of 2160 were lost in 3 hours of rekeying", lost)
		}
		if got := len(alice.fake.SAs()); got > 4 {
			t.Errorf("%d associations are in force", got)
		}
	})
}

func TestNoCommonMethodSaysWhatDiffers(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		alice.assignText("{methods: [esp-aes256gcm]}", "[psk]", key)
		bob.assignText("{methods: [esp-aes128-sha256]}", "[psk]", key)
		packet(alice, bob, bob)
		alice.pass(5 * time.Second)
		for _, m := range []*machine{alice, bob} {
			f := m.status().Failures
			if len(f) != 1 || f[0].Code != string(ike.FailNoProposal) || len(f[0].Offered) == 0 {
				t.Fatalf("%s: %+v", m.addr, f)
			}
		}
		f := bob.status().Failures[0]
		if len(f.Received) == 0 || f.Differs == "" || !strings.Contains(strings.Join(f.Received, " "), "aes256gcm") {
			t.Errorf("bob: %+v", f)
		}
	})
}

const twoKeys = `apiVersion: ipsecagent/v1
kind: PresharedKeys
keys:
  - {name: weak, peers: [any], keys: ["a key that many hosts have"]}
  - {name: strong, peers: [any], keys: ["a key that few hosts have"]}
`

func TestWeakerIdentityDoesNotCarryTheStrongerRule(t *testing.T) {
	weakOnly := strings.Join(strings.Split(twoKeys, "\n")[:4], "\n") + "\n"
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		alice.assignText("{methods: [esp-aes256gcm]}", "[{psk: {key: weak}}]", weakOnly)
		bob.assignText("{methods: [esp-aes256gcm]}", "[{psk: {key: strong}}]", twoKeys)
		packet(alice, bob, bob)
		alice.pass(30 * time.Second)
		if len(bob.status().Secured) != 0 || len(bob.fake.SAs()) != 0 {
			t.Fatalf("secured by the weaker key: %+v", bob.status().Secured)
		}
		alice.assignText("{methods: [esp-aes256gcm]}", "[{psk: {key: strong}}]", twoKeys)
		if _, ok := connect(alice, bob); !ok {
			t.Fatalf("not connected: %+v", alice.status())
		}
		if s := bob.status().Secured; len(s) != 1 || s[0].Principal != "psk:strong" {
			t.Errorf("bob: %+v", s)
		}
	})
}

func TestBothBeginAtOnce(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		alice.assign("secure-server", key)
		bob.assign("secure-server", key)
		packet(alice, bob, bob)
		packet(bob, alice, bob)
		alice.pass(5 * time.Second)
		for _, hop := range [][2]*machine{{alice, bob}, {bob, alice}} {
			if left, arrived := packet(hop[0], hop[1], bob); left != drivertest.Secured || arrived != drivertest.Secured {
				t.Errorf("from %s a packet leaves %v and arrives %v", hop[0].addr, left, arrived)
			}
		}
		for range 4 * 60 { // rekeys do not multiply
			alice.pass(time.Minute)
			packet(alice, bob, bob)
			packet(bob, alice, bob)
		}
		if n := len(alice.fake.SAs()); n > 8 {
			t.Errorf("%d associations after four hours", n)
		}
		sameKeys(t, alice, bob)
	})
}

func TestPeerIsToldWhenPolicyEnds(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		alice.assign("server", key)
		bob.assign("server", key)
		if _, ok := connect(alice, bob); !ok {
			t.Fatal("not connected")
		}
		alice.unassign()
		if len(bob.fake.SAs()) != 0 || len(bob.status().Secured) != 0 {
			t.Fatalf("bob still has %+v", bob.status().Secured)
		}
		if left, _ := packet(bob, alice, bob); left != drivertest.Held {
			t.Errorf("within the grace a packet is %v", left)
		}
		bob.pass(grace + 2*time.Second)
		if left, _ := packet(bob, alice, bob); left != drivertest.Clear {
			t.Errorf("after the grace a packet is %v", left)
		}
	})
}

func TestDelayedRequestToASilentPeer(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		alice.assignText("{methods: [esp-aes256gcm], allowClear: true, clearDelay: 3s}", "[psk]", key)
		alice.net.setCut(true)
		if left, _ := packet(alice, bob, bob); left != drivertest.Held {
			t.Errorf("the first packet is %v", left)
		}
		alice.pass(4 * time.Second)
		if left, _ := packet(alice, bob, bob); left != drivertest.Passed {
			t.Errorf("after the delay a packet is %v", left)
		}
		alice.net.setCut(false)
		bob.assign("client", key)
		alice.pass(2 * time.Minute)
		if left, arrived := packet(alice, bob, bob); left != drivertest.Secured || arrived != drivertest.Secured {
			t.Errorf("with an answer a packet leaves %v and arrives %v", left, arrived)
		}
	})
}
