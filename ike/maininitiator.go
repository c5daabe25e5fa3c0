package ike

import (
	"errors"
	"fmt"
	"slices"
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
	offer.Named = false
	x := &mainMode{path: p, initiator: true, step: awaitMessage2, started: now,
		until: now.Add(giveUp), offer: m.able(offer), waiting: waiting}
	m.beginAnew(now, x)
}

// beginAnew begins, or begins again: with fresh cookies, so that nothing of an
// earlier try can be taken for an answer. Kerberos needs its name first.
func (m *Machine) beginAnew(now time.Time, x *mainMode) {
	m.endMain(x)
	cookie, err := m.randomCookie()
	if err != nil {
		m.failMain(now, x, Failed{Code: FailLocal, Reason: err.Error()})
		return
	}
	x.icookie, x.rcookie, x.step, x.busy = cookie, [8]byte{}, awaitMessage2, false
	x.answers, x.tries, x.session, x.cookied = answers{}, 0, nil, false
	m.mains[x.key()] = x
	m.peers.addMain(x)
	x.own = m.inTurn(x.remote.Addr(), x.offer.choices())
	if !offersKerberos(x.own) {
		m.sendMessage1(now, x, nil)
		return
	}
	x.requirement, x.attempt = x.nextRequirement(auth.Kerberos, m.failedBy(x, auth.Kerberos))
	draft := *x
	m.mainWork(now, x, func() any { return m.introduce(&draft) }, func(now time.Time, result any) {
		m.introduced(now, x, result)
	})
}

func offersKerberos(choices []mainChoice) bool {
	return slices.ContainsFunc(choices, func(c mainChoice) bool { return c.Method == auth.Kerberos })
}

// withoutKerberos returns the choices that are left when there is no ticket to
// be had.
func withoutKerberos(choices []mainChoice) []mainChoice {
	return slices.DeleteFunc(slices.Clone(choices), func(c mainChoice) bool { return c.Method == auth.Kerberos })
}

// introduction is a session for Kerberos and the name that goes with the SA.
type introduction struct {
	session auth.Session
	name    []byte
	err     error
}

// introduce runs in the pool. It asks no KDC for anything.
func (m *Machine) introduce(x *mainMode) introduction {
	var i introduction
	i.session, i.err = m.authenticator(auth.Kerberos).Start(x.request())
	if i.err == nil {
		i.name = i.session.Local().GSS
	}
	return i
}

// request is what a session of x is started with.
func (x *mainMode) request() auth.Request {
	return auth.Request{Initiator: x.initiator, Local: x.local.Addr(), Remote: x.remote.Addr(),
		Requirement: *x.requirement, Attempt: x.attempt}
}

// introduced sends message 1: without Kerberos, if this host cannot and the
// policy names something else beside.
func (m *Machine) introduced(now time.Time, x *mainMode, result any) {
	i, ok := result.(introduction)
	if !ok {
		i.err = errWork
	}
	if i.err != nil {
		x.own = withoutKerberos(x.own)
	}
	for n := range x.own {
		if x.own[n].Method == auth.Kerberos {
			x.own[n].name = i.name
		}
	}
	x.session = i.session
	m.sendMessage1(now, x, i.err)
}

// sendMessage1 sends the offer; cause is why it is smaller than the policy's.
func (m *Machine) sendMessage1(now time.Time, x *mainMode, cause error) {
	if len(x.own) == 0 && cause != nil {
		x.choice.Method = auth.Kerberos
		m.failAuth(now, x, cause)
		return
	}
	if len(x.own) == 0 {
		m.failMain(now, x, Failed{Step: "main mode message 1", Code: FailLocal,
			Reason: "there is nothing to offer: the policy names no main-mode method that this host can compute, or no authentication method that it is set up for"})
		return
	}
	x.sai = mainSA(x.own)
	payloads := append([]wire.Payload{{Type: wire.SAPayload, Body: x.sai}}, m.offeredVendors(offersKerberos(x.own))...)
	m.repeatMain(now, x, maxSends, wire.AppendClear(nil, x.header(), payloads))
}

