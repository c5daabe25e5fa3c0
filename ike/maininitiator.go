package ike

import (
	"errors"
	"fmt"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/crypt"
	"ipsecagent/ike/wire"
)

// silentKE is how often message 3 goes unanswered before the exchange starts
// anew: the responder may have had to forget it.
const silentKE = 3

// startMain begins a main mode as initiator.
func (m *Machine) startMain(now time.Time, p path, offer MainOffer, waiting ...*request) {
	x := &mainMode{path: p, initiator: true, step: awaitMessage2, started: now,
		until: now.Add(giveUp), offer: m.able(offer), waiting: waiting}
	x.own = x.offer.choices()
	if len(x.own) == 0 {
		m.failMain(now, x, Failed{Step: "main mode message 1", Code: FailLocal,
			Reason: "there is nothing to offer: the policy names no main-mode method that this host can compute, or no authentication method that it is set up for"})
		return
	}
	x.sai = mainSA(x.own)
	m.sendMessage1(now, x)
}

// sendMessage1 begins or begins anew: with fresh cookies, so that nothing of
// an earlier try can be taken for an answer.
func (m *Machine) sendMessage1(now time.Time, x *mainMode) {
	m.endMain(x)
	cookie, err := m.randomCookie()
	if err != nil {
		m.failMain(now, x, Failed{Code: FailLocal, Reason: err.Error()})
		return
	}
	x.icookie, x.rcookie, x.step, x.busy = cookie, [8]byte{}, awaitMessage2, false
	x.answers, x.tries = answers{}, 0
	m.mains[x.key()] = x
	m.peers.addMain(x)
	m.repeatMain(now, x, maxSends, wire.AppendClear(nil, x.header(), []wire.Payload{{Type: wire.SAPayload, Body: x.sai}}))
}

func (m *Machine) repeatMain(now time.Time, x *mainMode, limit int, data []byte) {
	m.stopRepeat(x.resend)
	x.resend = &repeater{path: x.path, data: data, limit: limit, until: x.until,
		over: func(now time.Time) { m.mainSilent(now, x) }}
	m.repeat(now, x.resend)
}

// mainSilent is called when the sends of a message are used up.
func (m *Machine) mainSilent(now time.Time, x *mainMode) {
	if x.step == awaitMessage4 && x.hint == 0 && now.Before(x.until) {
		m.sendMessage1(now, x)
		return
	}
	m.failMain(now, x, x.silence())
}

// silence says what a silence at this step, with this hint, most likely means.
func (x *mainMode) silence() Failed {
	peer := x.remote.Addr()
	proving := x.step == awaitMessage6
	switch {
	case x.hint != 0 && proving && x.choice.Method == auth.PSK:
		return Failed{Code: FailPSK, Reason: fmt.Sprintf("%s answered with error notify %d when it saw our proof of identity: probably the preshared keys differ; enter the same key on both hosts", peer, x.hint)}
	case x.hint != 0 && proving:
		return Failed{Code: FailAuth, Reason: fmt.Sprintf("%s answered with error notify %d when it saw our proof of identity", peer, x.hint)}
	case x.hint == wire.AuthenticationFailed:
		return Failed{Code: FailAuth, Reason: fmt.Sprintf("%s says it cannot authenticate us: probably it has no key for this host; see its log", peer)}
	case x.hint == wire.NoProposalChosen:
		return Failed{Code: FailNoProposal, Offered: mainWords(x.own), Reason: fmt.Sprintf("%s accepts none of our main-mode methods; give both ends one in common", peer)}
	case x.hint != 0:
		return Failed{Code: FailProtocol, Reason: fmt.Sprintf("%s refused with error notify %d", peer, x.hint)}
	case proving && x.choice.Method == auth.PSK:
		return Failed{Code: FailNoAnswer, Reason: fmt.Sprintf("%s fell silent when it saw our proof of identity: often the preshared keys differ, or large datagrams are lost", peer)}
	case x.step == awaitMessage2:
		return Failed{Code: FailNoAnswer, Silence: true, Reason: fmt.Sprintf("%s does not answer on UDP port %d: IPsec is not running there, or a packet filter is in the way", peer, x.remote.Port())}
	}
	return Failed{Code: FailNoAnswer, Reason: fmt.Sprintf("%s fell silent; see whether it still runs and whether UDP port %d passes both ways", peer, x.remote.Port())}
}

// begun is the result of the work before message 3.
type begun struct {
	session auth.Session
	dh      keyExchange
	err     error
}

// message2 takes the responder's choice.
func (m *Machine) message2(now time.Time, x *mainMode, msg message, plain wire.Chain) error {
	if msg.RCookie == [8]byte{} {
		return errors.New("without responder cookie")
	}
	body, _ := plain.Find(wire.SAPayload)
	choice, err := checkMainAnswer(x.own, body)
	if err != nil {
		return err
	}
	delete(m.mains, x.key())
	x.rcookie = msg.RCookie
	m.mains[x.key()] = x
	x.choice, x.hint = choice, 0
	x.answers.remember(msg.sum, nil)
	m.stopRepeat(x.resend)
	x.requirement, x.attempt = x.nextRequirement(m.attempts[x.remote.Addr()])
	draft := *x
	m.mainWork(x, func() any { return m.beginMain(&draft) }, func(now time.Time, result any) {
		m.begunMain(now, x, result)
	})
	return nil
}

// nextRequirement takes the requirements of the chosen method in turn, one
// failed attempt after the other, and then the next key of each.
func (x *mainMode) nextRequirement(failed int) (auth.Requirement, int) {
	reqs := x.requirements()
	return reqs[failed%len(reqs)], failed / len(reqs)
}

