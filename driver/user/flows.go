package user

import (
	"net/netip"
	"sync"

	"ipsecagent/sadb"
)

// maxFlows bounds what is remembered of hosts behind translators.
const maxFlows = 1 << 16

// flows tells hosts behind one translator apart. In transport mode they share
// an address, and their associations cover the same traffic: only the port of
// ESP in UDP differs. What came from one must be answered to it alone. Where
// two use the same ports, the newer association wins and the other host's
// packets of that flow are refused.
//
// The workers share it; the lock is held for one look into a map.
type flows struct {
	mu  sync.RWMutex
	all map[sadb.Flow]owner
}

// owner is who sends a flow: the endpoint of its ESP in UDP, and the order in
// which its association came.
type owner struct {
	at    netip.AddrPort
	order uint64
}

// flowKey is what tells a flow from others.
func flowKey(f sadb.Flow) sadb.Flow {
	f.LocalMe, f.RemoteMe, f.Connection = false, false, sadb.AllConnections
	f.ICMPType, f.ICMPCode = 0, 0 // an answer has another type
	return f
}

// claim notes that a flow comes from an endpoint by the association of that
// order. false: it is another host's, or there is no room.
func (t *flows) claim(f sadb.Flow, o owner) bool {
	f = flowKey(f)
	t.mu.RLock()
	now, known := t.all[f]
	t.mu.RUnlock()
	if known && now.at == o.at && now.order >= o.order {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now, known = t.all[f]
	if known && now.at != o.at && now.order > o.order || !known && len(t.all) >= maxFlows {
		return false
	}
	t.all[f] = owner{o.at, max(now.order, o.order)}
	return true
}

// of returns the endpoint that a flow comes from.
func (t *flows) of(f sadb.Flow) (netip.AddrPort, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	o, ok := t.all[flowKey(f)]
	return o.at, ok
}

// move gives what came from one endpoint to another; an invalid one: forgets it.
func (t *flows) move(from, to netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for f, o := range t.all {
		if o.at != from {
			continue
		}
		if to.IsValid() {
			t.all[f] = owner{to, o.order}
		} else {
			delete(t.all, f)
		}
	}
}

// outbound returns the association that carries a packet with headers f under
// the filter: the newest that may, of those that go to the host that the flow
// came from.
func (sh *shared) outbound(snap *snapshot, root sadb.FilterID, f sadb.Flow) *assoc {
	first := snap.outbound(root, f, netip.AddrPort{})
	if first == nil || first.sa.Encap.IsZero() || first.sa.Mode == sadb.Tunnel {
		return first
	}
	if at, ok := sh.flows.of(f); ok && at != first.out.Peer() {
		return snap.outbound(root, f, at)
	}
	return first
}