func (m *Machine) repeatMain(now time.Time, x *mainMode, limit int, data []byte) {
	m.stopRepeat(x.resend)
	if len(data) > wire.MaxMessage && !x.peer.fragments {
		m.failMain(now, x, Failed{Code: FailLocal, Reason: fmt.Sprintf("our next message has %d bytes, and %s takes no fragments of messages: use a shorter chain of certificates, or tickets without group memberships", len(data), x.remote.Addr())})
		return
	}
	x.resend = &repeater{path: x.path, data: data, limit: limit, until: x.until,
		over: func(now time.Time) { m.mainSilent(now, x) }, answered: func() bool { return x.busy }}
	m.repeat(now, x.resend)
}

// mainSilent is called when the sends of a message are used up.
func (m *Machine) mainSilent(now time.Time, x *mainMode) {
	if x.step == awaitMessage4 && x.hint == 0 && now.Before(x.until) {
		m.beginAnew(now, x)
		return
	}
	m.failMain(now, x, x.silence())
}

// silence says what a silence at this step, with this hint, most likely means.
func (x *mainMode) silence() Failed {
	peer := x.remote.Addr()
	proving := x.step == awaitMessage6
	switch {
	case x.suspect != nil:
		return x.suspect()
	case x.hint != 0 && proving && x.choice.Method == auth.PSK:
		return Failed{Code: FailPSK, Reason: fmt.Sprintf("%s answered with %s when it saw our proof of identity: probably the preshared keys differ; enter the same key on both hosts", peer, notifyName(x.hint))}
	case x.hint != 0 && proving:
		return Failed{Code: FailAuth, Reason: fmt.Sprintf("%s answered with %s when it saw our proof of identity", peer, notifyName(x.hint))}
	case x.hint == wire.AuthenticationFailed:
		return Failed{Code: FailAuth, Reason: fmt.Sprintf("%s says it cannot authenticate us: probably it has no key for this host; see its log", peer)}
	case x.hint == wire.NoProposalChosen:
		return Failed{Code: FailNoProposal, Offered: mainWords(x.own), Reason: fmt.Sprintf("%s accepts none of our main-mode methods; give both ends one in common", peer)}
	case x.hint != 0:
		return Failed{Code: FailRefused, Reason: fmt.Sprintf("%s refused with %s and says no more", peer, notifyName(x.hint)), Hint: "the log of the peer says why"}
	case proving && x.choice.Method == auth.PSK:
		return Failed{Code: FailNoAnswer, Reason: fmt.Sprintf("%s fell silent when it saw our proof of identity: often the preshared keys differ, or large datagrams are lost", peer)}
	case x.step == awaitMessage2:
		return Failed{Code: FailNoAnswer, Silence: true, Reason: fmt.Sprintf("%s does not answer on UDP port %d: IPsec is not running there, or a packet filter is in the way", peer, x.remote.Port())}
	}
	return Failed{Code: FailNoAnswer, Reason: fmt.Sprintf("%s fell silent; see whether it still runs and whether UDP port %d passes both ways", peer, x.remote.Port())}
}

// begun is the result of the work before message 3.
type begun struct {
	session  auth.Session
	dh       keyExchange
	requests []wire.Payload // for certificates
	token    []byte
	err      error
}

// message2 takes the responder's choice.
func (m *Machine) message2(now time.Time, x *mainMode, msg message, plain wire.Chain) error {
	if msg.RCookie == [8]byte{} {
		return errors.New("without responder cookie")
	}
	body, _ := plain.Find(wire.SAPayload)
	peer := readVendors(plain)
	choice, err := checkMainAnswer(x.own, body, peer.gssapi)
	if err != nil {
		return err
	}
	delete(m.mains, x.key())
	x.rcookie = msg.RCookie
	m.mains[x.key()] = x
	x.choice, x.peer, x.hint = choice, peer, 0
	x.nat = natFacts{form: m.natForm(peer)}
	x.answers.remember(msg.sum, nil)
	m.stopRepeat(x.resend)
	if choice.Method != auth.Kerberos {
		x.session = nil
		x.requirement, x.attempt = x.nextRequirement(choice.Method, m.failedBy(x, choice.Method))
	}
	draft := *x
	m.mainWork(now, x, func() any { return m.beginMain(&draft) }, func(now time.Time, result any) {
		m.begunMain(now, x, result)
	})
	return nil
}

