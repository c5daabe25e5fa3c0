package ike

import (
	"fmt"
	"net/netip"

	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// clientIDs returns the two identification bodies of quick mode for a selector
// as this host sees it: what is on this side, what is on the peer's. IKEv1 can
// name one port or all of them: a range of ports, and types of ICMP, are sent
// as "all", and the association carries the narrower selector.
func clientIDs(s sadb.Selector, p path) (local, remote []byte, err error) {
	l, r := concrete(s.Local, s.Remote, p.local.Addr()), concrete(s.Remote, s.Local, p.remote.Addr())
	if !sameFamily(l, r) {
		return nil, nil, fmt.Errorf("the sides %s and %s are not of one address family", l, r)
	}
	return sideID(l, s.Proto, s.LocalPorts).Append(nil), sideID(r, s.Proto, s.RemotePorts).Append(nil), nil
}

// concrete names the addresses of one side of a selector: "me" is the outer
// address of this side, "any" all of the family of the other side.
func concrete(a, other sadb.Addrs, outer netip.Addr) sadb.Addrs {
	if a.IsMe() {
		return sadb.Addr(outer)
	}
	if !a.IsAny() {
		return a
	}
	if first, _, ok := other.Bounds(); ok {
		outer = first
	}
	return sadb.Prefix(netip.PrefixFrom(outer, 0))
}

// sameFamily reports whether two ranges are of one address family.
func sameFamily(a, b sadb.Addrs) bool {
	firstA, _, okA := a.Bounds()
	firstB, _, okB := b.Bounds()
	return okA && okB && firstA.BitLen() == firstB.BitLen()
}

func sideID(a sadb.Addrs, proto uint8, ports sadb.Ports) wire.ID {
	id := wire.ID{Proto: proto}
	if sadb.HasPorts(proto) && ports.From == ports.To {
		id.Port = ports.From
	}
	from, to, _ := a.Bounds()
	v6 := from.Is6()
	if _, ok := a.Single(); ok {
		id.Type, id.Data = pickType(v6, wire.IDIPv4, wire.IDIPv6), from.AsSlice()
		return id
	}
	id.Type = pickType(v6, wire.IDIPv4Range, wire.IDIPv6Range)
	id.Data = append(from.AsSlice(), to.AsSlice()...)
	if prefix, ok := a.Prefix(); ok {
		id.Type = pickType(v6, wire.IDIPv4Subnet, wire.IDIPv6Subnet)
		id.Data = append(from.AsSlice(), mask(prefix)...)
	}
	return id
}

func pickType(v6 bool, four, six wire.IDType) wire.IDType {
	if v6 {
		return six
	}
	return four
}

func mask(p netip.Prefix) []byte {
	b := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return b
}

// selectorOf reads the identification payloads of a quick mode: none, which
// means the two addresses of phase 1, or two. local is this host's side. With
// translated, transport mode across address translation, the addresses are
// those of the path: a peer behind a translator names the one it has itself,
// or a name (RFC 3947 §5.2), and nothing in it may widen what is secured.
func selectorOf(local, remote []byte, p path, translated bool) (sadb.Selector, error) {
	if local == nil && remote == nil {
		return sadb.Selector{}.Narrow(p.local.Addr(), p.remote.Addr()), nil
	}
	read := readSide
	if translated {
		read = readHost
	}
	l, la, err := read(local, p.local.Addr())
	if err != nil {
		return sadb.Selector{}, err
	}
	r, ra, err := read(remote, p.remote.Addr())
	if err != nil {
		return sadb.Selector{}, err
	}
	if err := mismatch(l, r, la, ra); err != nil {
		return sadb.Selector{}, err
	}
	return sadb.Selector{Local: la, Remote: ra, Proto: l.Proto, LocalPorts: sadb.Port(l.Port), RemotePorts: sadb.Port(r.Port)}, nil
}

// mismatch says why two identifications make no selector.
func mismatch(l, r wire.ID, la, ra sadb.Addrs) error {
	switch {
	case l.Proto != r.Proto:
		return fmt.Errorf("the two identifications name protocols %d and %d", l.Proto, r.Proto)
	case l.Port|r.Port != 0 && !sadb.HasPorts(l.Proto):
		return fmt.Errorf("an identification names a port of protocol %d, which has none", l.Proto)
	case !sameFamily(la, ra):
		return fmt.Errorf("the two identifications name %s and %s, which are not of one address family", la, ra)
	}
	return nil
}

func readSide(body []byte, _ netip.Addr) (wire.ID, sadb.Addrs, error) {
	id, err := wire.ParseID(body)
	if err != nil {
		return id, sadb.Addrs{}, err
	}
	from, to, err := id.Bounds()
	if err != nil {
		return id, sadb.Addrs{}, err
	}
	return id, sadb.Range(from, to), nil
}

// readHost reads an identification that stands for one host, whatever address
// or name it gives: outer is what counts.
func readHost(body []byte, outer netip.Addr) (wire.ID, sadb.Addrs, error) {
	id, err := wire.ParseID(body)
	if err != nil {
		return id, sadb.Addrs{}, err
	}
	switch id.Type {
	case wire.IDIPv4, wire.IDIPv6, wire.IDFQDN:
		return id, sadb.Addr(outer), nil
	}
	return id, sadb.Addrs{}, fmt.Errorf("transport mode for an identification of type %d, which is not one host", id.Type)
}
