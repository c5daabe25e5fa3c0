package drivertest

import (
	"context"
	"net/netip"
	"os/exec"
	"slices"
	"testing"
	"time"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// Harness is what Run needs to put a driver to the test.
type Harness struct {
	// Hosts starts two drivers without filters and associations at the two
	// ends of one link, and ends them with t. Used for each test anew.
	Hosts func(t *testing.T) (alice, bob *Host)
	// Now is the drivers' clock, Pass lets some of its time go by.
	Now  func() time.Time
	Pass func(d time.Duration)
	// Patience is how long what should happen may take, in real time.
	Patience time.Duration
	// Silence is how long, in real time, to look for what must not happen.
	Silence time.Duration
	// Connection is the type of the link; the zero value: LAN.
	Connection sadb.ConnectionType
	// Packets says that the drivers move packets over a wire. Without it
	// Run tests the control half only, and says so.
	Packets bool

	// Foreign (Leaks) is what other programs do to the drivers' own things.
	Foreign []Foreign
	// Sample (Leaks) names the tests to run where the everyday run takes a
	// sample, besides those of Foreign; nil: all.
	Sample []string
	// Steering (Leaks) is how Tampered names what of the driver goes when a
	// program deletes the routing rules it does not know; "": it has none.
	Steering string
	// Carrier (Killed) says that a process carries the packets.
	Carrier bool
	// Moments (Killed) is how many times a process is killed, Steps by how many
	// steps of an agent's work at most.
	Moments, Steps int
}

// Host is a driver and the machine it protects.
type Host struct {
	Driver driver.Driver
	V4, V6 netip.Addr // its addresses on the link
	// Send makes an application of the host send one UDP datagram. Whether
	// the host's kernel refuses it (a blocked one) is of no interest.
	Send func(src, dst netip.AddrPort, payload []byte)
	// Reopen closes Driver and returns a fresh connection to what it left
	// in force.
	Reopen func(t *testing.T) driver.Driver

	// Listen (Packets) returns what applications of the host receive by UDP
	// at an address from now on. The channel has room for 100 datagrams.
	Listen func(t *testing.T, at netip.AddrPort) <-chan []byte
	// Wire (Packets) counts the packets that left the host on the link so
	// far: ESP, its fragments included, and everything else but ARP,
	// neighbour discovery and multicast listener discovery.
	Wire func(t *testing.T) (esp, clear int)

	// NS (Leaks, Killed) is the host's network namespace, as ip-netns(8)
	// names it; its link is eth0.
	NS string
	// Shown (Leaks, Killed) says what was in clear on the link, in words.
	Shown func() string
	// Agent (Killed) returns a command, not yet started, that runs Job.Do
	// with the driver of the host.
	Agent func(t *testing.T) *exec.Cmd
	// Crash (Killed) kills the process that carries the packets, where one
	// does (Carrier). Reopen starts it again.
	Crash func()
}

// Run is the conformance test of driver.Driver. The control half is about what
// the driver is told and tells; the packet half is about what becomes of real
// packets between two hosts.
func Run(t *testing.T, h Harness) {
	for _, c := range controlTests() {
		t.Run("control/"+c.name, func(t *testing.T) { c.run(newRig(t, h)) })
	}
	if !h.Packets {
		t.Log("the packet half is not run: this driver moves no packets")
		return
	}
	runPackets(t, h, slices.Concat(packetTests(), shapeTests(), connectionTests()))
}

// runPackets runs tests of the packet half in both families.
func runPackets(t *testing.T, h Harness, tests []namedTest) {
	for _, c := range tests {
		for _, v6 := range []bool{false, true} {
			name := "packets/" + c.name + "/ipv4"
			if v6 {
				name = "packets/" + c.name + "/ipv6"
			}
			t.Run(name, func(t *testing.T) {
				r := newRig(t, h)
				r.v6 = v6
				c.run(r)
			})
		}
	}
}

type namedTest struct {
	name string
	run  func(r *rig)
}

// rig is one test with its two hosts.
type rig struct {
	*testing.T
	Harness
	v6         bool
	alice, bob *end

	spi sadb.SPI // Leaks, Killed: of the next association
}

// end is one host with the events its driver raised.
type end struct {
	*Host
	r      *rig
	events []driver.Event
}

func newRig(t *testing.T, h Harness) *rig {
	r := &rig{T: t, Harness: h}
	alice, bob := h.Hosts(t)
	r.alice, r.bob = &end{Host: alice, r: r}, &end{Host: bob, r: r}
	return r
}

// ctx bounds one call.
func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	r.Cleanup(cancel)
	return ctx
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// await returns the first event for which match holds, one that came before
// included. It fails the test when none comes.
func await[E driver.Event](e *end, what string, match func(E) bool) E {
	e.r.Helper()
	ev, ok := seek(e, e.r.Patience, match)
	if !ok {
		e.r.Fatalf("no %s: events %+v", what, e.events)
	}
	return ev
}

// refuse fails the test if an event for which match holds comes.
func refuse[E driver.Event](e *end, what string, match func(E) bool) {
	e.r.Helper()
	if ev, ok := seek(e, e.r.Silence, match); ok {
		e.r.Fatalf("%s: %+v", what, ev)
	}
}

// seek takes the first matching event out of those that came, waiting for it.
func seek[E driver.Event](e *end, wait time.Duration, match func(E) bool) (found E, ok bool) {
	deadline := time.After(wait)
	for i := 0; ; i++ {
		for i == len(e.events) {
			if !e.read(deadline) {
				return found, false
			}
		}
		if ev, is := e.events[i].(E); is && match(ev) {
			e.events = slices.Delete(e.events, i, i+1)
			return ev, true
		}
	}
}

// read waits for one more event. What is there already comes before the
// deadline.
func (e *end) read(deadline <-chan time.Time) bool {
	select {
	case ev := <-e.Driver.Events():
		return e.keep(ev)
	default:
	}
	select {
	case ev := <-e.Driver.Events():
		return e.keep(ev)
	case <-deadline:
		return false
	}
}

func (e *end) keep(ev driver.Event) bool {
	if ev != nil { // nil: the driver was closed
		e.events = append(e.events, ev)
	}
	return ev != nil
}

func (e *end) set(filters ...sadb.Filter) {
	e.r.Helper()
	e.r.must(e.Driver.SetFilters(e.r.ctx(), filters))
}

func (e *end) put(f sadb.Filter) {
	e.r.Helper()
	e.r.must(e.Driver.PutFilter(e.r.ctx(), f))
}

func (e *end) add(sa sadb.SA) {
	e.r.Helper()
	e.r.must(e.Driver.AddSA(e.r.ctx(), sa))
}

func (e *end) remove(id sadb.SAID) {
	e.r.Helper()
	e.r.must(e.Driver.DeleteSA(e.r.ctx(), id))
}

func (e *end) state() driver.State {
	e.r.Helper()
	s, err := e.Driver.State(e.r.ctx())
	e.r.must(err)
	return s
}

// until polls the driver's state.
func (e *end) until(what string, ok func(driver.State) bool) {
	e.r.Helper()
	for deadline := time.Now().Add(e.r.Patience); ; time.Sleep(10 * time.Millisecond) {
		s := e.state()
		if ok(s) {
			return
		}
		if time.Now().After(deadline) {
			e.r.Fatalf("never %s: %+v", what, s)
		}
	}
}

// order returns the IDs of what decides.
func (e *end) order() []sadb.FilterID {
	e.r.Helper()
	var ids []sadb.FilterID
	for _, f := range e.state().Filters {
		ids = append(ids, f.Filter.ID)
	}
	return ids
}

func (e *end) wantOrder(want ...sadb.FilterID) {
	e.r.Helper()
	if got := e.order(); !slices.Equal(got, want) {
		e.r.Fatalf("filters in force: %v, want %v", got, want)
	}
}

// sa returns the state of an association.
func (e *end) sa(id sadb.SAID) (driver.SAState, bool) {
	e.r.Helper()
	for _, s := range e.state().SAs {
		if s.SA.ID == id {
			return s, true
		}
	}
	return driver.SAState{}, false
}

// addr returns the end's address of the family under test.
func (e *end) addr() netip.Addr {
	if e.r.v6 {
		return e.V6
	}
	return e.V4
}

// filter returns a filter for UDP from this end to an address and port; the
// zero Addr: any, 0: any.
func (e *end) filter(id sadb.FilterID, to netip.Addr, port uint16, a sadb.Action) sadb.Filter {
	s := sadb.Selector{Local: sadb.Me(), Proto: sadb.UDP, RemotePorts: sadb.Ports{From: port, To: port}}
	if to.IsValid() {
		s.Remote = sadb.Addr(to)
	}
	return sadb.Filter{ID: id, Name: "conformance " + string(id), Selector: s, Dir: sadb.Both, Action: a}
}

// The actions of the tests.
func require() sadb.Action { return sadb.Action{Kind: sadb.Negotiate} }
func request() sadb.Action {
	return sadb.Action{Kind: sadb.Negotiate, AllowClear: true, PassThrough: true}
}

// send sends a datagram to a port of the other end.
func (e *end) send(to *end, port uint16, payload string) {
	e.Send(netip.AddrPortFrom(e.addr(), sourcePort), netip.AddrPortFrom(to.addr(), port), []byte(payload))
}

// sourcePort is where the datagrams of the tests come from.
const sourcePort = 40000
