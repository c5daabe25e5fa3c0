package agent

import (
	"net/netip"
	"time"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// maxLastEnds bounds what is remembered of associations that have ended.
const maxLastEnds = 1000

// endKey is what the last end is remembered of: a filter and a pair of hosts.
type endKey struct {
	filter        sadb.FilterID
	local, remote netip.Addr
}

// lastEnd is when and why the last association with a peer ended.
type lastEnd struct {
	at     time.Time
	reason string
}

// lastEnds remembers the last end of each. The oldest gives way.
type lastEnds map[endKey]lastEnd

func (l lastEnds) note(k endKey, e lastEnd) {
	if _, again := l[k]; !again && len(l) >= maxLastEnds {
		l.dropOldest()
	}
	l[k] = e
}

func (l lastEnds) dropOldest() {
	var oldest endKey
	for k, e := range l {
		if !oldest.remote.IsValid() || e.at.Before(l[oldest].at) {
			oldest = k
		}
	}
	delete(l, oldest)
}

// of returns the last end of any association with a peer.
func (l lastEnds) of(remote netip.Addr) (last lastEnd, ok bool) {
	for k, e := range l {
		if k.remote == remote && (!ok || e.at.After(last.at)) {
			last, ok = e, true
		}
	}
	return last, ok
}

// afterSecured leaves of a record of traffic in clear what has passed since the
// last association of its filter with the peer; false: nothing. The driver goes
// on with a record for minutes, whatever was between.
func (a *Agent) afterSecured(c driver.ClearPeer) (driver.ClearPeer, bool) {
	e, ok := a.lastEnds[endKey{c.Filter, plain(c.Local), plain(c.Remote)}]
	if !ok {
		return c, true
	}
	if c.Last.Before(e.at) {
		return c, false
	}
	if c.Since.Before(e.at) {
		c.Since = e.at
	}
	return c, true
}

// noteEnd remembers that p has ended, unless another pair carries its traffic.
func (a *Agent) noteEnd(now time.Time, p sadb.Pair, reason string) {
	if !a.serves(p) {
		a.lastEnds.note(endKey{p.Filter, plain(p.Local), plain(p.Remote)}, lastEnd{now, printable(reason, maxField)})
	}
}
