package xfrm

import (
	"fmt"
	"net/netip"
	"slices"

	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// maxPieces bounds the policies that one filter may become in one direction:
// ranges of addresses and ports are cut into what masks can say.
const maxPieces = 4096

// maxPolicies bounds those of a whole list.
const maxPolicies = 1 << 18

// selectors returns the selectors that together match, from this host, exactly
// what s does: Local is the source.
func selectors(s sadb.Selector) ([]wire.Selector, error) {
	if s.Proto == 0 && !(s.LocalPorts.IsAny() && s.RemotePorts.IsAny()) {
		return nil, fmt.Errorf("ports without a protocol cannot be said to the kernel: name tcp or udp")
	}
	src, dst := portPieces(s)
	var out []wire.Selector
	for _, f := range families(s) {
		local, remote := prefixes(s.Local, f), prefixes(s.Remote, f)
		if len(local)*len(remote)*len(src)*len(dst)+len(out) > maxPieces {
			return nil, fmt.Errorf("its ranges would be more than %d policies: use prefixes, or fewer ports", maxPieces)
		}
		for _, l := range local {
			for _, r := range remote {
				out = append(out, ported(wire.Selector{Src: l, Dst: r, Proto: s.Proto}, src, dst)...)
			}
		}
	}
	return out, nil
}

func ported(base wire.Selector, src, dst []wire.PortMask) []wire.Selector {
	var out []wire.Selector
	for _, s := range src {
		for _, d := range dst {
			base.SrcPort, base.DstPort = s, d
			out = append(out, base)
		}
	}
	return out
}

// mirror returns the selector of the other direction; the kernel keeps ICMP
// type and code in the ports, which do not change sides.
func mirror(s wire.Selector) wire.Selector {
	s.Src, s.Dst = s.Dst, s.Src
	if !sadb.HasICMP(s.Proto) {
		s.SrcPort, s.DstPort = s.DstPort, s.SrcPort
	}
	return s
}

// families returns the families that s can match.
func families(s sadb.Selector) []wire.Family {
	var out []wire.Family
	for _, f := range []wire.Family{wire.IPv4, wire.IPv6} {
		if s.Proto == sadb.ICMP && f == wire.IPv6 || s.Proto == sadb.ICMPv6 && f == wire.IPv4 {
			continue
		}
		if hasFamily(s.Local, f) && hasFamily(s.Remote, f) {
			out = append(out, f)
		}
	}
	return out
}

func hasFamily(a sadb.Addrs, f wire.Family) bool {
	from, _, ok := a.Bounds()
	return !ok || wire.FamilyOf(from) == f
}

// portPieces returns the source and destination of s as masks; of ICMP, type
// and code.
func portPieces(s sadb.Selector) (src, dst []wire.PortMask) {
	switch {
	case sadb.HasICMP(s.Proto):
		return octetPieces(s.ICMPType), octetPieces(s.ICMPCode)
	case sadb.HasPorts(s.Proto):
		return rangePieces(s.LocalPorts), rangePieces(s.RemotePorts)
	}
	return []wire.PortMask{{}}, []wire.PortMask{{}}
}

func rangePieces(p sadb.Ports) []wire.PortMask {
	if p.IsAny() {
		return []wire.PortMask{{}}
	}
	return masks(uint32(p.From), uint32(p.To))
}

func octetPieces(o sadb.Octets) []wire.PortMask {
	if !o.Set {
		return []wire.PortMask{{}}
	}
	return masks(uint32(o.From), uint32(o.To))
}

// masks cuts a range of 16-bit numbers into the fewest aligned blocks.
func masks(from, to uint32) []wire.PortMask {
	var out []wire.PortMask
	for from <= to {
		size := uint32(1)
		for from%(size*2) == 0 && from+size*2-1 <= to {
			size *= 2
		}
		out = append(out, wire.PortMask{Port: uint16(from), Mask: uint16(0x10000 - size)})
		from += size
	}
	return out
}

// prefixes cuts one side of a selector into prefixes of a family. Me is every
// address: what leaves this host or comes to it has one of its own on this side.
func prefixes(a sadb.Addrs, f wire.Family) []netip.Prefix {
	from, to, ok := a.Bounds()
	if !ok {
		return []netip.Prefix{f.Any()}
	}
	var out []netip.Prefix
	for {
		p := largest(from, to)
		out = append(out, p)
		last := lastOf(p)
		if last == to {
			return out
		}
		from = last.Next()
	}
}

// largest returns the largest prefix that begins at from and does not go
// beyond to.
func largest(from, to netip.Addr) netip.Prefix {
	best := netip.PrefixFrom(from, from.BitLen())
	for bits := from.BitLen() - 1; bits >= 0; bits-- {
		p := netip.PrefixFrom(from, bits)
		if p.Masked().Addr() != from || to.Less(lastOf(p)) {
			return best
		}
		best = p
	}
	return best
}

// lastOf returns the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// covering returns one selector that matches at least what s does, in the
// family of its addresses, or in one of two: states hold one, and the policies
// above them say the rest exactly.
func covering(s sadb.Selector, rather wire.Family) wire.Selector {
	fs := families(s)
	if len(fs) == 0 {
		return wire.Selector{}
	}
	f := fs[0]
	if slices.Contains(fs, rather) {
		f = rather
	}
	src, dst := portPieces(s)
	out := wire.Selector{Src: cover(s.Local, f), Dst: cover(s.Remote, f), Proto: s.Proto}
	if len(src) == 1 {
		out.SrcPort = src[0]
	}
	if len(dst) == 1 {
		out.DstPort = dst[0]
	}
	return out
}

// cover returns the smallest prefix that holds all of a.
func cover(a sadb.Addrs, f wire.Family) netip.Prefix {
	from, to, ok := a.Bounds()
	if !ok {
		return f.Any()
	}
	p := netip.PrefixFrom(from, from.BitLen())
	for !p.Contains(to) {
		p = netip.PrefixFrom(from, p.Bits()-1).Masked()
	}
	return p
}
