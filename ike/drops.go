package ike

import (
	"net/netip"
	"time"
)

// drops counts datagrams that were not acted on and reports them once a
// second. What comes from more sources than it holds is counted by its reason
// alone, and beyond as many reasons together.
type drops struct {
	counts map[Dropped]int
	timer  *timer
}

const maxDropSources = 64

func (m *Machine) drop(now time.Time, remote netip.AddrPort, reason string) {
	m.explain(path{remote: unmap(remote)}, "dropped: %s", reason)
	m.dropMany(now, remote, reason, 1)
}

func (m *Machine) dropMany(now time.Time, remote netip.AddrPort, reason string, n int) {
	d := &m.drops
	key := Dropped{Remote: remote, Reason: reason}
	if !d.holds(key, maxDropSources) {
		key.Remote = netip.AddrPort{}
	}
	if !d.holds(key, 2*maxDropSources) {
		key.Reason = "too many sources and reasons to list"
	}
	d.counts[key] += n
	if d.timer != nil {
		return
	}
	d.timer = m.timers.set(nil, now.Add(time.Second), func(time.Time) {
		for key, n := range d.counts {
			key.Count = n
			m.put(key)
		}
		clear(d.counts)
		d.timer = nil
	})
}

// holds reports whether key is there or one of the first so many.
func (d *drops) holds(key Dropped, most int) bool {
	_, known := d.counts[key]
	return known || len(d.counts) < most
}

// strangers counts the work that waits for peers that have not proven
// themselves. What is refused here is repeated by an honest peer.
type strangers struct {
	waiting map[netip.Addr]int
	total   int
}

const (
	maxStrangers  = 1024
	maxOfStranger = 8
)

// begin reports whether work for addr may be put out.
func (s *strangers) begin(addr netip.Addr) bool {
	addr = source(addr)
	if s.total >= maxStrangers || s.waiting[addr] >= maxOfStranger*hostsOfSource(addr) {
		return false
	}
	s.total++
	s.waiting[addr]++
	return true
}

// end takes note that work for addr is done.
func (s *strangers) end(addr netip.Addr) {
	s.total--
	addr = source(addr)
	if s.waiting[addr]--; s.waiting[addr] == 0 {
		delete(s.waiting, addr)
	}
}

// hintLimit bounds the answers to what proves nothing, or the reports about it:
// so many a second for everybody together, one a second for an address.
type hintLimit struct {
	most   int // a second
	second time.Time
	sent   map[netip.Addr]bool
}

// A report ends as a line in a log.
const (
	hintsPerSecond   = 50
	reportsPerSecond = 10
)

// allow reports whether addr may get an answer now.
func (h *hintLimit) allow(now time.Time, addr netip.Addr) bool {
	if now.Sub(h.second) >= time.Second {
		h.second, h.sent = now, map[netip.Addr]bool{}
	}
	if h.sent[addr] || len(h.sent) >= h.most {
		return false
	}
	h.sent[addr] = true
	return true
}
