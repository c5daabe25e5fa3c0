package nft

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ipsecagent/sadb"
)

// manyFilters returns n filters of the usual kinds, most specific first, none
// of which covers b.
func manyFilters(n int) []sadb.Filter {
	var list []sadb.Filter
	for i := range n {
		f := filter(fmt.Sprintf("f%d", i), []sadb.Action{require, permit, block, require}[i%4])
		a := netip.AddrFrom4([4]byte{172, byte(16 + i>>16), byte(i >> 8), byte(i)})
		f.Selector.Remote = sadb.Addr(a)
		switch i % 3 {
		case 0:
			f.Selector.Proto, f.Selector.RemotePorts = sadb.TCP, sadb.Port(443)
		case 1:
			f.Selector.Proto, f.Selector.LocalPorts = sadb.TCP, sadb.Ports{From: 1000, To: uint16(2000 + i%100)}
		}
		list = append(list, f)
	}
	return append(list, filter("rest", require))
}

func TestTenThousandFilters(t *testing.T) {
	l, table := secured(t)
	list := manyFilters(10_000)
	start := time.Now()
	apply(t, table, list...)
	first := time.Since(start)
	start = time.Now()
	overlay := filter("overlay", permit)
	overlay.Selector.Remote = sadb.Addr(netip.MustParseAddr("10.9.0.2"))
	apply(t, table, append(list[:len(list)-1:len(list)-1], overlay, list[len(list)-1])...)
	second := time.Since(start)
	t.Logf("10000 filters in %v, one more in %v", first, second)
	if first > 60*time.Second || second > 30*time.Second {
		t.Errorf("10000 filters took %v, one more %v", first, second)
	}
	if n := strings.Count(l.inA("nft -t list chain inet ipsecagent last4"), "vmap"); n > 10 {
		t.Errorf("a packet is looked up %d times", n)
	}
	if err := udp(t, l.a, "", "10.9.0.2:7000", 10, nil); err != nil || l.arrived() != 1 {
		t.Errorf("permitted by the overlay: %v", err)
	}
	udp(t, l.a, "", "10.9.0.3:7000", 10, nil)
	if s := stats(t, table); len(s.Filters) != 10_002 || s.Filters[10_001].Packets == 0 {
		t.Error("counters of the last filter are missing")
	}
}
