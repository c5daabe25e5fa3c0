package esp

import (
	"encoding/binary"

	"ipsecagent/sadb"
)

// sum adds b as big-endian 16-bit words to a ones' complement sum.
func sum(acc uint64, b []byte) uint64 {
	for len(b) >= 8 {
		v := binary.BigEndian.Uint64(b)
		acc += v>>32 + v&0xffffffff
		b = b[8:]
	}
	for len(b) >= 2 {
		acc += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		acc += uint64(b[0]) << 8
	}
	return acc
}

func fold(acc uint64) uint16 {
	for acc > 0xffff {
		acc = acc>>16 + acc&0xffff
	}
	return uint16(acc)
}

// Checksum is the Internet checksum of b (RFC 1071).
func Checksum(b []byte) uint16 { return ^fold(sum(0, b)) }

// setIPv4Checksum computes the header checksum of an IPv4 packet in place.
func setIPv4Checksum(p []byte) {
	hl := int(p[0]&15) * 4
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], Checksum(p[:hl]))
}

// CompleteChecksum finishes a partial checksum as the kernel leaves it for
// hardware (virtio_net_hdr with NEEDS_CSUM): the field at start+offset holds
// the sum of the pseudo header, and the sum runs from start to the packet's
// end. A packet must be complete before it is sealed.
func CompleteChecksum(packet []byte, start, offset int) error {
	if start < 0 || offset < 0 || start > len(packet) || offset > len(packet)-start-2 {
		return ErrMalformed
	}
	c := Checksum(packet[start:])
	if c == 0 {
		c = 0xffff // a UDP checksum of 0 means none; for others the two are equal
	}
	binary.BigEndian.PutUint16(packet[start+offset:], c)
	return nil
}

// checksumOffset returns where the upper layer of proto keeps its checksum.
func checksumOffset(proto uint8) (int, bool) {
	switch proto {
	case sadb.TCP:
		return 16, true
	case sadb.UDP:
		return 6, true
	case sadb.ICMPv6:
		return 2, true
	}
	return 0, false
}

// RepairChecksum computes the checksum of TCP, UDP or ICMPv6 anew, over the
// pseudo header of the packet's own addresses: for packets that were
// authenticated by ESP and go on to another host. Other protocols, fragments
// and UDP without checksum over IPv4 are left as they are.
func RepairChecksum(packet []byte) error {
	h, err := Parse(packet)
	if err != nil {
		return err
	}
	offset, ok := checksumOffset(h.Proto)
	if !ok || h.Fragment {
		return nil
	}
	upper := packet[h.Upper:h.Length]
	if len(upper) < offset+2 {
		return ErrMalformed
	}
	field := upper[offset : offset+2]
	if h.Proto == sadb.UDP && !h.V6 && field[0]|field[1] == 0 {
		return nil
	}
	field[0], field[1] = 0, 0
	c := ^fold(sum(pseudo(packet, &h, len(upper)), upper))
	if c == 0 && h.Proto == sadb.UDP {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(field, c)
	return nil
}

// pseudo returns the sum of the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1).
func pseudo(packet []byte, h *Headers, n int) uint64 {
	addrs := packet[12:20]
	if h.V6 {
		addrs = packet[8:40]
	}
	return sum(uint64(h.Proto)+uint64(n), addrs)
}
