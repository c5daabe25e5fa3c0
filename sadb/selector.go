package sadb

import (
	"fmt"
	"math/big"
	"net/netip"
	"strconv"
	"strings"
)

type addrKind uint8

const (
	anyAddr addrKind = iota
	meAddr
	rangeAddr
)

// Addrs is one side of a selector: any address of either family (the zero
// value), the symbolic Me, or an inclusive range of one family. It is
// comparable.
type Addrs struct {
	kind     addrKind
	from, to netip.Addr
}

// AnyAddrs matches every address of both families.
func AnyAddrs() Addrs { return Addrs{} }

// Me matches every address of this host. It stays symbolic down to the driver,
// so that an address that appears later is covered from its first packet.
func Me() Addrs { return Addrs{kind: meAddr} }

// Addr matches one address.
func Addr(a netip.Addr) Addrs { return Range(a, a) }

// Prefix matches the addresses of a prefix; its host bits are ignored.
func Prefix(p netip.Prefix) Addrs {
	p = p.Masked()
	from, to := p.Addr().WithZone(""), lastAddr(p)
	if from.Is4In6() == to.Is4In6() {
		return Range(from, to)
	}
	// The IPv6 prefixes that end where the mapped IPv4 addresses do.
	return Addrs{kind: rangeAddr, from: from, to: to}
}

// Range matches from…to inclusive. It panics if the two are not an ascending
// range of one family: parse and validate first.
func Range(from, to netip.Addr) Addrs {
	from, to = from.Unmap().WithZone(""), to.Unmap().WithZone("")
	if !from.IsValid() || from.BitLen() != to.BitLen() || to.Less(from) {
		panic(fmt.Sprintf("sadb: range %v-%v", from, to))
	}
	return Addrs{kind: rangeAddr, from: from, to: to}
}

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// IsAny reports whether a matches every address.
func (a Addrs) IsAny() bool { return a.kind == anyAddr }

// IsMe reports whether a is the symbolic Me.
func (a Addrs) IsMe() bool { return a.kind == meAddr }

// Bounds returns the first and last address; ok is false for Any and Me.
func (a Addrs) Bounds() (from, to netip.Addr, ok bool) {
	return a.from, a.to, a.kind == rangeAddr
}

// Single returns the address if a is exactly one.
func (a Addrs) Single() (netip.Addr, bool) {
	return a.from, a.kind == rangeAddr && a.from == a.to
}

