package drivertest

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

func packetTests() []namedTest {
	return []namedTest{
		{"no filter, in clear", noFilter},
		{"permit, in clear", permit},
		{"block, nothing", block},
		{"require waits for the association", requireWaits},
		{"require accepts nothing in clear", requireInbound},
		{"pass-through accepts in clear", passThrough},
		{"request goes in clear, and no more once required", requestThenRequired},
		{"every suite", everySuite},
		{"a large datagram", largeDatagram},
		{"a wrong key", wrongKey},
		{"a replacement takes the traffic", replacement},
		{"a deleted association leaves nothing in clear", deleted},
		{"an association carries its selector only", selectorHolds},
		{"an association serves its filter only", filterHolds},
		{"the limit in packets", packetLimit},
		{"an expired overlay permits no more", overlayExpires},
		{"Abandon drops what waits", abandonDrops},
		{"another client, the same traffic", reopened},
		{"filters replaced under traffic", reloaded},
		{"one filter of many changed under traffic", changed},
	}
}

const port = 7000

// listen returns what bob's applications receive at a port.
func (e *end) listen(port uint16) <-chan []byte {
	e.r.Helper()
	return e.Listen(e.r.T, netip.AddrPortFrom(e.addr(), port))
}

func (r *rig) arrives(ch <-chan []byte, want string) {
	r.Helper()
	deadline := time.After(r.Patience)
	select {
	case got := <-ch:
		if string(got) != want {
			r.Fatalf("%d bytes %.40q arrived, want %d bytes %.40q", len(got), got, len(want), want)
		}
	case <-deadline:
		r.Fatalf("%.40q did not arrive", want)
	}
}

func (r *rig) arrivesNot(ch <-chan []byte, why string) {
	r.Helper()
	select {
	case got := <-ch:
		r.Fatalf("%.40q arrived: %s", got, why)
	case <-time.After(r.Silence):
	}
}

// wire is a reading of a host's counters.
type wire struct{ esp, clear int }

func (e *end) reading() wire {
	e.r.Helper()
	esp, clear := e.Wire(e.r.T)
	return wire{esp, clear}
}

// left judges what left a host on the link since a reading: whether there was
// ESP, and whether there was anything in clear.
func (e *end) left(since wire, esp, clear bool) {
	e.r.Helper()
	now := e.reading()
	if (now.esp > since.esp) != esp || (now.clear > since.clear) != clear {
		e.r.Fatalf("%d ESP and %d other packets left, want ESP %v and other %v", now.esp-since.esp, now.clear-since.clear, esp, clear)
	}
}

// pair installs an association from one end to the other on both.
func (r *rig) pair(from, to *end, sa sadb.SA) {
	r.Helper()
	r.inbound(to, sa)
	from.add(sa)
}

// inbound installs the receiving half.
func (r *rig) inbound(to *end, sa sadb.SA) {
	r.Helper()
	in := sa
	in.Dir, in.Selector = sadb.In, sa.Selector.Mirror()
	in.Replaces = sadb.SAID{}
	to.add(in)
}

// required sets a filter "f" with require for every UDP between the two, on
// both hosts.
func (r *rig) required() {
	r.Helper()
	r.alice.set(r.alice.between("f", r.bob, require()))
	r.bob.set(r.bob.between("f", r.alice, require()))
}

func (e *end) between(id sadb.FilterID, peer *end, a sadb.Action) sadb.Filter {
	return e.filter(id, peer.addr(), 0, a)
}

func noFilter(r *rig) {
	ch, before := r.bob.listen(port), r.alice.reading()
	r.alice.send(r.bob, port, "hello")
	r.arrives(ch, "hello")
	r.alice.left(before, false, true)
}

func permit(r *rig) {
	r.alice.set(r.alice.filter("p", r.bob.addr(), port, sadb.Action{Kind: sadb.Permit}), r.alice.between("f", r.bob, sadb.Action{}))
	noFilter(r)
}

func block(r *rig) {
	r.alice.set(r.alice.between("f", r.bob, sadb.Action{}))
	ch, before := r.bob.listen(port), r.alice.reading()
	r.alice.send(r.bob, port, "hello")
	r.arrivesNot(ch, "its filter blocks")
	r.alice.left(before, false, false)
}

