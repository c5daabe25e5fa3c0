package ike

import (
	"fmt"
	"slices"
	"time"

	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// startQuick begins a quick mode under s, or has the request wait its turn.
func (m *Machine) startQuick(now time.Time, s *isakmp, r *request) {
	if s.running(true) >= ownQuicks {
		s.queue = append(s.queue, r)
		return
	}
	q := &quickMode{sa: s, initiator: true, request: r, offer: r.Quick, selector: r.Quick.Selector,
		spis: map[sadb.Proto]sadb.SPI{}, shape: r.Quick.shape(s)}
	if q.offer.Proposals = passable(q.offer.Proposals, s); len(q.offer.Proposals) == 0 {
		m.failRequest(r, Failed{Code: FailNAT, Step: "quick mode message 1", Reason: "there is address translation on the way, and AH does not get through it",
			Hint: "add a security method with ESP alone to the filter action"})
		return
	}
	q.pair.Replaces, q.pair.Round = r.Replaces, m.nextRound(s)
	if err := m.prepare(now, q); err != nil {
		m.failRequest(r, Failed{Code: FailLocal, Step: "quick mode message 1", Reason: err.Error()})
		return
	}
	m.reserveAll(now, q, protocols(q.offer.Proposals), func(now time.Time) {
		m.pfs(now, q, nil, func(now time.Time) { m.sendQuick1(now, q) })
	})
}

// shape is what this host asks for under s.
func (o QuickOffer) shape(s *isakmp) quickShape {
	shape := quickShape{Mode: o.Mode, PFS: o.PFS, ESN: o.ESN && s.agent}
	if o.PFSAny && shape.PFS == 0 {
		shape.PFS = s.suite.Group
	}
	switch {
	case s.encap().IsZero():
	case s.nat.form == natRFC3947:
		shape.UDP = rfcUDP
	default:
		shape.UDP = draftUDP
	}
	return shape
}

// passable leaves out what does not get through address translation: AH covers
// the addresses (RFC 3948 §2.1).
func passable(all []sadb.Proposal, s *isakmp) []sadb.Proposal {
	if s.encap().IsZero() {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(p sadb.Proposal) bool {
		return slices.ContainsFunc(p.Suites, func(s sadb.Suite) bool { return s.Proto == sadb.AH })
	})
}

func (m *Machine) prepare(now time.Time, q *quickMode) error {
	var err error
	if outer := q.sa.local.Addr(); q.offer.Mode == sadb.Transport && !q.selector.Local.Matches(outer, true) {
		return fmt.Errorf("transport mode from %s for %s, which is of another host", outer, q.selector)
	}
	if q.idLocal, q.idRemote, err = clientIDs(q.selector, q.sa.path); err != nil {
		return err
	}
	if q.ni, err = m.random(ourNonce); err != nil {
		return err
	}
	if q.id, err = m.freshID(q.sa); err != nil {
		return err
	}
	return m.enterQuick(now, q)
}

func (m *Machine) sendQuick1(now time.Time, q *quickMode) {
	s := q.sa
	q.iv = s.keys.ExchangeIV(s.last, q.id)
	body := q.bodyPayloads(quickSA(q.offer.Proposals, q.spis, q.shape), q.ni, q.idLocal, q.idRemote)
	if s.agent {
		body = append(body, q.roundNotify())
	}
	data, err := m.sealQuick(q, withHash(func(raw []byte) []byte { return s.keys.Hash1(q.id, raw) }, body))
	if err != nil {
		m.failQuick(now, q, Failed{Code: FailLocal, Reason: err.Error()})
		return
	}
	q.step = awaitQuick2
	limit := maxSends
	if now.Sub(s.alive) > freshFor {
		limit = staleSends
	}
	q.resend = &repeater{path: s.path, data: data, limit: limit, until: now.Add(giveUp),
		over: func(now time.Time) { m.quickSilent(now, q) }}
	m.repeat(now, q.resend)
}

const (
	// freshFor is how long an ISAKMP SA counts as known by the peer after it
	// was heard under it.
	freshFor = 10 * time.Second
	// staleSends is how often message 1 goes out under an older one before
	// the peer is believed to have forgotten it.
	staleSends = 4
)

// quickSilent is called when nobody has answered message 1. A peer that has
// restarted knows nothing of the ISAKMP SA: then a new main mode is tried.
func (m *Machine) quickSilent(now time.Time, q *quickMode) {
	s := q.sa
	if q.resend.limit == staleSends && q.request.mains < maxMains {
		r := m.dropQuick(now, q)
		s.forgotten = true
		m.initiate(now, r)
		m.nextQuick(now, s)
		return
	}
	m.failQuick(now, q, Failed{Code: FailNoAnswer, Offered: quickWords(q.offer.Proposals, q.shape),
		Reason: fmt.Sprintf("%s does not answer in quick mode although main mode succeeded: see its log for the reason", s.remote.Addr())})
}

// quick2 takes the responder's choice. It is authenticated: what is wrong with
// it ends the exchange.
func (m *Machine) quick2(now time.Time, q *quickMode, msg message, chain wire.Chain) {
	m.stopRepeat(q.resend)
	m.keepQuick(now, q)
	ke, err := q.takeAnswer(chain)
	if err != nil {
		m.failQuick(now, q, Failed{Code: FailProtocol, Offered: quickWords(q.offer.Proposals, q.shape), Reason: err.Error()})
		return
	}
	q.step = prepareQuick
	m.settle(now, q)
	m.pfs(now, q, ke, func(now time.Time) {
		m.installDirection(now, q, sadb.In, func(now time.Time) { m.sendQuick3(now, q, msg) })
	})
}

// takeAnswer reads message 2 and checks that it is an answer to message 1.
func (q *quickMode) takeAnswer(chain wire.Chain) (ke []byte, err error) {
	b, err := readQuickBody(chain)
	if err != nil {
		return nil, err
	}
	if q.pick, err = checkQuickAnswer(q.offer.Proposals, q.shape, b.sa); err != nil {
		return nil, err
	}
	if err := checkPFS(q.shape.PFS, b.ke); err != nil {
		return nil, err
	}
	if err := q.sameIDs(b); err != nil {
		return nil, err
	}
	if round, ok := saidRound(chain); ok {
		q.pair.Round, q.ranked = round, true
	}
	q.nr = b.nonce
	return b.ke, q.responderLifetime(chain)
}

// sameIDs compares what the responder says the pair is for with what was
// asked, by meaning.
func (q *quickMode) sameIDs(b quickBody) error {
	asked, err := selectorOf(q.idLocal, q.idRemote, q.sa.path, q.translated())
	if err != nil {
		return err
	}
	got, err := selectorOf(b.idI, b.idR, q.sa.path, q.translated())
	if err != nil {
		return err
	}
	if asked != got {
		return fmt.Errorf("asked for %s, the peer answered for %s", asked, got)
	}
	return nil
}

// responderLifetime shortens the lifetime to what the responder says.
func (q *quickMode) responderLifetime(chain wire.Chain) error {
	for _, body := range chain.All(wire.NotifyPayload) {
		n, err := wire.ParseNotify(body)
		if err != nil {
			return err
		}
		if n.Type != wire.ResponderLifetime || n.Protocol == wire.ProtoISAKMP {
			continue
		}
		attrs, err := wire.ParseAttributes(n.Data)
		if err != nil {
			return err
		}
		said := readLifetime(attrs)
		if said.Time != 0 && said.Time < minLife {
			return fmt.Errorf("the peer wants a lifetime of %s", said.Time)
		}
		q.pick.Lifetime = q.pick.Lifetime.Min(said)
	}
	return nil
}

// sendQuick3 confirms: the inbound associations are in force, the outbound
// ones follow.
func (m *Machine) sendQuick3(now time.Time, q *quickMode, msg message) {
	data, err := m.sealQuick(q, []wire.Payload{{Type: wire.HashPayload, Body: q.sa.keys.Hash3(q.id, q.ni, q.nr)}})
	if err != nil {
		m.failQuick(now, q, Failed{Code: FailLocal, Reason: err.Error()})
		return
	}
	q.answers.remember(msg.sum, data)
	m.send(q.sa.path, data)
	if msg.Flags&wire.FlagCommit == 0 {
		m.installOutbound(now, q)
		return
	}
	q.step = awaitConnected
	generation := q.generation
	m.timers.set(nil, now.Add(commitWait), func(now time.Time) {
		if q.generation == generation && q.step == awaitConnected {
			m.installOutbound(now, q)
		}
	})
}

// commitWait is how long an initiator waits for CONNECTED from a peer that has
// set the commit bit: some set it and never say so.
const commitWait = time.Second

// quick4 takes what comes in a quick mode that has all its three messages: the
// CONNECTED of a peer that sets the commit bit (RFC 2408 §3.1), as Windows
// does. It is authenticated like a notify. What is not that changes nothing.
func (m *Machine) quick4(now time.Time, q *quickMode, msg message) error {
	if q.step != awaitConnected && q.step != finishingQuick {
		return errBusy
	}
	chain, next, err := open(q.sa.keys, msg, q.iv)
	if err != nil {
		return err
	}
	if err := verified(chain, q.sa.keys.Hash1(q.id, chain.AfterFirst())); err != nil {
		return err
	}
	m.tracePayloads(q.sa.path, false, msg.Header, chain.Payloads)
	q.iv, q.sa.alive = next, now
	q.answers.remember(msg.sum, nil)
	if q.step == awaitConnected && connected(chain) {
		m.installOutbound(now, q)
	}
	return nil
}

func connected(chain wire.Chain) bool {
	for _, body := range chain.All(wire.NotifyPayload) {
		if n, err := wire.ParseNotify(body); err == nil && n.Type == wire.Connected {
			return true
		}
	}
	return false
}
