package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

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
	if first > 60*time.Second || second > 5*time.Second {
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

// changes counts what happens to the nftables of host a until the returned
// function is called: changes of elements, and of anything else.
func (l *lab) changes() (count func() (elements, others int)) {
	l.t.Helper()
	var nl *netlink.Conn
	var err error
	in(l.t, l.a, func() { nl, err = openChanges() })
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { nl.Close() })
	return func() (elements, others int) {
		l.t.Helper()
		if err := nl.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			l.t.Fatal(err)
		}
		for {
			msgs, err := nl.Receive()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return elements, others
			}
			if err != nil {
				l.t.Fatal(err)
			}
			for _, m := range msgs {
				switch m.Header.Type & 0xff {
				case unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM:
					elements++
				default:
					others++
				}
			}
		}
	}
}

// TestAChangeCostsWhatChanges: among thousands of filters the same list changes
// nothing in the kernel, and another filter its own elements: two outbound, one
// inbound.
func TestAChangeCostsWhatChanges(t *testing.T) {
	const perFilter = 3
	l := newLab(t)
	table := l.open()
	list := manyFilters(2000)
	apply(t, table, list...)
	overlay := filter("overlay", permit)
	overlay.Selector.Remote = sadb.Addr(netip.MustParseAddr("10.9.0.2"))
	count := l.changes()
	for _, c := range []struct {
		what     string
		change   func(list []sadb.Filter) []sadb.Filter
		elements int
	}{
		{"nothing", func(l []sadb.Filter) []sadb.Filter { return l }, 0},
		{"another name", func(l []sadb.Filter) []sadb.Filter { l[7].Name = "renamed"; return l }, 0},
		{"another action of one", func(l []sadb.Filter) []sadb.Filter { l[1000].Action = block; return l }, 2 * perFilter},
		{"the first filter gone", func(l []sadb.Filter) []sadb.Filter { return l[1:] }, perFilter},
		{"an overlay of the last", func(l []sadb.Filter) []sadb.Filter { return slices.Insert(l, len(l)-1, overlay) }, perFilter},
		{"the overlay gone", func(l []sadb.Filter) []sadb.Filter { return slices.Delete(l, len(l)-2, len(l)-1) }, perFilter},
		{"one of a subnet", func(l []sadb.Filter) []sadb.Filter {
			l[500].Selector.Remote = sadb.Prefix(netip.MustParsePrefix("10.20.0.0/16"))
			return l
		}, 2 * perFilter},
		{"two exchanged", func(l []sadb.Filter) []sadb.Filter {
			l[1], l[2] = l[2], l[1]
			return l
		}, 2 * perFilter},
	} {
		list = c.change(slices.Clone(list))
		apply(t, table, list...)
		elements, others := count()
		// A new set is a set and a rule in each chain; the rules of a chain
		// are exchanged together.
		const mostOthers = 100
		families := 2 // filters that name no address have elements in both
		if elements > families*c.elements || c.elements > 0 && elements == 0 || others > mostOthers || c.elements == 0 && others > 0 {
			t.Errorf("%s: %d elements and %d other objects changed", c.what, elements, others)
		}
	}
}
