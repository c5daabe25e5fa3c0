package ike

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// quickStep is the message a quick mode waits for.
type quickStep uint8

// The steps. Message 1 has none: nothing is kept before its hash is verified.
const (
	prepareQuick   quickStep = iota // waits for nothing from the peer
	awaitQuick2                     // initiator
	awaitQuick3                     // responder
	awaitConnected                  // initiator whose peer has set the commit bit
	finishingQuick                  // the last association is being installed
)

// quickRule is what the message of a step must look like, checked once its
// hash is verified.
type quickRule struct {
	shape  shape
	hash   func(q *quickMode, chain wire.Chain) []byte
	handle func(m *Machine, now time.Time, q *quickMode, msg message, chain wire.Chain)
}

// saShape is that of messages 1 and 2.
func saShape() shape {
	return shape{once: []wire.PayloadType{wire.HashPayload, wire.SAPayload, wire.NoncePayload},
		any: []wire.PayloadType{wire.KEPayload, wire.IDPayload, wire.NotifyPayload}}
}

func (s quickStep) rule() (quickRule, bool) {
	switch s {
	case awaitQuick2:
		return quickRule{saShape(), func(q *quickMode, c wire.Chain) []byte {
			return q.sa.keys.Hash2(q.id, q.ni, c.AfterFirst())
		}, (*Machine).quick2}, true
	case awaitQuick3:
		return quickRule{shape{once: []wire.PayloadType{wire.HashPayload}, any: []wire.PayloadType{wire.NotifyPayload}},
			func(q *quickMode, _ wire.Chain) []byte { return q.sa.keys.Hash3(q.id, q.ni, q.nr) }, (*Machine).quick3}, true
	}
	return quickRule{}, false
}

// quickMode is a quick mode, in either role.
type quickMode struct {
	sa         *isakmp
	id         uint32
	initiator  bool
	request    *request // initiator
	offer      QuickOffer
	selector   sadb.Selector
	step       quickStep
	generation int
	began      time.Time

	shape             quickShape
	spis              map[sadb.Proto]sadb.SPI // ours
	idLocal, idRemote []byte
	ni, nr, shared    []byte
	dh                keyExchange
	iv                []byte
	pick              quickPick
	lifetime          sadb.Lifetime
	pair              sadb.Pair
	installed         bool // the inbound associations, or some of them
	ranked            bool // the peer speaks of rounds
	mute              bool // outranked: nothing is put in force outbound
	heard             bool // a valid packet came on an inbound association
	resend            *repeater
	answers           answers
	life              *timer
}

// Bounds on what one authenticated peer may have.
const (
	peerQuicks = 3  // quick modes it runs with us at once
	peerPairs  = 64 // pairs
)

func (s *isakmp) quicksInOrder() []*quickMode {
	all := make([]*quickMode, 0, len(s.quicks))
	for _, id := range slices.Sorted(maps.Keys(s.quicks)) {
		all = append(all, s.quicks[id])
	}
	return all
}

// running returns how many quick modes of a role are under way.
func (s *isakmp) running(initiator bool) int {
	n := 0
	for _, q := range s.quicks {
		if q.initiator == initiator {
			n++
		}
	}
	return n
}

// enterQuick makes a quick mode known under its message ID and its pair.
func (m *Machine) enterQuick(now time.Time, q *quickMode) error {
	b, err := m.random(8)
	if err != nil {
		return err
	}
	q.began = now
	q.pair.ID = pairID(b)
	if q.sa.quicks == nil {
		q.sa.quicks = map[uint32]*quickMode{}
	}
	q.sa.quicks[q.id] = q
	q.sa.count++
	m.quicks[q.pair.ID] = q
	m.peers.addQuick(q)
	m.keepQuick(now, q)
	return nil
}

// pairID makes an ID of random bytes; 53 bits survive every JSON reader.
func pairID(b []byte) sadb.PairID {
	var v uint64
	for _, x := range b {
		v = v<<8 | uint64(x)
	}
	return sadb.PairID(max(v>>11, 1))
}

// keepQuick gives a quick mode its life anew.
func (m *Machine) keepQuick(now time.Time, q *quickMode) {
	q.life = m.timers.set(q.life, now.Add(halfOpenLife), func(now time.Time) {
		m.failQuick(now, q, Failed{Code: FailNoAnswer, Reason: "nothing went on for too long"})
	})
}

