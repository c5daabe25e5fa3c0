package ike

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// flood is a responder and somebody without a key who keeps it busy.
type flood struct {
	t   *testing.T
	now time.Time
	at  netip.AddrPort
	m   *Machine
	n   uint64 // exchanges begun
}

func newFlood(t *testing.T) *flood {
	_, _, b := two(t, 1)
	b.m.newDH = func(sadb.Group, io.Reader) (keyExchange, error) {
		return recordedDH{bytes.Repeat([]byte{7}, 64), bytes.Repeat([]byte{8}, 32)}, nil
	}
	return &flood{t: t, now: epoch, at: netip.AddrPortFrom(b.addr, 500), m: b.m}
}

// send returns the last answer.
func (f *flood) send(from netip.AddrPort, data []byte) (answer []byte) {
	f.m.Handle(f.now, Packet{Local: f.at, Remote: from, Data: data})
	for o, ok := f.m.Poll(); ok; o, ok = f.m.Poll() {
		switch o := o.(type) {
		case Work:
			f.m.Handle(f.now, WorkDone{o.ID, o.Run()})
		case Send:
			answer = o.Data
		}
	}
	return answer
}

func (f *flood) wait(d time.Duration) {
	f.now = f.now.Add(d)
	f.m.Tick(f.now)
	for _, ok := f.m.Poll(); ok; _, ok = f.m.Poll() {
	}
}

// begin sends a first message; one is the only address, or each has its own.
func (f *flood) begin(one bool, more ...wire.Payload) (netip.AddrPort, wire.Header) {
	f.n++
	from, data := message1From(f.t, f.n)
	if one {
		from, _ = message1From(f.t, 0)
	}
	answer := f.send(from, rewrite(f.t, data, func(p []wire.Payload) []wire.Payload { return append(p, more...) }))
	h, _, err := wire.ParseHeader(answer)
	if err != nil || h.RCookie == [8]byte{} {
		f.t.Fatalf("first message %d was not answered: %v", f.n, err)
	}
	return from, h
}

// key goes on to message 3.
func (f *flood) key(one bool, more ...wire.Payload) (netip.AddrPort, wire.Header) {
	from, h := f.begin(one, more...)
	answer := f.send(from, wire.AppendClear(nil, h, append([]wire.Payload{
		{Type: wire.KEPayload, Body: bytes.Repeat([]byte{9}, 64)}, {Type: wire.NoncePayload, Body: make([]byte, 32)}}, more...)))
	if answer == nil {
		f.t.Fatalf("message 3 of exchange %d was not answered", f.n)
	}
	return from, h
}

// prove goes on to a message 5 under a wrong key.
func (f *flood) prove(one bool) {
	from, h := f.key(one)
	h.Flags, h.Next = wire.FlagEncrypted, wire.IDPayload
	f.send(from, append(h.Append(nil, 64), make([]byte, 64)...))
}

// garbage sends every forgery at an exchange under way.
func (f *flood) garbage(one bool) {
	from, h := f.begin(one)
	for _, data := range forgeries(h) {
		f.send(from, data)
	}
	from, h = f.key(one)
	for _, data := range forgeries(h) {
		f.send(from, data)
	}
}

// checkBounded checks that each exchange is in the table and that there is one
// timer for each, beside that of the counted drops.
func (f *flood) checkBounded() {
	f.t.Helper()
	n := f.m.halfOpen.len()
	if n > defaultHalfOpen || len(f.m.mains) != n || len(f.m.timers.heap) > n+1 || len(f.m.working) != 0 {
		f.t.Fatalf("after %d exchanges the table has %d, there are %d exchanges, %d timers, %d pieces of work",
			f.n, n, len(f.m.mains), len(f.m.timers.heap), len(f.m.working))
	}
}

