package esp

import (
	"crypto/hmac"
	"encoding/binary"

	"ipsecagent/sadb"
)

// ahFixed is the length of AH before the ICV: next header, length, reserved,
// SPI, sequence number (RFC 4302 §2).
const ahFixed = 12

// maxAuthenticated bounds the IP header before AH, with options or extension
// headers.
const maxAuthenticated = 1024

// ahLen returns the length of AH with its ICV: a multiple of 4 bytes over IPv4
// and of 8 over IPv6 (RFC 4302 §3.3.3.2.1).
func ahLen(icv int, v6 bool) int {
	n := ahFixed + icv
	if v6 {
		return (n + 7) &^ 7
	}
	return (n + 3) &^ 3
}

// unbundled returns the association as it works on packets: the AH of a bundle
// stands between ESP and the IP header that ESP already has.
func unbundled(sa sadb.SA) sadb.SA {
	if sa.ID.Proto == sadb.AH && sa.Bundle.Proto == sadb.ESP {
		sa.Mode = sadb.Transport
	}
	return sa
}

// authenticate takes the next number and writes AH at offset at of the packet,
// whose IP header is complete.
func (s *Sequence) authenticate(packet []byte, at int, next uint8) error {
	o, seq := s.o, s.next
	ah := packet[at : at+o.t.ahLen]
	clear(ah)
	ah[0], ah[1] = next, byte(o.t.ahLen/4-2)
	binary.BigEndian.PutUint32(ah[4:], uint32(o.sa.ID.SPI))
	binary.BigEndian.PutUint32(ah[8:], uint32(seq))
	if !o.t.sign(ah[ahFixed:ahFixed+o.t.icvLen], packet, at, seq) {
		return ErrMalformed
	}
	s.next++
	return nil
}

// sign writes the ICV of a packet with AH at offset at into icv. false: the IP
// header cannot be authenticated.
func (t *transform) sign(icv, packet []byte, at int, seq uint64) bool {
	s := t.work.Get().(*scratch)
	defer t.work.Put(s)
	tag, ok := t.ahTag(s, packet, at, seq)
	copy(icv, tag)
	return ok
}

// verifyAH reports whether the ICV of a packet with AH at offset at is right.
func (t *transform) verifyAH(packet []byte, at int, seq uint64) error {
	s := t.work.Get().(*scratch)
	defer t.work.Put(s)
	tag, ok := t.ahTag(s, packet, at, seq)
	if !ok {
		return ErrMalformed
	}
	if !hmac.Equal(tag, packet[at+ahFixed:at+ahFixed+t.icvLen]) {
		return ErrICV
	}
	return nil
}

// ahTag computes the truncated HMAC of a packet with AH at offset at: what may
// change on the way counts as zero, and so does the ICV itself (RFC 4302
// §3.3.3). false: the header is too long or its options cannot be read.
func (t *transform) ahTag(s *scratch, packet []byte, at int, seq uint64) ([]byte, bool) {
	if at > len(s.head) {
		return nil, false
	}
	head := s.head[:copy(s.head, packet[:at])]
	if !immutable(head) {
		return nil, false
	}
	icv := at + ahFixed
	s.mac.Reset()
	s.mac.Write(head)
	s.mac.Write(packet[at:icv])
	zeros := s.head[:t.icvLen]
	clear(zeros)
	s.mac.Write(zeros)
	s.mac.Write(packet[icv+t.icvLen:])
	if t.esn {
		binary.BigEndian.PutUint32(s.aad[:], uint32(seq>>32))
		s.mac.Write(s.aad[:4])
	}
	return s.mac.Sum(s.icv)[:t.icvLen], true
}

// openAH verifies a packet with AH and takes AH out.
func (in *Inbound) openAH(packet []byte, h *Headers) ([]byte, Opened, error) {
	at := h.Upper
	n := (int(packet[at+1]) + 2) * 4
	if !in.t.mayBeAH(n) || at+n > len(packet) || h.V6 && n%8 != 0 {
		return nil, Opened{}, ErrMalformed
	}
	seq, ok := in.w.check(h.Seq)
	if !ok {
		return nil, Opened{}, ErrReplay
	}
	if err := in.t.verifyAH(packet, at, seq); err != nil {
		return nil, Opened{}, err
	}
	if !in.w.accept(seq) {
		return nil, Opened{}, ErrReplay
	}
	next, payload := packet[at], packet[at+n:]
	o := Opened{Seq: seq, Next: next, Len: len(payload)}
	inner, err := in.unwrapAH(packet, h, n, next)
	if err != nil && err != ErrDummy {
		return nil, Opened{}, err
	}
	return inner, o, err
}

