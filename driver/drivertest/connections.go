package drivertest

import (
	"testing"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// connectionTests is about filters for one type of connection (sadb.LAN,
// sadb.RemoteAccess).
func connectionTests() []namedTest {
	return []namedTest{
		{"a filter for this type of connection", thisConnection},
		{"a filter for another type of connection", otherConnection},
		{"an association of another type of connection", otherConnectionInbound},
	}
}

// RunConnections is the part of Run that depends on the type of the link: for
// drivers that are told otherwise what their link is.
func RunConnections(t *testing.T, h Harness) { runPackets(t, h, connectionTests()) }

// types returns the type of the link and the other one.
func (r *rig) types() (this, other sadb.ConnectionType) {
	if r.Connection == sadb.RemoteAccess {
		return sadb.RemoteAccess, sadb.LAN
	}
	return sadb.LAN, sadb.RemoteAccess
}

// typed returns a filter for everything by UDP between two ends and one type of
// connection.
func (e *end) typed(id sadb.FilterID, peer *end, c sadb.ConnectionType, a sadb.Action) sadb.Filter {
	f := e.between(id, peer, a)
	f.Connections = c
	return f
}

// thisConnection: a filter for the link's type requires security although one
// above it permits what goes over the other.
func thisConnection(r *rig) {
	this, other := r.types()
	for _, e := range [][2]*end{{r.alice, r.bob}, {r.bob, r.alice}} {
		e[0].set(e[0].typed("o", e[1], other, sadb.Action{Kind: sadb.Permit}), e[0].typed("f", e[1], this, require()))
	}
	r.protected(func() { r.pair(r.alice, r.bob, r.sa(r.alice, r.bob, "f", 6001)) })
}

// otherConnection: a filter for the other type does not see what goes over this
// link; an overlay of it does not either.
func otherConnection(r *rig) {
	this, other := r.types()
	for _, e := range [][2]*end{{r.alice, r.bob}, {r.bob, r.alice}} {
		e[0].set(e[0].typed("f", e[1], other, require()), e[0].typed("p", e[1], this, sadb.Action{Kind: sadb.Permit}), e[0].between("g", e[1], sadb.Action{}))
		e[0].put(above(e[0].between("overlay", e[1], sadb.Action{}), "f"))
	}
	noFilter(r)
}

// otherConnectionInbound: what an association carries over this link is not
// accepted for a filter of the other type.
func otherConnectionInbound(r *rig) {
	_, other := r.types()
	r.alice.set(r.alice.between("f", r.bob, require()))
	r.bob.set(r.bob.typed("f", r.alice, other, require()))
	ch := r.bob.listen(port)
	r.pair(r.alice, r.bob, r.sa(r.alice, r.bob, "f", 6001))
	r.alice.send(r.bob, port, "hello")
	r.arrivesNot(ch, "its filter is for another type of connection")
	r.bob.until("counted", func(s driver.State) bool { return s.Counters.BadSelector > 0 })
}
