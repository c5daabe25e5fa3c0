package ike

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"ipsecagent/sadb"
)

// pairState is a pair of associations that is in force, and what is needed to
// renew it.
type pairState struct {
	pair     sadb.Pair
	main     MainOffer // zero: ask policy
	quick    QuickOffer
	renewing bool
	probing  bool      // it is renewed to see whether the peer answers
	heard    bool      // the peer sends on it, or on one that outranks it
	used     time.Time // when the first packet came on it; zero: none yet
	ranked   bool      // the peer ranks pairs as this host does
	mute     bool      // outranked from the first: nothing is in force outbound
	retire   *timer    // of the pairs it outranks
	under    saKey     // the ISAKMP SA it was made under
}

// enterPair makes a finished quick mode's pair known.
func (m *Machine) enterPair(now time.Time, q *quickMode) {
	p := &pairState{pair: q.pair, quick: q.offer, under: q.sa.key(), ranked: q.ranked, mute: q.mute, heard: q.heard || !q.initiator && q.ranked}
	p.quick.Selector = q.selector
	if q.heard {
		p.used = now
	}
	if q.request != nil {
		p.main = q.request.Main
	}
	m.pairs[p.pair.ID] = p
	m.peers.addPair(p)
	m.settleRanks(now, p)
}

func (m *Machine) rememberInbound(p sadb.Pair) {
	for _, id := range p.In {
		m.inbound[id] = p.ID
	}
}

func (m *Machine) forgetInbound(p sadb.Pair) {
	for _, id := range p.In {
		delete(m.inbound, id)
	}
}

// endPair takes a pair out of force; with tell the peer is told.
func (m *Machine) endPair(now time.Time, p *pairState, reason string, tell bool) {
	if tell {
		m.tellDelete(now, p)
	}
	m.putEnded(now, p, Ended{Pair: p.pair.ID, Reason: reason})
}

// endedByPeer takes a pair out of force that its peer, proven, has ended.
func (m *Machine) endedByPeer(now time.Time, p *pairState, reason string) {
	m.putEnded(now, p, Ended{Pair: p.pair.ID, Reason: reason, ByPeer: true})
}

func (m *Machine) putEnded(now time.Time, p *pairState, e Ended) {
	m.forgetPair(p)
	m.put(e)
	m.unmute(now, p.pair, e.ByPeer)
}

// forgetPair takes a pair out of all tables. One that it has replaced and not
// retired yet is in force again, and may be renewed again.
func (m *Machine) forgetPair(p *pairState) {
	m.forgetInbound(p.pair)
	delete(m.pairs, p.pair.ID)
	m.peers.removePair(p)
	m.timers.stop(p.retire)
	if old := m.pairs[p.pair.Replaces]; old != nil && p.pair.Initiator {
		old.renewing = false
	}
}

// tellDelete sends a delete under the newest ISAKMP SA of the same peer; if
// there is none the peer learns from the lifetime.
func (m *Machine) tellDelete(now time.Time, p *pairState) {
	var best *isakmp
	for _, s := range m.peers.at(endsOf(p.pair)).sas {
		if s.owns(p.pair) && (best == nil || s.compare(best) > 0) {
			best = s
		}
	}
	if best != nil {
		m.sendDelete(now, best, p.pair.In)
	}
}

func (m *Machine) pairsWith(s *isakmp) int {
	n := 0
	for _, p := range m.peers.at(s.ends()).pairs {
		if s.owns(p.pair) {
			n++
		}
	}
	return n
}

func (m *Machine) hasPairs(s *isakmp) bool { return m.pairsWith(s) > 0 }

// sortedPairs returns the pairs that fit, oldest first.
func (m *Machine) sortedPairs(fits func(p sadb.Pair) bool) []*pairState {
	return sortPairs(slices.Collect(maps.Values(m.pairs)), fits)
}

func sortPairs(from []*pairState, fits func(p sadb.Pair) bool) []*pairState {
	var all []*pairState
	for _, p := range from {
		if fits(p.pair) {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b *pairState) int {
		if c := a.pair.Since.Compare(b.pair.Since); c != 0 {
			return c
		}
		if a.pair.ID < b.pair.ID {
			return -1
		}
		return 1
	})
	return all
}

