package policy

import (
	"encoding/binary"
	"math"
	"net/netip"

	"ipsecagent/sadb"
)

// number is an unsigned integer of 128 bits: an address, a port, a protocol.
type number struct{ hi, lo uint64 }

func (n number) less(m number) bool { return n.hi < m.hi || n.hi == m.hi && n.lo < m.lo }

func (n number) next() number {
	if n.lo == math.MaxUint64 {
		return number{n.hi + 1, 0}
	}
	return number{n.hi, n.lo + 1}
}

func (n number) previous() number {
	if n.lo == 0 {
		return number{n.hi - 1, math.MaxUint64}
	}
	return number{n.hi, n.lo - 1}
}

func small(n uint64) number { return number{0, n} }

func numberOf(a netip.Addr) number {
	b := a.As16()
	return number{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (n number) addr(v6 bool) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], n.hi)
	binary.BigEndian.PutUint64(b[8:], n.lo)
	a := netip.AddrFrom16(b)
	if v6 {
		return a
	}
	return a.Unmap()
}

// span is the numbers from…to inclusive.
type span struct{ from, to number }

func (s span) has(n number) bool    { return !n.less(s.from) && !s.to.less(n) }
func (s span) contains(t span) bool { return s.has(t.from) && s.has(t.to) }
func (s span) meets(t span) bool    { return !s.to.less(t.from) && !t.to.less(s.from) }

// The axes of a region: what a filter looks at.
const (
	axisRemote = iota // first: it tells most regions apart
	axisLocal
	axisMe // 1: the local address is this host's own
	axisProtocol
	axisRemotePort
	axisLocalPort
	axisType
	axisCode
	axisConnection // 1: remote access
	axes
)

// region is a set of packets of one address family and direction: those whose
// value on each axis lies in its span. What a protocol has not, ports or a
// type, is not looked at, as by a filter.
type region [axes]span

// regionOf returns the packets of one family that a selector covers; ok is false
// when it covers none. No selector has Me on its remote side.
func regionOf(f *sadb.Filter, v6 bool) (r region, ok bool) {
	s := &f.Selector
	remote, okRemote := addressSpan(s.Remote, v6)
	local, okLocal := addressSpan(s.Local, v6)
	if !okRemote || !okLocal || s.Remote.IsMe() {
		return r, false
	}
	r[axisRemote], r[axisLocal] = remote, local
	r[axisMe] = span{small(0), small(1)}
	if s.Local.IsMe() {
		r[axisMe].from = small(1)
	}
	r[axisProtocol] = span{small(1), small(255)}
	if s.Proto != 0 {
		r[axisProtocol] = span{small(uint64(s.Proto)), small(uint64(s.Proto))}
	}
	r[axisRemotePort], r[axisLocalPort] = portSpan(s.RemotePorts), portSpan(s.LocalPorts)
	r[axisType], r[axisCode] = octetSpan(s.ICMPType), octetSpan(s.ICMPCode)
	r[axisConnection] = span{small(0), small(1)}
	switch f.Connections {
	case sadb.LAN:
		r[axisConnection].to = small(0)
	case sadb.RemoteAccess:
		r[axisConnection].from = small(1)
	}
	return r, true
}

// space is the packets of a filter: of IPv4 and of IPv6, nil for a family that
// it has none of.
type space [2]*region

// families are those of a space, in order: whether it is IPv6.
func families() [2]bool { return [2]bool{false, true} }

func spaceOf(f *sadb.Filter) (s space) {
	for i, v6 := range families() {
		if r, ok := regionOf(f, v6); ok {
			s[i] = &r
		}
	}
	return s
}

func spacesOf(filters []CompiledFilter) []space {
	all := make([]space, len(filters))
	for i := range filters {
		all[i] = spaceOf(&filters[i].Filter)
	}
	return all
}

func (s *space) meets(t *space) bool {
	for i := range s {
		if s[i] != nil && t[i] != nil && s[i].meets(t[i]) {
			return true
		}
	}
	return false
}

func addressSpan(a sadb.Addrs, v6 bool) (span, bool) {
	from, to, ok := a.Bounds()
	switch {
	case ok:
		return span{numberOf(from), numberOf(to)}, from.Is6() == v6
	case v6:
		return span{number{}, number{math.MaxUint64, math.MaxUint64}}, true
	}
	return span{numberOf(netip.IPv4Unspecified()), numberOf(netip.AddrFrom4([4]byte{255, 255, 255, 255}))}, true
}