// Prefix returns the prefix if a is exactly one.
func (a Addrs) Prefix() (netip.Prefix, bool) {
	if a.kind != rangeAddr {
		return netip.Prefix{}, false
	}
	for bits := a.from.BitLen(); bits >= 0; bits-- {
		p := netip.PrefixFrom(a.from, bits)
		if p.Masked().Addr() != a.from {
			return netip.Prefix{}, false
		}
		if lastAddr(p) == a.to {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// Matches reports whether ip lies in a; me says whether ip is this host's own.
func (a Addrs) Matches(ip netip.Addr, me bool) bool {
	switch a.kind {
	case anyAddr:
		return true
	case meAddr:
		return me
	}
	ip = ip.Unmap().WithZone("")
	return ip.BitLen() == a.from.BitLen() && !ip.Less(a.from) && !a.to.Less(ip)
}

// Contains reports whether every address of b is one of a. Me contains only
// Me: what a host's addresses are is not known here.
func (a Addrs) Contains(b Addrs) bool {
	switch {
	case a.kind == anyAddr:
		return true
	case a.kind == meAddr || b.kind != rangeAddr:
		return a.kind == b.kind
	}
	return a.Matches(b.from, false) && a.Matches(b.to, false)
}

// Specificity is 0 for Any, 128 for Me and for a single address, and between
// them the bits of an address less log2 of the number of addresses (rounded
// up), IPv4 counted four times: the two families weigh alike.
func (a Addrs) Specificity() int {
	switch a.kind {
	case anyAddr:
		return 0
	case meAddr:
		return 128
	}
	span := new(big.Int).SetBytes(a.to.AsSlice())
	span.Sub(span, new(big.Int).SetBytes(a.from.AsSlice()))
	bits := a.from.BitLen()
	return (bits - span.BitLen()) * 128 / bits
}

// String returns "any", "me", an address, a prefix or a range.
func (a Addrs) String() string {
	switch a.kind {
	case anyAddr:
		return "any"
	case meAddr:
		return "me"
	}
	if a.from == a.to {
		return a.from.String()
	}
	if p, ok := a.Prefix(); ok {
		return p.String()
	}
	return a.from.String() + "-" + a.to.String()
}

// Ports is an inclusive range of TCP, UDP, SCTP or DCCP ports. The zero value
// matches all.
type Ports struct {
	From, To uint16
}

// Port returns the range of one port.
func Port(p uint16) Ports { return Ports{p, p} }

// IsAny reports whether every port matches.
func (p Ports) IsAny() bool { return p == Ports{} || p == Ports{0, 65535} }

// Matches reports whether port lies in p.
func (p Ports) Matches(port uint16) bool { return p.IsAny() || p.From <= port && port <= p.To }

// Contains reports whether q lies in p.
func (p Ports) Contains(q Ports) bool {
	return p.IsAny() || !q.IsAny() && p.From <= q.From && q.To <= p.To
}

// String returns "any", "80" or "80-90".
func (p Ports) String() string {
	switch {
	case p.IsAny():
		return "any"
	case p.From == p.To:
		return strconv.Itoa(int(p.From))
	}
	return fmt.Sprintf("%d-%d", p.From, p.To)
}

// Octets is an inclusive range of ICMP types or codes. The zero value matches
// all.
type Octets struct {
	From, To uint8
	Set      bool
}

// Matches reports whether v lies in o.
func (o Octets) Matches(v uint8) bool { return !o.Set || o.From <= v && v <= o.To }

// Contains reports whether p lies in o.
func (o Octets) Contains(p Octets) bool { return !o.Set || p.Set && o.From <= p.From && p.To <= o.To }

// String returns "any", "8" or "0-8".
func (o Octets) String() string {
	switch {
	case !o.Set:
		return "any"
	case o.From == o.To:
		return strconv.Itoa(int(o.From))
	}
	return fmt.Sprintf("%d-%d", o.From, o.To)
}

// IP protocol numbers that a selector looks into.
const (
	ICMP   uint8 = 1
	TCP    uint8 = 6
	UDP    uint8 = 17
	DCCP   uint8 = 33
	ICMPv6 uint8 = 58
	SCTP   uint8 = 132
)

// HasPorts reports whether proto carries ports that a selector can name.
func HasPorts(proto uint8) bool {
	return proto == TCP || proto == UDP || proto == SCTP || proto == DCCP
}

// HasICMP reports whether proto is ICMP or ICMPv6.
func HasICMP(proto uint8) bool { return proto == ICMP || proto == ICMPv6 }

// Selector says which traffic a filter or association covers, seen from this
// host (RFC 4301 §4.4.1.1). The zero value matches everything. It is
// comparable.
type Selector struct {
	Local, Remote           Addrs
	Proto                   uint8 // 0: any
	LocalPorts, RemotePorts Ports
	ICMPType, ICMPCode      Octets
}

// Flow is the headers of one packet seen from this host.
type Flow struct {
	Local, Remote         netip.Addr
	LocalMe, RemoteMe     bool // the address is one of this host's own
	Proto                 uint8
	LocalPort, RemotePort uint16
	ICMPType, ICMPCode    uint8
	// Connection is the type of the connection that the packet comes by or
	// would leave by without IPsec; the zero value counts as LAN.
	Connection ConnectionType
}

// Matches reports whether the packet with headers f is covered.
func (s Selector) Matches(f Flow) bool {
	if !s.Local.Matches(f.Local, f.LocalMe) || !s.Remote.Matches(f.Remote, f.RemoteMe) {
		return false
	}
	if s.Proto != 0 && s.Proto != f.Proto {
		return false
	}
	if HasPorts(f.Proto) && !(s.LocalPorts.Matches(f.LocalPort) && s.RemotePorts.Matches(f.RemotePort)) {
		return false
	}
	return !HasICMP(f.Proto) || s.ICMPType.Matches(f.ICMPType) && s.ICMPCode.Matches(f.ICMPCode)
}

// Contains reports whether everything that t covers s covers too.
func (s Selector) Contains(t Selector) bool {
	return s.Local.Contains(t.Local) && s.Remote.Contains(t.Remote) &&
		(s.Proto == 0 || s.Proto == t.Proto) &&
		s.LocalPorts.Contains(t.LocalPorts) && s.RemotePorts.Contains(t.RemotePorts) &&
		s.ICMPType.Contains(t.ICMPType) && s.ICMPCode.Contains(t.ICMPCode)
}

// Mirror exchanges the two sides: addresses and ports, not ICMP type and code.
func (s Selector) Mirror() Selector {
	s.Local, s.Remote = s.Remote, s.Local
	s.LocalPorts, s.RemotePorts = s.RemotePorts, s.LocalPorts
	return s
}

// Narrow keeps protocol and ports and replaces both sides by one address each:
// the shape of a transport-mode association.
func (s Selector) Narrow(local, remote netip.Addr) Selector {
	s.Local, s.Remote = Addr(local), Addr(remote)
	return s
}

// String returns for example "me:any <-> 10.0.0.0/8:443 tcp".
func (s Selector) String() string {
	var b strings.Builder
	b.WriteString(side(s.Local, s.LocalPorts))
	b.WriteString(" <-> ")
	b.WriteString(side(s.Remote, s.RemotePorts))
	b.WriteString(" ")
	b.WriteString(ProtoName(s.Proto))
	if s.ICMPType.Set || s.ICMPCode.Set {
		fmt.Fprintf(&b, " type %s code %s", s.ICMPType, s.ICMPCode)
	}
	return b.String()
}

func side(a Addrs, p Ports) string {
	s := a.String()
	if p.IsAny() {
		return s
	}
	if strings.Contains(s, ":") {
		s = "[" + s + "]"
	}
	return s + ":" + p.String()
}

// ProtoName returns the name of an IP protocol, "any" for 0, else its number.
func ProtoName(p uint8) string {
	switch p {
	case 0:
		return "any"
	case ICMP:
		return "icmp"
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case DCCP:
		return "dccp"
	case ICMPv6:
		return "icmpv6"
	case SCTP:
		return "sctp"
	}
	return strconv.Itoa(int(p))
}
