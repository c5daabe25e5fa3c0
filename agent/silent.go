package agent

import (
	"maps"
	"net/netip"
	"time"

	"ipsecagent/driver"
	"ipsecagent/ike"
	"ipsecagent/sadb"
)

// A peer that is sent to and sends nothing back is asked whether it still lives
// (RFC 3706): one that has started anew, or is gone, would otherwise be sent to
// until the keys are over their lifetime.

// silentLooks is how often within the silent time it is looked for such peers.
const silentLooks = 3

// watchSilent looks for silent peers from now on.
func (a *Agent) watchSilent(now time.Time) {
	if a.cfg.SilentTime <= 0 {
		return
	}
	a.timers.at(now.Add(a.cfg.SilentTime/silentLooks), func(now time.Time) {
		a.askSilent(now)
		a.watchSilent(now)
	})
}

// askSilent has the silent peers asked.
func (a *Agent) askSilent(now time.Time) {
	state, err := a.driverState()
	if err != nil {
		return // nothing is known, so nobody is silent
	}
	counters := make(map[sadb.SAID]driver.SAState, len(state.SAs))
	for _, s := range state.SAs {
		counters[bare(s.SA.ID)] = s
	}
	maps.DeleteFunc(a.asked, func(_ netip.Addr, at time.Time) bool { return now.Sub(at) >= a.cfg.SilentTime })
	for remote, s := range silences(a.book.All(), counters) {
		silent := s.sent.Sub(s.heard) >= a.cfg.SilentTime && now.Sub(s.sent) < a.cfg.SilentTime
		if silent && a.asked[remote].IsZero() {
			a.asked[remote] = now
			a.cfg.IKE.Submit(ike.Silent{Pair: s.newest})
		}
	}
}

// silence is when a peer was last sent to and last heard, by whichever pair.
type silence struct {
	sent, heard time.Time
	newest      sadb.PairID
}

// silences returns that of each peer. A pair that has carried nothing inbound
// counts as heard when it was made: the peer had just proven itself.
func silences(pairs []sadb.Pair, counters map[sadb.SAID]driver.SAState) map[netip.Addr]*silence {
	all := map[netip.Addr]*silence{}
	for _, p := range pairs {
		s := all[p.Remote]
		if s == nil {
			s = &silence{}
			all[p.Remote] = s
		}
		s.newest = p.ID
		s.heard = latest(s.heard, p.Since)
		for _, id := range p.In {
			s.heard = latest(s.heard, counters[bare(id)].LastUsed)
		}
		for _, id := range p.Out {
			s.sent = latest(s.sent, counters[bare(id)].LastUsed)
		}
	}
	return all
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
