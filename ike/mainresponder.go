package ike

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/crypt"
	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// maxKEWork bounds how often one exchange may have us compute over a message
// 3: anyone who sees the cookies can send one that leads nowhere.
const maxKEWork = 3

// maxSA bounds an offer in bytes: it is kept, since the proofs cover it.
const maxSA = 4 << 10

// message1 begins a main mode as responder. A message seen before has the same
// cookie and so finds its exchange.
func (m *Machine) message1(now time.Time, msg message) error {
	chain, err := parseClear(msg, shape{once: []wire.PayloadType{wire.SAPayload}})
	if err != nil {
		return fmt.Errorf("main mode message 1: %w", err)
	}
	if msg.Encrypted() || msg.ICookie == [8]byte{} {
		return errors.New("main mode message 1: encrypted or without cookie")
	}
	if err := m.cookies.renew(now, m.cfg.Rand); err != nil {
		return err
	}
	sa, _ := chain.Find(wire.SAPayload)
	if len(sa) > maxSA {
		return fmt.Errorf("main mode message 1: an offer of %d bytes", len(sa))
	}
	rcookies := m.cookies.responder(msg.path, msg.ICookie, sa)
	for _, r := range rcookies {
		if found, err := m.again(msg, saKey{msg.ICookie, r}); found {
			return err
		}
	}
	return m.acceptMessage1(now, msg, chain, rcookies[0])
}

// again answers a first message that has an exchange already.
func (m *Machine) again(msg message, key saKey) (found bool, err error) {
	if s := m.sas[key]; s != nil {
		return true, errDuplicate
	}
	x := m.mains[key]
	if x == nil {
		return false, nil
	}
	reply, ok := x.answers.seen(msg.sum)
	if !ok {
		return true, errDuplicate
	}
	if reply != nil {
		m.send(x.path, reply)
	}
	return true, nil
}

func (m *Machine) acceptMessage1(now time.Time, msg message, chain wire.Chain, rcookie [8]byte) error {
	offer, err := m.mainPolicy(msg.path)
	if err != nil {
		return fmt.Errorf("main mode message 1: %w", err)
	}
	sa, _ := chain.Find(wire.SAPayload)
	vendors := readVendors(chain)
	peer, err := readMainSA(sa, vendors.gssapi)
	var refused *errSA
	if errors.As(err, &refused) {
		m.notifyInClear(now, msg, rcookie, refused.notify)
	}
	if err != nil {
		return fmt.Errorf("main mode message 1: %w", err)
	}
	x := &mainMode{path: msg.path, icookie: msg.ICookie, rcookie: rcookie, step: awaitMessage3,
		started: now, offer: offer, peer: vendors, nat: natFacts{form: m.natForm(vendors)}, sai: sa}
	if !x.choose(offer.choices(), peer) {
		m.refuseMain(now, msg, rcookie, offer.choices(), peer)
		return errors.New("main mode message 1: no common proposal")
	}
	if x.choice.Method == auth.Kerberos {
		return m.introduceResponder(now, x, msg, peer)
	}
	m.addHalfOpen(now, x)
	m.sendMessage2(x, msg, peer.proposal, nil)
	return nil
}

// choose picks the method and the suite.
func (x *mainMode) choose(own []mainChoice, peer received) (ok bool) {
	x.choice, ok = pick(own, peer.choices)
	x.claim = auth.Claim{GSS: x.choice.name, Vendor: x.peer.name}
	return ok
}