// nextRequirement takes the requirements of a method in turn, one failed
// attempt after the other, and then the next key of each.
func (x *mainMode) nextRequirement(method auth.Method, failed int) (*auth.Requirement, int) {
	reqs := x.requirements(method)
	return &reqs[failed%len(reqs)], failed / len(reqs)
}

// beginMain runs in the pool.
func (m *Machine) beginMain(x *mainMode) begun {
	b := begun{session: x.session}
	if b.session == nil {
		b.session, b.err = m.authenticator(x.choice.Method).Start(x.request())
	} else if b.err = b.session.Remote(x.claim()); b.err == nil {
		b.token, b.err = b.session.Token(nil)
	}
	if b.err != nil {
		return b
	}
	b.requests = requests(x.choice.Method, b.session.Local().CAs)
	b.dh, b.err = m.newDH(x.choice.Suite.Group, m.cfg.Rand)
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
		nonce, b.err = m.random(m.nonceLen)
	}
	if b.err != nil {
		m.failAuth(now, x, b.err)
		return
	}
	x.session, x.dh, x.values = b.session, b.dh, x.exchange()
	x.values.KEi, x.values.Ni = b.dh.Public(), nonce
	x.step = awaitMessage4
	payloads := slices.Concat([]wire.Payload{{Type: wire.KEPayload, Body: x.values.KEi}, {Type: wire.NoncePayload, Body: x.values.Ni}},
		b.requests, tokens(b.token), m.natPayloads(x))
	m.repeatMain(now, x, silentKE, wire.AppendClear(nil, x.header(), payloads))
}

// claimed is the result of the work before message 5.
type claimed struct {
	keys    *crypt.Keys
	proof   proof
	badPeer error
	local   error
}

// message4 takes the responder's half of the key exchange.
func (m *Machine) message4(now time.Time, x *mainMode, msg message, plain wire.Chain) error {
	draft, values := *x, *x.values
	draft.values = &values
	var err error
	if values.KEr, values.Nr, err = x.keyValues(plain); err != nil {
		return err
	}
	if draft.asked, err = requested(plain); err != nil {
		return err
	}
	draft.nat = m.natDetect(x, msg.path, plain)
	if x.tries++; x.tries > maxKEWork {
		return errors.New("too many of them")
	}
	token, _ := plain.Find(wire.GSSPayload)
	m.mainWork(now, x, func() any { return claimMain(&draft, token) }, func(now time.Time, result any) {
		m.claimedMain(now, x, msg, &draft, result)
	})
	return nil
}

// claimMain runs in the pool, on a copy of the exchange.
func claimMain(x *mainMode, token []byte) claimed {
	var c claimed
	shared, err := x.dh.Shared(x.values.KEr)
	if err != nil {
		c.badPeer = err
		return c
	}
	defer clear(shared)
	if c.badPeer = takeReply(x, token); c.badPeer != nil {
		return c
	}
	x.dh.Zero()
	x.values.Shared = shared
	if c.keys, c.local = deriveKeys(*x.values, seedsOf(x.session)[0]); c.local != nil {
		return c
	}
	if len(x.asked) > 0 {
		c.local = x.session.Remote(x.claim())
	}
	if c.local == nil {
		c.proof, c.local = x.prove(x.session, func(id, extra []byte) []byte { return c.keys.HashI(x.sai, id, extra) })
	}
	return c
}

