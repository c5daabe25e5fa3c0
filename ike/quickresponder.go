package ike

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// refusal is why a peer's quick mode is refused.
type refusal struct {
	notify wire.NotifyType
	failed Failed
}

func refuse(t wire.NotifyType, code FailCode, format string, args ...any) *refusal {
	return &refusal{t, Failed{Code: code, Reason: fmt.Sprintf(format, args...)}}
}

// quick1 begins a quick mode as responder. Nothing is kept, not even the
// message ID, before the hash is verified.
func (m *Machine) quick1(now time.Time, s *isakmp, msg message) error {
	if s.seen[msg.MessageID] {
		return errDuplicate
	}
	if err := m.peerBusy(s); err != nil {
		return err
	}
	chain, next, err := open(s.keys, msg, s.keys.ExchangeIV(s.last, msg.MessageID))
	if err != nil {
		return err
	}
	if err := verified(chain, s.keys.Hash1(msg.MessageID, chain.AfterFirst())); err != nil {
		return err
	}
	m.tracePayloads(s.path, false, msg.Header, chain.Payloads)
	if s.spent() {
		m.closeSpent(now, s)
		return errSpent
	}
	m.heard(now, s, msg)
	q := &quickMode{sa: s, id: msg.MessageID, iv: next, spis: map[sadb.Proto]sadb.SPI{}}
	q.answers.remember(msg.sum, nil)
	body, r := m.acceptQuick(q, chain)
	m.explainChoice(q, r)
	if r != nil {
		m.refuseQuick(now, s, q, r)
		return nil
	}
	if err := m.enterQuick(now, q); err != nil {
		return err
	}
	m.answerQuick(now, q, msg, body)
	return nil
}

var errSpent = errors.New("quick mode: the ISAKMP SA has carried all it may")

// explainChoice says for a trace what policy has answered and what was chosen.
func (m *Machine) explainChoice(q *quickMode, r *refusal) {
	if r == nil {
		m.explain(q.sa.path, "filter %q decides on %s; chosen: %s, round %d", q.offer.Filter, q.selector,
			strings.Join(quickWords([]sadb.Proposal{{Suites: q.pick.Suites}}, q.shape), ""), q.pair.Round)
	}
}

// peerBusy bounds what one peer has under way. What is refused here is repeated
// by the peer and then welcome, or starts over under another ISAKMP SA once the
// peer has been told that this one is over.
func (m *Machine) peerBusy(s *isakmp) error {
	if s.full() {
		return errSpent
	}
	if m.peerRunning(s) >= peerQuicks {
		return errors.New("quick mode: the peer runs too many at once")
	}
	return nil
}

// peerRunning is how many quick modes the peer of s has under way with us.
func (m *Machine) peerRunning(s *isakmp) int {
	n := 0
	for _, t := range m.peers.at(s.ends()).sas {
		if t.sameHosts(s.path) {
			n += t.running(false)
		}
	}
	return n
}

// acceptQuick checks a proposal against policy and chooses.
func (m *Machine) acceptQuick(q *quickMode, chain wire.Chain) (quickBody, *refusal) {
	s := q.sa
	if err := saShape().check(chain); err != nil {
		return quickBody{}, refuse(wire.PayloadMalformed, FailProtocol, "%v", err)
	}
	b, err := readQuickBody(chain)
	if err != nil {
		return b, refuse(wire.PayloadMalformed, FailProtocol, "%v", err)
	}
	peer, err := readQuickSA(b.sa)
	if err != nil {
		return b, refuse(wire.PayloadMalformed, FailProtocol, "%v", err)
	}
	proposed, err := selectorOf(b.idR, b.idI, s.path, peer.translated(s))
	if err != nil {
		return b, refuse(wire.InvalidIDInformation, FailProtocol, "%v", err)
	}
	if r := m.quickPolicy(q, proposed, peer); r != nil {
		return b, r
	}
	if err := checkPFS(q.shape.PFS, b.ke); err != nil {
		return b, refuse(wire.InvalidKeyInformation, FailProtocol, "%v", err)
	}
	m.fixRound(q, chain)
	q.ni, q.idLocal, q.idRemote = b.nonce, b.idR, b.idI
	return b, nil
}