// forgetQuick takes q out of all tables.
func (m *Machine) forgetQuick(q *quickMode) {
	q.generation++
	m.stopRepeat(q.resend)
	m.timers.stop(q.life)
	delete(m.quicks, q.pair.ID)
	m.peers.removeQuick(q)
	if q.sa.quicks[q.id] == q {
		delete(q.sa.quicks, q.id)
	}
	if len(q.sa.quicks) == 0 {
		q.sa.quicks = nil // most of the time there is none
	}
}

// dropQuick ends q with nothing of it left in force and returns its request,
// if it was not done with.
func (m *Machine) dropQuick(now time.Time, q *quickMode) *request {
	m.forgetQuick(q)
	if q.installed {
		m.forgetInbound(q.pair)
		m.put(Ended{Pair: q.pair.ID, Reason: "its negotiation was not finished"})
		m.unmute(now, q.pair, false)
	}
	return q.request
}

// failQuick ends q with a reason. If the peer may believe in the pair it is
// told.
func (m *Machine) failQuick(now time.Time, q *quickMode, f Failed) {
	if q.installed {
		m.sendDelete(now, q.sa, q.pair.In)
	}
	r := m.dropQuick(now, q)
	if f.Step == "" {
		f.Step = q.stepName()
	}
	if r == nil {
		f.Local, f.Remote, f.Filter = q.sa.local.Addr(), q.sa.remote.Addr(), q.offer.Filter
		m.put(f)
	} else {
		m.failRequest(r, f)
	}
	m.nextQuick(now, q.sa)
}

func (q *quickMode) stepName() string {
	switch q.step {
	case awaitQuick2:
		return "quick mode message 2"
	case awaitQuick3:
		return "quick mode message 3"
	}
	return "quick mode"
}

// nextQuick starts the next request that waits under s.
func (m *Machine) nextQuick(now time.Time, s *isakmp) {
	if len(s.queue) == 0 || m.sas[s.key()] != s || s.running(true) >= ownQuicks {
		return
	}
	r := s.queue[0]
	s.queue = s.queue[1:]
	m.initiate(now, r)
}

// reserveAll reserves an SPI for each protocol and goes on.
func (m *Machine) reserveAll(now time.Time, q *quickMode, protos []sadb.Proto, then func(now time.Time)) {
	if len(protos) == 0 {
		then(now)
		return
	}
	generation := q.generation
	m.reserve(q.sa.path, protos[0], func(now time.Time, in SPIReserved) {
		switch {
		case q.generation != generation:
		case in.Err != nil:
			m.failQuick(now, q, Failed{Code: FailLocal, Reason: "no SPI to be had: " + in.Err.Error()})
		default:
			q.spis[protos[0]] = in.SPI
			m.reserveAll(now, q, protos[1:], then)
		}
	})
}

// quickDH is the result of the Diffie-Hellman work of a quick mode.
type quickDH struct {
	dh      keyExchange
	shared  []byte
	badPeer error // the peer's key exchange value is none
	local   error // this side cannot
}

// pfs does the Diffie-Hellman work, if there is any: a key pair if q has none
// yet, the secret if the peer's value is there.
func (m *Machine) pfs(now time.Time, q *quickMode, peer []byte, then func(now time.Time)) {
	if q.shape.PFS == 0 {
		then(now)
		return
	}
	group, dh, generation := q.shape.PFS, q.dh, q.generation
	run := func() any { return m.quickShared(group, dh, peer) }
	m.work(Work{Near: true, Run: run}, func(now time.Time, result any) {
		if q.generation != generation {
			return
		}
		r, ok := result.(quickDH)
		if !ok {
			r.local = errWork
		}
		if err := cmp.Or(r.badPeer, r.local); err != nil {
			code := FailLocal
			if r.badPeer != nil {
				code = FailProtocol
			}
			m.failQuick(now, q, Failed{Code: code, Reason: "key exchange of quick mode: " + err.Error()})
			return
		}
		q.dh, q.shared = r.dh, r.shared
		then(now)
	})
}

