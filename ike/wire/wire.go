// Package wire is the format of ISAKMP messages (RFC 2408) with the payloads
// of the IPsec DOI (RFC 2407) and of IKE (RFC 2409): parse and append.
//
// It owns lengths, limits and number spaces. It does not decrypt, verify or
// decide: whether a message is welcome is the business of package ike. Parsers
// copy what they return, so that a caller may reuse the buffer; encoders append
// to the slice they are given.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The limits of what is read. Beyond them a message is refused as a whole.
const (
	MaxMessage    = 10_000 // bytes of a datagram, with the header
	MaxPayloads   = 64     // in a message
	MaxProposals  = 32     // in an SA payload
	MaxTransforms = 128    // in an SA payload
	MaxAttributes = 64     // in a transform
	MaxSPIs       = 128    // in a delete payload
)

// HeaderLen is the length of the ISAKMP header in bytes.
const HeaderLen = 28

// ErrMalformed is the root of every error of this package.
var ErrMalformed = errors.New("wire: malformed")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// Exchange is an exchange type (RFC 2408 §3.1, RFC 2409 §5).
type Exchange uint8

// The exchange types this project speaks or recognises.
const (
	MainMode      Exchange = 2 // "identity protection"
	Aggressive    Exchange = 4
	Informational Exchange = 5
	Transaction   Exchange = 6
	QuickMode     Exchange = 32
	NewGroup      Exchange = 33
)

// The flags of a header (RFC 2408 §3.1).
const (
	FlagEncrypted uint8 = 1 << iota
	FlagCommit
	FlagAuthOnly
)

// Header is the ISAKMP header (RFC 2408 §3.1) but for its length, which is
// that of the message.
type Header struct {
	ICookie, RCookie [8]byte
	Next             PayloadType // of the first payload
	Version          uint8       // major in the high, minor in the low nibble
	Exchange         Exchange
	Flags            uint8
	MessageID        uint32
}

// Version1 is the version byte of ISAKMP 1.0.
const Version1 uint8 = 0x10

// Encrypted reports whether the payloads are encrypted.
func (h Header) Encrypted() bool { return h.Flags&FlagEncrypted != 0 }

// ParseHeader splits a message into header and the rest, not copied. The
// length in the header must be that of the message, the major version 1.
func ParseHeader(b []byte) (Header, []byte, error) {
	if len(b) < HeaderLen || len(b) > MaxAssembled {
		return Header{}, nil, malformed("%d bytes are no ISAKMP message", len(b))
	}
	h := Header{
		Next:      PayloadType(b[16]),
		Version:   b[17],
		Exchange:  Exchange(b[18]),
		Flags:     b[19],
		MessageID: binary.BigEndian.Uint32(b[20:]),
	}
	copy(h.ICookie[:], b)
	copy(h.RCookie[:], b[8:])
	if h.Version>>4 != 1 {
		return Header{}, nil, malformed("version %d.%d", h.Version>>4, h.Version&15)
	}
	if n := binary.BigEndian.Uint32(b[24:]); n != uint32(len(b)) {
		return Header{}, nil, malformed("header says %d bytes, datagram has %d", n, len(b))
	}
	return h, b[HeaderLen:], nil
}

// Append appends the header of a message whose payloads take n bytes.
func (h Header) Append(b []byte, n int) []byte {
	b = append(b, h.ICookie[:]...)
	b = append(b, h.RCookie[:]...)
	b = append(b, byte(h.Next), h.Version, byte(h.Exchange), h.Flags)
	b = binary.BigEndian.AppendUint32(b, h.MessageID)
	return binary.BigEndian.AppendUint32(b, uint32(HeaderLen+n))
}
