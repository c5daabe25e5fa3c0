package ike

import (
	"bytes"
	"slices"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/crypt"
	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// isakmp is an established ISAKMP SA. There is no other way to one than a
// verified proof (establishMain), and no other way to quick modes and
// authenticated notifies than one of these.
type isakmp struct {
	path
	icookie, rcookie [8]byte
	initiator        bool
	suite            sadb.ISAKMPSuite
	nat              natFacts
	fragments        bool   // the peer takes them
	vendor           string // what the peer says it is
	proof            auth.Proof
	offer            MainOffer
	keys             *crypt.Keys
	last             []byte // last ciphertext block of phase 1
	since, expires   time.Time
	final            answer // responder: to message 5

	agent     bool                  // the peer is one of this project
	dpd       bool                  // it answers R-U-THERE
	windows   uint32                // its version of Windows; 0: none
	alive     time.Time             // when a message of the peer was last verified
	forgotten bool                  // the peer seems not to know it any more
	closing   bool                  // its message IDs are used up
	seen      map[uint32]bool       // message IDs used
	quicks    map[uint32]*quickMode // under way; nil: none
	finished  []finishedQuick
	queue     []*request // wait for a quick mode to end
	count     int        // quick modes begun

	deletions map[uint32]*deletion // not acknowledged yet, by message ID
	ending    string               // why it ends once they are acknowledged; "": it does not
	acks      *answers             // to deletes of the peer; nil: none yet
	probe     *probe
	dpdSent   uint32 // number of the last R-U-THERE sent
	dpdHeard  uint32 // and heard,
	dpdAsked  bool   // if there was one

	expiry, renewal, spare *timer
}

// maxMessageIDs bounds what is remembered of one ISAKMP SA. At the limit it is
// closed and a new one is made.
const maxMessageIDs = 4096

func (s *isakmp) key() saKey { return saKey{s.icookie, s.rcookie} }

func (s *isakmp) header(e wire.Exchange, id uint32) wire.Header {
	return wire.Header{ICookie: s.icookie, RCookie: s.rcookie, Exchange: e, MessageID: id}
}

// compare orders by age, equal ages by cookie.
func (s *isakmp) compare(t *isakmp) int {
	if c := s.since.Compare(t.since); c != 0 {
		return c
	}
	return bytes.Compare(s.icookie[:], t.icookie[:])
}

func (s *isakmp) status() ISAKMPSA {
	return ISAKMPSA{ICookie: s.icookie, RCookie: s.rcookie, Local: s.local, Remote: s.remote, Initiator: s.initiator,
		Suite: s.suite, Method: s.proof.Method, Principal: s.proof.Principal, Since: s.since, Expires: s.expires, QuickModes: s.count,
		Vendor: s.vendor, NAT: s.nat.found()}
}

// satisfies reports whether what was proven in main mode is what a rule asks
// for.
func (s *isakmp) satisfies(o MainOffer) bool {
	return slices.Contains(o.Suites, s.suite) && slices.ContainsFunc(o.Auth, s.proof.Satisfies)
}

// establishMain makes an ISAKMP SA of a main mode whose peer has proven itself.
func (m *Machine) establishMain(now time.Time, x *mainMode, c candidate, last []byte, p auth.Proof) *isakmp {
	s := &isakmp{path: x.path, icookie: x.icookie, rcookie: x.rcookie, initiator: x.initiator,
		suite: x.choice.Suite, proof: p, offer: x.offer,
		keys: c.keys, nat: x.nat, fragments: x.peer.fragments, vendor: x.peer.name,
		last: last, since: now, alive: now, expires: now.Add(x.choice.Life), final: x.answers.latest(),
		agent: x.peer.agent != nil, dpd: x.peer.dpd, windows: x.peer.windows,
		seen: map[uint32]bool{}}
	m.endMain(x)
	for _, other := range x.candidates {
		if other.keys != c.keys {
			other.keys.Zero()
		}
	}
	s.keys.EndPhase1()
	m.sas[s.key()] = s
	m.peers.addSA(s)
	s.expiry = m.timers.set(nil, s.expires, func(now time.Time) { m.closeSA(now, s, "lifetime over") })
	s.renewal = m.timers.set(nil, now.Add(x.choice.Life/1000*time.Duration(m.renewAt(s.initiator))), func(now time.Time) { m.renewMain(now, s) })
	m.keepNATAlive(now, s)
	m.put(MainMode{SA: s.status()})
	m.logMainKeys(s)
	m.crowdOut(now, s)
	m.watchSpare(now, s)
	for _, t := range m.peers.at(s.ends()).sas {
		if t != s && t.spent() && t.proof.Principal == s.proof.Principal {
			m.closeSpent(now, t)
		}
	}
	return s
}

// peerSAs is how many ISAKMP SAs one peer may have.
const peerSAs = 16

// crowdOut ends the oldest ISAKMP SA of a peer that has too many.
func (m *Machine) crowdOut(now time.Time, s *isakmp) {
	var oldest *isakmp
	n := 0
	for _, t := range m.peers.at(s.ends()).sas {
		if t.sameHosts(s.path) && t.proof.Principal == s.proof.Principal {
			if n++; oldest == nil || t.compare(oldest) < 0 {
				oldest = t
			}
		}
	}
	if n > peerSAs {
		m.closeSA(now, oldest, "the peer has too many")
	}
}

// renewAt returns after how many thousandths of a lifetime something is
// renewed. The initiator of the first is meant to be the one who renews, so
// that the two ends rarely collide.
func (m *Machine) renewAt(initiator bool) uint64 {
	if initiator {
		return m.fraction(850, 900)
	}
	return m.fraction(930, 970)
}

// renewMain makes a new ISAKMP SA before the old one ends, if associations
// depend on there being one.
func (m *Machine) renewMain(now time.Time, s *isakmp) {
	if !m.hasPairs(s) || m.newest(s) != s {
		return
	}
	offer, err := m.mainPolicy(s.path)
	if err != nil {
		return
	}
	m.startMain(now, s.path, offer)
}

// newest returns the ISAKMP SA that new quick modes with the peer of s use.
func (m *Machine) newest(s *isakmp) *isakmp {
	best := s
	for _, t := range m.peers.at(s.ends()).sas {
		if t.sameHosts(s.path) && t.proof.Principal == s.proof.Principal && t.compare(best) > 0 {
			best = t
		}
	}
	return best
}

// usable reports whether a quick mode may begin under s and end before s does.
func (s *isakmp) usable(now time.Time) bool {
	margin := min(halfOpenLife, s.expires.Sub(s.since)/8)
	return !s.forgotten && s.ending == "" && now.Add(margin).Before(s.expires) && !s.spent() && len(s.seen) < maxMessageIDs
}

// spent reports whether s has carried as many quick modes as policy lets one
// ISAKMP SA carry.
func (s *isakmp) spent() bool { return s.offer.Sessions > 0 && s.count >= s.offer.Sessions }

// closeSpent ends an ISAKMP SA that has carried all it may, once nothing goes on
// under it: the peer learns that it has to make another. Until there is a wish
// for that it stays, to tell and hear of deletes.
func (m *Machine) closeSpent(now time.Time, s *isakmp) {
	if len(s.queue)+s.running(true)+s.running(false) == 0 {
		m.closeSA(now, s, "it has carried all the quick modes it may")
	}
}

// full reports whether the peer has used far more message IDs than any honest
// one would while s is being closed.
func (s *isakmp) full() bool { return len(s.seen) >= 2*maxMessageIDs }

// endSA forgets an ISAKMP SA. The pairs made under it live on; what waits for
// it starts over under another.
func (m *Machine) endSA(now time.Time, s *isakmp, reason string) {
	if m.sas[s.key()] != s {
		return
	}
	delete(m.sas, s.key())
	m.peers.removeSA(s)
	m.timers.stop(s.expiry)
	m.timers.stop(s.renewal)
	m.timers.stop(s.spare)
	m.giveUpDeletes(s)
	m.forgetAnswers(s)
	m.put(MainMode{SA: s.status(), Ended: reason})
	queue := s.queue
	s.queue = nil
	for _, q := range s.quicksInOrder() {
		if q.step == finishingQuick {
			continue // the peer has all it needs; so has this side
		}
		if again := m.dropQuick(now, q); again != nil {
			queue = append(queue, again)
		}
	}
	s.keys.Zero()
	for _, r := range queue {
		m.initiate(now, r)
	}
}

// lateMain answers a repeated message 5 whose answer was lost. Nothing else of
// main mode is of interest once it is over.
func (m *Machine) lateMain(s *isakmp, msg message) error {
	if s.final.reply == nil || s.final.sum != msg.sum {
		return errDuplicate
	}
	m.send(s.path, s.final.reply)
	return nil
}

// heard notes a verified message of the peer that begins an exchange.
func (m *Machine) heard(now time.Time, s *isakmp, msg message) {
	s.alive, s.forgotten = now, false
	s.seen[msg.MessageID] = true
	m.follow(s, msg.path)
	if len(s.seen) >= maxMessageIDs && !s.closing {
		s.closing = true
		m.timers.set(nil, now.Add(halfOpenLife), func(now time.Time) { m.closeSA(now, s, "its message IDs are used up") })
	}
}

// freshID returns a message ID not used before under s.
func (m *Machine) freshID(s *isakmp) (uint32, error) {
	for range 8 {
		b, err := m.random(4)
		if err != nil {
			return 0, err
		}
		id := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
		if id != 0 && !s.seen[id] {
			s.seen[id] = true
			return id, nil
		}
	}
	return 0, errRandom
}
