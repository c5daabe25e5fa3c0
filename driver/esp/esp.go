// Package esp is the packet work of the userspace data path, without I/O:
// ESP of RFC 4303, plain and in UDP (RFC 3948), and AH of RFC 4302, in
// transport and tunnel mode over IPv4 and IPv6, and the walks over IP headers
// that go with it: parsing, checksums, fragmentation of what is sealed, and
// the ICMP messages that say a packet is too big.
//
// It keeps no table of associations, matches no selector, counts nothing and
// reads no clock: the driver does. A bundle of AH and ESP is two associations,
// applied one after the other. It does not carry ESP without integrity, and
// says so when asked.
//
// Everything that handles a packet works in the caller's buffer and allocates
// nothing.
package esp

import "errors"

// Room that a buffer needs around a packet so that it can be sealed in place.
const (
	// Headroom is for an outer IPv6 header, AH, UDP, the ESP header and the IV.
	Headroom = ipv6Len + ahFixed + 36 + udpLen + headerLen + 16
	// Tailroom is for padding, the trailer and the longest ICV.
	Tailroom = 15 + trailerLen + 32
)

const (
	headerLen  = 8 // SPI and sequence number
	trailerLen = 2 // pad length and next header
	udpLen     = 8
)

// IP protocol numbers of this package's own concern; the others are in sadb.
const (
	protoHopByHop = 0
	protoIPv4     = 4
	protoIPv6     = 41
	protoRouting  = 43
	protoFragment = 44
	protoESP      = 50
	protoAH       = 51
	protoNone     = 59
	protoDestOpts = 60
)

// What can be wrong with a packet. The driver tells them apart with errors.Is
// to count them; none is worth a log line of its own, because the network
// chooses how often they happen.
var (
	// ErrMalformed: headers, lengths, padding or trailer that no correct
	// peer sends.
	ErrMalformed = errors.New("esp: malformed packet")
	// ErrFragment: ESP and AH are applied to whole datagrams only (RFC 4303
	// §3.3.4, RFC 4302 §3.3.4).
	ErrFragment = errors.New("esp: packet is a fragment")
	// ErrReplay: the sequence number was seen before or lies left of the
	// replay window.
	ErrReplay = errors.New("esp: sequence number replayed or too old")
	// ErrICV: the integrity check failed.
	ErrICV = errors.New("esp: integrity check failed")
	// ErrDummy: an authentic dummy packet (next header 59, RFC 4303 §2.6), to
	// be dropped without a word.
	ErrDummy = errors.New("esp: dummy packet")
	// ErrECN: the outer header reports congestion that the inner one cannot
	// carry (RFC 6040 §4.2).
	ErrECN = errors.New("esp: congestion mark on a packet that cannot carry it")
	// ErrSequence: the association has used all its sequence numbers, or
	// the reserved ones are used up.
	ErrSequence = errors.New("esp: sequence numbers are used up")
	// ErrRoom: the buffer has less room around the packet than Headroom and
	// Tailroom.
	ErrRoom = errors.New("esp: no room in the buffer")
	// ErrTooLong: sealed, the packet would be longer than an IP packet can be.
	ErrTooLong = errors.New("esp: packet too long to seal")
	// ErrAddress: the packet's addresses are not those of the association.
	ErrAddress = errors.New("esp: packet is not between the association's addresses")
	// ErrTooBig: the packet must not be fragmented and is longer than the MTU.
	ErrTooBig = errors.New("esp: packet is longer than the MTU and must not be fragmented")
)
