package ike

import (
	"net/netip"
	"slices"

	"ipsecagent/sadb"
)

// ends is two addresses: what there is with a peer is found by them.
type ends struct{ local, remote netip.Addr }

func (p path) ends() ends { return ends{p.local.Addr(), p.remote.Addr()} }

func endsOf(p sadb.Pair) ends { return ends{p.Local, p.Remote} }

// peer is what there is between two addresses.
type peer struct {
	mains  []*mainMode // that this host has begun
	sas    []*isakmp
	pairs  []*pairState
	quicks []*quickMode // under way
}

func (p peer) empty() bool { return len(p.mains)+len(p.sas)+len(p.pairs)+len(p.quicks) == 0 }

// peers finds by addresses what the maps of a Machine hold by other keys, oldest
// first: a handshake costs the same however many other peers there are. The
// addresses of what is in it do not change.
type peers struct {
	all map[ends]*peer
	// held counts what has come of a main mode, by remote address alone.
	held map[netip.Addr]int
}

func newPeers() peers { return peers{all: map[ends]*peer{}, held: map[netip.Addr]int{}} }

// at returns what there is between two addresses. Taking something out leaves a
// list that somebody walks over as it is.
func (ps peers) at(h ends) peer {
	if p := ps.all[h]; p != nil {
		return *p
	}
	return peer{}
}

// change changes what there is between two addresses.
func (ps peers) change(h ends, do func(p *peer)) {
	p := ps.all[h]
	if p == nil {
		p = &peer{}
		ps.all[h] = p
	}
	before := len(p.sas) + len(p.pairs) + len(p.quicks)
	do(p)
	ps.count(h.remote, len(p.sas)+len(p.pairs)+len(p.quicks)-before)
	if p.empty() {
		delete(ps.all, h)
	}
}

func (ps peers) count(remote netip.Addr, more int) {
	if n := ps.held[remote] + more; n > 0 {
		ps.held[remote] = n
	} else {
		delete(ps.held, remote)
	}
}

func (ps peers) addMain(x *mainMode) {
	ps.change(x.ends(), func(p *peer) { p.mains = append(p.mains, x) })
}

func (ps peers) removeMain(x *mainMode) {
	ps.change(x.ends(), func(p *peer) { p.mains = without(p.mains, x) })
}

func (ps peers) addSA(s *isakmp) {
	ps.change(s.ends(), func(p *peer) { p.sas = append(p.sas, s) })
}

func (ps peers) removeSA(s *isakmp) {
	ps.change(s.ends(), func(p *peer) { p.sas = without(p.sas, s) })
}

func (ps peers) addPair(s *pairState) {
	ps.change(endsOf(s.pair), func(p *peer) { p.pairs = append(p.pairs, s) })
}

func (ps peers) removePair(s *pairState) {
	ps.change(endsOf(s.pair), func(p *peer) { p.pairs = without(p.pairs, s) })
}

func (ps peers) addQuick(q *quickMode) {
	ps.change(q.sa.ends(), func(p *peer) { p.quicks = append(p.quicks, q) })
}

func (ps peers) removeQuick(q *quickMode) {
	ps.change(q.sa.ends(), func(p *peer) { p.quicks = without(p.quicks, q) })
}

// without returns a list of its own that lacks v.
func without[T comparable](list []T, v T) []T {
	i := slices.Index(list, v)
	if i < 0 {
		return list
	}
	return slices.Concat(list[:i], list[i+1:])
}

// pairsAt returns the pairs between two addresses that fit, oldest first.
func (m *Machine) pairsAt(h ends, fits func(p sadb.Pair) bool) []*pairState {
	return sortPairs(m.peers.at(h).pairs, fits)
}
