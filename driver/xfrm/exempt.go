package xfrm

import (
	"net/netip"

	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

const exactly = 0xffff // mask of one port

// exemptPolicies pass whatever the filters say: neighbour discovery (RFC 4861,
// types 133 to 137), multicast listener discovery (RFC 2710 and 3810, types 130
// to 132 and 143), DHCP of this host as a client (RFC 2131 §4.1, RFC 8415
// §7.2), and what routers say of a path's MTU (RFC 1191, RFC 8201). Of the last
// two the table lets pass only what is this host's or about IPsec; the kernel
// acts on a path's MTU for live associations alone. Loopback never comes to XFRM, the sockets of IKE bear the exempt mark.
func exemptPolicies(exempt uint32) []wire.Policy {
	var out []wire.Policy
	add := func(s wire.Selector, dirs ...wire.Direction) {
		for _, d := range dirs {
			p := wire.Policy{Selector: s, Dir: d, Priority: priorityExempt, Mark: wire.Mark{Mask: exempt}}
			if d == wire.In {
				p.Selector = mirror(s)
			}
			out = append(out, p)
		}
	}
	for _, typ := range masks(130, 137) {
		add(any6(sadb.ICMPv6, typ, wire.PortMask{}), wire.Out, wire.In)
	}
	add(any6(sadb.ICMPv6, wire.PortMask{Port: 143, Mask: exactly}, wire.PortMask{}), wire.Out, wire.In)
	dhcp := any6(sadb.UDP, wire.PortMask{Port: 68, Mask: exactly}, wire.PortMask{Port: 67, Mask: exactly})
	dhcp.Src, dhcp.Dst = wire.IPv4.Any(), wire.IPv4.Any()
	add(dhcp, wire.Out, wire.In)
	dhcp6 := any6(sadb.UDP, wire.PortMask{Port: 546, Mask: exactly}, wire.PortMask{Port: 547, Mask: exactly})
	dhcp6.Src = netip.MustParsePrefix("fe80::/10")
	add(dhcp6, wire.Out)
	dhcp6.Dst = dhcp6.Src
	add(dhcp6, wire.In)
	tooBig := any6(sadb.ICMP, wire.PortMask{Port: 3, Mask: exactly}, wire.PortMask{Port: 4, Mask: exactly})
	tooBig.Src, tooBig.Dst = wire.IPv4.Any(), wire.IPv4.Any()
	add(tooBig, wire.In)
	add(any6(sadb.ICMPv6, wire.PortMask{Port: 2, Mask: exactly}, wire.PortMask{Mask: exactly}), wire.In)
	return out
}

func any6(proto uint8, src, dst wire.PortMask) wire.Selector {
	return wire.Selector{Src: wire.IPv6.Any(), Dst: wire.IPv6.Any(), Proto: proto, SrcPort: src, DstPort: dst}
}

// exemptInWords is exemptPolicies for administrators.
func exemptInWords() []string {
	return []string{
		"loopback",
		"IPv6 neighbour and multicast listener discovery (ICMPv6 types 130-137 and 143)",
		"DHCP of this host as a client (UDP 68 to 67, 546 to 547)",
		"inbound ICMP \"too big\" that quotes ESP, AH or UDP 4500",
		"our own IKE sockets (by mark and socket policy)",
	}
}
