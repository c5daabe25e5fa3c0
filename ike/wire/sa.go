package wire

import "encoding/binary"

// The domain of interpretation of RFC 2407 and the only situation this project
// accepts.
const (
	DOIIPsec              uint32 = 1
	SituationIdentityOnly uint32 = 1
)

// ProtocolID is a protocol of a proposal (RFC 2407 §4.4.1).
type ProtocolID uint8

// The protocols of a proposal.
const (
	ProtoISAKMP ProtocolID = 1
	ProtoAH     ProtocolID = 2
	ProtoESP    ProtocolID = 3
	ProtoIPComp ProtocolID = 4
)

// SA is the security association payload (RFC 2408 §3.4, RFC 2407 §4.6.1).
type SA struct {
	DOI, Situation uint32
	Proposals      []Proposal
}

// Proposal is a proposal payload (RFC 2408 §3.5). Proposals of the same number
// are taken together, those of different numbers are alternatives.
type Proposal struct {
	Number     uint8
	Protocol   ProtocolID
	SPI        []byte
	Transforms []Transform
}

// Transform is a transform payload (RFC 2408 §3.6).
type Transform struct {
	Number, ID uint8
	Attributes []Attribute
}

// Attribute is a data attribute (RFC 2408 §3.3). A Value of two bytes is sent
// in the short form.
type Attribute struct {
	Type  uint16 // 15 bits
	Value []byte
}

// Uint returns an attribute of a number. A number may come in any length that
// fits in 64 bits.
func (a Attribute) Uint() (uint64, bool) {
	if len(a.Value) == 0 || len(a.Value) > 8 {
		return 0, false
	}
	var v uint64
	for _, b := range a.Value {
		v = v<<8 | uint64(b)
	}
	return v, true
}

// Uint16 returns an attribute of a 16-bit number.
func Uint16(t, v uint16) Attribute {
	return Attribute{t, binary.BigEndian.AppendUint16(nil, v)}
}

// Uint32 returns an attribute of a 32-bit number, in the short form if it fits.
func Uint32(t uint16, v uint32) Attribute {
	if v <= 0xffff {
		return Uint16(t, uint16(v))
	}
	return Attribute{t, binary.BigEndian.AppendUint32(nil, v)}
}

// ParseSA reads the body of an SA payload. A DOI other than that of IPsec is
// read no further: what follows it has another form.
func ParseSA(body []byte) (SA, error) {
	c := cursor{b: body}
	sa := SA{DOI: c.uint32("SA")}
	if c.err == nil && sa.DOI != DOIIPsec {
		return sa, nil
	}
	sa.Situation = c.uint32("SA")
	if c.err == nil && sa.Situation != SituationIdentityOnly {
		return sa, nil // labels follow
	}
	transforms := 0
	for more := true; more && c.err == nil; {
		if len(sa.Proposals) == MaxProposals {
			c.fail("SA: more than %d proposals", MaxProposals)
			break
		}
		next, b := c.section("proposal")
		more = chained(&c, "proposal", next, ProposalPayload)
		sa.Proposals = append(sa.Proposals, parseProposal(&c, b, &transforms))
	}
	if err := c.end("SA"); err != nil {
		return SA{}, err
	}
	return sa, nil
}

// chained reports whether another section of the same type follows.
func chained(c *cursor, what string, next uint8, self PayloadType) bool {
	if next != uint8(NoPayload) && next != uint8(self) {
		c.fail("%s: followed by payload %d", what, next)
	}
	return next == uint8(self)
}

func parseProposal(outer *cursor, body []byte, transforms *int) Proposal {
	c := cursor{b: body, err: outer.err}
	p := Proposal{Number: c.uint8("proposal"), Protocol: ProtocolID(c.uint8("proposal"))}
	spi, count := int(c.uint8("proposal")), int(c.uint8("proposal"))
	p.SPI = c.copied(spi, "proposal SPI")
	if *transforms += count; *transforms > MaxTransforms {
		c.fail("SA: more than %d transforms", MaxTransforms)
	}
	for i := 0; i < count && c.err == nil; i++ {
		next, b := c.section("transform")
		if more := chained(&c, "transform", next, TransformPayload); more != (i+1 < count) {
			c.fail("proposal: transform count %d does not fit the chain", count)
		}
		p.Transforms = append(p.Transforms, parseTransform(&c, b))
	}
	outer.err = c.end("proposal")
	return p
}

func parseTransform(outer *cursor, body []byte) Transform {
	c := cursor{b: body, err: outer.err}
	t := Transform{Number: c.uint8("transform"), ID: c.uint8("transform")}
	c.zero(2, "transform")
	t.Attributes = parseAttributes(&c)
	outer.err = c.end("transform")
	return t
}

// ParseAttributes reads a list of attributes as RESPONDER-LIFETIME carries it
// (RFC 2407 §4.6.3.1).
func ParseAttributes(b []byte) ([]Attribute, error) {
	c := cursor{b: b}
	attrs := parseAttributes(&c)
	if err := c.end("attributes"); err != nil {
		return nil, err
	}
	return attrs, nil
}

func parseAttributes(c *cursor) []Attribute {
	var attrs []Attribute
	for len(c.b) > 0 && c.err == nil {
		if len(attrs) == MaxAttributes {
			c.fail("more than %d attributes", MaxAttributes)
			break
		}
		t, n := c.uint16("attribute"), 2
		if t&shortForm == 0 {
			n = int(c.uint16("attribute"))
		}
		attrs = append(attrs, Attribute{t &^ shortForm, c.copied(n, "attribute value")})
	}
	return attrs
}

// shortForm marks an attribute of two bytes without length ("AF").
const shortForm = 0x8000

// AppendAttributes appends a list of attributes.
func AppendAttributes(b []byte, attrs []Attribute) []byte {
	for _, a := range attrs {
		if len(a.Value) == 2 {
			b = binary.BigEndian.AppendUint16(b, a.Type|shortForm)
		} else {
			b = binary.BigEndian.AppendUint16(b, a.Type)
			b = binary.BigEndian.AppendUint16(b, uint16(len(a.Value)))
		}
		b = append(b, a.Value...)
	}
	return b
}

// Append appends the body of the SA payload.
func (s SA) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, s.DOI)
	b = binary.BigEndian.AppendUint32(b, s.Situation)
	for i, p := range s.Proposals {
		b = appendSection(b, nextOf(i, len(s.Proposals), ProposalPayload), p.body())
	}
	return b
}

func (p Proposal) body() []byte {
	b := []byte{p.Number, byte(p.Protocol), byte(len(p.SPI)), byte(len(p.Transforms))}
	b = append(b, p.SPI...)
	for i, t := range p.Transforms {
		body := AppendAttributes([]byte{t.Number, t.ID, 0, 0}, t.Attributes)
		b = appendSection(b, nextOf(i, len(p.Transforms), TransformPayload), body)
	}
	return b
}

func nextOf(i, n int, t PayloadType) uint8 {
	if i+1 < n {
		return uint8(t)
	}
	return uint8(NoPayload)
}
