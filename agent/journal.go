package agent

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"ipsecagent/agent/control"
)

const (
	// ringSize is how many past events are kept.
	ringSize = 1000
	// followerSlack is how many events a follower may lag behind.
	followerSlack = 256
	// maxFollowers bounds what the socket's callers can make the agent hold.
	maxFollowers = 16
	// kindBurst and kindRate bound the events of one kind, so that a peer
	// that fails again and again cannot push everything else out of the ring.
	kindBurst = 200
	kindRate  = 20 // per second
	// maxField and maxMessage bound what of a peer's words is kept, in bytes.
	maxField   = 256
	maxMessage = 320
	maxLine    = 512
)

// journal is what has happened: a ring of events, their followers, and the
// same events as log lines.
type journal struct {
	log       *slog.Logger
	ring      []control.Event // oldest first
	followers map[chan control.Event]bool
	buckets   map[string]*bucket
	types     map[string]control.EventType // by kind
}

// bucket limits the events of one kind.
type bucket struct {
	tokens     float64
	last       time.Time
	suppressed int
}

func newJournal(log *slog.Logger) *journal {
	types := map[string]control.EventType{}
	for _, t := range control.EventTypes() {
		types[t.Kind] = t
	}
	return &journal{log: log, followers: map[chan control.Event]bool{}, buckets: map[string]*bucket{}, types: types}
}

// add records an event, unless its kind comes too fast: then it is counted and
// the next one of its kind says how many are missing.
func (j *journal) add(now time.Time, e control.Event) {
	b := j.buckets[e.Kind]
	if b == nil {
		b = &bucket{tokens: kindBurst, last: now}
		j.buckets[e.Kind] = b
	}
	if !b.take(now) {
		return
	}
	e.Time, e.ID = now, j.types[e.Kind].ID
	e.Windows2000, e.Windows = j.types[e.Kind].Numbers(e.Fields)
	e = cleaned(e)
	if b.suppressed > 0 {
		e.Fields["suppressed"] = strconv.Itoa(b.suppressed)
		b.suppressed = 0
	}
	if len(j.ring) == ringSize {
		j.ring = slices.Delete(j.ring, 0, 1)
	}
	j.ring = append(j.ring, e)
	j.write(e)
	for f := range j.followers {
		j.feed(f, e)
	}
}

func (b *bucket) take(now time.Time) bool {
	b.tokens = min(kindBurst, b.tokens+kindRate*now.Sub(b.last).Seconds())
	b.last = now
	if b.tokens < 1 {
		b.suppressed++
		return false
	}
	b.tokens--
	return true
}

// cleaned returns e with every text printable, on one line and bounded: parts
// of it are a peer's words.
func cleaned(e control.Event) control.Event {
	e.Message = printable(e.Message, maxMessage)
	e.Peer = printable(e.Peer, maxField)
	fields := make(map[string]string, len(e.Fields)+1)
	for k, v := range e.Fields {
		if v != "" && k != "peer" { // it has a place of its own
			fields[k] = printable(v, maxField)
		}
	}
	e.Fields = fields
	return e
}

// printable escapes what is not printable and cuts at limit bytes.
func printable(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit-3] + "..."
	}
	quoted := strconv.QuoteToGraphic(s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

// write logs e with those of its fields that fit a line.
func (j *journal) write(e control.Event) {
	attrs := []slog.Attr{slog.String("event", e.Kind), slog.Int("id", e.ID)}
	size := len(e.Kind) + len(e.Message) + len(e.Peer) + 72 // time, level, names, ID
	if e.Peer != "" {
		attrs = append(attrs, slog.String("peer", e.Peer))
	}
	for _, k := range slices.Sorted(maps.Keys(e.Fields)) {
		room := len(k) + len(e.Fields[k]) + 4
		if size+room > maxLine {
			continue
		}
		size += room
		attrs = append(attrs, slog.String(k, e.Fields[k]))
	}
	j.log.LogAttrs(context.Background(), level(e.Severity), e.Message, attrs...)
}

func level(severity string) slog.Level {
	switch severity {
	case "error":
		return slog.LevelError
	case "warning":
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// follow returns the past events and, with keep, those to come.
func (j *journal) follow(keep bool) (chan control.Event, error) {
	if keep && len(j.followers) >= maxFollowers {
		return nil, &control.Error{Code: control.Failed, Message: "too many callers follow the events already; end one of them"}
	}
	c := make(chan control.Event, len(j.ring)+followerSlack)
	for _, e := range j.ring {
		c <- e
	}
	if keep {
		j.followers[c] = true
	} else {
		close(c)
	}
	return c, nil
}

// feed gives e to a follower. One that is too slow gets a note in the last
// place of its channel and no more: the loop waits for nobody.
func (j *journal) feed(f chan control.Event, e control.Event) {
	if len(f) < cap(f)-1 {
		f <- e
		return
	}
	f <- control.Event{Time: e.Time, Kind: control.EventAgent, Severity: "warning",
		Message: "this reader is too slow: events are missing from here on; ask again"}
	j.unfollow(f)
}

// unfollow ends a follower's channel; again is no error.
func (j *journal) unfollow(f chan control.Event) {
	if j.followers[f] {
		delete(j.followers, f)
		close(f)
	}
}

// close ends every follower.
func (j *journal) close() {
	for f := range j.followers {
		j.unfollow(f)
	}
}
