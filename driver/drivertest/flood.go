package drivertest

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// flood sends from e to addresses until stop is called, which returns how many
// sends were tried: to each by a connected socket, which keeps its route, and
// by one that looks for it with each datagram; short ones and ones that need
// fragments.
func (e *end) flood(to ...netip.Addr) (stop func() int) {
	e.r.Helper()
	done, counts := make(chan struct{}), make(chan int)
	for _, a := range to {
		at := netip.AddrPortFrom(a, discard)
		c := e.ns().dial(e.r.T, at)
		u := inside(e.r.T, e.ns(), func() (*net.UDPConn, error) { return net.ListenUDP("udp", nil) })
		go pour(done, counts, c, func(b []byte) { _, _ = c.Write(b) }) // refusals are the point
		go pour(done, counts, u, func(b []byte) { _, _ = u.WriteToUDPAddrPort(b, at) })
	}
	return sync.OnceValue(func() int {
		close(done)
		sum := 0
		for range 2 * len(to) {
			sum += <-counts
		}
		return sum
	})
}

// discard is a port nobody listens on.
const discard = 9

// pour writes until done, in bursts that leave others most of the processor,
// however slow it is.
func pour(done <-chan struct{}, counts chan<- int, c interface{ Close() error }, write func([]byte)) {
	defer c.Close()
	short, long := make([]byte, 64), make([]byte, 4000)
	var took time.Duration
	for n := 0; ; {
		select {
		case <-done:
			counts <- n
			return
		case <-time.After(max(time.Millisecond, 32*took)):
		}
		began := time.Now()
		for range 8 {
			if n++; n%16 == 0 {
				write(long)
				continue
			}
			write(short)
		}
		took = time.Since(began)
	}
}

// underFlood does something while both hosts send to each other, and fails if
// anything went in clear or if next to nothing was tried: an emulated machine is
// slow.
func (r *rig) underFlood(do func()) {
	r.Helper()
	alice, bob := r.alice.flood(r.bob.V4, r.bob.V6), r.bob.flood(r.alice.V4, r.alice.V6)
	defer alice() // do may end the test
	defer bob()
	do()
	if n := alice() + bob(); n < 20 {
		r.Errorf("only %d datagrams were tried", n)
	}
	r.noClear()
}

// noClear fails the test if anything ever left a host in clear.
func (r *rig) noClear() {
	r.Helper()
	for _, e := range []*end{r.alice, r.bob} {
		if n := e.reading().clear; n != 0 {
			r.Fatalf("%d packets in clear on the wire from %s: %s", n, e.NS, e.Shown())
		}
	}
}

// carries waits until requests and answers are carried, in both families.
func (r *rig) carries() {
	r.Helper()
	for _, to := range []netip.Addr{r.bob.V4, r.bob.V6} {
		r.eventually("traffic to "+to.String()+" is carried", func() bool { return r.alice.pings(to) })
	}
}

// pings sends one echo request and reports whether it is answered.
func (e *end) pings(to netip.Addr) bool {
	_, err := e.ns().try("ping -n -q -c 1 -w 1 " + to.String())
	return err == nil
}

// eventually polls until ok, for as long as Patience.
func (r *rig) eventually(what string, ok func() bool) {
	r.Helper()
	for deadline := time.Now().Add(r.Patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("not within %s: %s", r.Patience, what)
		}
	}
}
