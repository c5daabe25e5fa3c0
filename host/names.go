package host

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// leastTTL and mostTTL bound how long an answer of the DNS is believed:
	// a TTL of nothing is no reason to ask all the time, one of a week none to
	// miss that a server has moved.
	leastTTL = 30 * time.Second
	mostTTL  = time.Hour
	// askAgain is when a name that did not resolve is asked for again.
	askAgain = 30 * time.Second
	// atOnce is how many names are asked for at the same time.
	atOnce = 8
)

// Answer is what is known of a DNS name.
type Answer struct {
	// Addresses are sorted, at most 64, those last known if the name does not
	// resolve now.
	Addresses []netip.Addr
	// Resolved is when the DNS last gave them; zero: never.
	Resolved time.Time
	// Stale is since when the name does not resolve, in whole or in one
	// family of addresses; zero: it does.
	Stale time.Time
	// Problem says why it does not, in words.
	Problem string
}

// NamesConfig is what Names works with. Both are required.
type NamesConfig struct {
	// Dial makes a connection to a name server: "udp" or "tcp".
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Servers returns the name servers to ask, the first first.
	Servers func() []netip.AddrPort
}

// Names follows what DNS names stand for: it asks again when the TTL of an answer
// is over and keeps the last addresses of a name that does not resolve any more.
// Answers are taken as they come: whoever can forge answers of the DNS chooses
// the addresses. Make it with NewNames, run it with Run.
type Names struct {
	cfg     NamesConfig
	wanted  chan map[string]Answer
	changed chan struct{}
	answers atomic.Pointer[map[string]Answer]

	// What follows is Run's.
	entries map[string]*entry
	results chan result
	running int
}

// entry is a name that is followed.
type entry struct {
	answer Answer
	due    time.Time
	asking bool
}

// result is the end of one lookup.
type result struct {
	name  string
	found [2]family // A, AAAA
}

// family is what the DNS says of a name in one family of addresses: err, or
// addresses, maybe none, for so long.
type family struct {
	addrs []netip.Addr
	ttl   time.Duration
	err   error
}

// NewNames returns Names that follow no name yet.
func NewNames(cfg NamesConfig) *Names {
	n := &Names{cfg: cfg, wanted: make(chan map[string]Answer, 1), changed: make(chan struct{}, 1),
		entries: map[string]*entry{}, results: make(chan result, atOnce)}
	n.answers.Store(&map[string]Answer{})
	return n
}

// Follow says which names are followed from now on, in lower case without the
// dot at the end, and what was known of them earlier (an empty Answer: nothing).
// It waits for nobody. One goroutine calls it.
func (n *Names) Follow(names map[string]Answer) {
	select {
	case <-n.wanted: // it was not taken yet, and is outdated
	default:
	}
	n.wanted <- maps.Clone(names)
}

// Changed hints that Answers says something else than before.
func (n *Names) Changed() <-chan struct{} { return n.changed }

// Answers returns what is known of the names that are followed. It is not to be
// changed.
func (n *Names) Answers() map[string]Answer { return *n.answers.Load() }

// Run follows the names until ctx ends.
func (n *Names) Run(ctx context.Context) error {
	for {
		n.ask(ctx, time.Now())
		wake := time.NewTimer(n.untilDue(time.Now()))
		select {
		case <-ctx.Done():
			wake.Stop()
			return nil
		case names := <-n.wanted:
			n.follow(names)
			n.publish(true)
		case r := <-n.results:
			n.running--
			n.take(time.Now(), r)
		case <-wake.C:
		}
		wake.Stop()
	}
}

// ask begins the lookups that are due.
func (n *Names) ask(ctx context.Context, now time.Time) {
	for _, name := range slices.Sorted(maps.Keys(n.entries)) {
		e := n.entries[name]
		if n.running == atOnce {
			return // the next result leads here again
		}
		if e.asking || e.due.After(now) {
			continue
		}
		e.asking = true
		n.running++
		go func() { n.results <- result{name, n.cfg.lookup(ctx, name)} }()
	}
}

// untilDue returns how long until the next name is due.
func (n *Names) untilDue(now time.Time) time.Duration {
	next := mostTTL
	for _, e := range n.entries {
		if !e.asking {
			next = min(next, e.due.Sub(now))
		}
	}
	if n.running == atOnce {
		return mostTTL
	}
	return max(0, next)
}

// follow takes over which names are followed.
func (n *Names) follow(names map[string]Answer) {
	for name := range n.entries {
		if _, ok := names[name]; !ok {
			delete(n.entries, name)
		}
	}
	for name, known := range names {
		if n.entries[name] == nil {
			n.entries[name] = &entry{answer: known}
		}
	}
}

// take takes over the end of a lookup.
func (n *Names) take(now time.Time, r result) {
	e := n.entries[r.name]
	if e == nil {
		return // it is not followed any more
	}
	former := e.answer
	e.asking = false
	var next time.Duration
	e.answer, next = former.after(now, r.found)
	e.due = now.Add(next)
	n.publish(!slices.Equal(former.Addresses, e.answer.Addresses) || former.Stale != e.answer.Stale)
}

// publish shows the answers; tell: they say something new.
func (n *Names) publish(tell bool) {
	all := make(map[string]Answer, len(n.entries))
	for name, e := range n.entries {
		all[name] = e.answer
	}
	n.answers.Store(&all)
	if tell {
		hint(n.changed)
	}
}

// after returns what is known after a lookup, and when to ask again. A family
// that the DNS did not answer for keeps the addresses it had; so do both when
// the name has none at all any more.
func (a Answer) after(now time.Time, found [2]family) (Answer, time.Duration) {
	all, problem, fresh := []netip.Addr{}, "", false
	ttl := mostTTL
	for i, f := range found {
		had := a.of(i == 0)
		switch {
		case f.err != nil && len(had) > 0:
			all, problem = append(all, had...), f.err.Error()
		case f.err == nil && len(f.addrs) > 0:
			all, fresh, ttl = append(all, f.addrs...), true, min(ttl, f.ttl)
		}
	}
	if fresh {
		a.Addresses, a.Resolved = set(all), now
	} else {
		problem = why(found)
	}
	if problem == "" {
		a.Stale, a.Problem = time.Time{}, ""
		return a, max(ttl, leastTTL)
	}
	if a.Problem = problem; a.Stale.IsZero() {
		a.Stale = now
	}
	return a, askAgain
}

// of returns the addresses of one family.
func (a Answer) of(v4 bool) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(a.Addresses), func(x netip.Addr) bool { return x.Is4() != v4 })
}

// why says why a lookup has found nothing.
func why(found [2]family) string {
	for _, f := range found {
		if f.err != nil && !errors.Is(f.err, errNoName) {
			return f.err.Error()
		}
	}
	if found[0].err != nil {
		return found[0].err.Error()
	}
	return "the DNS has no address for it"
}

// plainName is a name as messages have it, for comparison.
func plainName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }
