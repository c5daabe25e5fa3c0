package ike

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"ipsecagent/ike/crypt"
	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

const (
	// natPort is where IKE goes on, and ESP goes in UDP, once address
	// translation has been found (RFC 3947 §4).
	natPort = 4500
	// keepAliveEvery is how often the translation is kept alive
	// (RFC 3948 §4).
	keepAliveEvery = 20 * time.Second
)

// natFacts is what main mode found out about address translation between the
// two ends. It is what two hashes in clear say, so it steers how packets travel
// and never what they may carry.
type natFacts struct {
	form   natForm // noNAT: not both ends can
	local  bool    // this host is behind a translator, or wants to be taken for it
	remote bool    // the peer is
}

// found reports whether there is any translation on the way.
func (n natFacts) found() bool { return n.local || n.remote }

// natForm returns the form of NAT traversal that both ends know.
func (m *Machine) natForm(peer vendors) natForm {
	if m.anonymous {
		return noNAT
	}
	return peer.nat
}

// natHash returns the body of a NAT-D payload (RFC 3947 §3.2).
func (x *mainMode) natHash(end netip.AddrPort) []byte {
	return crypt.Hash(x.choice.Suite.Hash, x.icookie[:], x.rcookie[:], end.Addr().AsSlice(),
		binary.BigEndian.AppendUint16(nil, end.Port()))
}

// natPayloads says where this host sends to and from: of the source, if
// encapsulation is to be forced, what is true of no address.
func (m *Machine) natPayloads(x *mainMode) []wire.Payload {
	t := wire.NATDPayload
	switch x.nat.form {
	case noNAT:
		return nil
	case natDraft2, natDraft2n, natDraft3:
		t = wire.NATDDraftPayload
	}
	source := x.local
	if m.cfg.ForceEncap {
		source = netip.AddrPortFrom(source.Addr(), 0)
	}
	return []wire.Payload{{Type: t, Body: x.natHash(x.remote)}, {Type: t, Body: x.natHash(source)}}
}

// natDetect reads the NAT-D payloads of a message 3 or 4: the first is of where
// the peer sent it to, the others are of where it may have sent it from. A
// peer that sends none cannot do NAT traversal.
func (m *Machine) natDetect(x *mainMode, p path, plain wire.Chain) natFacts {
	bodies := append(plain.All(wire.NATDPayload), plain.All(wire.NATDDraftPayload)...)
	if x.nat.form == noNAT || len(bodies) < 2 {
		return natFacts{}
	}
	is := func(end netip.AddrPort) func([]byte) bool {
		want := x.natHash(end)
		return func(body []byte) bool { return equal(body, want) }
	}
	return natFacts{form: x.nat.form,
		local:  m.cfg.ForceEncap || !is(p.local)(bodies[0]),
		remote: !slices.ContainsFunc(bodies[1:], is(p.remote))}
}

// float moves an exchange of ours to the port that translators leave alone. One
// that began there stays with the peer's port as it is.
func (x *mainMode) float() {
	if !x.nat.found() || x.local.Port() != ikePort {
		return
	}
	x.local = netip.AddrPortFrom(x.local.Addr(), natPort)
	if x.remote.Port() == ikePort {
		x.remote = netip.AddrPortFrom(x.remote.Addr(), natPort)
	}
}

// moved takes note that the peer has proven itself by a message that took
// another path: to the port for address translation, or from another one.
func (x *mainMode) moved(p path) {
	if x.nat.form == noNAT {
		return
	}
	if p.local.Port() == natPort && !x.nat.found() {
		x.nat.remote = true // so says the peer
	}
	if x.nat.found() {
		x.path = p
	}
}

// follow has an ISAKMP SA answer to where an authenticated message came from:
// a translator may give the peer another port at any time.
func (m *Machine) follow(s *isakmp, p path) {
	if !s.nat.found() || !s.sameHosts(p) {
		return
	}
	old := s.remote
	s.path = p
	if old != p.remote {
		m.pairsMove(s.ends(), string(s.proof.Principal), old, p.remote)
	}
}

// encap returns the UDP endpoints that ESP with this peer goes between; zero:
// ESP goes directly over IP. A peer that has not moved to the port for it does
// not do it.
func (s *isakmp) encap() sadb.Encap {
	if !s.nat.found() || s.local.Port() == ikePort {
		return sadb.Encap{}
	}
	return sadb.Encap{Local: s.local, Remote: s.remote, KeepAlive: s.nat.local}
}

// keepNATAlive begins to send keep-alives for an ISAKMP SA of a host behind a
// translator. The data path sends them while there is a pair of associations.
func (m *Machine) keepNATAlive(now time.Time, s *isakmp) {
	if !s.nat.local || s.encap().IsZero() {
		return
	}
	m.timers.set(nil, now.Add(keepAliveEvery), func(now time.Time) {
		if m.sas[s.key()] != s {
			return
		}
		if !m.hasPairs(s) {
			m.send(s.path, []byte{keepAliveByte})
		}
		m.keepNATAlive(now, s)
	})
}

// keepAliveByte is all of a keep-alive (RFC 3948 §2.3). The transport sends it
// without the non-ESP marker.
const keepAliveByte = 0xff
