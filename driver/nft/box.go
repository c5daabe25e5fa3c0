package nft

import "ipsecagent/sadb"

// span is an inclusive range of one field of a packet.
type span struct{ from, to uint16 }

func (s span) overlaps(o span) bool { return s.from <= o.to && o.from <= s.to }

func (s span) single() bool { return s.from == s.to }

// l4 says what the two upper-layer fields of a box are.
type l4 uint8

const (
	noFields   l4 = iota // not looked at
	portFields           // local and remote port
	icmpFields           // type and code
)

// box is a set of packets of one family: a product of ranges, so that it can
// be one element of a set. A filter is one box or a few.
type box struct {
	local, remote sadb.Addrs
	proto         span
	kind          l4
	a, b          span // kind says what; full ranges where nothing is said
	connections   sadb.ConnectionType
}

var (
	anyProto = span{0, 255}
	anyPort  = span{0, 65535}
	anyOctet = span{0, 255}
)

// boxes returns what a filter covers in a family, as boxes that do not overlap.
// Ports and ICMP types restrict only the protocols that have them
// (sadb.Selector.Matches).
func boxes(f sadb.Filter, v6 bool) []box {
	s := f.Selector
	if !inFamily(s.Local, v6) || !inFamily(s.Remote, v6) {
		return nil
	}
	plain := box{local: s.Local, remote: s.Remote, connections: f.Connections}
	var out []box
	add := func(p span, kind l4, a, b span) {
		x := plain
		x.proto, x.kind, x.a, x.b = p, kind, a, b
		out = append(out, x)
	}
	ports := !s.LocalPorts.IsAny() || !s.RemotePorts.IsAny()
	icmp := s.ICMPType.Set || s.ICMPCode.Set
	for _, p := range protocols(s.Proto, ports, icmp) {
		switch {
		case ports && p.single() && sadb.HasPorts(uint8(p.from)):
			add(p, portFields, portSpan(s.LocalPorts), portSpan(s.RemotePorts))
		case icmp && p.single() && sadb.HasICMP(uint8(p.from)):
			add(p, icmpFields, octetSpan(s.ICMPType), octetSpan(s.ICMPCode))
		default:
			add(p, noFields, anyPort, anyPort)
		}
	}
	return out
}

// protocols splits a selector's protocols into those whose fields it looks at,
// one by one, and ranges of the others.
func protocols(proto uint8, ports, icmp bool) []span {
	if proto != 0 {
		return []span{{uint16(proto), uint16(proto)}}
	}
	if !ports && !icmp {
		return []span{anyProto}
	}
	var out []span
	next := uint16(0)
	for p := uint16(0); p <= 255; p++ {
		if ports && sadb.HasPorts(uint8(p)) || icmp && sadb.HasICMP(uint8(p)) {
			if next < p {
				out = append(out, span{next, p - 1})
			}
			out = append(out, span{p, p})
			next = p + 1
		}
	}
	return append(out, span{next, 255})
}

func portSpan(p sadb.Ports) span {
	if p.IsAny() {
		return anyPort
	}
	return span{p.From, p.To}
}

func octetSpan(o sadb.Octets) span {
	if !o.Set {
		return anyOctet
	}
	return span{uint16(o.From), uint16(o.To)}
}

func inFamily(a sadb.Addrs, v6 bool) bool {
	from, _, ok := a.Bounds()
	return !ok || from.Is6() == v6
}

// overlaps reports whether a packet may be in both boxes. What addresses are
// Me is not known here: Me may be any.
func (x *box) overlaps(y *box) bool {
	if !addrsOverlap(x.remote, y.remote) || !x.proto.overlaps(y.proto) || !addrsOverlap(x.local, y.local) {
		return false
	}
	if x.connections != y.connections && x.connections != sadb.AllConnections && y.connections != sadb.AllConnections {
		return false
	}
	if x.kind == noFields || y.kind == noFields {
		return true
	}
	return x.a.overlaps(y.a) && x.b.overlaps(y.b)
}

func addrsOverlap(a, b sadb.Addrs) bool {
	af, at, aok := a.Bounds()
	bf, bt, bok := b.Bounds()
	if !aok || !bok {
		return true
	}
	return af.Compare(bt) <= 0 && bf.Compare(at) <= 0
}
