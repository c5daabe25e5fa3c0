package esp

import (
	"encoding/binary"
	"net/netip"

	"ipsecagent/sadb"
)

const (
	ipv4Min = 20
	ipv6Len = 40
	// maxExtensions bounds the walk over IPv6 extension headers.
	maxExtensions = 16
)

// Headers is what the headers of one IP packet say. Offsets count from the
// packet's first byte.
type Headers struct {
	Src, Dst netip.Addr
	V6       bool
	Proto    uint8 // of the upper layer: what follows the IPv6 extension headers
	Upper    int   // offset of the upper layer; Length in a packet that ends before it
	Length   int   // of the whole packet as its header says; bytes after it are none of its own
	TOS      uint8 // IPv4 type of service, IPv6 traffic class
	DF       bool  // must not be fragmented on the way; true for IPv6

	// Fragment: part of a datagram. Later: not its first part, so that there
	// are no ports and no type.
	Fragment, Later bool

	SrcPort, DstPort   uint16   // TCP, UDP, SCTP, DCCP
	ICMPType, ICMPCode uint8    // ICMP and ICMPv6
	SPI                sadb.SPI // ESP and AH
	Seq                uint32   // ESP and AH: the low 32 bits of the sequence number

	upperNext int // offset of the byte that names Proto
	split     int // where ESP belongs in transport mode (RFC 4303 §3.1.1)
	splitNext int // offset of the byte that names what stands at split
}

// Flow returns the headers as a selector sees them; d says whether the packet
// leaves this host (Out: its source is local) or arrives. Whether an address
// is this host's own is left open.
func (h *Headers) Flow(d sadb.Directions) sadb.Flow {
	f := sadb.Flow{Local: h.Src, Remote: h.Dst, Proto: h.Proto,
		LocalPort: h.SrcPort, RemotePort: h.DstPort, ICMPType: h.ICMPType, ICMPCode: h.ICMPCode}
	if d == sadb.In {
		f.Local, f.Remote = f.Remote, f.Local
		f.LocalPort, f.RemotePort = f.RemotePort, f.LocalPort
	}
	return f
}

// Parse reads the headers of an IP packet. It returns ErrMalformed for what is
// shorter than its headers say. Checksums are not verified.
func Parse(packet []byte) (Headers, error) {
	if len(packet) == 0 {
		return Headers{}, ErrMalformed
	}
	var h Headers
	var ok bool
	switch packet[0] >> 4 {
	case 4:
		ok = h.parse4(packet)
	case 6:
		ok = h.parse6(packet)
	}
	if !ok || !h.parseUpper(packet[:h.Length]) {
		return Headers{}, ErrMalformed
	}
	return h, nil
}

func (h *Headers) parse4(p []byte) bool {
	if len(p) < ipv4Min {
		return false
	}
	hl := int(p[0]&15) * 4
	h.Length = int(binary.BigEndian.Uint16(p[2:]))
	if hl < ipv4Min || h.Length < hl || h.Length > len(p) {
		return false
	}
	frag := binary.BigEndian.Uint16(p[6:])
	h.TOS = p[1]
	h.DF = frag&0x4000 != 0
	h.Later = frag&0x1fff != 0
	h.Fragment = frag&0x3fff != 0
	h.Proto = p[9]
	h.Src = netip.AddrFrom4([4]byte(p[12:16]))
	h.Dst = netip.AddrFrom4([4]byte(p[16:20]))
	h.Upper, h.upperNext = hl, 9
	h.split, h.splitNext = hl, 9
	return true
}

func (h *Headers) parse6(p []byte) bool {
	if len(p) < ipv6Len {
		return false
	}
	h.V6, h.DF = true, true
	h.Length = ipv6Len + int(binary.BigEndian.Uint16(p[4:]))
	if h.Length > len(p) {
		return false
	}
	h.TOS = p[0]<<4 | p[1]>>4
	h.Proto = p[6]
	h.Src = netip.AddrFrom16([16]byte(p[8:24]))
	h.Dst = netip.AddrFrom16([16]byte(p[24:40]))
	h.Upper, h.upperNext = ipv6Len, 6
	h.split, h.splitNext = ipv6Len, 6
	return h.walk(p[:h.Length])
}

