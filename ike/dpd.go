package ike

import (
	"bytes"
	"encoding/binary"
	"time"

	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// Dead peer detection (RFC 3706): asked for by Silent, when something goes out
// to a peer and nothing comes back.

const (
	// probeSends is how often a peer is asked on the usual schedule before it
	// counts as dead, 38 seconds after the first question.
	probeSends = 7
	peerDead   = "the peer is dead: it does not answer"
)

// probe is a question under way.
type probe struct {
	since time.Time
	sends int
	timer *timer
}

// silent asks whether the peer of a pair still lives. One that cannot be asked
// shows it by renewing the pair.
func (m *Machine) silent(now time.Time, id sadb.PairID) {
	p := m.pairs[id]
	if p == nil {
		return
	}
	s := m.asking(p)
	switch {
	case s == nil:
		m.probeByRenewal(now, p)
	case s.probe == nil:
		s.probe = &probe{since: now}
		m.ask(now, s)
	}
}

// asking returns the ISAKMP SA under which the peer of a pair can be asked, the
// newest.
func (m *Machine) asking(p *pairState) *isakmp {
	var best *isakmp
	for _, s := range m.peers.at(endsOf(p.pair)).sas {
		if s.dpd && s.owns(p.pair) && (best == nil || s.compare(best) > 0) {
			best = s
		}
	}
	return best
}

// probeByRenewal renews a pair to see whether the peer answers.
func (m *Machine) probeByRenewal(now time.Time, p *pairState) {
	p.probing = true
	if !p.renewing {
		m.rekey(now, p.pair.ID)
		p.probing = p.renewing
	}
}

// ask sends R-U-THERE, each time as a message of its own.
func (m *Machine) ask(now time.Time, s *isakmp) {
	p := s.probe
	if m.sas[s.key()] != s {
		return
	}
	if s.alive.After(p.since) {
		s.probe = nil
		return
	}
	if p.sends >= probeSends {
		m.deadPeer(now, s)
		return
	}
	if s.dpdSent == 0 {
		b, err := m.random(4)
		if err != nil {
			return
		}
		s.dpdSent = binary.BigEndian.Uint32(b) >> 1
	}
	s.dpdSent++
	p.sends++
	m.sendProbe(now, s, wire.RUThere, s.dpdSent)
	p.timer = m.timers.set(p.timer, now.Add(wait(p.sends)), func(now time.Time) { m.ask(now, s) })
}

func (m *Machine) sendProbe(now time.Time, s *isakmp, t wire.NotifyType, sequence uint32) {
	n := wire.Notify{DOI: wire.DOIIPsec, Protocol: wire.ProtoISAKMP, Type: t, SPI: append(s.icookie[:], s.rcookie[:]...),
		Data: binary.BigEndian.AppendUint32(nil, sequence)}
	m.sendInformational(now, s, 1, wire.Payload{Type: wire.NotifyPayload, Body: n.Append(nil)})
}

// deadPeer ends everything with a peer that does not answer.
func (m *Machine) deadPeer(now time.Time, s *isakmp) {
	for _, p := range m.pairsAt(s.ends(), s.owns) {
		m.endPair(now, p, peerDead, false)
	}
	for _, t := range m.peers.at(s.ends()).sas {
		if t.proof.Principal == s.proof.Principal && t.remote == s.remote && !t.alive.After(s.probe.since) {
			m.endSA(now, t, peerDead)
		}
	}
}

// probed takes an authenticated R-U-THERE or its answer. A question whose
// number does not go up is an old one.
func (m *Machine) probed(now time.Time, s *isakmp, n wire.Notify) {
	ours := append(s.icookie[:], s.rcookie[:]...)
	if len(n.Data) != 4 || n.Protocol != wire.ProtoISAKMP || !bytes.Equal(n.SPI, ours) {
		return
	}
	sequence := binary.BigEndian.Uint32(n.Data)
	if n.Type != wire.RUThere {
		return // that it came, authenticated, is all that counts
	}
	if s.dpdAsked && sequence <= s.dpdHeard {
		return
	}
	s.dpdAsked, s.dpdHeard = true, sequence
	m.sendProbe(now, s, wire.RUThereAck, sequence)
}
