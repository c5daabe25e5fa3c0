package ike

import (
	"fmt"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/crypt"
	"ipsecagent/ike/wire"
)

// mainStep is the message a main mode waits for.
type mainStep uint8

// The steps. Message 1 has none: nothing is kept before it has been checked.
const (
	awaitMessage2 mainStep = 2 + iota
	awaitMessage3
	awaitMessage4
	awaitMessage5
	awaitMessage6
)

// String returns "main mode message 2".
func (s mainStep) String() string { return fmt.Sprintf("main mode message %d", uint8(s)) }

// mainRule is what the message of a step must look like, checked before its
// handler is called. An error of a handler leaves the exchange as it was.
type mainRule struct {
	encrypted bool
	shape     shape // of a message in clear
	// handle gets the payloads of a message in clear; encrypted ones it opens
	// itself.
	handle func(m *Machine, now time.Time, x *mainMode, msg message, plain wire.Chain) error
}

func (x *mainMode) rule() mainRule {
	switch x.step {
	case awaitMessage2:
		return mainRule{false, shape{once: []wire.PayloadType{wire.SAPayload}}, (*Machine).message2}
	case awaitMessage3:
		return mainRule{false, keyShape(x.choice.Method), (*Machine).message3}
	case awaitMessage4:
		return mainRule{false, keyShape(x.choice.Method), (*Machine).message4}
	case awaitMessage5:
		return mainRule{true, shape{}, (*Machine).message5}
	}
	return mainRule{true, shape{}, (*Machine).message6}
}

// mainMode is a main mode under way, in either role. Nothing of it but its
// keys and the proven identity lives on in an isakmp.
type mainMode struct {
	path
	icookie, rcookie [8]byte
	initiator        bool
	busy             bool // work is out; no message is taken until it is back
	step             mainStep
	generation       uint32 // work of an earlier generation comes too late
	slot             slot   // responder: place in the half-open table
	started          time.Time
	until            time.Time // initiator: end of the budget
	life             *timer    // responder: end of the half-open life

	offer  MainOffer
	own    []mainChoice
	choice mainChoice
	sai    []byte // body of the initiator's SA payload as sent

	peer    vendors
	nat     natFacts
	tries   uint8           // how often a message of this step was worked on
	cookied bool            // message 1 goes out with the cookie of a busy responder
	hint    wire.NotifyType // of an error notify, which proves nothing
	asked   [][]byte        // names of authorities that the peer has asked for
	// session is the initiator's. One for Kerberos is there before the method
	// is chosen: it knows the name that goes with the offer.
	session     auth.Session
	requirement *auth.Requirement
	dh          keyExchange
	// values is what goes into the keys, as far as it is known; a responder
	// needs it no longer than it takes to make them.
	values     *crypt.Exchange
	keys       *crypt.Keys // initiator, from message 4 on
	iv         []byte      // initiator: of message 6
	candidates []candidate // responder, from message 3 on

	resend  *repeater
	answers answers
	suspect func() Failed // what it looks like if nothing better comes
	waiting []*request
	attempt int
}

// candidate is one key that message 5 may be encrypted under: two preshared
// keys can be valid at once.
type candidate struct {
	session     auth.Session
	requirement auth.Requirement
	keys        *crypt.Keys
}

func (x *mainMode) key() saKey { return saKey{x.icookie, x.rcookie} }

func (x *mainMode) header() wire.Header {
	return wire.Header{ICookie: x.icookie, RCookie: x.rcookie, Version: wire.Version1, Exchange: wire.MainMode}
}

// mainPacket takes a message of main mode that belongs to no established SA.
func (m *Machine) mainPacket(now time.Time, msg message) error {
	if msg.MessageID != 0 {
		return fmt.Errorf("main mode with message ID %08x", msg.MessageID)
	}
	if msg.RCookie == [8]byte{} {
		return m.message1(now, msg)
	}
	x := m.mains[saKey{msg.ICookie, msg.RCookie}]
	if x == nil {
		if x = m.mains[saKey{i: msg.ICookie}]; x == nil {
			return m.returnedCookie(now, msg)
		}
	}
	if !x.sameHosts(msg.path) {
		return errElsewhere
	}
	return m.mainStep(now, x, msg)
}

func (m *Machine) mainStep(now time.Time, x *mainMode, msg message) error {
	if reply, ok := x.answers.seen(msg.sum); ok {
		if reply != nil {
			m.send(x.path, reply)
		}
		return nil
	}
	if x.busy {
		return errBusy
	}
	rule := x.rule()
	if msg.Encrypted() != rule.encrypted {
		return fmt.Errorf("%s: encryption flag is wrong", x.step)
	}
	var plain wire.Chain
	if !rule.encrypted {
		var err error
		if plain, err = parseClear(msg, rule.shape); err != nil {
			return fmt.Errorf("%s: %w", x.step, err)
		}
	}
	step := x.step
	if err := rule.handle(m, now, x, msg, plain); err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	return nil
}

