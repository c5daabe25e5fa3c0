package ike

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"ipsecagent/sadb"
)

// checkPeers checks that what is found by address is what there is, no more
// and no less.
func checkPeers(t testing.TB, m *Machine) {
	t.Helper()
	listed, held := 0, map[netip.Addr]int{}
	for addr, p := range m.peers.all {
		if p.empty() {
			t.Errorf("%v is kept for nothing", addr)
		}
		held[addr.remote] += len(p.sas) + len(p.pairs) + len(p.quicks)
		listed += len(p.mains) + len(p.sas) + len(p.pairs) + len(p.quicks)
	}
	maps.DeleteFunc(held, func(_ netip.Addr, n int) bool { return n == 0 })
	if !maps.Equal(held, m.peers.held) {
		t.Errorf("counted %v, there are %v", m.peers.held, held)
	}
	there := len(m.sas) + len(m.pairs) + len(m.quicks)
	for _, s := range m.sas {
		found(t, "ISAKMP SA", slices.Contains(m.peers.at(s.ends()).sas, s))
	}
	for _, p := range m.pairs {
		found(t, "pair", slices.Contains(m.peers.at(endsOf(p.pair)).pairs, p))
	}
	for _, q := range m.quicks {
		found(t, "quick mode", slices.Contains(m.peers.at(q.sa.ends()).quicks, q))
	}
	for _, x := range m.mains {
		if x.initiator {
			there++
			found(t, "main mode", slices.Contains(m.peers.at(x.ends()).mains, x))
		}
	}
	if listed != there {
		t.Errorf("%d things are found by address, there are %d", listed, there)
	}
}

func found(t testing.TB, what string, ok bool) {
	t.Helper()
	if !ok {
		t.Errorf("a %s is not found by its address", what)
	}
}

// TestPeersMayChangeWhileWalkedOver: taking out what a list shows leaves the
// list as it was for who walks over it.
func TestPeersMayChangeWhileWalkedOver(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.9")
	ps := newPeers()
	h := ends{netip.MustParseAddr("192.0.2.1"), addr}
	var all []*pairState
	for id := range 5 {
		p := &pairState{pair: sadb.Pair{ID: sadb.PairID(id + 1), Local: h.local, Remote: addr}}
		ps.addPair(p)
		all = append(all, p)
	}
	var seen []*pairState
	for _, p := range ps.at(h).pairs {
		ps.removePair(p)
		seen = append(seen, p)
	}
	if !slices.Equal(seen, all) || len(ps.all)+len(ps.held) != 0 {
		t.Errorf("saw %d of %d, %d addresses are left", len(seen), len(all), len(ps.all))
	}
	ps.removePair(all[0]) // gone already
}