// introduceResponder has the name of this host looked up, which its answer to
// an offer of Kerberos carries. Should there be none, the offer is taken
// without Kerberos.
func (m *Machine) introduceResponder(now time.Time, x *mainMode, msg message, peer received) error {
	if !m.strangers.begin(x.remote.Addr()) {
		return errStrangers
	}
	m.addHalfOpen(now, x)
	x.answers.remember(msg.sum, nil)
	x.requirement = anyPrincipal(x.requirements(auth.Kerberos))
	draft := *x
	m.mainWork(now, x, func() any { return m.introduce(&draft) }, func(now time.Time, result any) {
		i, ok := result.(introduction)
		if !ok {
			i.err = errWork
		}
		if i.err != nil && !x.choose(withoutKerberos(x.offer.choices()), peer) {
			m.notifyInClear(now, msg, x.rcookie, wire.NoProposalChosen)
			m.failAuth(now, x, i.err)
			return
		}
		m.sendMessage2(x, msg, peer.proposal, i.name)
	})
	return nil
}

var errStrangers = errors.New("too much work for peers that have proven nothing")

// sendMessage2 answers an offer.
func (m *Machine) sendMessage2(x *mainMode, msg message, p wire.Proposal, name []byte) {
	answer := []wire.Payload{{Type: wire.SAPayload, Body: answerSA(p, x.choice.raw, name)}}
	x.choice.raw = wire.Transform{} // it has done its work
	answer = fit(answer, m.answeredVendors(x.peer, x.choice.Method == auth.Kerberos), msg.size)
	reply := wire.AppendClear(nil, x.header(), answer)
	if len(reply) > maxAmplification*msg.size {
		return // of our name: whoever asks in earnest asks with more than this
	}
	x.answers.remember(msg.sum, reply)
	m.send(x.path, reply)
}

// maxAmplification is how many times larger than its question an answer may be
// before a cookie has come back. All but the name of this host, in an answer
// that takes Kerberos, is smaller than the question.
const maxAmplification = 3

// mainPolicy asks what main mode with a peer may look like.
func (m *Machine) mainPolicy(p path) (MainOffer, error) {
	if m.policy.Main == nil {
		return MainOffer{}, errors.New("no policy is in force")
	}
	offer, err := m.policy.Main(MainQuery{Local: p.local.Addr(), Remote: p.remote.Addr()})
	if err != nil {
		return MainOffer{}, err
	}
	return m.able(offer), nil
}

// refuseMain tells the peer and, within bounds, the administrator.
func (m *Machine) refuseMain(now time.Time, msg message, rcookie [8]byte, own []mainChoice, peer received) {
	m.notifyInClear(now, msg, rcookie, wire.NoProposalChosen)
	if !m.reports.allow(now, msg.remote.Addr()) {
		return
	}
	differs := mainDiffers(own, peer.choices)
	m.put(Failed{Code: FailNoProposal, Local: msg.local.Addr(), Remote: msg.remote.Addr(), Step: "main mode message 1",
		Offered: mainWords(own), Received: peer.words(), Differs: differs,
		Reason: "the peer offers nothing that policy accepts; first difference: " + differs + "; give both ends one method in common"})
}

func (m *Machine) addHalfOpen(now time.Time, x *mainMode) {
	m.evict(now, m.halfOpen.room(x.remote.Addr()))
	m.mains[x.key()] = x
	m.halfOpen.add(x)
	m.keepAlive(now, x, halfOpenLife)
}

func (m *Machine) evict(now time.Time, crowd []*mainMode) {
	for _, old := range crowd {
		m.drop(now, old.remote, "half-open main mode made room for a newer one")
		m.endMain(old)
	}
}

// keyed is the result of the work for message 3.
type keyed struct {
	dh         keyExchange
	candidates []candidate
	requests   []wire.Payload // for certificates
	token      []byte
	badPeer    error // the peer's key exchange value or token is none
	local      error // this side cannot
}

