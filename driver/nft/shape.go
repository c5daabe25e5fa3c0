package nft

import (
	"encoding/binary"

	"ipsecagent/sadb"
)

// shape says which parts of a packet a box looks at. Boxes of one layer and
// one shape share a set.
type shape uint16

const (
	localMe shape = 1 << iota
	localAddr
	remoteMe
	remoteAddr
	withProto
	withLocalPort
	withRemotePort
	withICMPType
	withICMPCode
	ranges // an element is a range, not a value
	onLAN  // packets of connections that are not remote access
	onRemoteAccess
)

func (s shape) has(t shape) bool { return s&t != 0 }

// looksInside reports whether the upper-layer protocol or header is read.
func (s shape) looksInside() bool {
	return s.has(withProto | withLocalPort | withRemotePort | withICMPType | withICMPCode)
}

func (x *box) shape() shape {
	s := sideShape(x.local, localMe, localAddr) | sideShape(x.remote, remoteMe, remoteAddr)
	if x.proto != anyProto {
		s |= withProto
	}
	a, b, full := withLocalPort, withRemotePort, anyPort
	if x.kind == icmpFields {
		a, b, full = withICMPType, withICMPCode, anyOctet
	}
	if x.kind != noFields && x.a != full {
		s |= a
	}
	if x.kind != noFields && x.b != full {
		s |= b
	}
	if !x.exact() {
		s |= ranges
	}
	switch x.connections {
	case sadb.LAN:
		s |= onLAN
	case sadb.RemoteAccess:
		s |= onRemoteAccess
	}
	return s
}

func sideShape(a sadb.Addrs, me, addr shape) shape {
	switch {
	case a.IsMe():
		return me
	case a.IsAny():
		return 0
	}
	return addr
}

// exact reports whether every field the box looks at is one value.
func (x *box) exact() bool {
	value := func(a sadb.Addrs) bool {
		from, to, ok := a.Bounds()
		return !ok || from == to
	}
	field := func(s, full span) bool { return s == full || s.single() }
	full := anyPort
	if x.kind == icmpFields {
		full = anyOctet
	}
	return value(x.local) && value(x.remote) && field(x.proto, anyProto) && field(x.a, full) && field(x.b, full)
}

// fields returns the lengths in bytes of the key's fields. The first is the
// family, so that there is always one; each starts at a multiple of four.
func (s shape) fields(v6 bool) []int {
	addr := 4
	if v6 {
		addr = 16
	}
	out := []int{1}
	for _, f := range []struct {
		part shape
		size int
	}{{localAddr, addr}, {remoteAddr, addr}, {withProto, 1},
		{withLocalPort, 2}, {withRemotePort, 2}, {withICMPType, 1}, {withICMPCode, 1}} {
		if s.has(f.part) {
			out = append(out, f.size)
		}
	}
	return out
}

// key returns the bounds of the box as set keys of its shape.
func (x *box) key(s shape, family byte) (from, to []byte) {
	add := func(lo, hi []byte) { from, to = append(from, pad(lo)...), append(to, pad(hi)...) }
	octets := func(v span) { add([]byte{byte(v.from)}, []byte{byte(v.to)}) }
	ports := func(v span) {
		add(binary.BigEndian.AppendUint16(nil, v.from), binary.BigEndian.AppendUint16(nil, v.to))
	}
	addrs := func(a sadb.Addrs) {
		lo, hi, _ := a.Bounds()
		add(lo.AsSlice(), hi.AsSlice())
	}
	add([]byte{family}, []byte{family})
	for _, f := range []struct {
		part shape
		put  func()
	}{
		{localAddr, func() { addrs(x.local) }}, {remoteAddr, func() { addrs(x.remote) }},
		{withProto, func() { octets(x.proto) }},
		{withLocalPort, func() { ports(x.a) }}, {withRemotePort, func() { ports(x.b) }},
		{withICMPType, func() { octets(x.a) }}, {withICMPCode, func() { octets(x.b) }},
	} {
		if s.has(f.part) {
			f.put()
		}
	}
	return from, to
}

// pad fills a field up to the 4-byte registers it occupies.
func pad(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}
