package agent

import (
	"fmt"
	"slices"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/sadb"
)

// maxModern bounds the identities that are remembered as modern.
const maxModern = 16384

// modern is the identities that this process has met with modern methods, and
// when last. Policies list old methods for those who know nothing better; one
// who does and no longer offers it was set back, or somebody stands between.
type modern map[string]time.Time

// put remembers an identity; the one met longest ago makes place.
func (m modern) put(identity string, now time.Time) {
	if _, again := m[identity]; !again && len(m) >= maxModern {
		oldest := identity
		for o, at := range m {
			if oldest == identity || at.Before(m[oldest]) {
				oldest = o
			}
		}
		delete(m, oldest)
	}
	m[identity] = now
}

// isModern reports whether a pair is secured by what is not old: no DES, MD5 or
// SHA-1.
func isModern(p sadb.Pair) bool {
	return !slices.ContainsFunc(p.Suites, func(s sadb.Suite) bool { return s.Weak() || s.Integrity == sadb.HMACSHA1 })
}

// downgraded reports an identity that was modern and is not any more, and whether
// its pair is to be refused.
func (a *Agent) downgraded(now time.Time, p sadb.Pair) (refuse bool) {
	identity := p.Method + " " + p.Principal
	if isModern(p) {
		a.modern.put(identity, now)
		return false
	}
	since, was := a.modern[identity]
	if !was {
		return false
	}
	words := fmt.Sprintf("%s offers %s alone, and was secured by modern methods before", p.Principal, suiteNames(p))
	if a.cfg.RefuseDowngrade {
		words += ": refused"
	}
	fields := a.pairFields(p)
	fields["modernAt"] = since.UTC().Format(time.RFC3339)
	a.event(now, control.EventDowngraded, "warning", words, fields)
	return a.cfg.RefuseDowngrade
}
