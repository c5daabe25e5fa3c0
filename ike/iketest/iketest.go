// Package iketest is a network between IKE machines in virtual time: it
// delays, loses, duplicates and reorders datagrams as a seed says, the same
// way in every run, and lets a test drop or alter a chosen one.
//
// It owns no clock and starts no goroutine: the test's loop sends at a time it
// names and takes the next delivery. It knows nothing of what is inside a
// datagram, nor of the machines.
//
//	net := iketest.New(1)
//	net.Attach(a, b)
//	net.SetPath(iketest.Path{Loss: 0.3, Delay: 20 * time.Millisecond})
//	net.Send(now, a, b, data)
//	for {
//		at, d, ok := net.Next()
//		// the machine at d.To takes d.Data at the time at and answers by Send
//	}
package iketest

import (
	"container/heap"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// Path is what happens on the way in one direction. The zero value delivers
// everything at once and in order.
type Path struct {
	Loss      float64       // probability that a datagram is lost
	Duplicate float64       // probability that it arrives twice
	Reorder   float64       // probability that it is late and others overtake it
	Delay     time.Duration // of every datagram
	Jitter    time.Duration // at most this much more, without overtaking
	Late      time.Duration // how much more a reordered one takes
}

// Delivery is a datagram that arrives.
type Delivery struct {
	From, To netip.AddrPort
	Data     []byte // the receiver's own copy
}

// Counts is what has happened to the datagrams of one direction.
type Counts struct {
	Sent       int
	Lost       int // by the path
	Dropped    int // by a hook
	Nowhere    int // no endpoint at the destination
	Duplicated int
	Reordered  int
	Delivered  int // taken by Next, copies included
}

// Hook sees a datagram before the path does and returns what goes on instead
// of it; nil drops it. It may change data in place.
type Hook func(data []byte) []byte

// Net is the network. It is used by one goroutine.
type Net struct {
	seed      uint64
	usual     Path
	paths     map[addrs]Path
	endpoints map[netip.AddrPort]bool
	links     map[link]*state
	queue     queue
	sequence  uint64
	now       time.Time
}

// addrs is a direction between hosts, link one between endpoints.
type (
	addrs struct{ from, to netip.Addr }
	link  struct{ from, to netip.AddrPort }
)

// state is what a direction remembers.
type state struct {
	random *rand.Rand
	hooks  map[int]Hook
	counts Counts
	last   time.Time // of the latest arrival in order
}

// New returns an empty network. Networks with the same seed that are used the
// same way behave the same way.
func New(seed uint64) *Net {
	return &Net{seed: seed, paths: map[addrs]Path{}, endpoints: map[netip.AddrPort]bool{}, links: map[link]*state{}}
}

// Attach adds endpoints. A datagram to an address and port that nobody has
// attached when it arrives is lost.
func (n *Net) Attach(endpoints ...netip.AddrPort) {
	for _, e := range endpoints {
		n.endpoints[e] = true
	}
}

// Detach takes an endpoint away, as a crash does. What is under way to it is
// lost.
func (n *Net) Detach(endpoint netip.AddrPort) { delete(n.endpoints, endpoint) }

// SetPath sets the path between all hosts that have none of their own.
func (n *Net) SetPath(p Path) { n.usual = p }

// SetDirection sets the path in one direction between two hosts, whatever the
// ports. It counts for what is sent from then on.
func (n *Net) SetDirection(from, to netip.Addr, p Path) { n.paths[addrs{from, to}] = p }

// OnNth gives the nth datagram (from 1) sent in a direction to a hook. A
// retransmission counts as a datagram of its own.
func (n *Net) OnNth(from, to netip.AddrPort, nth int, h Hook) {
	n.link(from, to).hooks[nth] = h
}

// DropNth drops the given datagrams (from 1) of a direction.
func (n *Net) DropNth(from, to netip.AddrPort, nth ...int) {
	for _, i := range nth {
		n.OnNth(from, to, i, func([]byte) []byte { return nil })
	}
}

// Counts returns what has happened in one direction so far.
func (n *Net) Counts(from, to netip.AddrPort) Counts { return n.link(from, to).counts }

// Send puts a datagram on its way. The network keeps a copy of data.
func (n *Net) Send(now time.Time, from, to netip.AddrPort, data []byte) {
	if now.Before(n.now) {
		now = n.now // nothing arrives before what has been delivered
	}
	l := n.link(from, to)
	l.counts.Sent++
	data = slices.Clone(data)
	if h := l.hooks[l.counts.Sent]; h != nil {
		if data = h(data); data == nil {
			l.counts.Dropped++
			return
		}
	}
	n.carry(now, l, Delivery{from, to, data})
}

// carry decides the fate of a datagram. It always draws the same number of
// random values, so that one fate does not change the next one.
func (n *Net) carry(now time.Time, l *state, d Delivery) {
	p := n.path(d)
	lost, twice, late := l.random.Float64() < p.Loss, l.random.Float64() < p.Duplicate, l.random.Float64() < p.Reorder
	first, second := l.random.Float64(), l.random.Float64()
	if lost {
		l.counts.Lost++
		return
	}
	at := now.Add(p.Delay + time.Duration(first*float64(p.Jitter)))
	if late {
		l.counts.Reordered++
		n.push(at.Add(p.Late), d)
	} else {
		n.push(l.inOrder(at), d)
	}
	if twice {
		l.counts.Duplicated++
		copied := Delivery{d.From, d.To, slices.Clone(d.Data)}
		n.push(l.inOrder(now.Add(p.Delay+time.Duration(second*float64(p.Jitter)))), copied)
	}
}

// inOrder moves at behind what was sent before and is not late.
func (l *state) inOrder(at time.Time) time.Time {
	if at.Before(l.last) {
		return l.last
	}
	l.last = at
	return at
}

// NextTime returns when the next delivery is due; false: nothing is under way.
func (n *Net) NextTime() (time.Time, bool) {
	n.discard()
	if len(n.queue) == 0 {
		return time.Time{}, false
	}
	return n.queue[0].at, true
}

// Next returns the next datagram that arrives and when; false: nothing is
// under way. Datagrams due at the same time come in the order of sending.
func (n *Net) Next() (time.Time, Delivery, bool) {
	n.discard()
	if len(n.queue) == 0 {
		return time.Time{}, Delivery{}, false
	}
	e := heap.Pop(&n.queue).(event)
	n.now = e.at
	n.link(e.d.From, e.d.To).counts.Delivered++
	return e.at, e.d, true
}

// discard drops what is due first and has no endpoint.
func (n *Net) discard() {
	for len(n.queue) > 0 && !n.endpoints[n.queue[0].d.To] {
		d := heap.Pop(&n.queue).(event).d
		n.link(d.From, d.To).counts.Nowhere++
	}
}

func (n *Net) path(d Delivery) Path {
	if p, ok := n.paths[addrs{d.From.Addr(), d.To.Addr()}]; ok {
		return p
	}
	return n.usual
}

// link returns the state of a direction. Each has random numbers of its own,
// so that what one direction sends does not change the other's fate.
func (n *Net) link(from, to netip.AddrPort) *state {
	key := link{from, to}
	if n.links[key] == nil {
		h := fnv.New64a()
		h.Write([]byte(from.String() + ">" + to.String())) // never fails (package hash)
		n.links[key] = &state{random: rand.New(rand.NewPCG(n.seed, h.Sum64())), hooks: map[int]Hook{}}
	}
	return n.links[key]
}

func (n *Net) push(at time.Time, d Delivery) {
	n.sequence++
	heap.Push(&n.queue, event{at, n.sequence, d})
}