func requireWaits(r *rig) {
	r.required()
	ch, before := r.bob.listen(port), r.alice.reading()
	r.alice.send(r.bob, port, "first")
	r.alice.asked("f", r.bob)
	r.arrivesNot(ch, "there is no association")
	r.alice.left(before, false, false)
	sa := r.sa(r.alice, r.bob, "f", 6001)
	r.pair(r.alice, r.bob, sa)
	r.arrives(ch, "first")
	r.alice.send(r.bob, port, "second")
	r.arrives(ch, "second")
	r.alice.left(before, true, false)
	await(r.bob, "Used", func(e driver.Used) bool { return e.ID == sa.ID })
	refuse(r.bob, "Used twice", func(e driver.Used) bool { return e.ID == sa.ID })
	for _, e := range []*end{r.alice, r.bob} {
		e.until("counted", func(driver.State) bool {
			s, ok := e.sa(sa.ID)
			return ok && s.Packets == 2 && s.Seq == 2 && s.Bytes > 0 && !s.LastUsed.IsZero()
		})
	}
}

func requireInbound(r *rig) {
	r.bob.set(r.bob.between("f", r.alice, require()))
	ch := r.bob.listen(port)
	r.alice.send(r.bob, port, "hello")
	r.alice.send(r.bob, port, strings.Repeat("in fragments ", 500))
	r.arrivesNot(ch, "bob requires security")
	r.bob.until("counted", func(s driver.State) bool { return s.Counters.InClear > 0 })
}

func passThrough(r *rig) {
	r.bob.set(r.bob.between("f", r.alice, sadb.Action{Kind: sadb.Negotiate, PassThrough: true}))
	ch, before := r.bob.listen(port), r.bob.reading()
	r.alice.send(r.bob, port, "hello")
	r.arrives(ch, "hello")
	r.bob.send(r.alice, port, "answer")
	r.bob.asked("f", r.alice)
	r.bob.left(before, false, false)
}

func requestThenRequired(r *rig) {
	r.alice.set(r.alice.between("f", r.bob, request()))
	ch := r.bob.listen(port)
	r.alice.send(r.bob, port, "in clear")
	r.arrives(ch, "in clear")
	if q := r.alice.asked("f", r.bob); !q.Clear {
		r.Error("Acquire does not say that the packet went in clear")
	}
	r.alice.put(above(r.alice.between("o", r.bob, require()), "f"))
	before := r.alice.reading()
	r.alice.send(r.bob, port, "secured")
	r.arrivesNot(ch, "the overlay requires security")
	r.alice.left(before, false, false)
	r.bob.set(r.bob.between("f", r.alice, require()))
	r.pair(r.alice, r.bob, r.sa(r.alice, r.bob, "f", 6001))
	r.alice.send(r.bob, port, "again")
	r.seen(ch, "again")
	r.alice.left(before, true, false)
}

// seen awaits a datagram, whatever else arrives before it.
func (r *rig) seen(ch <-chan []byte, want string) {
	r.Helper()
	deadline := time.After(r.Patience)
	for {
		select {
		case got := <-ch:
			if string(got) == want {
				return
			}
		case <-deadline:
			r.Fatalf("%.40q did not arrive", want)
		}
	}
}

func everySuite(r *rig) {
	r.required()
	ch, before := r.bob.listen(port), r.alice.reading()
	suites := r.alice.state().Suites
	if len(suites) == 0 {
		r.Fatal("State names no suite")
	}
	for i, s := range suites {
		sa := r.suiteSA(r.alice, r.bob, "f", sadb.SPI(6001+i), s.String())
		r.pair(r.alice, r.bob, sa)
		for n := range 18 {
			want := fmt.Sprintf("%s %d %s", s, n, strings.Repeat("x", n))
			r.alice.send(r.bob, port, want)
			r.arrives(ch, want)
		}
		if got, _ := r.bob.sa(sa.ID); got.Packets < 18 {
			r.Errorf("%s: %d packets by its association", s, got.Packets)
		}
	}
	r.alice.left(before, true, false)
}

func largeDatagram(r *rig) {
	r.required()
	ch, before := r.bob.listen(port), r.alice.reading()
	r.pair(r.alice, r.bob, r.sa(r.alice, r.bob, "f", 6001))
	for _, n := range []int{1400, 1473, 8000, 60000} {
		want := strings.Repeat("0123456789abcdef", n/16)
		r.alice.send(r.bob, port, want)
		r.arrives(ch, want)
	}
	r.alice.left(before, true, false)
}

