package ike

import (
	"time"

	"ipsecagent/ike/wire"
)

// A delete that carries a nonce is acknowledged, by a delete with a nonce under
// the same message ID (MS-IKEE §3.3.4). Whoever sends one gets the answer; this
// host sends it to peers that are known to answer.

// deletion is a delete of ours that is not acknowledged yet.
type deletion struct {
	ni, iv []byte
	resend *repeater
}

// reliableSends is how often such a delete goes out.
const reliableSends = 7

// acknowledges reports whether the peer of s answers deletes: this project, and
// Windows from XP on.
func (s *isakmp) acknowledges() bool { return s.agent || s.windows >= 3 }

// deleteReliably tells the peer until it has answered.
func (m *Machine) deleteReliably(now time.Time, s *isakmp, d wire.Payload) {
	id, err := m.freshID(s)
	if err != nil {
		return
	}
	ni, err := m.random(ourNonce)
	if err != nil {
		return
	}
	payloads := withHash(func(raw []byte) []byte { return s.keys.Hash1(id, raw) }, []wire.Payload{{Type: wire.NoncePayload, Body: ni}, d})
	h := s.header(wire.Informational, id)
	data, next, err := seal(s.keys, h, s.keys.ExchangeIV(s.last, id), payloads)
	if err != nil {
		return
	}
	m.tracePayloads(s.path, true, h, payloads)
	if s.deletions == nil {
		s.deletions = map[uint32]*deletion{}
	}
	x := &deletion{ni: ni, iv: next}
	s.deletions[id] = x
	x.resend = &repeater{path: s.path, data: data, limit: reliableSends, until: now.Add(giveUp), over: func(time.Time) { delete(s.deletions, id) }}
	m.repeat(now, x.resend)
}

// acknowledged takes the answer to a delete of ours.
func (m *Machine) acknowledged(now time.Time, s *isakmp, x *deletion, msg message) error {
	chain, _, err := open(s.keys, msg, x.iv)
	if err != nil {
		return err
	}
	if err := verified(chain, s.keys.HashDelete(msg.MessageID, x.ni, chain.AfterFirst())); err != nil {
		return err
	}
	m.tracePayloads(s.path, false, msg.Header, chain.Payloads)
	s.alive = now
	m.follow(s, msg.path)
	m.stopRepeat(x.resend)
	delete(s.deletions, msg.MessageID)
	if s.ending != "" && len(s.deletions) == 0 {
		m.closeSA(now, s, s.ending)
	}
	return nil
}

// acknowledge answers a delete that carries a nonce with what it names.
func (m *Machine) acknowledge(s *isakmp, msg message, chain wire.Chain, iv []byte) {
	nonces, deletes := chain.All(wire.NoncePayload), chain.All(wire.DeletePayload)
	if len(nonces) != 1 || len(deletes) == 0 || checkNonce(nonces[0]) != nil {
		return
	}
	nr, err := m.random(ourNonce)
	if err != nil {
		return
	}
	hash := func(raw []byte) []byte { return s.keys.HashDelete(msg.MessageID, nonces[0], raw) }
	payloads := withHash(hash, []wire.Payload{{Type: wire.NoncePayload, Body: nr}, {Type: wire.DeletePayload, Body: deletes[0]}})
	h := s.header(wire.Informational, msg.MessageID)
	data, _, err := seal(s.keys, h, iv, payloads)
	if err != nil {
		return
	}
	m.tracePayloads(s.path, true, h, payloads)
	if s.acks == nil {
		s.acks = &answers{}
	}
	s.acks.remember(msg.sum, data)
	m.send(s.path, data)
}

// giveUpDeletes waits for no acknowledgement any more: without the ISAKMP SA it
// could not be verified.
func (m *Machine) giveUpDeletes(s *isakmp) {
	for _, x := range s.deletions {
		x.resend.limit = min(x.resend.limit, deleteSends)
	}
	clear(s.deletions)
}
