package user

import (
	"cmp"
	"slices"
	"time"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// Limits of what waits for associations.
const (
	maxWaits       = 1024    // filters and pairs of hosts
	maxWaitPackets = 512     // for each of them: a fast transfer while its association is renewed late
	maxWaitAll     = 4096    // packets together
	maxWaitBytes   = 8 << 20 // bytes together
	// maxWaitAge: what is older is not sent any more; its sender has repeated
	// it or given up.
	maxWaitAge = 30 * time.Second
)

// wait is one unanswered Acquire and the packets held for it.
type wait struct {
	key     pairKey
	acquire driver.Acquire
	since   uint64 // order of coming
	packets []held
}

// held is a packet that waits.
type held struct {
	packet []byte
	at     time.Time
}

// waiting is all unanswered Acquires. The engine owns it.
type waiting struct {
	waits   map[pairKey]*wait
	order   uint64
	packets int
	bytes   int
	dropped uint64
}

func newWaiting() *waiting { return &waiting{waits: map[pairKey]*wait{}} }

// ask enters an Acquire. first reports that none was pending for its filter and
// pair of hosts, so that the event is to be raised. When too many are pending
// the oldest gives way.
func (w *waiting) ask(key pairKey, a driver.Acquire) (entry *wait, first bool) {
	if e, ok := w.waits[key]; ok {
		return e, false
	}
	if len(w.waits) >= maxWaits {
		w.drop(w.oldest(nil))
	}
	w.order++
	e := &wait{key: key, acquire: a, since: w.order}
	w.waits[key] = e
	return e, true
}

// hold keeps a packet for e. Where a limit is reached the oldest packets go:
// of e, and then of who has waited longest.
func (w *waiting) hold(e *wait, packet []byte, now time.Time) {
	if len(e.packets) >= maxWaitPackets {
		w.dropFirst(e)
	}
	for w.packets >= maxWaitAll || w.packets > 0 && w.bytes+len(packet) > maxWaitBytes {
		w.dropFirst(w.oldest(func(e *wait) bool { return len(e.packets) > 0 }))
	}
	e.packets = append(e.packets, held{packet, now})
	w.packets++
	w.bytes += len(packet)
}

func (w *waiting) dropFirst(e *wait) {
	w.packets--
	w.bytes -= len(e.packets[0].packet)
	e.packets = e.packets[1:]
	w.dropped++
}

// oldest returns the entry that came first of those that ok admits.
func (w *waiting) oldest(ok func(*wait) bool) *wait {
	var first *wait
	for _, e := range w.waits {
		if (ok == nil || ok(e)) && (first == nil || e.since < first.since) {
			first = e
		}
	}
	return first
}

// drop forgets e; its packets count as dropped.
func (w *waiting) drop(e *wait) {
	w.dropped += uint64(len(e.packets))
	w.take(e)
}

// take removes e and returns its packets.
func (w *waiting) take(e *wait) []held {
	delete(w.waits, e.key)
	w.packets -= len(e.packets)
	for _, h := range e.packets {
		w.bytes -= len(h.packet)
	}
	return e.packets
}

// abandon drops what waits for a negotiation.
func (w *waiting) abandon(key pairKey) {
	if e, ok := w.waits[key]; ok {
		w.drop(e)
	}
}

// answered takes out what an association for k answers, and returns the
// packets, oldest first.
func (w *waiting) answered(k pairKey) []held {
	e, ok := w.waits[k]
	if !ok {
		return nil
	}
	return w.take(e)
}

// prune drops what waits for a filter that is gone, or of another mode now.
func (w *waiting) prune(s *spd) {
	there := map[sadb.FilterID]bool{}
	for _, f := range s.filters {
		there[f.ID] = true
	}
	for key, e := range w.waits {
		if !there[key.root] || key != s.key(key.root, e.acquire.Flow) {
			w.drop(e)
		}
	}
}

// pending returns the unanswered Acquires in order of coming.
func (w *waiting) pending() []driver.Acquire {
	all := make([]*wait, 0, len(w.waits))
	for _, e := range w.waits {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b *wait) int { return cmp.Compare(a.since, b.since) })
	out := make([]driver.Acquire, len(all))
	for i, e := range all {
		out[i] = e.acquire
	}
	return out
}
