package ike

import (
	"encoding/binary"
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
	draft.values = x.exchange()
	var err error
	if draft.values.KEi, draft.values.Ni, err = x.keyValues(plain); err != nil {
		return err
	}
	if draft.asked, err = requested(plain); err != nil {
		return err
	}
	if x.tries >= maxKEWork {
		return errors.New("too many of them")
	}
	draft.nat = m.natDetect(x, msg.path, plain)
	if draft.values.Nr, err = m.random(m.nonceLen); err != nil {
		return err
	}
	m.evict(now, m.halfOpen.prove(x))
	if !m.room(x).begin(x.remote.Addr()) {
		return errStrangers
	}
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
	if shared, k.badPeer = k.dh.Shared(x.values.KEi); k.badPeer != nil {
		return k
	}
	defer clear(shared)
	k.dh.Zero()
	x.values.KEr, x.values.Shared = k.dh.Public(), shared
	k.candidates, k.local = m.candidates(x)
	if k.local == nil && x.choice.Method == auth.Kerberos {
		k.token, k.badPeer = k.candidates[0].accept(x.claim(), token)
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
// can be taken once: so rules that differ in the principals they accept share a
// candidate, and which of them welcomes the peer is decided when it is known.
func (m *Machine) candidates(x *mainMode) ([]candidate, error) {
	var all []candidate
	failed := fmt.Errorf("no requirement of the policy is of method %s", x.choice.Method)
	ways := together(x.requirements(x.choice.Method))
	for _, req := range ways[:min(len(ways), auth.MaxWays(x.choice.Method))] {
		x.requirement = &req
		s, err := m.authenticator(req.Method).Start(x.request())
		if err != nil {
			failed = err
			continue
		}
		for _, seed := range seedsOf(s) {
			keys, err := deriveKeys(*x.values, seed)
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
	return all, nil
}

// together makes one requirement of those that ask for the same key, authority
// and mapping: it welcomes whom any of them does. Those that map to accounts
// come first, since a proof of the account says more.
func together(reqs []auth.Requirement) []auth.Requirement {
	var all []auth.Requirement
	for _, r := range reqs {
		r.AcceptTrusted = len(r.AcceptPrincipals) == 0
		i := slices.IndexFunc(all, func(w auth.Requirement) bool {
			return w.Method == r.Method && w.Key == r.Key && w.CA == r.CA && w.MapToAccount == r.MapToAccount
		})
		if i < 0 {
			all = append(all, r)
			continue
		}
		w := &all[i]
		w.AcceptPrincipals = slices.Concat(w.AcceptPrincipals, r.AcceptPrincipals)
		w.AcceptTrusted = w.AcceptTrusted || r.AcceptTrusted
		w.ExcludeCAName = w.ExcludeCAName && r.ExcludeCAName
	}
	mapped := func(r auth.Requirement) bool { return r.MapToAccount }
	unmapped := slices.DeleteFunc(slices.Clone(all), mapped)
	return append(slices.DeleteFunc(all, func(r auth.Requirement) bool { return !mapped(r) }), unmapped...)
}

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
	x.asked, x.nat, x.candidates, x.suspect = draft.asked, draft.nat, k.candidates, nil
	x.step, x.tries = awaitMessage5, 0
	reply := wire.AppendClear(nil, x.header(), slices.Concat([]wire.Payload{
		{Type: wire.KEPayload, Body: k.dh.Public()}, {Type: wire.NoncePayload, Body: draft.values.Nr}}, k.requests, tokens(k.token), m.natPayloads(x)))
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
	method := x.choice.Method
	x.suspect = func() Failed { return authFailure(method, err) }
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
	proof     auth.Proof
	ours      proof
	unwelcome error // it holds, but the identity is not welcome
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
		chain, next, err := open(c.keys, msg, c.keys.IV())
		if err == nil && checkProofShape(x.choice.Method, chain) == nil {
			readable = append(readable, opened{c, chain, next})
		}
	}
	if len(readable) == 0 {
		m.suspectKey(now, x, msg, nil)
		return errGarbage
	}
	if x.tries >= maxProofWork {
		return errors.New("too many of them")
	}
	if !m.provers.begin(x.remote.Addr()) {
		return errStrangers
	}
	x.tries++
	draft := *x
	m.mainWork(now, x, func() any { return proveMain(&draft, readable) }, func(now time.Time, result any) {
		m.provenMain(now, x, msg, result)
	})
	return nil
}

// proveMain runs in the pool: it checks the peer's proof and makes ours. Of
// several ways that fail, an identity that is not welcome says more than a
// proof that does not hold; else what is said of the first is reported.
func proveMain(x *mainMode, readable []opened) proven {
	var worst proven
	for i, o := range readable {
		p := proven{opened: o}
		p.proof, p.err = x.proofUnder(o)
		if p.err == nil {
			x.alsoProven(&p.proof, readable[i+1:])
			p.unwelcome = p.proof.Welcome(x.offer.Auth)
		}
		if p.err == nil && p.unwelcome == nil {
			p.ours, p.err = x.prove(o.session, func(id, extra []byte) []byte { return o.keys.HashR(x.sai, id, extra) })
			return p
		}
		if i == 0 || worst.unwelcome == nil && p.unwelcome != nil {
			worst = p
		}
	}
	return worst
}

// proofUnder checks the peer's proof as one candidate reads it.
func (x *mainMode) proofUnder(o opened) (auth.Proof, error) {
	theirs, err := readProof(x.choice.Method, o.chain)
	if err != nil {
		return auth.Proof{}, err
	}
	principal, err := theirs.check(o.session, x.claim(), o.keys.HashI, x.sai)
	if err != nil {
		return auth.Proof{}, err
	}
	return auth.ProofOf(o.requirement, principal, o.session.Trusted()), nil
}

// alsoProven adds to a proof what the same message proves to another rule: who
// the certificate of an account names, or that the key which one rule asks for
// by name is the one meant for the peer.
func (x *mainMode) alsoProven(p *auth.Proof, others []opened) {
	for _, o := range others {
		subject := p.Mapped && !o.requirement.MapToAccount && o.requirement.CA == p.CA
		meant := p.Named && o.requirement.Key == ""
		if !subject && !meant {
			continue
		}
		also, err := x.proofUnder(o)
		switch {
		case err != nil:
		case subject:
			p.Subject = also.Principal
		case also.Principal == p.Principal:
			p.Named = false
		}
	}
}

// suspectKey notes that a message 5 could not be read or proved nothing: most
// likely the preshared keys differ. Since anyone may have sent it the exchange
// goes on, for a while.
func (m *Machine) suspectKey(now time.Time, x *mainMode, msg message, cause error) {
	m.notifyInClear(now, msg, x.rcookie, wire.InvalidHashInformation)
	if x.suspect != nil {
		return
	}
	x.suspect = func() Failed { return x.wrongKey(cause) }
	m.keepAlive(now, x, suspectLife)
}

// wrongKey says what a message 5 that cannot be read means, or one that proves
// nothing, of which cause is why.
func (x *mainMode) wrongKey(cause error) Failed {
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
	return f
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
	if p.unwelcome != nil {
		m.sayUnwelcome(x, p.opened)
	} else {
		p.unwelcome = checkVendor(x.peer, p.chain)
	}
	if p.unwelcome != nil {
		m.failMain(now, x, notWelcome(p.unwelcome))
		return
	}
	payloads := slices.Concat(p.ours.payloads(x.choice.Method), m.provenVendor(x.peer, false))
	reply, last, err := seal(p.keys, x.header(), p.iv, payloads)
	if err != nil {
		m.failMain(now, x, Failed{Code: FailLocal, Reason: err.Error()})
		return
	}
	m.tracePayloads(x.path, true, x.header(), payloads)
	x.moved(msg.path)
	x.answers.remember(msg.sum, reply)
	s := m.establishMain(now, x, p.candidate, last, p.proof)
	m.send(x.path, reply)
	m.initialContact(now, s, p.chain, x.started)
}

// sayUnwelcome tells an initiator, under the keys that it has proven itself
// under, that policy does not want it.
func (m *Machine) sayUnwelcome(x *mainMode, o opened) {
	b, err := m.random(4)
	if err != nil {
		return
	}
	id := binary.BigEndian.Uint32(b) | 1 // 0 is no message ID
	n := wire.Notify{DOI: wire.DOIIPsec, Protocol: wire.ProtoISAKMP, Type: wire.AuthenticationFailed}
	payloads := withHash(func(raw []byte) []byte { return o.keys.Hash1(id, raw) }, []wire.Payload{{Type: wire.NotifyPayload, Body: n.Append(nil)}})
	h := wire.Header{ICookie: x.icookie, RCookie: x.rcookie, Exchange: wire.Informational, MessageID: id}
	if datagram, _, err := seal(o.keys, h, o.keys.ExchangeIV(o.iv, id), payloads); err == nil {
		m.tracePayloads(x.path, true, h, payloads)
		m.send(x.path, datagram)
	}
}