// message3 computes the Diffie-Hellman secret and the keys. It is the first
// thing that costs anything, and comes after our cookie has come back.
func (m *Machine) message3(now time.Time, x *mainMode, msg message, plain wire.Chain) error {
	draft := *x
	var err error
	if draft.kei, draft.ni, err = x.keyValues(plain); err != nil {
		return err
	}
	if draft.claim.CAs, err = requested(plain); err != nil {
		return err
	}
	if x.tries >= maxKEWork {
		return errors.New("too many of them")
	}
	draft.nat = m.natDetect(x, msg.path, plain)
	if draft.nr, err = m.random(m.nonceLen); err != nil {
		return err
	}
	if !m.strangers.begin(x.remote.Addr()) {
		return errStrangers
	}
	m.evict(now, m.halfOpen.prove(x))
	m.keepAlive(now, x, halfOpenLife)
	x.tries++
	token, _ := plain.Find(wire.GSSPayload)
	m.mainWork(now, x, func() any { return m.keyMain(&draft, token) }, func(now time.Time, result any) {
		m.keyedMain(now, x, msg, &draft, result)
	})
	return nil
}

// keyValues takes the peer's key exchange value and nonce out of a message 3
// or 4.
func (x *mainMode) keyValues(plain wire.Chain) (ke, nonce []byte, err error) {
	ke, _ = plain.Find(wire.KEPayload)
	nonce, _ = plain.Find(wire.NoncePayload)
	if err := checkNonce(nonce); err != nil {
		return nil, nil, err
	}
	return ke, nonce, checkKE(x.choice.Suite.Group, ke)
}

// checkKE refuses a public value that is none of the group by its length
// alone. Peers may strip leading zeroes.
func checkKE(g sadb.Group, ke []byte) error {
	if len(ke) == 0 || len(ke) > crypt.PublicLen(g) {
		return fmt.Errorf("key exchange value of %d bytes is none of %s", len(ke), g)
	}
	return nil
}

// keyMain runs in the pool, on a copy of the exchange.
func (m *Machine) keyMain(x *mainMode, token []byte) keyed {
	var k keyed
	var shared []byte
	if k.dh, k.local = m.newDH(x.choice.Suite.Group, m.cfg.Rand); k.local != nil {
		return k
	}
	if shared, k.badPeer = k.dh.Shared(x.kei); k.badPeer != nil {
		return k
	}
	defer clear(shared)
	k.dh.Zero()
	x.ker = k.dh.Public()
	k.candidates, k.local = m.candidates(x, shared)
	if k.local == nil && x.choice.Method == auth.Kerberos {
		k.token, k.badPeer = k.candidates[0].accept(x.claim, token)
	}
	if k.local != nil || k.badPeer != nil {
		return k
	}
	var authorities [][]byte
	for _, c := range k.candidates {
		authorities = append(authorities, c.session.Local().CAs...)
	}
	k.requests = requests(x.choice.Method, authorities)
	return k
}

// accept takes the initiator's name and token and returns ours.
func (c candidate) accept(claim auth.Claim, token []byte) ([]byte, error) {
	if err := c.session.Remote(claim); err != nil {
		return nil, err
	}
	out, err := c.session.Token(token)
	if err == nil && len(out) == 0 {
		err = errMoreTokens
	}
	return out, err
}

// candidates makes the keys of each way the peer may prove itself. A GSS token
// can be taken once: so there is one candidate for all rules of Kerberos, and
// which of them welcomes the peer is decided when its principal is known.
func (m *Machine) candidates(x *mainMode, shared []byte) ([]candidate, error) {
	var all []candidate
	reqs := x.requirements(x.choice.Method)
	failed := fmt.Errorf("no requirement of the policy is of method %s", x.choice.Method)
	if x.choice.Method == auth.Kerberos {
		reqs = []auth.Requirement{anyPrincipal(reqs)}
	}
	for _, req := range reqs {
		x.requirement = req
		s, err := m.authenticator(req.Method).Start(x.request())
		if err != nil {
			failed = err
			continue
		}
		for _, seed := range seedsOf(s) {
			keys, err := deriveKeys(x.exchange(shared), seed)
			if err != nil {
				failed = err
				continue
			}
			all = append(all, candidate{s, req, keys})
		}
	}
	if len(all) == 0 {
		return nil, failed
	}
	return all[:min(len(all), maxCandidates)], nil
}

