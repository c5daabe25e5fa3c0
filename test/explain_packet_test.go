package test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"ipsecagent/sadb"
)

// send is one packet of a flow.
type send struct {
	n, round int
	// forged: past the sender's own policy and network stack, straight to the
	// wire.
	forged bool
}

// marker is the text by which a packet is known again wherever it is seen.
const (
	markerStart  = "ipsecagent-flow-"
	markerLength = len(markerStart) + 8
)

func (s send) marker() []byte {
	way := 's'
	if s.forged {
		way = 'f'
	}
	return fmt.Appendf(nil, "%s%05d-%d%c", markerStart, s.n, s.round, way)
}

// findMarker returns the packet whose marker b has.
func findMarker(b []byte) (s send, ok bool) {
	i := bytes.Index(b, []byte(markerStart))
	if i < 0 || len(b) < i+markerLength {
		return s, false
	}
	var way rune
	n, _ := fmt.Sscanf(string(b[i+len(markerStart):i+markerLength]), "%05d-%d%c", &s.n, &s.round, &way)
	s.forged = way == 'f'
	return s, n == 3
}

// datagram returns what is above IP.
func (f flow) datagram(s send) []byte {
	src, dst, sport, dport := f.ends()
	var b []byte
	sum := -1
	switch f.proto {
	case sadb.TCP:
		b, sum = make([]byte, 20), 16
		b[12], b[13] = 5<<4, 0x02 // SYN
		binary.BigEndian.PutUint32(b[4:], uint32(s.n)<<8)
		binary.BigEndian.PutUint16(b[14:], 1024)
	case sadb.UDP:
		b, sum = make([]byte, 8), 6
		binary.BigEndian.PutUint16(b[4:], uint16(8+markerLength))
	case sadb.SCTP, sadb.DCCP:
		b = make([]byte, 12)
	case sadb.ICMP, sadb.ICMPv6:
		b, sum = make([]byte, 8), 2
		b[0], b[1] = f.icmp[0], f.icmp[1]
	}
	if sadb.HasPorts(f.proto) {
		binary.BigEndian.PutUint16(b, sport)
		binary.BigEndian.PutUint16(b[2:], dport)
	}
	b = append(b, s.marker()...)
	if sum >= 0 {
		binary.BigEndian.PutUint16(b[sum:], checksum(append(pseudoHeader(src, dst, f.proto, len(b)), b...)))
	}
	return b
}

// pseudoHeader is what checksums cover besides the datagram; nothing for ICMP.
func pseudoHeader(src, dst netip.Addr, proto uint8, length int) []byte {
	if proto == sadb.ICMP {
		return nil
	}
	b := append(src.AsSlice(), dst.AsSlice()...)
	return append(b, 0, proto, byte(length>>8), byte(length))
}

// checksum is that of the Internet (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// whole returns the packet with its IP header.
func (f flow) whole(s send) []byte {
	src, dst, _, _ := f.ends()
	body := f.datagram(s)
	if src.Is6() {
		h := make([]byte, 8, 40+len(body))
		h[0], h[6], h[7] = 6<<4, f.proto, 64
		binary.BigEndian.PutUint16(h[4:], uint16(len(body)))
		return append(append(append(h, src.AsSlice()...), dst.AsSlice()...), body...)
	}
	h := make([]byte, 12, 20+len(body))
	h[0], h[8], h[9] = 4<<4|5, 64, f.proto
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(body)))
	h = append(append(h, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return append(h, body...)
}
