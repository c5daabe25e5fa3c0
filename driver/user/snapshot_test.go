package user

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// randomFilters draws from few addresses and ports, so that filters overlap.
func randomFilters(r *rand.Rand, n int) []sadb.Filter {
	addrs := func() sadb.Addrs {
		switch r.IntN(5) {
		case 0:
			return sadb.AnyAddrs()
		case 1:
			return sadb.Me()
		case 2:
			return sadb.Prefix(netip.PrefixFrom(address(r), 24+r.IntN(8)))
		}
		return sadb.Addr(address(r))
	}
	var out []sadb.Filter
	for i := range n {
		f := sadb.Filter{ID: sadb.FilterID(fmt.Sprint(i)), Dir: sadb.Directions(1 + r.IntN(3))}
		f.Selector = sadb.Selector{Local: addrs(), Remote: addrs(), Proto: []uint8{0, sadb.TCP, sadb.UDP}[r.IntN(3)]}
		if r.IntN(2) == 0 {
			f.Selector.RemotePorts = sadb.Port(uint16(1 + r.IntN(4)))
		}
		out = append(out, f)
	}
	return out
}

func address(r *rand.Rand) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(r.IntN(8))}) }

// overlaysOf returns some overlays of filters, and some that stand below all.
func overlaysOf(r *rand.Rand, base []sadb.Filter) []sadb.Filter {
	overlays := randomFilters(r, r.IntN(10))
	for i := range overlays {
		overlays[i].ID = sadb.FilterID(fmt.Sprint("over", i))
		if len(base) > 0 && r.IntN(4) > 0 {
			overlays[i].Parent = base[r.IntN(len(base))].ID
		}
	}
	return overlays
}

func TestIndexDecidesAsTheOrderedListDoes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	matched := 0
	for range 300 {
		base := randomFilters(r, r.IntN(30))
		filters := sadb.Splice(base, overlaysOf(r, base))
		s := splicedSPD(newPeerIndex(base), filters)
		for range 50 {
			f := sadb.Flow{Local: address(r), Remote: address(r), LocalMe: r.IntN(2) == 0, Proto: []uint8{sadb.TCP, sadb.UDP, sadb.ICMP}[r.IntN(3)],
				LocalPort: uint16(r.IntN(5)), RemotePort: uint16(r.IntN(5))}
			d := sadb.Directions(1 + r.IntN(2))
			want, ok := sadb.Decide(filters, f, d)
			i := s.decide(f, d)
			if ok != (i >= 0) || ok && filters[i].ID != want.ID {
				t.Fatalf("%+v %s: list says %v %v, index %d", f, d, want.ID, ok, i)
			}
			if ok {
				matched++
			}
		}
	}
	if matched < 1000 {
		t.Errorf("only %d flows matched: the test compares nothing", matched)
	}
}

func TestAssociationOfAnOverlayStandsForItsParent(t *testing.T) {
	base := sadb.Filter{ID: "base"}
	over := sadb.Filter{ID: "over", Parent: "base"}
	def := sadb.Filter{ID: "default", Expires: time.Unix(1, 0)}
	s := newSPD(sadb.Splice([]sadb.Filter{base}, []sadb.Filter{over, def}))
	for id, want := range map[sadb.FilterID]sadb.FilterID{"base": "base", "over": "base", "default": "default", "gone": "gone"} {
		if got := s.root(id); got != want {
			t.Errorf("%s stands for %s, not %s", id, got, want)
		}
	}
}

func acquireFor(i int) driver.Acquire {
	return driver.Acquire{Filter: "f", Flow: sadb.Flow{
		Local: netip.MustParseAddr("192.0.2.1"), Remote: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}}
}

// sound fails if the sums of w are not those of its entries.
func sound(t *testing.T, w *waiting) {
	t.Helper()
	packets, size := 0, 0
	for _, e := range w.waits {
		packets += len(e.packets)
		for _, h := range e.packets {
			size += len(h.packet)
		}
	}
	if packets != w.packets || size != w.bytes {
		t.Fatalf("%d packets of %d bytes wait, counted %d of %d", packets, size, w.packets, w.bytes)
	}
	if packets > maxWaitAll || size > maxWaitBytes || len(w.waits) > maxWaits {
		t.Fatalf("over a limit: %d packets, %d bytes, %d entries", packets, size, len(w.waits))
	}
}

func TestAcquireIsRaisedOnceUntilAnsweredOrAbandoned(t *testing.T) {
	w := newWaiting()
	for i, again := range []func(){
		func() {},
		func() { w.abandon(keyOf(acquireFor(1))) },
		func() { w.answered(keyOf(acquireFor(1))) },
		func() { w.prune(newSPD(nil)) },
	} {
		again()
		if _, first := w.ask(keyOf(acquireFor(1)), acquireFor(1)); !first {
			t.Errorf("step %d: not raised", i)
		}
		if _, first := w.ask(keyOf(acquireFor(1)), acquireFor(1)); first {
			t.Errorf("step %d: raised twice", i)
		}
	}
}

func TestOldestPacketsOfAFullQueueGo(t *testing.T) {
	w := newWaiting()
	e, _ := w.ask(keyOf(acquireFor(1)), acquireFor(1))
	for i := range maxWaitPackets + 5 {
		w.hold(e, []byte{byte(i)}, time.Time{})
	}
	got := w.answered(keyOf(acquireFor(1)))
	if len(got) != maxWaitPackets || got[0].packet[0] != 5 {
		t.Errorf("%d packets wait, the first is %d", len(got), got[0].packet[0])
	}
	if w.dropped != 5 {
		t.Errorf("%d dropped", w.dropped)
	}
	sound(t, w)
}

func TestWaitingIsBoundedInAll(t *testing.T) {
	w := newWaiting()
	big := make([]byte, 60_000)
	for i := range 3 * maxWaits {
		e, _ := w.ask(keyOf(acquireFor(i)), acquireFor(i))
		w.hold(e, big[:1+i*59_999/(3*maxWaits)], time.Time{})
		if i%64 == 0 {
			sound(t, w)
		}
	}
	sound(t, w)
	if p := w.pending(); len(p) != maxWaits || p[0] != acquireFor(2*maxWaits) || p[maxWaits-1] != acquireFor(3*maxWaits-1) {
		t.Errorf("%d pending, not the newest in order of coming", len(p))
	}
}

func keyOf(a driver.Acquire) pairKey { return newSPD(nil).key(a.Filter, a.Flow) }