// mayBeAH reports whether n is a length of AH with this ICV: aligned to 4 bytes
// or, as Linux does over IPv4 unless told otherwise, to 8.
func (t *transform) mayBeAH(n int) bool {
	return n == ahLen(t.icvLen, false) || n == ahLen(t.icvLen, true)
}

// unwrapAH takes AH of n bytes out of the packet.
func (in *Inbound) unwrapAH(packet []byte, h *Headers, n int, next uint8) ([]byte, error) {
	payload := packet[h.Upper+n:]
	switch {
	case next == protoNone:
		return nil, ErrDummy
	case in.sa.Mode == sadb.Tunnel:
		return unwrapTunnel(h, payload, next)
	case h.V6 && (next == protoHopByHop || next == protoFragment):
		return nil, ErrMalformed // see unwrapTransport
	}
	return keepHeader(packet, h, h.Upper+n, len(payload), next), nil
}

// immutable sets what may change on the way to zero in an IP header with its
// options or extension headers. false: it cannot be read, or it is not as the
// receiver will see it (a route that is not yet travelled).
func immutable(head []byte) bool {
	if head[0]>>4 == 4 {
		return immutable4(head)
	}
	return immutable6(head)
}

// immutable4 follows RFC 4302 §3.3.3.1.1 and Appendix A1: of the options, those
// that no router changes stay, the others are zero as a whole.
func immutable4(head []byte) bool {
	head[1] = 0 // type of service
	clear(head[6:9])
	clear(head[10:12])
	for o := head[ipv4Min:]; len(o) > 0 && o[0] != 0; {
		if o[0] == 1 { // no operation
			o = o[1:]
			continue
		}
		if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
			return false
		}
		n := int(o[1])
		if !immutableOption(o[0]) {
			if route(o[:n]) {
				return false
			}
			clear(o[:n])
		}
		o = o[n:]
	}
	return true
}

// immutableOption reports whether no router changes an IPv4 option: the
// security options, router alert and multi-destination delivery.
func immutableOption(kind byte) bool {
	switch kind {
	case 130, 133, 134, 148, 149:
		return true
	}
	return false
}

// route reports whether o is a source route (RFC 791) with a part that lies
// ahead: the destination is not the last one yet.
func route(o []byte) bool {
	return (o[0] == 131 || o[0] == 137) && len(o) >= 3 && int(o[2]) <= len(o)
}

// immutable6 follows RFC 4302 §3.3.3.1.2 and Appendix A2.
func immutable6(head []byte) bool {
	clear(head[1:4]) // traffic class, flow label
	head[0] &= 0xf0
	head[7] = 0 // hop limit
	next := head[6]
	for e := head[ipv6Len:]; len(e) > 0; {
		if len(e) < 8 || len(e) < (int(e[1])+1)*8 {
			return false
		}
		n := (int(e[1]) + 1) * 8
		ok := false
		switch next {
		case protoHopByHop, protoDestOpts:
			ok = immutableOptions(e[2:n])
		case protoRouting:
			ok = e[3] == 0 // no segments left
		}
		if !ok {
			return false
		}
		next, e = e[0], e[n:]
	}
	return true
}

// immutableOptions zeroes the data of IPv6 options that may change on the way
// (RFC 8200 §4.2).
func immutableOptions(o []byte) bool {
	for len(o) > 0 {
		if o[0] == 0 { // Pad1
			o = o[1:]
			continue
		}
		if len(o) < 2 || int(o[1])+2 > len(o) {
			return false
		}
		n := int(o[1]) + 2
		if o[0]&0x20 != 0 {
			clear(o[2:n])
		}
		o = o[n:]
	}
	return true
}
