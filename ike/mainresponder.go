package ike

import (
	"errors"
	"fmt"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/crypt"
	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// maxKEWork bounds how often one exchange may have us compute over a message
// 3: anyone who sees the cookies can send one that leads nowhere.
const maxKEWork = 3

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
	rcookies := m.cookies.responder(msg.path, msg.ICookie, sa)
	for _, r := range rcookies {
		if found, err := m.again(msg, saKey{msg.ICookie, r}); found {
			return err
		}
	}
	return m.acceptMessage1(now, msg, sa, rcookies[0])
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

func (m *Machine) acceptMessage1(now time.Time, msg message, sa []byte, rcookie [8]byte) error {
	offer, err := m.mainPolicy(msg.path)
	if err != nil {
		return fmt.Errorf("main mode message 1: %w", err)
	}
	peer, err := readMainSA(sa)
	var refused *errSA
	if errors.As(err, &refused) {
		m.notifyInClear(now, msg, rcookie, refused.notify)
	}
	if err != nil {
		return fmt.Errorf("main mode message 1: %w", err)
	}
	own := offer.choices()
	choice, ok := pick(own, peer.choices)
	if !ok {
		m.refuseMain(now, msg, rcookie, Failed{Code: FailNoProposal, Offered: mainWords(own), Received: peer.words, Differs: mainDiffers(own, peer.choices)})
		return errors.New("main mode message 1: no common proposal")
	}
	x := &mainMode{path: msg.path, icookie: msg.ICookie, rcookie: rcookie, step: awaitMessage3,
		started: now, offer: offer, choice: choice, sai: sa}
	m.addHalfOpen(now, x)
	reply := wire.AppendClear(nil, x.header(), []wire.Payload{{Type: wire.SAPayload, Body: answerSA(peer.proposal, choice.raw)}})
	x.answers.remember(msg.sum, reply)
	m.send(x.path, reply)
	return nil
}

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
func (m *Machine) refuseMain(now time.Time, msg message, rcookie [8]byte, f Failed) {
	m.notifyInClear(now, msg, rcookie, wire.NoProposalChosen)
	if !m.reports.allow(now, msg.remote.Addr()) {
		return
	}
	f.Local, f.Remote = msg.local.Addr(), msg.remote.Addr()
	f.Step = "main mode message 1"
	f.Reason = "the peer offers nothing that policy accepts; first difference: " + f.Differs + "; give both ends one method in common"
	m.put(f)
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
	badPeer    error // the peer's key exchange value is none
	local      error // this side cannot
}

// message3 computes the Diffie-Hellman secret and the keys. It is the first
// thing that costs anything, and comes after our cookie has come back.
func (m *Machine) message3(now time.Time, x *mainMode, msg message, plain wire.Chain) error {
	ke, _ := plain.Find(wire.KEPayload)
	nonce, _ := plain.Find(wire.NoncePayload)
	if err := checkNonce(nonce); err != nil {
		return err
	}
	if err := checkKE(x.choice.Suite.Group, ke); err != nil {
		return err
	}
	if x.tries >= maxKEWork {
		return errors.New("too many of them")
	}
	own, err := m.random(ourNonce)
	if err != nil {
		return err
	}
	if !m.strangers.begin(x.remote.Addr()) {
		return errors.New("too much work for peers that have proven nothing")
	}
	m.evict(now, m.halfOpen.prove(x))
	m.keepAlive(now, x, halfOpenLife)
	x.tries++
	draft := *x
	draft.kei, draft.ni, draft.nr = ke, nonce, own
	m.mainWork(x, func() any { return m.keyMain(&draft) }, func(now time.Time, result any) {
		m.keyedMain(now, x, msg, &draft, result)
	})
	return nil
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
func (m *Machine) keyMain(x *mainMode) keyed {
	var k keyed
	var shared []byte
	if k.dh, k.local = m.newDH(x.choice.Suite.Group, m.cfg.Rand); k.local != nil {
		return k
	}
	if shared, k.badPeer = k.dh.Shared(x.kei); k.badPeer != nil {
		return k
	}
	k.dh.Zero()
	x.ker = k.dh.Public()
	k.candidates, k.local = m.candidates(x, shared)
	clear(shared)
	return k
}

// candidates makes the keys of each way the peer may prove itself.
func (m *Machine) candidates(x *mainMode, shared []byte) ([]candidate, error) {
	var all []candidate
	failed := fmt.Errorf("no requirement of the policy is of method %s", x.choice.Method)
	for _, req := range x.requirements() {
		s, err := m.authenticator(req.Method).Start(auth.Request{Local: x.local.Addr(), Remote: x.remote.Addr(), Requirement: req})
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

// requirements returns those of the offer that are of the method chosen.
func (x *mainMode) requirements() []auth.Requirement {
	var all []auth.Requirement
	for _, r := range x.offer.Auth {
		if r.Method == x.choice.Method {
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
		return
	}
	if k.local != nil {
		m.notifyInClear(now, msg, x.rcookie, wire.AuthenticationFailed)
		m.failMain(now, x, Failed{Code: localCode(x.choice.Method, k.local), Reason: k.local.Error()})
		return
	}
	x.kei, x.ker, x.ni, x.nr = draft.kei, k.dh.Public(), draft.ni, draft.nr
	x.candidates = k.candidates
	x.iv = x.candidates[0].keys.IV()
	x.step = awaitMessage5
	reply := wire.AppendClear(nil, x.header(), []wire.Payload{
		{Type: wire.KEPayload, Body: x.ker}, {Type: wire.NoncePayload, Body: x.nr}})
	x.answers.remember(msg.sum, reply)
	m.send(x.path, reply)
}

// errWork is the result of work that ended in a way that it must not.
var errWork = errors.New("internal error while computing; see the log of this host")

// localCode tells a missing key from other failures of this side.
func localCode(method auth.Method, err error) FailCode {
	var refused *auth.Error
	if !errors.As(err, &refused) {
		return FailLocal
	}
	if method == auth.PSK {
		return FailPSK
	}
	return FailAuth
}

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
	id, proof []byte // ours
	err       error
}

// message5 tries the candidates' keys; only the one whose hash proves right is
// kept.
func (m *Machine) message5(now time.Time, x *mainMode, msg message, _ wire.Chain) error {
	var readable []opened
	for _, c := range x.candidates {
		chain, next, err := open(c.keys, msg, x.iv)
		if err == nil && proofShape().check(chain) == nil {
			readable = append(readable, opened{c, chain, next})
		}
	}
	if len(readable) == 0 {
		m.suspectKey(now, x, msg, nil)
		return errGarbage
	}
	draft := *x
	m.mainWork(x, func() any { return proveMain(&draft, readable) }, func(now time.Time, result any) {
		m.provenMain(now, x, msg, result)
	})
	return nil
}

// proveMain runs in the pool: it checks the peer's proof and makes ours.
func proveMain(x *mainMode, readable []opened) proven {
	var p proven
	for _, o := range readable {
		id, _ := o.chain.Find(wire.IDPayload)
		proof, _ := o.chain.Find(wire.HashPayload)
		hash := func(extra []byte) []byte { return o.keys.HashI(x.sai, id, extra) }
		p.opened = o
		if p.principal, p.err = checkProof(o.session, id, hash, proof); p.err != nil {
			continue
		}
		p.id = x.localID(o.session)
		p.proof, p.err = o.session.Prove(func(extra []byte) []byte { return o.keys.HashR(x.sai, p.id, extra) })
		return p
	}
	return p
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
	if cause != nil {
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
	if p.err != nil {
		m.suspectKey(now, x, msg, p.err)
		m.drop(now, x.remote, "main mode message 5: "+p.err.Error())
		return
	}
	if err := acceptPrincipal(p.requirement, p.principal); err != nil {
		m.failMain(now, x, Failed{Code: FailAuth, Reason: err.Error()})
		return
	}
	reply, last, err := seal(p.keys, x.header(), p.iv, []wire.Payload{
		{Type: wire.IDPayload, Body: p.id}, {Type: wire.HashPayload, Body: p.proof}})
	if err != nil {
		m.failMain(now, x, Failed{Code: FailLocal, Reason: err.Error()})
		return
	}
	x.answers.remember(msg.sum, reply)
	s := m.establishMain(now, x, p.candidate, last, p.principal)
	m.send(x.path, reply)
	m.initialContact(now, s, p.chain, x.started)
}