// walk steps over the extension headers. ESP belongs behind hop-by-hop,
// routing and fragment headers and behind the destination options that a
// routing header follows; the other destination options are for the last
// receiver and are protected.
func (h *Headers) walk(p []byte) bool {
	for n := 0; n < maxExtensions; n++ {
		here := h.Proto
		if here == protoHopByHop && n > 0 {
			return false
		}
		if !extension(here) {
			return true
		}
		if !h.step(p) {
			return false
		}
		if here != protoDestOpts {
			h.split, h.splitNext = h.Upper, h.upperNext
		}
		if h.Later {
			return true
		}
	}
	return false
}

func extension(proto uint8) bool {
	return proto == protoHopByHop || proto == protoRouting || proto == protoFragment || proto == protoDestOpts
}

// step moves Upper and Proto over one extension header.
func (h *Headers) step(p []byte) bool {
	at := h.Upper
	if at+8 > len(p) {
		return false
	}
	size := (int(p[at+1]) + 1) * 8
	if h.Proto == protoFragment {
		size = 8
		frag := binary.BigEndian.Uint16(p[at+2:])
		h.Fragment = frag&0xfff9 != 0
		h.Later = frag&0xfff8 != 0
	}
	if at+size > len(p) {
		return false
	}
	h.Proto, h.upperNext, h.Upper = p[at], at, at+size
	return true
}

// parseUpper reads what selectors look at in the upper layer.
func (h *Headers) parseUpper(p []byte) bool {
	if h.Later {
		return true
	}
	u := p[h.Upper:]
	switch {
	case sadb.HasPorts(h.Proto):
		if len(u) < 4 {
			return false
		}
		h.SrcPort, h.DstPort = binary.BigEndian.Uint16(u), binary.BigEndian.Uint16(u[2:])
	case sadb.HasICMP(h.Proto):
		if len(u) < 2 {
			return false
		}
		h.ICMPType, h.ICMPCode = u[0], u[1]
	case h.Proto == protoESP:
		if len(u) < headerLen {
			return false
		}
		h.SPI, h.Seq = sadb.SPI(binary.BigEndian.Uint32(u)), binary.BigEndian.Uint32(u[4:])
	case h.Proto == protoAH:
		if len(u) < ahFixed {
			return false
		}
		h.SPI, h.Seq = sadb.SPI(binary.BigEndian.Uint32(u[4:])), binary.BigEndian.Uint32(u[8:])
	}
	return true
}

// setLength writes the length of the whole packet into its IP header and mends
// the IPv4 header checksum. n must fit: see maxLength.
func setLength(p []byte, n int) {
	if p[0]>>4 == 6 {
		binary.BigEndian.PutUint16(p[4:], uint16(n-ipv6Len))
		return
	}
	binary.BigEndian.PutUint16(p[2:], uint16(n))
	setIPv4Checksum(p)
}

// ipLen is the length of an IP header without options.
func ipLen(v6 bool) int {
	if v6 {
		return ipv6Len
	}
	return ipv4Min
}

// maxLength is the longest packet of a family.
func maxLength(v6 bool) int {
	if v6 {
		return ipv6Len + 0xffff
	}
	return 0xffff
}

// OuterHeader is what an IP header without options says besides its length.
type OuterHeader struct {
	Src, Dst netip.Addr // of one family
	TOS      uint8      // IPv4 type of service, IPv6 traffic class
	Proto    uint8
	Hops     uint8 // TTL or hop limit
}

// Put writes the header of a packet of n bytes in all into b, which holds at
// least 20 bytes (IPv4) or 40 (IPv6): for what is made here, and for sockets
// that deliver a payload without its header.
func (h OuterHeader) Put(b []byte, n int) {
	if h.Dst.Is4() {
		h.put4(b, n)
	} else {
		h.put6(b, n)
	}
}

func (h OuterHeader) put6(b []byte, n int) {
	b[0], b[1], b[2], b[3] = 0x60|h.TOS>>4, h.TOS<<4, 0, 0
	binary.BigEndian.PutUint16(b[4:], uint16(n-ipv6Len))
	b[6], b[7] = h.Proto, h.Hops
	s, d := h.Src.As16(), h.Dst.As16()
	copy(b[8:24], s[:])
	copy(b[24:40], d[:])
}

func (h OuterHeader) put4(b []byte, n int) {
	clear(b[:ipv4Min])
	b[0], b[1] = 0x45, h.TOS
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	b[8], b[9] = h.Hops, h.Proto
	s, d := h.Src.As4(), h.Dst.As4()
	copy(b[12:16], s[:])
	copy(b[16:20], d[:])
	setIPv4Checksum(b)
}

// defaultHops is the TTL or hop limit of packets made here (RFC 1700).
const defaultHops = 64
