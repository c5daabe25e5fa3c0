package ike

import (
	"net/netip"
	"slices"
	"testing"

	"ipsecagent/sadb"
)

// checkPeers checks that what is found by address is what there is, no more
// and no less.
func checkPeers(t testing.TB, m *Machine) {
	t.Helper()
	listed := 0
	for addr, p := range m.peers {
		if p.empty() {
			t.Errorf("%s is kept for nothing", addr)
		}
		listed += len(p.mains) + len(p.sas) + len(p.pairs) + len(p.quicks)
	}
	there := len(m.sas) + len(m.pairs) + len(m.quicks)
	for _, s := range m.sas {
		found(t, "ISAKMP SA", slices.Contains(m.peers.at(s.remote.Addr()).sas, s))
	}
	for _, p := range m.pairs {
		found(t, "pair", slices.Contains(m.peers.at(p.pair.Remote).pairs, p))
	}
	for _, q := range m.quicks {
		found(t, "quick mode", slices.Contains(m.peers.at(q.sa.remote.Addr()).quicks, q))
	}
	for _, x := range m.mains {
		if x.initiator {
			there++
			found(t, "main mode", slices.Contains(m.peers.at(x.remote.Addr()).mains, x))
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
	ps := peers{}
	var all []*pairState
	for id := range 5 {
		p := &pairState{pair: sadb.Pair{ID: sadb.PairID(id + 1), Remote: addr}}
		ps.addPair(p)
		all = append(all, p)
	}
	var seen []*pairState
	for _, p := range ps.at(addr).pairs {
		ps.removePair(p)
		seen = append(seen, p)
	}
	if !slices.Equal(seen, all) || len(ps) != 0 {
		t.Errorf("saw %d of %d, %d addresses are left", len(seen), len(all), len(ps))
	}
	ps.removePair(all[0]) // gone already
}
