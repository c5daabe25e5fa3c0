package ike

import (
	"encoding/binary"
	"math"
	"time"

	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// Both ends may make a pair for the same traffic at once, at first contact or
// when a limit by bytes is reached. Every pair then lives until both ends send
// on the one that outranks the others (sadb.Pair.Outranks), and no longer:
//
//   - outbound associations are put in force in ascending rank only, so that
//     the newest, which a driver uses, is the highest;
//   - an inbound association ends once the peer has shown that it sends on a
//     higher one, and its packets have had the time to arrive.
//
// The responder fixes the round of a pair and says it in message 2, if the
// initiator has said one in message 1: only a peer of this kind does.

const (
	// quiet is how long an outranked pair stays after the peer has shown that
	// it sends on a higher one: packets are on their way.
	quiet = 5 * time.Second
	// presumed is how long an initiator waits for that sign. A responder that
	// lacks message 3 has given the pair up by then.
	presumed = halfOpenLife + quiet
)

// serves reports whether two pairs carry the same traffic for the same filter.
// Behind one translator there may be several peers, told apart by their ports.
func serves(p, o sadb.Pair) bool {
	return p.Filter == o.Filter && p.Selector == o.Selector && p.Mode == o.Mode &&
		p.Local == o.Local && p.Remote == o.Remote && p.Principal == o.Principal && p.Encap.Remote == o.Encap.Remote
}

// top returns the highest of the pairs that carry what p carries, which may be
// p itself; nil: there is none.
func (m *Machine) top(p sadb.Pair) *pairState {
	var best *pairState
	for _, o := range m.peers.at(endsOf(p)).pairs {
		if serves(o.pair, p) && (best == nil || o.pair.Outranks(best.pair)) {
			best = o
		}
	}
	return best
}

// outranked reports whether a pair that carries what p carries is whole, or
// about to be, and higher.
func (m *Machine) outranked(p sadb.Pair) bool {
	if top := m.top(p); top != nil && top.pair.Outranks(p) {
		return true
	}
	for _, q := range m.peers.at(endsOf(p)).quicks {
		if q.step == finishingQuick && !q.mute && serves(q.pair, p) && q.pair.Outranks(p) {
			return true
		}
	}
	return false
}

// nextRound returns a round after all that are known with the peer of s.
func (m *Machine) nextRound(s *isakmp) uint32 {
	round, there := uint32(0), m.peers.at(s.ends())
	for _, p := range there.pairs {
		if s.owns(p.pair) {
			round = max(round, p.pair.Round)
		}
	}
	for _, q := range there.quicks {
		if q.sa.proof.Principal == s.proof.Principal {
			round = max(round, q.pair.Round)
		}
	}
	if round == math.MaxUint32 {
		return round
	}
	return round + 1
}

// fixRound settles, as responder, the round of q's pair.
func (m *Machine) fixRound(q *quickMode, chain wire.Chain) {
	said, ok := saidRound(chain)
	q.pair.Round, q.ranked = max(said, m.nextRound(q.sa)), ok
}

// saidRound returns the round that a message names.
func saidRound(chain wire.Chain) (uint32, bool) {
	for _, body := range chain.All(wire.NotifyPayload) {
		n, err := wire.ParseNotify(body)
		if err == nil && n.Type == wire.PairRound && len(n.Data) == 4 {
			return binary.BigEndian.Uint32(n.Data), true
		}
	}
	return 0, false
}

func (q *quickMode) roundNotify() wire.Payload {
	n := wire.Notify{DOI: wire.DOIIPsec, Protocol: wire.ProtoESP, Type: wire.PairRound,
		Data: binary.BigEndian.AppendUint32(nil, q.pair.Round)}
	return wire.Payload{Type: wire.NotifyPayload, Body: n.Append(nil)}
}

// settleRanks has the pairs that p outranks end in time, and p itself if it is
// outranked.
func (m *Machine) settleRanks(now time.Time, p *pairState) {
	m.retireBelow(now, p)
	if top := m.top(p.pair); top != nil && top != p {
		m.retireBelow(now, top)
	}
}

// retireBelow sets the time at which what p outranks ends.
func (m *Machine) retireBelow(now time.Time, p *pairState) {
	if len(m.below(p.pair)) == 0 {
		return
	}
	at := now.Add(quiet)
	if !p.heard {
		at = now.Add(presumed)
	}
	p.retire = m.timers.set(p.retire, at, func(now time.Time) {
		for _, o := range m.below(p.pair) {
			if !p.prefers(o) {
				m.endPair(now, o, "replaced by a newer pair", true)
			}
		}
	})
}

// prefers reports whether the peer, of another kind, has begun to send on o when
// it had p too: it has a way of its own to choose between the two, and both stay.
func (p *pairState) prefers(o *pairState) bool {
	return !p.ranked && !p.heard && o.used.After(p.pair.Since)
}

// below returns the pairs that carry what p carries and that it outranks.
func (m *Machine) below(p sadb.Pair) []*pairState {
	return m.pairsAt(endsOf(p), func(o sadb.Pair) bool { return serves(o, p) && p.Outranks(o) })
}

// unmute ends a pair of which nothing was put in force outbound, once what
// outranked it is gone: nothing could be sent on it. byPeer: it was the peer who
// ended that.
func (m *Machine) unmute(now time.Time, gone sadb.Pair, byPeer bool) {
	if top := m.top(gone); top != nil && top.mute && !m.outranked(top.pair) {
		m.tellDelete(now, top)
		m.putEnded(now, top, Ended{Pair: top.pair.ID, Reason: "the pair that carried its traffic has ended", ByPeer: byPeer})
	}
}
