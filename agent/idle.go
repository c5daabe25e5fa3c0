package agent

import (
	"fmt"
	"slices"
	"time"

	"ipsecagent/driver"
	"ipsecagent/ike"
	"ipsecagent/sadb"
)

// Associations that carry nothing are ended, as in the Windows model after 300 s:
// what thousands of peers once asked for is not renewed for ever. Where their end
// could let traffic go in clear they are kept until their lifetime is over, and
// only not renewed: traffic that was secured stays so without any moment of doubt.

// idleLooks is how often within the idle time it is looked for idle pairs.
const idleLooks = 5

// watchIdle looks for idle pairs from now on.
func (a *Agent) watchIdle(now time.Time) {
	if a.cfg.IdleTime <= 0 {
		return
	}
	a.timers.at(now.Add(a.cfg.IdleTime/idleLooks), func(now time.Time) {
		a.endIdle(now)
		a.watchIdle(now)
	})
}

// endIdle finds the pairs that have carried nothing for the idle time, and ends
// those that may end.
func (a *Agent) endIdle(now time.Time) {
	clear(a.idle)
	state, err := a.driverState()
	if err != nil {
		return // nothing is known, so nothing is idle
	}
	counters := make(map[sadb.SAID]driver.SAState, len(state.SAs))
	for _, s := range state.SAs {
		counters[bare(s.SA.ID)] = s
	}
	for _, p := range a.book.All() {
		if now.Sub(activeAt(p, counters)) < a.cfg.IdleTime {
			continue
		}
		a.idle[p.ID] = true
		if !a.mayClear(p.Filter) {
			a.cfg.IKE.Submit(ike.Close{Pair: p.ID, Reason: fmt.Sprintf("no traffic for %s", a.cfg.IdleTime)})
		}
	}
}

// activeAt returns when a pair last carried a packet, in either direction; at
// the latest when it was made.
func activeAt(p sadb.Pair, counters map[sadb.SAID]driver.SAState) time.Time {
	last := p.Since
	for _, id := range slices.Concat(p.In, p.Out) {
		if at := counters[bare(id)].LastUsed; at.After(last) {
			last = at
		}
	}
	return last
}