// quickShared runs in the pool.
func (m *Machine) quickShared(group sadb.Group, dh keyExchange, peer []byte) quickDH {
	r := quickDH{dh: dh}
	if r.dh == nil {
		if r.dh, r.local = m.newDH(group, m.cfg.Rand); r.local != nil {
			return r
		}
	}
	if peer == nil {
		return r
	}
	if r.shared, r.badPeer = r.dh.Shared(peer); r.badPeer == nil {
		r.dh.Zero()
	}
	return r
}

// quickPacket takes a message of quick mode under an established SA.
func (m *Machine) quickPacket(now time.Time, s *isakmp, msg message) error {
	if m.repeated(s, msg) {
		return nil
	}
	q := s.quicks[msg.MessageID]
	if q == nil {
		return m.quick1(now, s, msg)
	}
	if reply, ok := q.answers.seen(msg.sum); ok {
		if reply != nil {
			m.send(s.path, reply)
		}
		return nil
	}
	rule, ok := q.step.rule()
	if !ok {
		return m.quick4(now, q, msg)
	}
	chain, next, err := open(s.keys, msg, q.iv)
	if err != nil {
		return err
	}
	if err := verified(chain, rule.hash(q, chain)); err != nil {
		return err
	}
	m.tracePayloads(s.path, false, msg.Header, chain.Payloads)
	q.iv, s.alive = next, now
	if err := rule.shape.check(chain); err != nil {
		m.failQuick(now, q, Failed{Code: FailProtocol, Reason: err.Error()})
		return err
	}
	rule.handle(m, now, q, msg, chain)
	return nil
}

// verified compares the hash that a message begins with.
func verified(chain wire.Chain, want []byte) error {
	first := chain.Payloads[0]
	if first.Type != wire.HashPayload || !equal(first.Body, want) {
		return errHash
	}
	return nil
}

// quickBody is what messages 1 and 2 say beside the SA.
type quickBody struct {
	sa, nonce, ke, idI, idR []byte
}

func readQuickBody(chain wire.Chain) (quickBody, error) {
	var b quickBody
	b.sa, _ = chain.Find(wire.SAPayload)
	b.nonce, _ = chain.Find(wire.NoncePayload)
	kes, ids := chain.All(wire.KEPayload), chain.All(wire.IDPayload)
	if len(kes) > 1 || len(ids) != 0 && len(ids) != 2 {
		return b, fmt.Errorf("%d KE and %d ID payloads", len(kes), len(ids))
	}
	if len(kes) == 1 {
		b.ke = kes[0]
	}
	if len(ids) == 2 {
		b.idI, b.idR = ids[0], ids[1]
	}
	if err := checkOriginals(chain); err != nil {
		return b, err
	}
	return b, checkNonce(b.nonce)
}

// checkPFS refuses a key exchange without a group and a group without one.
func checkPFS(group sadb.Group, ke []byte) error {
	if group == 0 {
		if ke != nil {
			return errors.New("key exchange without a group")
		}
		return nil
	}
	return checkKE(group, ke)
}

// sealQuick encrypts a message of q and moves its IV on.
func (m *Machine) sealQuick(q *quickMode, payloads []wire.Payload) ([]byte, error) {
	h := q.sa.header(wire.QuickMode, q.id)
	data, next, err := seal(q.sa.keys, h, q.iv, payloads)
	if err == nil {
		q.iv = next
		m.tracePayloads(q.sa.path, true, h, payloads)
	}
	return data, err
}

// withHash puts a hash in front of payloads.
func withHash(hash func(raw []byte) []byte, payloads []wire.Payload) []wire.Payload {
	h := hash(wire.AppendChain(nil, payloads))
	return append([]wire.Payload{{Type: wire.HashPayload, Body: h}}, payloads...)
}

// bodyPayloads are the SA, the nonce, the key exchange and the identities of
// message 1 or 2.
func (q *quickMode) bodyPayloads(sa, nonce, idI, idR []byte) []wire.Payload {
	all := []wire.Payload{{Type: wire.SAPayload, Body: sa}, {Type: wire.NoncePayload, Body: nonce}}
	if q.dh != nil {
		all = append(all, wire.Payload{Type: wire.KEPayload, Body: q.dh.Public()})
	}
	if idI != nil {
		all = append(all, wire.Payload{Type: wire.IDPayload, Body: idI}, wire.Payload{Type: wire.IDPayload, Body: idR})
	}
	return append(all, q.originals()...)
}