// takeReply completes the GSS context with the responder's token.
func takeReply(x *mainMode, token []byte) error {
	if x.choice.Method != auth.Kerberos {
		return nil
	}
	out, err := x.session.Token(token)
	if err == nil && len(out) > 0 {
		err = errMoreTokens
	}
	return err
}

// claimedMain sends message 5.
func (m *Machine) claimedMain(now time.Time, x *mainMode, msg message, draft *mainMode, result any) {
	c, ok := result.(claimed)
	if !ok {
		c.local = errWork
	}
	if c.badPeer != nil {
		m.drop(now, x.remote, "main mode message 4: "+c.badPeer.Error())
		m.doubt(x, c.badPeer)
		return
	}
	payloads := slices.Concat(c.proof.payloads(x.choice.Method), m.provenVendor(x.peer, true), m.firstContact(x))
	var data []byte
	if c.local == nil {
		data, x.iv, c.local = seal(c.keys, x.header(), c.keys.IV(), payloads)
	}
	if c.local != nil {
		m.failAuth(now, x, c.local)
		return
	}
	x.asked, x.keys, x.step = draft.asked, c.keys, awaitMessage6
	x.nat = draft.nat
	x.float()
	m.tracePayloads(x.path, true, x.header(), payloads)
	x.answers.remember(msg.sum, nil)
	x.until, x.hint, x.suspect = now.Add(giveUp), 0, nil
	m.repeatMain(now, x, maxSends, data)
}

// doubt notes that the peer, or somebody in its name, could not authenticate:
// what the exchange will have failed of, unless something better comes soon.
func (m *Machine) doubt(x *mainMode, err error) {
	var refused *auth.Error
	if !errors.As(err, &refused) || x.suspect != nil {
		return
	}
	method := x.choice.Method
	x.suspect = func() Failed { return authFailure(method, err) }
	x.hint = wire.AuthenticationFailed
	x.resend.shorten()
}

// checked is the result of the work for message 6.
type checked struct {
	path
	chain wire.Chain
	last  []byte // ciphertext block of phase 1
	proof auth.Proof
	err   error
}

// message6 verifies the responder's proof.
func (m *Machine) message6(now time.Time, x *mainMode, msg message, _ wire.Chain) error {
	chain, last, err := open(x.keys, msg, x.iv)
	if err == nil {
		err = checkProofShape(x.choice.Method, chain)
	}
	if err != nil {
		return err
	}
	p, err := readProof(x.choice.Method, chain)
	if err != nil {
		return err
	}
	draft := *x
	m.mainWork(now, x, func() any {
		var c checked
		var principal auth.Principal
		if principal, c.err = p.check(draft.session, draft.claim(), draft.keys.HashR, draft.sai); c.err == nil {
			c.proof = auth.ProofOf(*draft.requirement, principal, draft.session.Trusted())
		}
		return c
	}, func(now time.Time, result any) {
		c, ok := result.(checked)
		if !ok {
			c.err = errWork
		}
		c.path, c.chain, c.last = msg.path, chain, last
		m.checkedMain(now, x, c)
	})
	return nil
}

// checkedMain makes the ISAKMP SA.
func (m *Machine) checkedMain(now time.Time, x *mainMode, c checked) {
	m.tracePayloads(c.path, false, x.header(), c.chain.Payloads)
	if c.err != nil {
		m.drop(now, x.remote, "main mode message 6: "+c.err.Error())
		x.hint = wire.InvalidHashInformation
		m.doubt(x, c.err)
		x.resend.shorten()
		return
	}
	err := c.proof.Welcome(x.offer.Auth)
	if err == nil {
		err = checkVendor(x.peer, c.chain)
	}
	if err != nil {
		m.failMain(now, x, notWelcome(err))
		return
	}
	x.moved(c.path)
	s := m.establishMain(now, x, candidate{x.session, *x.requirement, x.keys}, c.last, c.proof)
	delete(m.attempts, x.remote.Addr())
	m.initialContact(now, s, c.chain, x.started)
	for _, r := range x.waiting {
		m.initiate(now, r)
	}
}