// quickPolicy asks policy and picks by this host's preference.
func (m *Machine) quickPolicy(q *quickMode, proposed sadb.Selector, peer quickReceived) *refusal {
	s := q.sa
	mode, ok := peer.mode()
	if !ok {
		r := refuse(wire.NoProposalChosen, FailNoProposal, "the peer offers nothing that is known here")
		r.failed.Received = peer.words()
		return r
	}
	if mode == sadb.Transport && proposed.Narrow(s.local.Addr(), s.remote.Addr()) != proposed {
		return refuse(wire.InvalidIDInformation, FailFilters, "transport mode for %s, which is more than these two hosts", proposed)
	}
	if m.policy.Quick == nil {
		return refuse(wire.NoProposalChosen, FailPolicy, "no policy is in force")
	}
	offer, err := m.policy.Quick(QuickQuery{Local: s.local.Addr(), Remote: s.remote.Addr(), Selector: proposed,
		Mode: mode, Proof: s.proof})
	if err != nil {
		return refusalOf(err)
	}
	if r := q.choose(offer, proposed, peer); r != nil {
		return r
	}
	return m.crowded(q)
}

// crowded refuses a new pair to a peer that has its share already. A rekey is
// let through: the pair it replaces is about to go.
func (m *Machine) crowded(q *quickMode) *refusal {
	n := m.pairsWith(q.sa) + m.peerRunning(q.sa)
	if n < peerPairs || n < 2*peerPairs && m.replacedBy(q) != 0 {
		return nil
	}
	return refuse(wire.NoProposalChosen, FailCrowded, "%s has %d pairs of associations with this host, the most that one peer may have", q.sa.remote.Addr(), n)
}

// mode is the mode of the first transform that could be read.
func (r quickReceived) mode() (mode sadb.Mode, ok bool) {
	for _, g := range r.groups {
		for _, p := range g.parts {
			if len(p.transforms) > 0 {
				return p.transforms[0].Mode, true
			}
		}
	}
	return 0, false
}

func refusalOf(err error) *refusal {
	var r *Refusal
	if errors.As(err, &r) {
		code := FailPolicy
		switch wire.NotifyType(r.Notify) {
		case wire.InvalidIDInformation:
			code = FailFilters
		case wire.AuthenticationFailed:
			code = FailPrincipal
		}
		return refuse(wire.NotifyType(r.Notify), code, "%s", r.Reason)
	}
	return refuse(wire.NoProposalChosen, FailPolicy, "%v", err)
}

// choose narrows to what both the peer asked for and policy allows.
func (q *quickMode) choose(offer QuickOffer, proposed sadb.Selector, peer quickReceived) *refusal {
	q.offer = offer
	switch {
	case proposed.Contains(offer.Selector):
		q.selector = offer.Selector
	case offer.Selector.Contains(proposed):
		q.selector = proposed
	default:
		return refuse(wire.InvalidIDInformation, FailFilters, "the peer asks for %s, policy has %s", proposed, offer.Selector)
	}
	want := offer.wants(q.sa)
	pick, ok := pickQuick(passable(offer.Proposals, q.sa), want, peer)
	if !ok {
		differs := quickDiffers(offer.Proposals, want, peer)
		r := refuse(wire.NoProposalChosen, FailNoProposal, "the peer offers nothing that policy accepts; first difference: %s; give both ends one method in common", differs)
		r.failed.Offered = quickWords(offer.Proposals, want.shape())
		r.failed.Received, r.failed.Differs = peer.words(), differs
		return r
	}
	q.pick, q.shape = pick, pick.Shape
	return nil
}

// refuseQuick tells the peer, which is authenticated, and the administrator.
func (m *Machine) refuseQuick(now time.Time, s *isakmp, q *quickMode, r *refusal) {
	r.failed.Local, r.failed.Remote, r.failed.Filter = s.local.Addr(), s.remote.Addr(), q.offer.Filter
	r.failed.Step = "quick mode message 1"
	m.put(r.failed)
	if r.notify == 0 {
		return
	}
	// The message ID says which quick mode is meant, as Windows has it.
	n := wire.Notify{DOI: wire.DOIIPsec, Protocol: wire.ProtoESP, Type: r.notify, Data: spiBytes(sadb.SPI(q.id))}
	m.sendInformational(now, s, 1, wire.Payload{Type: wire.NotifyPayload, Body: n.Append(nil)})
	if r.failed.Code == FailPrincipal && !m.stillWanted(s) {
		m.closeSA(now, s, unwanted) // it was under way when policy changed
	}
}

