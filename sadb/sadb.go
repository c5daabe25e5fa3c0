// Package sadb holds the databases of RFC 4301 and their vocabulary: what a
// selector, a filter (an entry of the security policy database), a security
// association and an algorithm suite are. Every other package speaks these
// words.
//
// It does no I/O, reads no clock and imports nothing of this project. It does
// not decide anything: policy compiles to filters, ike makes associations,
// a driver enforces both.
package sadb

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Proto is an IPsec protocol by its IP protocol number.
type Proto uint8

// The two IPsec protocols (RFC 4302, RFC 4303).
const (
	ESP Proto = 50
	AH  Proto = 51
)

// String returns the protocol's name in capitals.
func (p Proto) String() string {
	switch p {
	case ESP:
		return "ESP"
	case AH:
		return "AH"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// Mode is the encapsulation mode of an association (RFC 4301 §4.1).
type Mode uint8

// Transport is the zero value: it never widens what an association covers.
const (
	Transport Mode = iota
	Tunnel
)

// String returns "transport" or "tunnel".
func (m Mode) String() string {
	if m == Tunnel {
		return "tunnel"
	}
	return "transport"
}

// SPI is a security parameters index in host byte order. 0–255 are reserved
// (RFC 4303 §2.1) and never allocated.
type SPI uint32

// String returns the SPI as 0x and eight hexadecimal digits.
func (s SPI) String() string { return fmt.Sprintf("0x%08x", uint32(s)) }

// RandomSPI returns an SPI outside the reserved range.
func RandomSPI() SPI {
	var b [4]byte
	for {
		rand.Read(b[:]) // never fails (crypto/rand)
		if s := SPI(binary.BigEndian.Uint32(b[:])); s > 255 {
			return s
		}
	}
}

// SAID names an association: destination address, protocol and SPI
// (RFC 4301 §4.1).
type SAID struct {
	Dst   netip.Addr
	Proto Proto
	SPI   SPI
}

// String returns "ESP 0x01020304 to 192.0.2.1".
func (id SAID) String() string {
	return fmt.Sprintf("%s %s to %s", id.Proto, id.SPI, id.Dst)
}

// Directions is the set of directions a filter applies to, seen from this
// host. Forwarded traffic counts as Out where its source matches Local.
type Directions uint8

// Out is from Local to Remote, In from Remote to Local.
const (
	Out Directions = 1 << iota
	In
	Both = Out | In
)

// String returns "out", "in", "both" or "none".
func (d Directions) String() string {
	switch d {
	case Out:
		return "out"
	case In:
		return "in"
	case Both:
		return "both"
	}
	return "none"
}

// SA is one security association: one direction, one protocol.
type SA struct {
	ID  SAID
	Src netip.Addr // outer source address
	Dir Directions // In or Out, never Both

	Mode     Mode
	Suite    Suite
	EncKey   Secret // with AES-GCM the AES key and then the 4-byte salt (RFC 4106 §8.1)
	AuthKey  Secret // empty for combined-mode ciphers
	ESN      bool   // 64-bit sequence numbers (RFC 4303 §2.2.1)
	Replay   uint32 // replay window in packets, 0 only for outbound
	Lifetime Lifetime

	// Selector is what the association may carry, already narrowed to one
	// pair of hosts (transport) or to the tunnel's inner traffic.
	Selector Selector
	// Filter is the filter it was made for: an association belongs to one
	// filter and one peer.
	Filter FilterID
	// Pair joins the two directions.
	Pair PairID
	// Replaces is the association of the same direction that a rekey
	// retires. The zero value: none.
	Replaces SAID
	// Encap is the UDP encapsulation (RFC 3948); invalid ports: none.
	Encap Encap
	// Bundle is the other association of an AH and ESP bundle, of the same
	// direction: ESP is applied first, AH outside, and nothing passes but
	// through both (RFC 4301 §4.1, RFC 2401 §4.3). The zero value: none.
	Bundle SAID
	// Record is what the agent writes down about the pair for the agent after
	// it. Drivers keep it as long as the association and know nothing of what it
	// says; there is no key in it. "": nothing.
	Record string `json:",omitempty"`
}

// Encap is the pair of UDP endpoints of ESP in UDP. The zero value means ESP
// directly over IP.
type Encap struct {
	Local, Remote netip.AddrPort
	// KeepAlive: this host is behind the translator and keeps its mapping
	// alive (RFC 3948 §4).
	KeepAlive bool `json:",omitempty"`
}

// IsZero reports whether there is no UDP encapsulation.
func (e Encap) IsZero() bool { return !e.Remote.IsValid() }