// replacedBy returns the pair that a responder's new one takes over from.
func (m *Machine) replacedBy(q *quickMode) sadb.PairID {
	s := q.sa
	old := m.top(sadb.Pair{Filter: q.offer.Filter, Selector: q.selector, Mode: q.pick.Shape.Mode,
		Local: s.local.Addr(), Remote: s.remote.Addr(), Principal: string(s.proof.Principal), Encap: s.encap()})
	if old == nil {
		return 0
	}
	return old.pair.ID
}

// used is the first valid packet on an inbound association: the initiator of
// an unconfirmed pair has confirmed it, and what the pair outranks may go.
func (m *Machine) used(now time.Time, id sadb.SAID) {
	pair := m.inbound[id]
	if q := m.quicks[pair]; q != nil {
		q.heard = true
		if q.step == awaitQuick3 {
			m.confirm(now, q)
		}
		return
	}
	p := m.pairs[pair]
	if p == nil {
		return
	}
	p.used = now
	if !p.heard {
		p.heard = true
		m.retireBelow(now, p)
	}
}

// gone: the driver has ended the pair already.
func (m *Machine) gone(now time.Time, id sadb.PairID) {
	if p := m.pairs[id]; p != nil {
		m.tellDelete(now, p)
		m.forgetPair(p)
		m.unmute(now, p.pair, false)
	}
}

// close ends what the agent no longer wants.
func (m *Machine) close(now time.Time, in Close) {
	fits := func(remote netip.Addr) bool { return !in.Remote.IsValid() || in.Remote.Unmap() == remote }
	if p := m.pairs[in.Pair]; p != nil {
		m.endPair(now, p, in.Reason, true)
	}
	if in.Pair == 0 {
		for _, p := range m.sortedPairs(func(p sadb.Pair) bool { return fits(p.Remote) }) {
			m.endPair(now, p, in.Reason, true)
		}
	}
	if !in.Main || in.Pair != 0 && !in.Remote.IsValid() {
		return
	}
	for _, s := range m.established() {
		if fits(s.remote.Addr()) {
			m.closeSA(now, s, in.Reason)
		}
	}
}

// adopt makes a pair of an earlier process known.
func (m *Machine) adopt(now time.Time, in Adopt) {
	if old := m.pairs[in.Pair.ID]; old != nil {
		m.peers.removePair(old)
	}
	p := &pairState{pair: in.Pair, main: in.Main, quick: in.Quick, heard: true}
	m.pairs[in.Pair.ID] = p
	m.peers.addPair(p)
	m.rememberInbound(in.Pair)
	m.settleRanks(now, p)
}

// rekey makes a new pair in place of one. Of several that carry the same
// traffic only the highest is renewed; the others are about to end.
func (m *Machine) rekey(now time.Time, id sadb.PairID) {
	p := m.pairs[id]
	if p == nil || p.renewing || m.top(p.pair) != p || m.peerRenews(p) {
		return
	}
	r := &request{Initiate: Initiate{Local: p.pair.Local, Remote: p.pair.Remote, Main: p.main, Quick: p.quick,
		Replaces: id, NoInitialContact: true}, encap: p.pair.Encap, since: now}
	if len(r.Main.Auth) == 0 {
		offer, err := m.mainPolicy(path{netip.AddrPortFrom(p.pair.Local, ikePort), netip.AddrPortFrom(p.pair.Remote, ikePort)})
		if err != nil {
			return
		}
		r.Main = offer
	}
	p.renewing = true
	m.initiate(now, r)
}

// peerRenews reports whether the peer is renewing a pair just now: there need
// not be two. Should it not come to anything, the agent asks again.
func (m *Machine) peerRenews(p *pairState) bool {
	return slices.ContainsFunc(m.peers.at(endsOf(p.pair)).quicks, func(q *quickMode) bool {
		return !q.initiator && q.pair.Replaces == p.pair.ID
	})
}

// jitter returns up to ten seconds.
func (m *Machine) jitter() time.Duration {
	return time.Duration(m.fraction(0, 10_000)) * time.Millisecond
}
