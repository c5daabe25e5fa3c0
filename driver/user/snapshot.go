package user

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"ipsecagent/sadb"
)

// snapshot is all a worker decides by. It never changes: the engine publishes
// another.
type snapshot struct {
	spd *spd
	out map[pairKey][]*assoc // the newest first
	in  map[sadb.SAID]*assoc
	// local is the addresses of this host: it tells its own traffic from what
	// it forwards into a tunnel.
	local map[netip.Addr]bool
	// links and routes tell connections apart, where filters do. routes has
	// the destinations that were asked for; nil: none.
	links  links
	routes map[netip.Addr]sadb.ConnectionType
}

// pairKey finds outbound associations: one filter, one pair of hosts. In tunnel
// mode the filter alone: the addresses are zero.
type pairKey struct {
	root          sadb.FilterID
	local, remote netip.Addr
}

// with returns a snapshot in which b stands in the place of a; either may be
// nil. What does not change is shared.
func (s *snapshot) with(a, b *assoc) *snapshot {
	c := *s
	for _, x := range []*assoc{a, b} {
		switch {
		case x == nil:
		case x.in != nil:
			c.in = maps.Clone(s.in)
		default:
			c.out = maps.Clone(s.out)
		}
	}
	if a != nil {
		c.remove(a)
	}
	if b != nil {
		c.add(b)
	}
	return &c
}

func (s *snapshot) remove(a *assoc) {
	if a.in != nil {
		delete(s.in, a.sa.ID)
		return
	}
	k := a.pairKey()
	left := slices.DeleteFunc(slices.Clone(s.out[k]), func(b *assoc) bool { return b == a })
	s.out[k] = left
	if len(left) == 0 {
		delete(s.out, k)
	}
}

func (s *snapshot) add(a *assoc) {
	if a.in != nil {
		s.in[a.sa.ID] = a
		return
	}
	if !a.carries() {
		return
	}
	k := a.pairKey()
	s.out[k] = append(slices.Clone(s.out[k]), a)
	slices.SortFunc(s.out[k], func(a, b *assoc) int { return cmp.Compare(b.order, a.order) })
}

// outbound returns the association that may carry a packet with headers f under
// the filter: the newest, or the newest that goes to an endpoint.
func (s *snapshot) outbound(root sadb.FilterID, f sadb.Flow, to netip.AddrPort) *assoc {
	for _, a := range s.out[s.spd.key(root, f)] {
		if !a.dead() && a.sa.Selector.Matches(f) && (!to.IsValid() || a.out.Peer() == to) {
			return a
		}
	}
	return nil
}

// newSnapshot returns one without associations.
func newSnapshot(s *spd) *snapshot {
	return &snapshot{spd: s, out: map[pairKey][]*assoc{}, in: map[sadb.SAID]*assoc{}}
}

// spd is the ordered filters, overlays in their places, with indexes: that of
// the policy's filters stays while overlays come and go.
type spd struct {
	filters []sadb.Filter
	roots   []sadb.FilterID                 // of each filter
	parents map[sadb.FilterID]sadb.FilterID // of overlays
	tunnels map[sadb.FilterID]bool          // filters of tunnel mode
	typed   bool                            // a filter is for one type of connection

	base, over     *peerIndex
	baseAt, overAt []int // where their filters stand in the whole list
}

// newSPD indexes filters among which no overlays come and go.
func newSPD(filters []sadb.Filter) *spd {
	return splicedSPD(newPeerIndex(filters), filters)
}

// splicedSPD indexes all, the list of base with overlays in it (sadb.Splice).
func splicedSPD(base *peerIndex, all []sadb.Filter) *spd {
	s := &spd{filters: all, roots: make([]sadb.FilterID, len(all)), parents: map[sadb.FilterID]sadb.FilterID{},
		tunnels: map[sadb.FilterID]bool{}, base: base, baseAt: make([]int, len(base.filters))}
	var overlays []sadb.Filter
	n := 0
	for i := range all {
		f := &all[i]
		s.roots[i] = rootOf(f)
		s.typed = s.typed || f.Connections != sadb.AllConnections
		if f.Mode == sadb.Tunnel {
			s.tunnels[s.roots[i]] = true
		}
		if f.Overlay() {
			s.parents[f.ID] = f.Parent
		}
		if n < len(base.filters) && base.filters[n].ID == f.ID {
			s.baseAt[n] = i
			n++
			continue
		}
		overlays, s.overAt = append(overlays, *f), append(s.overAt, i)
	}
	s.over = newPeerIndex(overlays)
	return s
}

// peerIndex finds filters by their single remote address.
type peerIndex struct {
	filters []sadb.Filter
	byPeer  map[netip.Addr][]int
	rest    []int // filters that name no single peer
}

func newPeerIndex(filters []sadb.Filter) *peerIndex {
	x := &peerIndex{filters: filters, byPeer: map[netip.Addr][]int{}}
	for i := range filters {
		if a, ok := filters[i].Selector.Remote.Single(); ok {
			x.byPeer[a] = append(x.byPeer[a], i)
		} else {
			x.rest = append(x.rest, i)
		}
	}
	return x
}

// of reports whether x is the index of that very list.
func (x *peerIndex) of(filters []sadb.Filter) bool {
	return len(x.filters) == len(filters) && (len(filters) == 0 || &x.filters[0] == &filters[0])
}

// first returns the position of the first filter that matches; -1: none. Both
// lists of a look-up ascend, so that the first match is the first of all.
func (x *peerIndex) first(f sadb.Flow, d sadb.Directions) int {
	peer, rest := x.byPeer[f.Remote], x.rest
	for len(peer) > 0 || len(rest) > 0 {
		var i int
		if len(rest) == 0 || len(peer) > 0 && peer[0] < rest[0] {
			i, peer = peer[0], peer[1:]
		} else {
			i, rest = rest[0], rest[1:]
		}
		if x.filters[i].Matches(f, d) {
			return i
		}
	}
	return -1
}

// rootOf returns the filter that an association is bound to: an overlay stands
// for its parent.
func rootOf(f *sadb.Filter) sadb.FilterID {
	if f.Overlay() {
		return f.Parent
	}
	return f.ID
}

// key is where associations of a filter for a packet with headers f are found,
// and where packets wait for them.
func (s *spd) key(root sadb.FilterID, f sadb.Flow) pairKey {
	if s.tunnels[root] {
		return pairKey{root: root}
	}
	return pairKey{root, f.Local, f.Remote}
}

// root returns the filter that id stands for.
func (s *spd) root(id sadb.FilterID) sadb.FilterID {
	if parent, ok := s.parents[id]; ok {
		return parent
	}
	return id
}

// decide returns the position of the first filter that matches; -1: none. The
// result is that of sadb.Decide.
func (s *spd) decide(f sadb.Flow, d sadb.Directions) int {
	at := -1
	if i := s.base.first(f, d); i >= 0 {
		at = s.baseAt[i]
	}
	if i := s.over.first(f, d); i >= 0 && (at < 0 || s.overAt[i] < at) {
		at = s.overAt[i]
	}
	return at
}
