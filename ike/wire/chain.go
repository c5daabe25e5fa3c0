package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
)

// PayloadType is a payload type (RFC 2408 §3.1).
type PayloadType uint8

// The payload types of RFC 2408, RFC 3947 and its drafts.
const (
	NoPayload          PayloadType = 0
	SAPayload          PayloadType = 1
	ProposalPayload    PayloadType = 2
	TransformPayload   PayloadType = 3
	KEPayload          PayloadType = 4
	IDPayload          PayloadType = 5
	CertPayload        PayloadType = 6
	CertRequestPayload PayloadType = 7
	HashPayload        PayloadType = 8
	SignaturePayload   PayloadType = 9
	NoncePayload       PayloadType = 10
	NotifyPayload      PayloadType = 11
	DeletePayload      PayloadType = 12
	VendorPayload      PayloadType = 13
	AttributesPayload  PayloadType = 14
	NATDPayload        PayloadType = 20  // RFC 3947
	NATOAPayload       PayloadType = 21  // RFC 3947
	GSSPayload         PayloadType = 129 // draft-ietf-ipsec-isakmp-gss-auth
	NATDDraftPayload   PayloadType = 130 // drafts 00–03 of RFC 3947
	NATOADraftPayload  PayloadType = 131
	FragmentPayload    PayloadType = 132
)

// String returns the payload's name in the letters of RFC 2409, else its number.
func (t PayloadType) String() string {
	names := [...]string{ // no map: every payload that is read asks
		SAPayload: "SA", ProposalPayload: "P", TransformPayload: "T", KEPayload: "KE", IDPayload: "ID",
		CertPayload: "CERT", CertRequestPayload: "CERTREQ", HashPayload: "HASH", SignaturePayload: "SIG",
		NoncePayload: "NONCE", NotifyPayload: "N", DeletePayload: "D", VendorPayload: "VID",
		AttributesPayload: "ATTR", NATDPayload: "NAT-D", NATOAPayload: "NAT-OA", GSSPayload: "GSS",
		NATDDraftPayload: "NAT-D", NATOADraftPayload: "NAT-OA", FragmentPayload: "FRAGMENT",
	}
	if int(t) < len(names) && names[t] != "" {
		return names[t]
	}
	return fmt.Sprintf("payload %d", uint8(t))
}

const genericLen = 4

// Payload is one payload of any type: known or not, its body is kept as it
// came, without the generic header. What is opaque (KE, HASH, SIG, NONCE, VID)
// is its body; the rest have parsers of their own.
type Payload struct {
	Type PayloadType
	Body []byte
}

// Chain is the payloads of a message.
type Chain struct {
	Payloads []Payload
	// Raw is the chain as transmitted, generic headers included and padding
	// left out: what the hashes of phase 2 are computed over (RFC 2409 §5.5).
	Raw []byte
}

// maxFill is how many zero bytes may follow the last payload in clear: libreswan
// fills messages up to a multiple of four bytes.
const maxFill = 3

// ParseChain reads the payloads of a message in clear. They must fill it, but
// for at most three zero bytes.
func ParseChain(first PayloadType, b []byte) (Chain, error) {
	c := cursor{b: b}
	chain := parseChain(first, &c, b)
	if len(c.b) <= maxFill && len(bytes.Trim(c.b, "\x00")) == 0 {
		c.b = nil
	}
	if err := c.end("message"); err != nil {
		return Chain{}, err
	}
	return chain, nil
}

// ParsePadded reads the payloads of a decrypted message. What follows the last
// one is padding, of whatever content: peers differ, and it proves nothing.
func ParsePadded(first PayloadType, b []byte) (Chain, error) {
	c := cursor{b: b}
	chain := parseChain(first, &c, b)
	if c.err != nil {
		return Chain{}, c.err
	}
	return chain, nil
}

func parseChain(first PayloadType, c *cursor, b []byte) Chain {
	var chain Chain
	for next := first; next != NoPayload && c.err == nil; {
		if len(chain.Payloads) == MaxPayloads {
			c.fail("more than %d payloads", MaxPayloads)
			break
		}
		if next == ProposalPayload || next == TransformPayload {
			c.fail("%s outside of an SA", next)
			break
		}
		n, body := c.section(next.String())
		chain.Payloads = append(chain.Payloads, Payload{next, append([]byte(nil), body...)})
		next = PayloadType(n)
	}
	if c.err == nil && len(chain.Payloads) == 0 {
		c.fail("no payload")
	}
	chain.Raw = append([]byte(nil), b[:len(b)-len(c.b)]...)
	return chain
}

// AppendChain appends the payloads with their generic headers.
func AppendChain(b []byte, payloads []Payload) []byte {
	for i, p := range payloads {
		next := NoPayload
		if i+1 < len(payloads) {
			next = payloads[i+1].Type
		}
		b = appendSection(b, uint8(next), p.Body)
	}
	return b
}

func appendSection(b []byte, next uint8, body []byte) []byte {
	b = append(b, next, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(genericLen+len(body)))
	return append(b, body...)
}

// PayloadLen returns how many bytes a payload takes in a message.
func PayloadLen(p Payload) int { return genericLen + len(p.Body) }

// First returns the type of the first payload, for the header.
func First(payloads []Payload) PayloadType {
	if len(payloads) == 0 {
		return NoPayload
	}
	return payloads[0].Type
}

// AppendClear appends a whole message in clear; h.Next is set from the
// payloads.
func AppendClear(b []byte, h Header, payloads []Payload) []byte {
	h.Next = First(payloads)
	n := 0
	for _, p := range payloads {
		n += PayloadLen(p)
	}
	return AppendChain(h.Append(slices.Grow(b, HeaderLen+n), n), payloads)
}

// Find returns the body of the first payload of a type.
func (c Chain) Find(t PayloadType) ([]byte, bool) {
	for _, p := range c.Payloads {
		if p.Type == t {
			return p.Body, true
		}
	}
	return nil, false
}

// All returns the bodies of all payloads of a type, in order.
func (c Chain) All(t PayloadType) [][]byte {
	var all [][]byte
	for _, p := range c.Payloads {
		if p.Type == t {
			all = append(all, p.Body)
		}
	}
	return all
}

// AfterFirst returns Raw behind the first payload: what HASH(1) and its like
// cover, the first payload being the hash itself.
func (c Chain) AfterFirst() []byte {
	if len(c.Payloads) == 0 {
		return nil
	}
	return c.Raw[genericLen+len(c.Payloads[0].Body):]
}
