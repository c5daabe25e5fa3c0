package ike

import (
	"bytes"
	"time"

	"ipsecagent/sadb"
)

// Both ends may make an ISAKMP SA at once. One is enough: the one that pairs
// were made under stays, since some peers end those with it. Nothing is lost if
// the two ends choose differently; the next quick mode makes a new one.

const (
	// spareAfter is how long both live at least after the second one is there:
	// until no exchange of the time is open any more, on either end.
	spareAfter = halfOpenLife + 5*time.Second
	// spareQuiet is how long nothing was heard under one that goes.
	spareQuiet = 10 * time.Second
)

// watchSpare looks later whether s or one like it can go.
func (m *Machine) watchSpare(now time.Time, s *isakmp) {
	if len(m.alike(now, s)) > 1 {
		m.timers.stop(s.spare)
		s.spare = m.timers.set(nil, now.Add(spareAfter), func(now time.Time) { m.dropSpares(now, s) })
	}
}

// alike returns the usable ISAKMP SAs that were made at the time of s and may
// carry whatever s may, s among them.
func (m *Machine) alike(now time.Time, s *isakmp) []*isakmp {
	var all []*isakmp
	for _, t := range m.peers.at(s.ends()).sas {
		same := t.proof == s.proof && t.suite == s.suite && s.atOnce(t)
		if same && t.usable(now) {
			all = append(all, t)
		}
	}
	return all
}

// dropSpares ends those like s that carry nothing, but for one.
func (m *Machine) dropSpares(now time.Time, s *isakmp) {
	all := m.alike(now, s)
	carrying := m.carrying(s)
	keep := s
	for _, t := range all {
		if carrying[t.key()] == carrying[keep.key()] && t.preferred(keep) || carrying[t.key()] && !carrying[keep.key()] {
			keep = t
		}
	}
	for _, t := range all {
		if t != keep && !carrying[t.key()] && t.idle(now) {
			m.closeSA(now, t, "the peer and this host made two at once")
		}
	}
	if m.sas[s.key()] == s {
		m.watchSpare(now, s)
	}
}

// carrying returns the ISAKMP SAs with the peer of s that live pairs were made
// under.
func (m *Machine) carrying(s *isakmp) map[saKey]bool {
	under := map[saKey]bool{}
	for _, p := range m.peers.at(s.ends()).pairs {
		under[p.under] = true
	}
	return under
}

// idle reports whether nothing goes on under s.
func (s *isakmp) idle(now time.Time) bool {
	return len(s.queue) == 0 && s.running(true)+s.running(false) == 0 && now.Sub(s.alive) >= spareQuiet
}

// preferred reports whether s serves rather than t: of two made at once the one
// with the lower cookie of its initiator, which both ends see alike; else the
// newer.
func (s *isakmp) preferred(t *isakmp) bool {
	if !s.atOnce(t) {
		return s.since.After(t.since)
	}
	return bytes.Compare(s.icookie[:], t.icookie[:]) < 0
}

// atOnce reports whether s and t may have been made without knowing of each
// other.
func (s *isakmp) atOnce(t *isakmp) bool {
	return s.since.Sub(t.since).Abs() <= min(halfOpenLife, s.expires.Sub(s.since)/4)
}

// owns reports whether a pair belongs to the peer of s: the same addresses and
// the same proven identity, not the ISAKMP SA that it was made under.
func (s *isakmp) owns(p sadb.Pair) bool {
	return s.remote.Addr() == p.Remote && s.local.Addr() == p.Local && string(s.proof.Principal) == p.Principal
}