func portSpan(p sadb.Ports) span {
	if p.IsAny() {
		return span{small(0), small(math.MaxUint16)}
	}
	return span{small(uint64(p.From)), small(uint64(p.To))}
}

func octetSpan(o sadb.Octets) span {
	if !o.Set {
		return span{small(0), small(math.MaxUint8)}
	}
	return span{small(uint64(o.From)), small(uint64(o.To))}
}

// meets reports whether the two have packets in common.
func (r *region) meets(s *region) bool {
	for i := range r {
		if !r[i].meets(s[i]) {
			return false
		}
	}
	return true
}

// contains reports whether every packet of s is one of r.
func (r *region) contains(s *region) bool {
	for i := range r {
		if !r[i].contains(s[i]) {
			return false
		}
	}
	return true
}

// minus splits r, which meets s, into what lies in s and what does not.
func (r region) minus(s *region) (inside region, outside []region) {
	for i := range r {
		if r[i].from.less(s[i].from) {
			rest := r
			rest[i].to = s[i].from.previous()
			outside = append(outside, rest)
			r[i].from = s[i].from
		}
		if s[i].to.less(r[i].to) {
			rest := r
			rest[i].from = s[i].to.next()
			outside = append(outside, rest)
			r[i].to = s[i].to
		}
	}
	return r, outside
}

// without returns what is left of the regions outside of s; those that stay
// whole are the same values.
func without(regions []region, s *region) []region {
	var left []region
	for _, r := range regions {
		if !r.meets(s) {
			left = append(left, r)
			continue
		}
		_, outside := r.minus(s)
		left = append(left, outside...)
	}
	return left
}

// packet returns one of the region's packets, one that reads well where there is
// a choice.
func (r *region) packet(dir sadb.Directions, v6 bool) Question {
	own, other := examples(v6)
	f := sadb.Flow{Local: r[axisLocal].host(own).addr(v6), Remote: r[axisRemote].host(other).addr(v6),
		LocalMe: r[axisMe].to == small(1), Proto: r.protocol(v6)}
	if sadb.HasPorts(f.Proto) {
		f.LocalPort, f.RemotePort = r[axisLocalPort].port(), r[axisRemotePort].port()
	}
	if sadb.HasICMP(f.Proto) {
		echo := uint64(8)
		if f.Proto == sadb.ICMPv6 {
			echo = 128
		}
		f.ICMPType, f.ICMPCode = uint8(r[axisType].prefer(small(echo)).lo), uint8(r[axisCode].from.lo)
	}
	if r[axisConnection].from == small(1) {
		f.Connection = sadb.RemoteAccess
	}
	return Question{Flow: f, Dir: dir}
}

// examples returns addresses made for examples: of this host and of another.
func examples(v6 bool) (own, other netip.Addr) {
	if v6 {
		return netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8:1::1") // RFC 3849
	}
	return netip.AddrFrom4([4]byte{192, 0, 2, 1}), netip.AddrFrom4([4]byte{198, 51, 100, 1}) // RFC 5737
}

// host prefers an address; else it passes over a network's own, which no host
// has.
func (s span) host(a netip.Addr) number {
	n := s.prefer(numberOf(a))
	if n.lo&0xff == 0 && n.less(s.to) {
		return n.next()
	}
	return n
}

func (s span) prefer(n number) number {
	if s.has(n) {
		return n
	}
	return s.from
}

// port avoids port 0, which no packet has.
func (s span) port() uint16 {
	if n := s.prefer(small(ephemeralPort)); n.lo != 0 || s.to.lo == 0 {
		return uint16(n.lo)
	}
	return 1
}

func (r *region) protocol(v6 bool) uint8 {
	icmp := sadb.ICMP
	if v6 {
		icmp = sadb.ICMPv6
	}
	for _, p := range []uint8{sadb.TCP, sadb.UDP, icmp} {
		if r[axisProtocol].has(small(uint64(p))) {
			return p
		}
	}
	return uint8(r[axisProtocol].from.lo)
}