func wrongKey(r *rig) {
	r.required()
	ch := r.bob.listen(port)
	sa := r.sa(r.alice, r.bob, "f", 6001)
	forged := sa
	forged.EncKey = keyFor(1, sa.EncKey.Len())
	r.inbound(r.bob, forged)
	r.alice.add(sa)
	r.alice.send(r.bob, port, "hello")
	r.arrivesNot(ch, "its key is wrong")
	r.bob.until("counted", func(s driver.State) bool {
		got, ok := r.bob.sa(sa.ID)
		return ok && got.BadICV == 1 && got.Packets == 0 && s.Counters.BadICV > 0
	})
	refuse(r.bob, "a forged packet counts as use", func(driver.Used) bool { return true })
}

func replacement(r *rig) {
	r.required()
	ch, before := r.bob.listen(port), r.alice.reading()
	old := r.sa(r.alice, r.bob, "f", 6001)
	r.pair(r.alice, r.bob, old)
	r.alice.send(r.bob, port, "by the old")
	r.arrives(ch, "by the old")
	for i := range 20 {
		next := r.sa(r.alice, r.bob, "f", old.ID.SPI+10)
		next.Replaces = old.ID
		r.pair(r.alice, r.bob, next)
		want := fmt.Sprintf("generation %d", i)
		r.alice.send(r.bob, port, want)
		r.arrives(ch, want)
		if got, _ := r.bob.sa(next.ID); got.Packets != 1 {
			r.Fatalf("%d packets by the replacement", got.Packets)
		}
		r.alice.remove(old.ID)
		r.bob.remove(old.ID)
		old = next
	}
	r.alice.left(before, true, false)
}

func deleted(r *rig) {
	r.required()
	ch := r.bob.listen(port)
	sa := r.sa(r.alice, r.bob, "f", 6001)
	r.pair(r.alice, r.bob, sa)
	r.alice.send(r.bob, port, "one")
	r.arrives(ch, "one")
	r.bob.remove(sa.ID)
	r.alice.send(r.bob, port, "two")
	r.arrivesNot(ch, "bob has deleted the association")
	r.bob.until("counted", func(s driver.State) bool { return s.Counters.NoSA > 0 })
	r.alice.remove(sa.ID)
	before := r.alice.reading()
	r.alice.send(r.bob, port, "three")
	r.alice.asked("f", r.bob)
	r.arrivesNot(ch, "there is no association")
	r.alice.left(before, false, false)
}

// selectorHolds: what is authentic but not what the association may carry is
// dropped (RFC 4301 §5.2).
func selectorHolds(r *rig) {
	r.required()
	ch, other := r.bob.listen(port), r.bob.listen(port+1)
	sa := r.sa(r.alice, r.bob, "f", 6001)
	narrow := sa
	narrow.Selector.RemotePorts = sadb.Port(port)
	r.inbound(r.bob, narrow)
	r.alice.add(sa)
	r.alice.send(r.bob, port+1, "hello")
	r.arrivesNot(other, "its port is not the association's")
	r.bob.until("counted", func(s driver.State) bool { return s.Counters.BadSelector > 0 })
	r.alice.send(r.bob, port, "allowed")
	r.arrives(ch, "allowed")
}

// filterHolds: an association does not carry what another filter decides, a
// stricter or another one.
func filterHolds(r *rig) {
	r.alice.set(r.alice.between("f", r.bob, require()))
	g := r.bob.filter("g", r.alice.addr(), 0, require())
	g.Selector.LocalPorts = sadb.Port(port + 1)
	r.bob.set(g, r.bob.between("f", r.alice, require()))
	ch, other := r.bob.listen(port), r.bob.listen(port+1)
	r.pair(r.alice, r.bob, r.sa(r.alice, r.bob, "f", 6001))
	r.alice.send(r.bob, port+1, "hello")
	r.arrivesNot(other, "another filter decides about it")
	r.bob.until("counted", func(s driver.State) bool { return s.Counters.BadSelector > 0 })
	r.alice.send(r.bob, port, "allowed")
	r.arrives(ch, "allowed")
}

func packetLimit(r *rig) {
	r.required()
	ch, before := r.bob.listen(port), r.alice.reading()
	sa := r.sa(r.alice, r.bob, "f", 6001)
	r.inbound(r.bob, sa)
	sa.Lifetime = sadb.Lifetime{Soft: sadb.Limits{Packets: 2}, Hard: sadb.Limits{Packets: 4}}
	r.alice.add(sa)
	for i := range 3 {
		want := fmt.Sprint("datagram ", i)
		r.alice.send(r.bob, port, want)
		r.arrives(ch, want)
	}
	await(r.alice, "soft Expire", func(e driver.Expire) bool { return e.ID == sa.ID && !e.Hard })
	for range 6 {
		r.alice.send(r.bob, port, "more")
	}
	await(r.alice, "hard Expire", func(e driver.Expire) bool { return e.ID == sa.ID && e.Hard })
	if now := r.alice.reading(); now.esp-before.esp > 4 {
		r.Errorf("%d packets by an association for 4", now.esp-before.esp)
	}
	r.alice.left(before, true, false)
	r.alice.asked("f", r.bob)
}