// anyPrincipal is a requirement that welcomes whom any of reqs does.
func anyPrincipal(reqs []auth.Requirement) auth.Requirement {
	all := reqs[0]
	all.AcceptPrincipals = nil
	for _, r := range reqs {
		if len(r.AcceptPrincipals) == 0 {
			all.AcceptPrincipals = nil
			break
		}
		all.AcceptPrincipals = append(all.AcceptPrincipals, r.AcceptPrincipals...)
	}
	return all
}

// maxCandidates bounds the keys that one message 5 is tried under.
const maxCandidates = 8

// seedsOf returns the seeds of a session; one that is nil for the methods that
// have none.
func seedsOf(s auth.Session) [][]byte {
	if seeds := s.Seeds(); len(seeds) > 0 {
		return seeds
	}
	return [][]byte{nil}
}

// requirements returns those of the offer that are of a method.
func (x *mainMode) requirements(method auth.Method) []auth.Requirement {
	var all []auth.Requirement
	for _, r := range x.offer.Auth {
		if r.Method == method {
			all = append(all, r)
		}
	}
	return all
}

// keyedMain sends message 4.
func (m *Machine) keyedMain(now time.Time, x *mainMode, msg message, draft *mainMode, result any) {
	k, ok := result.(keyed)
	if !ok {
		k.local = errWork
	}
	if k.badPeer != nil {
		m.drop(now, x.remote, "main mode message 3: "+k.badPeer.Error())
		m.suspectToken(now, x, msg, k.badPeer)
		return
	}
	if k.local != nil {
		m.notifyInClear(now, msg, x.rcookie, wire.AuthenticationFailed)
		m.failAuth(now, x, k.local)
		return
	}
	x.claim, x.nat, x.candidates, x.suspect = draft.claim, draft.nat, k.candidates, nil
	x.iv = x.candidates[0].keys.IV()
	x.step, x.tries = awaitMessage5, 0
	reply := wire.AppendClear(nil, x.header(), slices.Concat([]wire.Payload{
		{Type: wire.KEPayload, Body: k.dh.Public()}, {Type: wire.NoncePayload, Body: draft.nr}}, k.requests, tokens(k.token), m.natPayloads(x)))
	x.answers = answers{} // the peer has message 2
	x.answers.remember(msg.sum, reply)
	m.send(x.path, reply)
}

// suspectToken notes a GSS token that was refused. Since anyone may have sent
// it the exchange goes on, for a while.
func (m *Machine) suspectToken(now time.Time, x *mainMode, msg message, err error) {
	var refused *auth.Error
	if !errors.As(err, &refused) {
		return
	}
	m.keepAlive(now, x, suspectLife) // a repeated message 3 has lengthened it
	if x.suspect != nil {
		return
	}
	m.notifyInClear(now, msg, x.rcookie, wire.AuthenticationFailed)
	f := authFailure(x.choice.Method, err)
	x.suspect = &f
}

// errWork is the result of work that ended in a way that it must not.
var errWork = errors.New("internal error while computing; see the log of this host")

// opened is message 5 as one candidate reads it.
type opened struct {
	candidate
	chain wire.Chain
	iv    []byte
}

// proven is the result of the work for message 5.
type proven struct {
	opened
	principal auth.Principal
	ours      proof
	err       error
}

// maxProofWork bounds how often one exchange may have us verify a proof. Only
// who has made the key exchange can send one that can be read.
const maxProofWork = 3

// message5 tries the candidates' keys; only the one whose hash proves right is
// kept.
func (m *Machine) message5(now time.Time, x *mainMode, msg message, _ wire.Chain) error {
	var readable []opened
	for _, c := range x.candidates {
		chain, next, err := open(c.keys, msg, x.iv)
		if err == nil && checkProofShape(x.choice.Method, chain) == nil {
			readable = append(readable, opened{c, chain, next})
		}
	}
	if len(readable) == 0 {
		m.suspectKey(now, x, msg, nil)
		return errGarbage
	}
	if x.tries++; x.tries > maxProofWork {
		return errors.New("too many of them")
	}
	draft := *x
	m.mainWork(now, x, func() any { return proveMain(&draft, readable) }, func(now time.Time, result any) {
		m.provenMain(now, x, msg, result)
	})
	return nil
}