// answerQuick reserves, computes, installs the inbound associations and only
// then answers: the initiator may send as soon as it has the answer.
func (m *Machine) answerQuick(now time.Time, q *quickMode, msg message, b quickBody) {
	var err error
	if q.nr, err = m.random(ourNonce); err != nil {
		m.failQuick(now, q, Failed{Code: FailLocal, Reason: err.Error()})
		return
	}
	var protos []sadb.Proto
	for _, s := range q.pick.Suites {
		protos = append(protos, s.Proto)
	}
	m.reserveAll(now, q, protos, func(now time.Time) {
		m.pfs(now, q, b.ke, func(now time.Time) {
			q.pair.Replaces = m.replacedBy(q)
			m.settle(now, q)
			m.installDirection(now, q, sadb.In, func(now time.Time) { m.sendQuick2(now, q, msg) })
		})
	})
}

// sendQuick2 repeats message 2 until message 3 or the first packet comes: the
// one timer of a responder, to a peer that has proven itself.
func (m *Machine) sendQuick2(now time.Time, q *quickMode, msg message) {
	s := q.sa
	body := q.bodyPayloads(q.pick.answerBody(q.spis), q.nr, q.idRemote, q.idLocal)
	if q.pick.Shorter {
		body = append(body, q.lifetimeNotify())
	}
	if q.ranked {
		body = append(body, q.roundNotify())
	}
	data, err := m.sealQuick(q, withHash(func(raw []byte) []byte { return s.keys.Hash2(q.id, q.ni, raw) }, body))
	if err != nil {
		m.failQuick(now, q, Failed{Code: FailLocal, Reason: err.Error()})
		return
	}
	q.answers.remember(msg.sum, data)
	q.step = awaitQuick3
	m.keepQuick(now, q)
	q.resend = &repeater{path: s.path, data: data, limit: maxSends, until: now.Add(giveUp),
		over: func(now time.Time) { m.unconfirmed(now, q) }}
	m.repeat(now, q.resend)
}

// unconfirmed ends a quick mode whose message 3 never came. That is no failure
// if the initiator has started anew since, and succeeded.
func (m *Machine) unconfirmed(now time.Time, q *quickMode) {
	if p := m.top(q.pair); p != nil && (p.pair.Since.After(q.began) || p.pair.Outranks(q.pair)) {
		m.sendDelete(now, q.sa, q.pair.In)
		m.dropQuick(now, q)
		return
	}
	m.failQuick(now, q, Failed{Code: FailNoAnswer, Reason: fmt.Sprintf("%s did not confirm the associations it asked for", q.sa.remote.Addr())})
}

// lifetimeNotify tells the initiator of limits below its own (RFC 2407
// §4.6.3.1).
func (q *quickMode) lifetimeNotify() wire.Payload {
	n := wire.Notify{DOI: wire.DOIIPsec, Protocol: wireProto(q.pick.Suites[0].Proto), Type: wire.ResponderLifetime,
		SPI: spiBytes(q.pair.In[0].SPI), Data: wire.AppendAttributes(nil, lifeAttributes(q.pick.Lifetime))}
	return wire.Payload{Type: wire.NotifyPayload, Body: n.Append(nil)}
}

// quick3 is the initiator's confirmation.
func (m *Machine) quick3(now time.Time, q *quickMode, msg message, _ wire.Chain) {
	q.answers.remember(msg.sum, nil)
	m.confirm(now, q)
}

// confirm puts the outbound associations in force: the initiator has its
// inbound ones.
func (m *Machine) confirm(now time.Time, q *quickMode) {
	m.stopRepeat(q.resend)
	m.keepQuick(now, q)
	m.installOutbound(now, q)
}