func overlayExpires(r *rig) {
	r.alice.set(r.alice.between("f", r.bob, require()))
	ch := r.bob.listen(port)
	soft := above(r.alice.between("soft", r.bob, sadb.Action{Kind: sadb.Permit}), "f")
	soft.Expires = r.Now().Add(2 * time.Second)
	r.alice.put(soft)
	r.alice.send(r.bob, port, "in clear")
	r.arrives(ch, "in clear")
	r.Pass(2100 * time.Millisecond)
	await(r.alice, "FilterEnded", func(e driver.FilterEnded) bool { return e.ID == "soft" })
	before := r.alice.reading()
	r.alice.send(r.bob, port, "secured")
	r.arrivesNot(ch, "the overlay has expired")
	r.alice.left(before, false, false)
}

func abandonDrops(r *rig) {
	r.required()
	ch := r.bob.listen(port)
	r.alice.send(r.bob, port, "lost")
	q := r.alice.asked("f", r.bob)
	r.must(r.alice.Driver.Abandon(r.ctx(), q))
	r.pair(r.alice, r.bob, r.sa(r.alice, r.bob, "f", 6001))
	r.alice.send(r.bob, port, "sent")
	r.arrives(ch, "sent")
}

func reopened(r *rig) {
	r.required()
	ch := r.bob.listen(port)
	sa := r.sa(r.alice, r.bob, "f", 6001)
	r.pair(r.alice, r.bob, sa)
	r.alice.send(r.bob, port, "one")
	r.arrives(ch, "one")
	before := r.alice.reading()
	r.alice.Driver = r.alice.Reopen(r.T)
	r.alice.events = nil
	r.required()
	r.alice.send(r.bob, port, "two")
	r.arrives(ch, "two")
	r.alice.left(before, true, false)
	if got, ok := r.alice.sa(sa.ID); !ok || got.Packets != 2 {
		r.Errorf("the association counts %d packets, want 2", got.Packets)
	}
}

// reloaded replaces every filter by others that require as much, again and
// again, while an application sends: nothing leaves in clear in between.
func reloaded(r *rig) {
	narrow, wide := r.alice.filter("narrow", r.bob.addr(), port, require()), r.alice.between("wide", r.bob, require())
	r.alice.set(wide)
	r.underTraffic(func() {
		for range 50 {
			r.alice.set(narrow)
			r.alice.set(wide, narrow)
			r.alice.set(wide)
		}
	})
}

// changed changes a long list a little, again and again, while an application
// sends what another filter of it requires to be secured, and one below that
// permits: nothing leaves in clear in between.
func changed(r *rig) {
	var list []sadb.Filter
	for i := range 40 {
		other := netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})
		list = append(list, r.alice.filter(sadb.FilterID(fmt.Sprint("other", i)), other, port, require()))
	}
	wide, open := r.alice.between("wide", r.bob, require()), r.alice.between("open", r.bob, sadb.Action{Kind: sadb.Permit})
	r.alice.set(append(list, wide, open)...)
	r.underTraffic(func() {
		for i := range 100 {
			list[i%len(list)].Action.Kind = sadb.ActionKind(i % 2)
			wide.Selector.RemotePorts = sadb.Ports{From: uint16(i), To: port}
			wide.Action.Kind = []sadb.ActionKind{sadb.Negotiate, sadb.Block}[i/3%2]
			r.alice.set(append(list, wide, open)...)
			r.alice.put(above(r.alice.filter("overlay", r.bob.addr(), port, require()), "wide"))
		}
	})
}

// underTraffic does something while an application of alice sends to bob, none
// of which may leave in clear.
func (r *rig) underTraffic(do func()) {
	r.Helper()
	ch, before := r.bob.listen(port), r.alice.reading()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				r.alice.send(r.bob, port, "in clear")
			}
		}
	}()
	do()
	close(stop)
	<-done
	r.arrivesNot(ch, "every filter list required security")
	r.alice.left(before, false, false)
}
