package nft

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"ipsecagent/sadb"
)

// flood sends datagrams to b without a break until the returned function is
// called, which says how many.
func (l *lab) flood(to ...string) (stop func() uint64) {
	l.t.Helper()
	var ended atomic.Bool
	var sent atomic.Uint64
	done := make(chan struct{}, len(to))
	for _, addr := range to {
		var c net.Conn
		var err error
		in(l.t, l.a, func() { c, err = net.Dial("udp", addr) })
		if err != nil {
			l.t.Fatal(err)
		}
		go func() {
			defer c.Close()
			for !ended.Load() {
				c.Write([]byte("secret"))
				sent.Add(1)
			}
			done <- struct{}{}
		}()
	}
	return func() uint64 {
		ended.Store(true)
		for range to {
			<-done
		}
		return sent.Load()
	}
}

// TestLeakWhileFiltersChange changes a list a little, a thousand times, under
// traffic that each of the lists drops, and that a filter further down permits:
// an element that is missing for a moment lets it out.
func TestLeakWhileFiltersChange(t *testing.T) {
	rounds := 1000
	if testing.Short() {
		rounds = 100
	}
	list := []sadb.Filter{udpFilter("peer", 7000, require), filter("open", permit)}
	l, table := secured(t, list...)
	stop := l.flood("10.9.0.2:7000", "[fd09::2]:7000")
	w := world{rand.New(rand.NewPCG(1, 1))}
	for round := range rounds {
		next := w.edit(list, round)
		if !modelDrops(next, "10.9.0.1", "10.9.0.2") || !modelDrops(next, "fd09::1", "fd09::2") || len(next) > 60 {
			next = w.shorter(list)
		}
		list = next
		apply(t, table, list...)
	}
	if sent := stop(); sent < uint64(rounds) {
		t.Fatalf("only %d packets were tried", sent)
	}
	nothingArrived(t, l, table, 1)
}

// modelDrops reports whether the flooded packet is dropped, as the model says.
func modelDrops(list []sadb.Filter, from, to string) bool {
	f, ok := sadb.Decide(list, sadb.Flow{Local: netip.MustParseAddr(from), Remote: netip.MustParseAddr(to), LocalMe: true,
		Proto: sadb.UDP, LocalPort: 40000, RemotePort: 7000}, sadb.Out)
	return ok && (f.Action.Kind == sadb.Block || f.Action.Requires())
}

// shorter keeps the flooded filter, first and changed, and a few of the others.
func (w world) shorter(list []sadb.Filter) []sadb.Filter {
	peer := udpFilter("peer", 7000, pick(w, block, require))
	peer.Selector.RemotePorts.To = uint16(7000 + w.IntN(50))
	next := []sadb.Filter{peer}
	for _, f := range list {
		if f.ID != "peer" && f.ID != "open" && len(next) < 30 {
			next = append(next, f)
		}
	}
	return append(next, filter("open", permit))
}

// TestCountersSurviveChanges: what a filter has counted stays with it when its
// elements are made anew or move.
func TestCountersSurviveChanges(t *testing.T) {
	l := newLab(t)
	l.warm()
	table := l.open()
	var others []sadb.Filter
	for i := range 20 {
		f := filter(fmt.Sprint("other", i), permit)
		f.Selector.Remote = sadb.Addr(netip.AddrFrom4([4]byte{10, 8, 0, byte(i)}))
		others = append(others, f)
	}
	f := udpFilter("port", 7000, permit)
	for i, action := range []sadb.Action{permit, block, permit, require, request} {
		f.Action = action
		list := slices.Insert(slices.Clone(others), i, f)
		apply(t, table, list...)
		udp(t, l.a, "", "10.9.0.2:7000", 10, nil)
		if n := stats(t, table).Filters[i].Packets; n != uint64(i+1) {
			t.Errorf("%s: %d packets counted, want %d", action, n, i+1)
		}
	}
}

// TestAChangeThatFailsIsMadeAnew: where the kernel refuses a change, the list is
// laid out anew and in force, and what was there before is gone.
func TestAChangeThatFailsIsMadeAnew(t *testing.T) {
	list := append(manyFilters(100), filter("open", permit))
	l, table := secured(t, list...)
	before := strings.Count(l.inA("nft -t list table inet ipsecagent"), "map ")
	if err := table.do(func(e *engine) error {
		for _, s := range e.layout.spaces {
			for _, x := range s.slots {
				x.serial += 1000 // sets that are not there
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	list[100].Action = permit // "rest": everything
	apply(t, table, list...)
	if err := udp(t, l.a, "", "10.9.0.2:7000", 10, nil); err != nil || l.arrived() != 1 {
		t.Errorf("the new list is not in force: %v", err)
	}
	if stats(t, table).Filters[100].Packets == 0 {
		t.Error("the new elements do not count")
	}
	if n := strings.Count(l.inA("nft -t list table inet ipsecagent"), "map "); n != before {
		t.Errorf("%d sets, before %d", n, before)
	}
	list[100].Action = require
	apply(t, table, list...)
	if err := udp(t, l.a, "", "10.9.0.2:7000", 10, nil); err == nil {
		t.Error("the change after it is not in force")
	}
}
