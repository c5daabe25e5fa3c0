package ike

import (
	"net/netip"
	"slices"

	"ipsecagent/sadb"
)

// peer is what there is with one address.
type peer struct {
	mains  []*mainMode // that this host has begun
	sas    []*isakmp
	pairs  []*pairState
	quicks []*quickMode // under way
}

// peers finds by address what the maps of a Machine hold by other keys, oldest
// first: a handshake costs the same however many other peers there are. The
// remote address of what is in it does not change.
type peers map[netip.Addr]*peer

// at returns what there is with an address. Taking something out leaves a list
// that somebody walks over as it is.
func (ps peers) at(remote netip.Addr) peer {
	if p := ps[remote]; p != nil {
		return *p
	}
	return peer{}
}

func (ps peers) open(remote netip.Addr) *peer {
	p := ps[remote]
	if p == nil {
		p = &peer{}
		ps[remote] = p
	}
	return p
}

func (p peer) empty() bool { return len(p.mains)+len(p.sas)+len(p.pairs)+len(p.quicks) == 0 }

// close forgets an address with which there is nothing any more.
func (ps peers) close(remote netip.Addr) {
	if p := ps[remote]; p != nil && p.empty() {
		delete(ps, remote)
	}
}

func (ps peers) addMain(x *mainMode) {
	p := ps.open(x.remote.Addr())
	p.mains = append(p.mains, x)
}

func (ps peers) removeMain(x *mainMode) {
	if p := ps[x.remote.Addr()]; p != nil {
		p.mains = without(p.mains, x)
	}
	ps.close(x.remote.Addr())
}

func (ps peers) addSA(s *isakmp) {
	p := ps.open(s.remote.Addr())
	p.sas = append(p.sas, s)
}

func (ps peers) removeSA(s *isakmp) {
	if p := ps[s.remote.Addr()]; p != nil {
		p.sas = without(p.sas, s)
	}
	ps.close(s.remote.Addr())
}

func (ps peers) addPair(s *pairState) {
	p := ps.open(s.pair.Remote)
	p.pairs = append(p.pairs, s)
}

func (ps peers) removePair(s *pairState) {
	if p := ps[s.pair.Remote]; p != nil {
		p.pairs = without(p.pairs, s)
	}
	ps.close(s.pair.Remote)
}

func (ps peers) addQuick(q *quickMode) {
	p := ps.open(q.sa.remote.Addr())
	p.quicks = append(p.quicks, q)
}

func (ps peers) removeQuick(q *quickMode) {
	if p := ps[q.sa.remote.Addr()]; p != nil {
		p.quicks = without(p.quicks, q)
	}
	ps.close(q.sa.remote.Addr())
}

// without returns a list of its own that lacks v.
func without[T comparable](list []T, v T) []T {
	i := slices.Index(list, v)
	if i < 0 {
		return list
	}
	return slices.Concat(list[:i], list[i+1:])
}

// pairsAt returns the pairs with a peer that fit, oldest first.
func (m *Machine) pairsAt(remote netip.Addr, fits func(p sadb.Pair) bool) []*pairState {
	return sortPairs(m.peers.at(remote).pairs, fits)
}
