package esp

import (
	"encoding/binary"
	"net/netip"

	"ipsecagent/sadb"
)

// How much of a message that says "too big" quotes: a whole message is no
// longer than every host accepts (RFC 1812 §4.3.2.3, RFC 4443 §2.4).
const (
	tooBigLen4 = 576
	tooBigLen6 = 1280
	icmpLen    = 8
)

// TooBigRoom is the length of buffer that PutTooBig needs.
const TooBigRoom = tooBigLen6

// PutTooBig writes into dst the ICMP message "fragmentation needed" (RFC 1191
// §4) or the ICMPv6 message "packet too big" (RFC 4443 §3.2) for packet and
// returns it, a part of dst. mtu is what the sender may use; from is the
// address that answers, of the packet's family. It returns nil where no message
// may be sent: to a malformed packet, a later fragment, an ICMP error or a
// multicast source.
func PutTooBig(dst, packet []byte, mtu int, from netip.Addr) []byte {
	h, err := Parse(packet)
	if err != nil || h.Later || icmpError(&h) || !unicast(h.Src) || from.Is6() != h.V6 {
		return nil
	}
	packet = packet[:h.Length]
	if h.V6 {
		return tooBig6(dst, packet, &h, mtu, from)
	}
	return tooBig4(dst, packet, &h, mtu, from)
}

func unicast(a netip.Addr) bool {
	return !a.IsMulticast() && !a.IsUnspecified() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// icmpError reports whether the packet is an ICMP error message or a redirect:
// no error answers one (RFC 1122 §3.2.2, RFC 4443 §2.4 e).
func icmpError(h *Headers) bool {
	switch h.Proto {
	case sadb.ICMP:
		switch h.ICMPType {
		case 3, 4, 5, 11, 12: // unreachable, source quench, redirect, time exceeded, parameter problem
			return true
		}
	case sadb.ICMPv6:
		return h.ICMPType < 128 || h.ICMPType == 137 // errors, redirect
	}
	return false
}

func tooBig4(dst, packet []byte, h *Headers, mtu int, from netip.Addr) []byte {
	n := ipv4Min + icmpLen
	n += copy(dst[n:tooBigLen4], packet)
	// Precedence as RFC 1812 §4.3.2.5 has it.
	OuterHeader{Src: from, Dst: h.Src, TOS: 0xc0, Proto: sadb.ICMP, Hops: defaultHops}.Put(dst, n)
	icmp := dst[ipv4Min:n]
	clear(icmp[:icmpLen])
	icmp[0], icmp[1] = 3, 4
	binary.BigEndian.PutUint16(icmp[6:], uint16(min(mtu, 0xffff)))
	binary.BigEndian.PutUint16(icmp[2:], Checksum(icmp))
	return dst[:n]
}

func tooBig6(dst, packet []byte, h *Headers, mtu int, from netip.Addr) []byte {
	n := ipv6Len + icmpLen
	n += copy(dst[n:tooBigLen6], packet)
	OuterHeader{Src: from, Dst: h.Src, Proto: sadb.ICMPv6, Hops: defaultHops}.Put(dst, n)
	icmp := dst[ipv6Len:n]
	clear(icmp[:icmpLen])
	icmp[0] = 2
	binary.BigEndian.PutUint32(icmp[4:], uint32(mtu))
	acc := sum(uint64(sadb.ICMPv6)+uint64(len(icmp)), dst[8:ipv6Len])
	binary.BigEndian.PutUint16(icmp[2:], ^fold(sum(acc, icmp)))
	return dst[:n]
}