// beginMain runs in the pool.
func (m *Machine) beginMain(x *mainMode) begun {
	var b begun
	b.session, b.err = m.authenticator(x.choice.Method).Start(auth.Request{Initiator: true,
		Local: x.local.Addr(), Remote: x.remote.Addr(), Requirement: x.requirement, Attempt: x.attempt})
	if b.err == nil {
		b.dh, b.err = m.newDH(x.choice.Suite.Group, m.cfg.Rand)
	}
	return b
}

// begunMain sends message 3.
func (m *Machine) begunMain(now time.Time, x *mainMode, result any) {
	b, ok := result.(begun)
	if !ok {
		b.err = errWork
	}
	var nonce []byte
	if b.err == nil {
		nonce, b.err = m.random(ourNonce)
	}
	if b.err != nil {
		m.failMain(now, x, Failed{Code: localCode(x.choice.Method, b.err), Reason: b.err.Error()})
		return
	}
	x.session, x.dh, x.kei, x.ni = b.session, b.dh, b.dh.Public(), nonce
	x.step = awaitMessage4
	m.repeatMain(now, x, silentKE, wire.AppendClear(nil, x.header(), []wire.Payload{
		{Type: wire.KEPayload, Body: x.kei}, {Type: wire.NoncePayload, Body: x.ni}}))
}

// claimed is the result of the work before message 5.
type claimed struct {
	keys      *crypt.Keys
	id, proof []byte
	badPeer   error
	local     error
}

// message4 takes the responder's half of the key exchange.
func (m *Machine) message4(_ time.Time, x *mainMode, msg message, plain wire.Chain) error {
	ke, _ := plain.Find(wire.KEPayload)
	nonce, _ := plain.Find(wire.NoncePayload)
	if err := checkNonce(nonce); err != nil {
		return err
	}
	if err := checkKE(x.choice.Suite.Group, ke); err != nil {
		return err
	}
	if x.tries++; x.tries > maxKEWork {
		return errors.New("too many of them")
	}
	draft := *x
	draft.ker, draft.nr = ke, nonce
	m.mainWork(x, func() any { return claimMain(&draft) }, func(now time.Time, result any) {
		m.claimedMain(now, x, msg, &draft, result)
	})
	return nil
}

// claimMain runs in the pool, on a copy of the exchange.
func claimMain(x *mainMode) claimed {
	var c claimed
	shared, err := x.dh.Shared(x.ker)
	if err != nil {
		c.badPeer = err
		return c
	}
	x.dh.Zero()
	defer clear(shared)
	if c.keys, c.local = deriveKeys(x.exchange(shared), seedsOf(x.session)[0]); c.local != nil {
		return c
	}
	c.id = x.localID(x.session)
	c.proof, c.local = x.session.Prove(func(extra []byte) []byte { return c.keys.HashI(x.sai, c.id, extra) })
	return c
}

// claimedMain sends message 5.
func (m *Machine) claimedMain(now time.Time, x *mainMode, msg message, draft *mainMode, result any) {
	c, ok := result.(claimed)
	if !ok {
		c.local = errWork
	}
	if c.badPeer != nil {
		m.drop(now, x.remote, "main mode message 4: "+c.badPeer.Error())
		return
	}
	payloads := append([]wire.Payload{{Type: wire.IDPayload, Body: c.id}, {Type: wire.HashPayload, Body: c.proof}},
		m.firstContact(x)...)
	var data []byte
	if c.local == nil {
		data, x.iv, c.local = seal(c.keys, x.header(), c.keys.IV(), payloads)
	}
	if c.local != nil {
		m.failMain(now, x, Failed{Code: localCode(x.choice.Method, c.local), Reason: c.local.Error()})
		return
	}
	x.ker, x.nr, x.keys, x.step = draft.ker, draft.nr, c.keys, awaitMessage6
	x.answers.remember(msg.sum, nil)
	x.until, x.hint = now.Add(giveUp), 0
	m.repeatMain(now, x, maxSends, data)
}

// checked is the result of the work for message 6.
type checked struct {
	principal auth.Principal
	err       error
}

// message6 verifies the responder's proof.
func (m *Machine) message6(_ time.Time, x *mainMode, msg message, _ wire.Chain) error {
	chain, last, err := open(x.keys, msg, x.iv)
	if err == nil {
		err = proofShape().check(chain)
	}
	if err != nil {
		return err
	}
	id, _ := chain.Find(wire.IDPayload)
	proof, _ := chain.Find(wire.HashPayload)
	draft := *x
	m.mainWork(x, func() any {
		var c checked
		c.principal, c.err = checkProof(draft.session, id, func(extra []byte) []byte { return draft.keys.HashR(draft.sai, id, extra) }, proof)
		return c
	}, func(now time.Time, result any) {
		c, ok := result.(checked)
		if !ok {
			c.err = errWork
		}
		m.checkedMain(now, x, chain, last, c)
	})
	return nil
}

// checkedMain makes the ISAKMP SA.
func (m *Machine) checkedMain(now time.Time, x *mainMode, chain wire.Chain, last []byte, c checked) {
	if c.err != nil {
		m.drop(now, x.remote, "main mode message 6: "+c.err.Error())
		x.hint = wire.InvalidHashInformation
		x.resend.shorten()
		return
	}
	if err := acceptPrincipal(x.requirement, c.principal); err != nil {
		m.failMain(now, x, Failed{Code: FailAuth, Reason: err.Error()})
		return
	}
	s := m.establishMain(now, x, candidate{x.session, x.requirement, x.keys}, last, c.principal)
	delete(m.attempts, x.remote.Addr())
	m.initialContact(now, s, chain, x.started)
	for _, r := range x.waiting {
		m.initiate(now, r)
	}
}
