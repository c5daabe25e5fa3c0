package user

import (
	"net/netip"
	"sync/atomic"

	"ipsecagent/sadb"
)

// shared is what workers and engine have in common: a snapshot that changes as
// a whole, counters, and bounded channels to the engine for what needs state.
// Nothing here blocks a worker.
type shared struct {
	snap    atomic.Pointer[snapshot]
	misses  chan []byte // packets without an association, copied
	notices chan notice
	paths   chan struct{} // asks the engine to look at the routes' MTU
	lost    atomic.Bool   // a notice did not fit
	count   counters
	flows   flows
}

// counters of the data path; see driver.Counters.
type counters struct {
	out, in, noSA, badICV, replayed, malformed, badSelector, missDrops atomic.Uint64
}

// notice tells the engine what a packet has brought an association to.
type notice struct {
	a    *assoc
	kind noticeKind
}

type noticeKind uint8

const (
	firstUse noticeKind = iota
	softReached
	hardReached
	endpointMoved
)

func newShared() *shared {
	sh := &shared{
		misses:  make(chan []byte, 1024),
		notices: make(chan notice, 4096),
		paths:   make(chan struct{}, 1),
		flows:   flows{all: map[sadb.Flow]owner{}},
	}
	sh.snap.Store(newSnapshot(newSPD(nil)))
	return sh
}

// miss hands a copy of a packet to the engine, which knows whether it is to
// wait.
func (sh *shared) miss(packet []byte) {
	select {
	case sh.misses <- append([]byte(nil), packet...):
	default:
		sh.count.missDrops.Add(1)
	}
}

func (sh *shared) notify(a *assoc, k noticeKind) {
	select {
	case sh.notices <- notice{a, k}:
	default:
		sh.lost.Store(true)
	}
}

// reached passes on what count said.
func (sh *shared) reached(a *assoc, r reached) {
	switch r {
	case softLimit:
		sh.notify(a, softReached)
	case hardLimit:
		sh.notify(a, hardReached)
	}
}

// follow notes where an authentic packet of ESP in UDP came from, if that is
// another port of the peer than before. Another address is another peer: who
// forwards a peer's packets from there does not get what goes to it.
func (sh *shared) follow(a *assoc, from netip.AddrPort) {
	if from.Addr() != a.sa.Src {
		return
	}
	last := a.use.from.Load()
	if last == nil && from == a.sa.Encap.Remote || last != nil && from == *last {
		return
	}
	a.use.from.Store(&from)
	sh.notify(a, endpointMoved)
}

// exhausted ends an association whose sequence numbers are used up.
func (sh *shared) exhausted(a *assoc) {
	if !a.use.dead.Swap(true) {
		sh.notify(a, hardReached)
	}
}

// lookAtPaths asks for a look at the routes: a device turned out narrower.
func (sh *shared) lookAtPaths() {
	select {
	case sh.paths <- struct{}{}:
	default:
	}
}