// proveMain runs in the pool: it checks the peer's proof and makes ours. Of
// several ways that fail, what is said of the first is reported.
func proveMain(x *mainMode, readable []opened) proven {
	var failed error
	for _, o := range readable {
		p := proven{opened: o}
		theirs, err := readProof(x.choice.Method, o.chain)
		if err == nil {
			p.principal, err = theirs.check(o.session, x.claim, o.keys.HashI, x.sai)
		}
		if err != nil {
			if failed == nil {
				failed = err
			}
			continue
		}
		p.ours, p.err = x.prove(o.session, func(id, extra []byte) []byte { return o.keys.HashR(x.sai, id, extra) })
		return p
	}
	return proven{err: failed}
}

// suspectKey notes that a message 5 could not be read or proved nothing: most
// likely the preshared keys differ. Since anyone may have sent it the exchange
// goes on, for a while.
func (m *Machine) suspectKey(now time.Time, x *mainMode, msg message, cause error) {
	m.notifyInClear(now, msg, x.rcookie, wire.InvalidHashInformation)
	if x.suspect != nil {
		return
	}
	f := Failed{Code: FailAuth, Reason: "the peer's proof of identity cannot be read or does not hold"}
	if x.choice.Method == auth.PSK {
		f = Failed{Code: FailPSK, Reason: fmt.Sprintf("preshared key does not match that of %s: enter the same key on both hosts", x.remote.Addr())}
	}
	var refused *auth.Error
	switch {
	case errors.As(cause, &refused) && x.choice.Method != auth.PSK:
		f = authFailure(x.choice.Method, cause)
	case cause != nil:
		f.Reason += " (" + cause.Error() + ")"
	}
	x.suspect = &f
	m.keepAlive(now, x, suspectLife)
}

// suspectLife is what is left to an exchange once its keys look wrong.
const suspectLife = 5 * time.Second

// provenMain sends message 6 and makes the ISAKMP SA.
func (m *Machine) provenMain(now time.Time, x *mainMode, msg message, result any) {
	p, ok := result.(proven)
	if !ok {
		p.err = errWork
	}
	m.tracePayloads(x.path, false, msg.Header, p.chain.Payloads)
	if p.err != nil {
		m.suspectKey(now, x, msg, p.err)
		m.drop(now, x.remote, "main mode message 5: "+p.err.Error())
		return
	}
	requirement, err := x.welcomes(p.requirement, p.principal)
	if err == nil {
		err = checkVendor(x.peer, p.chain)
	}
	if err != nil {
		m.failMain(now, x, notWelcome(err))
		return
	}
	p.requirement = requirement
	payloads := slices.Concat(p.ours.payloads(x.choice.Method), m.provenVendor(x.peer, false))
	reply, last, err := seal(p.keys, x.header(), p.iv, payloads)
	if err != nil {
		m.failMain(now, x, Failed{Code: FailLocal, Reason: err.Error()})
		return
	}
	m.tracePayloads(x.path, true, x.header(), payloads)
	x.moved(msg.path)
	x.answers.remember(msg.sum, reply)
	s := m.establishMain(now, x, p.candidate, last, p.principal)
	m.send(x.path, reply)
	m.initialContact(now, s, p.chain, x.started)
}

// welcomes returns the requirement that accepts a principal: the one it was
// proven under, or of Kerberos the first that does.
func (x *mainMode) welcomes(proven auth.Requirement, p auth.Principal) (auth.Requirement, error) {
	if x.choice.Method == auth.Kerberos {
		for _, r := range x.requirements(auth.Kerberos) {
			if acceptPrincipal(r, p) == nil {
				return r, nil
			}
		}
	}
	return proven, acceptPrincipal(proven, p)
}
