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
	l, err := sideID(s.Local, p.local.Addr(), s.Proto, s.LocalPorts)
	if err != nil {
		return nil, nil, err
	}
	r, err := sideID(s.Remote, p.remote.Addr(), s.Proto, s.RemotePorts)
	if err != nil {
		return nil, nil, err
	}
	return l.Append(nil), r.Append(nil), nil
}

func sideID(a sadb.Addrs, outer netip.Addr, proto uint8, ports sadb.Ports) (wire.ID, error) {
	id := wire.ID{Proto: proto}
	if sadb.HasPorts(proto) && ports.From == ports.To {
		id.Port = ports.From
	}
	v6 := outer.Is6()
	if a.IsMe() {
		a = sadb.Addr(outer)
	}
	if a.IsAny() {
		a = sadb.Prefix(netip.PrefixFrom(outer, 0))
	}
	from, to, _ := a.Bounds()
	if from.Is6() != v6 {
		return id, fmt.Errorf("selector side %s is not of the address family of %s", a, outer)
	}
	if _, ok := a.Single(); ok {
		id.Type, id.Data = pickType(v6, wire.IDIPv4, wire.IDIPv6), from.AsSlice()
		return id, nil
	}
	id.Type = pickType(v6, wire.IDIPv4Range, wire.IDIPv6Range)
	id.Data = append(from.AsSlice(), to.AsSlice()...)
	if prefix, ok := a.Prefix(); ok {
		id.Type = pickType(v6, wire.IDIPv4Subnet, wire.IDIPv6Subnet)
		id.Data = append(from.AsSlice(), mask(prefix)...)
	}
	return id, nil
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
// means the two addresses of phase 1, or two. local is this host's side.
func selectorOf(local, remote []byte, p path) (sadb.Selector, error) {
	if local == nil && remote == nil {
		return sadb.Selector{}.Narrow(p.local.Addr(), p.remote.Addr()), nil
	}
	l, la, err := readSide(local)
	if err != nil {
		return sadb.Selector{}, err
	}
	r, ra, err := readSide(remote)
	if err != nil {
		return sadb.Selector{}, err
	}
	if l.Proto != r.Proto {
		return sadb.Selector{}, fmt.Errorf("the two identifications name protocols %d and %d", l.Proto, r.Proto)
	}
	s := sadb.Selector{Local: la, Remote: ra, Proto: l.Proto}
	if l.Port|r.Port != 0 && !sadb.HasPorts(l.Proto) {
		return sadb.Selector{}, fmt.Errorf("an identification names a port of protocol %d, which has none", l.Proto)
	}
	s.LocalPorts, s.RemotePorts = sadb.Port(l.Port), sadb.Port(r.Port)
	return s, nil
}

func readSide(body []byte) (wire.ID, sadb.Addrs, error) {
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
