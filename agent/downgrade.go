package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/auth"
	"ipsecagent/ike"
	"ipsecagent/sadb"
)

// maxModern bounds the identities that are remembered as modern.
const maxModern = 16384

// modernAgain is how old what is remembered of an identity may become in the
// store while it is met again and again.
const modernAgain = 24 * time.Hour

// modern is the identities that this host has met with modern methods, and
// when last. Policies list old methods for those who know nothing better; one
// who does and no longer offers it was set back, or somebody stands between.
// Those met first and those met again after long wait to be written.
type modern struct {
	met     map[string]time.Time
	changed map[string]time.Time // since the last write; zero: forgotten
}

// newModern returns what was remembered, as far as it may be.
func newModern(kept map[string]time.Time) modern {
	m := modern{map[string]time.Time{}, map[string]time.Time{}}
	for identity, at := range kept {
		m.put(identity, at)
	}
	for identity := range m.met {
		delete(m.changed, identity) // it stands in the store
	}
	return m
}

// put remembers an identity; the one met longest ago makes place.
func (m modern) put(identity string, now time.Time) {
	last, again := m.met[identity]
	if again && now.Sub(last) < modernAgain {
		return
	}
	if !again && len(m.met) >= maxModern {
		oldest := identity
		for o, at := range m.met {
			if oldest == identity || at.Before(m.met[oldest]) {
				oldest = o
			}
		}
		delete(m.met, oldest)
		m.changed[oldest] = time.Time{}
	}
	m.met[identity], m.changed[identity] = now, now
}

// identityOf names whom a pair's modern methods are remembered of, in a form of
// one length. Several hosts may have one preshared key: there the address counts.
func identityOf(p sadb.Pair) string {
	name := p.Method + " " + p.Principal
	if methodOf(p) == auth.PSK {
		name += " " + plain(p.Remote).String()
	}
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

// isModern reports whether a pair and the main mode it was made under are
// secured by what is not old: no DES, MD5 or SHA-1, no group below 2048 bits.
func isModern(p sadb.Pair) bool {
	return !p.Main.Weak() && p.Main.Hash != sadb.SHA1 &&
		!slices.ContainsFunc(p.Suites, func(s sadb.Suite) bool { return s.Weak() || s.Integrity == sadb.HMACSHA1 })
}

// setBack returns when an identity was met with modern methods that now has old
// ones; zero: it was not.
func (a *Agent) setBack(p sadb.Pair) time.Time {
	if isModern(p) {
		return time.Time{}
	}
	return a.modern.met[identityOf(p)]
}

// refuseSetBack refuses, if the settings say so, a pair of an identity that was
// modern and is not any more.
func (a *Agent) refuseSetBack(now time.Time, p sadb.Pair) error {
	since := a.setBack(p)
	if since.IsZero() || !a.cfg.RefuseDowngrade {
		return nil
	}
	a.reportSetBack(now, p, since, ": refused")
	return &ike.NotInstalled{Reason: setBackWords(p),
		Hint: "see what has changed on that host; without refuseDowngrade in the settings of this one it is let in"}
}

// noteModern remembers who is secured by modern methods, and reports who was
// and is not any more.
func (a *Agent) noteModern(now time.Time, p sadb.Pair) {
	if isModern(p) {
		a.modern.put(identityOf(p), now)
		return
	}
	if since := a.setBack(p); !since.IsZero() {
		a.reportSetBack(now, p, since, "")
	}
}

func (a *Agent) reportSetBack(now time.Time, p sadb.Pair, since time.Time, outcome string) {
	fields := a.pairFields(p)
	fields["modernAt"] = since.UTC().Format(time.RFC3339)
	a.event(now, control.EventDowngraded, "warning", setBackWords(p)+outcome, fields)
}

func setBackWords(p sadb.Pair) string {
	methods := suiteNames(p)
	if p.Main != (sadb.ISAKMPSuite{}) {
		methods += " under " + p.Main.String()
	}
	return fmt.Sprintf("%s offers %s alone, and was secured by modern methods before", p.Principal, methods)
}