// TestFloodBehindProvenExchanges: an address fills its share with exchanges
// that have returned our cookie and goes on with first messages. Its newest is
// welcome, its oldest goes, and nothing is kept of what has gone.
func TestFloodBehindProvenExchanges(t *testing.T) {
	f := newFlood(t)
	for range perAddress {
		f.key(true)
	}
	for range 10_000 {
		f.begin(true) // fails if it is not answered
	}
	f.checkBounded()
	if n := f.m.halfOpen.len(); n != perAddress {
		t.Errorf("%d exchanges of one address", n)
	}
	if from, h := f.begin(true); f.m.mains[saKey{h.ICookie, h.RCookie}] == nil {
		t.Errorf("the newest exchange of %s has gone", from)
	}
	if n := f.m.halfOpen.crowdReturned.list.Len(); n != perAddress-1 {
		t.Errorf("%d proven exchanges are left: only the oldest has to make room", n)
	}
}

// TestFullTableMakesRoomOnce: the address has its share, all of it proven, and
// the table is full: what makes room for the one is room for the other too.
func TestFullTableMakesRoomOnce(t *testing.T) {
	f := newFlood(t)
	f.m.halfOpen = newHalfOpen(4 * (perAddress + 5))
	for range perAddress {
		f.key(true)
	}
	for f.m.halfOpen.len() < f.m.halfOpen.size {
		f.begin(false)
	}
	f.begin(true)
	f.begin(false)
	if p, u := f.m.halfOpen.crowdReturned.list.Len(), f.m.halfOpen.crowd.list.Len(); p != perAddress-1 || p+u != f.m.halfOpen.size {
		t.Errorf("%d proven and %d unproven exchanges", p, u)
	}
	f.checkBounded()
}

// TestFailedHandshakesLeaveNothing: thousands of handshakes that fail, from
// one address and from many, leave no state and no memory behind.
func TestFailedHandshakesLeaveNothing(t *testing.T) {
	kinds := map[string]func(f *flood, one bool){
		"message 1 only":         func(f *flood, one bool) { f.begin(one) },
		"up to message 3":        func(f *flood, one bool) { f.key(one) },
		"wrong key in message 5": func(f *flood, one bool) { f.prove(one) },
		"garbage":                func(f *flood, one bool) { f.garbage(one) },
	}
	for name, fail := range kinds {
		for _, one := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, one address %t", name, one), func(t *testing.T) {
				f := newFlood(t)
				before := f.failed(fail, one) // the maps have their size now
				if after := f.failed(fail, one); after > before+1<<20 {
					t.Errorf("the heap grew from %d to %d bytes", before, after)
				}
			})
		}
	}
}

// failed returns the heap in use 125 s after many failed handshakes.
func (f *flood) failed(fail func(f *flood, one bool), one bool) uint64 {
	f.t.Helper()
	for range 5000 {
		fail(f, one)
		f.wait(time.Millisecond)
	}
	f.checkBounded()
	f.wait(halfOpenLife)
	f.wait(time.Second) // the drops are reported
	m := f.m
	if n := len(m.mains) + m.halfOpen.len() + len(m.halfOpen.addresses) + len(m.timers.heap) + len(m.working) +
		m.strangers.total + len(m.strangers.waiting) + len(m.drops.counts) + len(m.attempts); n != 0 {
		f.t.Errorf("%d things are left: %d exchanges, %d timers", n, len(m.mains), len(m.timers.heap))
	}
	return heapInUse()
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

// TestHalfOpenExchangeKeepsNoDatagram: what an exchange keeps of a message
// does not hold the whole of it, which may be far larger.
func TestHalfOpenExchangeKeepsNoDatagram(t *testing.T) {
	padding := wire.Payload{Type: wire.VendorPayload, Body: make([]byte, 9000)}
	for name, reach := range map[string]func(f *flood){
		"message 1": func(f *flood) { f.begin(false, padding) },
		"message 3": func(f *flood) { f.key(false, padding) },
	} {
		f := newFlood(t)
		before := heapInUse()
		const exchanges = 1000
		for range exchanges {
			reach(f)
		}
		if each := (heapInUse() - before) / exchanges; f.m.halfOpen.len() != exchanges || each > 6000 {
			t.Errorf("%s: %d exchanges keep %d bytes each", name, f.m.halfOpen.len(), each)
		}
	}
}
