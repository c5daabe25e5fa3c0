package agent

import (
	"time"

	"ipsecagent/driver"
	"ipsecagent/ike"
)

// movesPerSecond bounds the lines in the log about peers that move: who stands
// between both ends can have every packet come from another port.
const movesPerSecond = 10

// lineLimit bounds lines of one kind in the log.
type lineLimit struct {
	second  time.Time // when the second that counts began
	written int       // lines in it
	omitted int       // since the last line
}

// allow reports whether a line may be written now, and how many were omitted
// before it.
func (l *lineLimit) allow(now time.Time, most int) (omitted int, ok bool) {
	if now.Sub(l.second) >= time.Second {
		l.second, l.written = now, 0
	}
	if l.written >= most {
		l.omitted++
		return 0, false
	}
	l.written++
	omitted, l.omitted = l.omitted, 0
	return omitted, true
}

// moved passes on that a peer sends from another port.
func (a *Agent) moved(now time.Time, e driver.Moved) {
	a.cfg.IKE.Submit(ike.Moved{ID: a.scoped(e.ID), From: e.From})
	if omitted, ok := a.moves.allow(now, movesPerSecond); ok {
		a.cfg.Log.Info("a peer sends from another UDP port", "association", e.ID.String(), "from", e.From.String(), "omitted", omitted)
	}
}