// parseClear parses and checks a message in clear.
func parseClear(msg message, s shape) (wire.Chain, error) {
	chain, err := wire.ParseChain(msg.Next, msg.body)
	if err != nil {
		return chain, err
	}
	return chain, s.check(chain)
}

// mainWork has run done for x; what comes back after x is over is forgotten.
func (m *Machine) mainWork(now time.Time, x *mainMode, run func() any, then func(now time.Time, result any)) {
	x.busy = true
	if x.initiator {
		m.keepAlive(now, x, halfOpenLife)
	}
	generation := x.generation
	room, addr := m.room(x), x.remote.Addr()
	w := Work{Near: x.initiator && x.step == awaitMessage6, Unproven: room == &m.provers, Low: room == &m.strangers, Run: run}
	m.work(w, func(now time.Time, result any) {
		if room != nil {
			room.end(addr)
		}
		if x.generation != generation {
			return
		}
		x.busy = false
		if x.initiator {
			m.timers.stop(x.life) // the sends of the next message bound its life
		}
		then(now, result)
	})
}

// room is where the work for the peer of x is counted that has begun: of peers
// that have shown no more than that they are where they say, and of those that
// are about to prove themselves, or are where policy names a peer. Nil: this
// host has begun the exchange.
func (m *Machine) room(x *mainMode) *strangers {
	switch {
	case x.initiator:
		return nil
	case x.step == awaitMessage3 && x.slot.in != &m.halfOpen.namedReturned:
		return &m.strangers
	}
	return &m.provers
}

// endMain forgets x.
func (m *Machine) endMain(x *mainMode) {
	x.generation++
	m.stopRepeat(x.resend)
	m.timers.stop(x.life)
	m.halfOpen.remove(x)
	if m.mains[x.key()] == x {
		delete(m.mains, x.key())
	}
	if x.initiator {
		m.peers.removeMain(x)
	}
}

// failMain ends x with a reason, for each request that waits for it.
func (m *Machine) failMain(now time.Time, x *mainMode, f Failed) {
	m.endMain(x)
	f.Local, f.Remote = x.local.Addr(), x.remote.Addr()
	if f.Step == "" {
		f.Step = x.step.String()
	}
	if f.Code == FailPSK || f.Code == FailAuth || f.Code == FailPrincipal || x.suspect != nil {
		m.countAttempt(x)
	}
	if len(x.waiting) == 0 && (x.initiator || m.reports.allow(now, x.remote.Addr())) {
		m.put(f)
	}
	for _, r := range x.waiting {
		m.failRequest(r, f)
	}
}

// keepAlive gives a half-open exchange its life anew.
func (m *Machine) keepAlive(now time.Time, x *mainMode, life time.Duration) {
	x.life = m.timers.set(x.life, now.Add(life), func(now time.Time) { m.mainExpired(now, x) })
}

// mainExpired ends an exchange whose peer has fallen silent. One whose peer
// never returned our cookie is a stranger's and no failure of anybody here.
func (m *Machine) mainExpired(now time.Time, x *mainMode) {
	switch {
	case x.suspect != nil:
		m.failMain(now, x, x.suspect())
	case x.busy:
		m.failMain(now, x, Failed{Code: FailLocal, Reason: "what this host has to compute or to ask for did not end in time: see whether its key distribution centre, revocation lists or smart card answer, and how busy it is"})
	case !x.initiator && x.step == awaitMessage3:
		m.endMain(x)
		m.drop(now, x.remote, "main mode begun and not gone on with")
	case !x.initiator && m.overtaken(x):
		m.endMain(x)
	default:
		m.failMain(now, x, Failed{Code: FailNoAnswer, Reason: "the peer fell silent; see whether it still runs and whether UDP 500 passes both ways"})
	}
}

// overtaken reports whether the peer of x has succeeded in another main mode
// since: it started anew because our answers were lost.
func (m *Machine) overtaken(x *mainMode) bool {
	for _, s := range m.peers.at(x.ends()).sas {
		if s.sameHosts(x.path) && s.since.After(x.started) {
			return true
		}
	}
	return false
}

// exchange is what goes into the keys before either side has said its half.
func (x *mainMode) exchange() *crypt.Exchange {
	return &crypt.Exchange{Suite: x.choice.Suite, ICookie: x.icookie, RCookie: x.rcookie, AuthHash: authHash(x.choice.Method)}
}

// claim is what the peer has claimed so far.
func (x *mainMode) claim() auth.Claim {
	return auth.Claim{GSS: x.choice.name, Vendor: x.peer.name, CAs: x.asked}
}
