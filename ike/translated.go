package ike

import (
	"fmt"
	"net/netip"

	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// translated reports whether q is of transport mode across address translation:
// its identifications then name addresses that this host does not see.
func (q *quickMode) translated() bool {
	return q.shape.Mode == sadb.Transport && !q.sa.encap().IsZero()
}

// translated is the same of what a peer offers under s.
func (r quickReceived) translated(s *isakmp) bool {
	mode, ok := r.mode()
	return ok && mode == sadb.Transport && !s.encap().IsZero()
}

// originals are the addresses of both ends as this side sees them, for who has
// to mend checksums (RFC 3947 §5.2): the initiator's first.
func (q *quickMode) originals() []wire.Payload {
	if !q.translated() {
		return nil
	}
	t := wire.NATOADraftPayload
	if q.sa.nat.form == natRFC3947 {
		t = wire.NATOAPayload
	}
	first, second := q.sa.local.Addr(), q.sa.remote.Addr()
	if !q.initiator {
		first, second = second, first
	}
	return []wire.Payload{{Type: t, Body: originalAddress(first)}, {Type: t, Body: originalAddress(second)}}
}

// originalAddress returns the body of a NAT-OA payload: type, three bytes that
// are zero, address.
func originalAddress(a netip.Addr) []byte {
	t := pickType(a.Is6(), wire.IDIPv4, wire.IDIPv6)
	return append([]byte{byte(t), 0, 0, 0}, a.AsSlice()...)
}

// checkOriginals refuses NAT-OA payloads that are none. What they say is not
// used: the data path computes checksums anew, and an address that only its
// owner vouches for decides nothing.
func checkOriginals(c wire.Chain) error {
	bodies := append(c.All(wire.NATOAPayload), c.All(wire.NATOADraftPayload)...)
	if len(bodies) > 2 {
		return fmt.Errorf("%d NAT-OA payloads", len(bodies))
	}
	for _, b := range bodies {
		// An ID of the same type, without protocol and port, is laid out alike.
		id, err := wire.ParseID(b)
		if err != nil || id.Type != wire.IDIPv4 && id.Type != wire.IDIPv6 {
			return fmt.Errorf("NAT-OA payload of %d bytes names no address", len(b))
		}
	}
	return nil
}

// moved follows a peer whose translator has given it another port. What came
// from there was authenticated by the association; another address is another
// peer.
func (m *Machine) moved(in Moved) {
	p := m.pairs[m.inbound[in.ID]]
	from := netip.AddrPortFrom(in.From.Addr().Unmap(), in.From.Port())
	if p == nil || p.pair.Encap.IsZero() || from.Addr() != p.pair.Remote || from.Port() == 0 {
		return
	}
	old := p.pair.Encap.Remote
	there := m.peers.at(endsOf(p.pair))
	for _, s := range there.sas {
		if s.nat.found() && s.owns(p.pair) && s.remote == old {
			s.remote = from
		}
	}
	m.pairsMove(endsOf(p.pair), p.pair.Principal, old, from)
}

// pairsMove notes where the pairs with a peer go now: by that they are told
// apart from those of others behind the same translator.
func (m *Machine) pairsMove(h ends, principal string, old, now netip.AddrPort) {
	for _, o := range m.peers.at(h).pairs {
		if o.pair.Encap.Remote == old && o.pair.Principal == principal {
			o.pair.Encap.Remote = now
		}
	}
}
