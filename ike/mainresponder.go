package ike

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/wire"
)

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
	if msg.RCookie == [8]byte{} && m.halfOpen.crowded() && vendors.returnsCookies() {
		m.sendDoSCookie(msg, rcookie)
		return nil
	}
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
	return m.sendMessage2(x, msg, peer.proposal, nil)
}

// choose picks the method and the suite.
func (x *mainMode) choose(own []mainChoice, peer received) (ok bool) {
	x.choice, ok = pick(own, peer.choices)
	return ok
}

// introduceResponder has the name of this host looked up, which its answer to
// an offer of Kerberos carries.
func (m *Machine) introduceResponder(now time.Time, x *mainMode, msg message, peer received) error {
	if !m.strangers.begin(x.remote.Addr()) {
		return errStrangers
	}
	m.addHalfOpen(now, x)
	x.answers.remember(msg.sum, nil)
	x.requirement = &together(x.requirements(auth.Kerberos))[0]
	draft := *x
	m.mainWork(now, x, func() any { return m.introduce(&draft) }, func(now time.Time, result any) {
		i, ok := result.(introduction)
		if !ok {
			i.err = errWork
		}
		m.answerKerberos(now, x, msg, peer, i)
	})
	return nil
}

// answerKerberos answers an offer of Kerberos with the name of this host.
// Should there be none, or be no room for it, the offer is taken without
// Kerberos.
func (m *Machine) answerKerberos(now time.Time, x *mainMode, msg message, peer received, i introduction) {
	if i.err == nil {
		i.err = m.sendMessage2(x, msg, peer.proposal, i.name)
	}
	if i.err != nil && x.choose(withoutKerberos(x.offer.choices()), peer) {
		i.err = m.sendMessage2(x, msg, peer.proposal, nil)
	}
	if i.err == nil {
		return
	}
	m.notifyInClear(now, msg, x.rcookie, wire.NoProposalChosen)
	if !errors.Is(i.err, errLarger) {
		m.failAuth(now, x, i.err)
		return
	}
	m.failMain(now, x, Failed{Code: FailLocal, Received: peer.words(),
		Reason: fmt.Sprintf("the first message of %s has %d bytes, and our answer with the Kerberos name of this host is larger: it would serve to flood somebody in whose name it was asked for", x.remote.Addr(), msg.size),
		Hint:   "have the peer offer more than one method, or have this host begin"})
}

var (
	errStrangers = errors.New("too much work for peers that have proven nothing")
	errLarger    = errors.New("the answer would be larger than the question, whose sender has not shown to be where it says")
)

// sendMessage2 answers an offer. An answer larger than the question goes only to
// whom has shown to be where it says. Who knows how to is asked to show it;
// others get a smaller one.
func (m *Machine) sendMessage2(x *mainMode, msg message, p wire.Proposal, name []byte) error {
	answer := []wire.Payload{{Type: wire.SAPayload, Body: answerSA(p, *x.choice.raw, name)}}
	if x.choice.Method == auth.Kerberos {
		answer = append(answer, vendorPayloads(vidGSSAPI)...) // says what the method's number means
	}
	optional := m.answeredVendors(x.peer)
	reply := wire.AppendClear(nil, x.header(), slices.Concat(answer, optional))
	if msg.RCookie == [8]byte{} && len(reply) > msg.size {
		if x.peer.returnsCookies() {
			m.endMain(x)
			m.sendDoSCookie(msg, x.rcookie)
			return nil
		}
		reply = wire.AppendClear(nil, x.header(), fit(answer, optional, msg.size))
		if len(reply) > msg.size {
			return errLarger
		}
	}
	x.choice.raw = nil // it has done its work
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
	m.evict(now, m.halfOpen.room(x.remote.Addr(), x.offer.Named))
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
