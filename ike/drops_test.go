package ike

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// TestDropsKeepTheirReasons: with more sources than are listed each reason is
// still counted, and with more reasons than that nothing grows.
func TestDropsKeepTheirReasons(t *testing.T) {
	m := New(Config{Rand: randomFrom(1)})
	for n := range uint16(1000) {
		from := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), n)
		m.drop(epoch, from, "one reason")
		m.drop(epoch, netip.AddrPort{}, InternalError)
		m.drop(epoch, from, fmt.Sprint("reason ", n))
	}
	if len(m.drops.counts) > 2*maxDropSources+1 {
		t.Errorf("%d counts are kept", len(m.drops.counts))
	}
	m.Tick(epoch.Add(time.Second))
	counts := map[string]int{}
	for o, ok := m.Poll(); ok; o, ok = m.Poll() {
		counts[o.(Dropped).Reason] += o.(Dropped).Count
	}
	total := 0
	for _, n := range counts {
		total += n
	}
	if counts["one reason"] != 1000 || counts[InternalError] != 1000 || total != 3000 {
		t.Errorf("%d and %d of %d dropped datagrams", counts["one reason"], counts[InternalError], total)
	}
}
