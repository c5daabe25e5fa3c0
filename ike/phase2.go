package ike

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ipsecagent/ike/crypt"
	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// Attribute classes of phase 2 (RFC 2407 §4.5, RFC 4304).
const (
	attr2LifeType     = 1
	attr2LifeDuration = 2
	attr2Group        = 3
	attr2Mode         = 4
	attr2Auth         = 5
	attr2KeyLength    = 6
	attr2ESN          = 11
)

// Values of the encapsulation mode: plain, in UDP (RFC 3947 §5.1) and in UDP
// as the drafts had it.
const (
	modeTunnel            = 1
	modeTransport         = 2
	modeUDPTunnel         = 3
	modeUDPTransport      = 4
	modeDraftUDPTunnel    = 61443
	modeDraftUDPTransport = 61444
)

const (
	// esn64 is 64-bit sequence numbers; that they are of 32 bits is said by
	// leaving the attribute out (RFC 4304).
	esn64 = 1
	// defaultQuickLife is RFC 2407's own.
	defaultQuickLife = 8 * time.Hour
)

func espTransforms() map[uint64]sadb.Encryption {
	return map[uint64]sadb.Encryption{2: sadb.DES, 3: sadb.TripleDES, 11: sadb.Null, 12: sadb.AESCBC, 20: sadb.AESGCM}
}

func ahTransforms() map[uint64]sadb.Integrity {
	return map[uint64]sadb.Integrity{2: sadb.HMACMD5, 3: sadb.HMACSHA1, 5: sadb.HMACSHA256, 6: sadb.HMACSHA384, 7: sadb.HMACSHA512}
}

func authAlgorithms() map[uint64]sadb.Integrity {
	return map[uint64]sadb.Integrity{1: sadb.HMACMD5, 2: sadb.HMACSHA1, 5: sadb.HMACSHA256, 6: sadb.HMACSHA384, 7: sadb.HMACSHA512}
}

// quickShape is what all transforms of a quick mode have in common.
type quickShape struct {
	Mode sadb.Mode
	PFS  sadb.Group // 0: none
	UDP  udpForm
	ESN  bool // in an offer: both with and without
}

// udpForm is the numbers that encapsulation in UDP is asked for with.
type udpForm uint8

// The forms. The drafts' is that of Windows up to Server 2003.
const (
	noUDP udpForm = iota
	rfcUDP
	draftUDP
)

// modeValue returns the encapsulation mode as the wire has it.
func (s quickShape) modeValue() uint16 {
	if s.Mode == sadb.Tunnel {
		return [...]uint16{modeTunnel, modeUDPTunnel, modeDraftUDPTunnel}[s.UDP]
	}
	return [...]uint16{modeTransport, modeUDPTransport, modeDraftUDPTransport}[s.UDP]
}

// readMode takes the wire's encapsulation mode.
func (s *quickShape) readMode(v uint64) bool {
	for _, mode := range []sadb.Mode{sadb.Transport, sadb.Tunnel} {
		for _, udp := range []udpForm{noUDP, rfcUDP, draftUDP} {
			if t := (quickShape{Mode: mode, UDP: udp}); uint64(t.modeValue()) == v {
				s.Mode, s.UDP = mode, udp
				return true
			}
		}
	}
	return false
}

// modeName returns "transport", and "transport in UDP" across address
// translation.
func (s quickShape) modeName() string {
	if s.UDP == noUDP {
		return s.Mode.String()
	}
	return s.Mode.String() + " in UDP"
}

// quickTransform is one transform of phase 2 that could be read.
type quickTransform struct {
	quickShape
	Suite    sadb.Suite
	Lifetime sadb.Limits
	raw      wire.Transform
}

// String returns "esp-aes256gcm transport" and, with PFS, its group.
func (t quickTransform) String() string {
	s := t.Suite.String() + " " + t.modeName()
	if t.PFS != 0 {
		s += " pfs " + t.PFS.String()
	}
	if t.ESN {
		s += " esn"
	}
	return s
}

// limits returns the hard limits of a proposal: one of time always.
func limits(p sadb.Proposal) sadb.Limits {
	l := p.Lifetime
	if l.Time <= 0 {
		l.Time = defaultQuickLife
	}
	l.Time = max(l.Time, minLife)
	return l
}

// transformsOf encodes a suite as what is offered of it: where 64-bit sequence
// numbers may be, with them and without.
func transformsOf(s sadb.Suite, life sadb.Limits, shape quickShape) []wire.Transform {
	first := transformOf(s, life, shape)
	if !shape.ESN {
		return []wire.Transform{first}
	}
	shape.ESN = false
	second := transformOf(s, life, shape)
	second.Number = 2
	return []wire.Transform{first, second}
}

// transformOf encodes a suite.
func transformOf(s sadb.Suite, life sadb.Limits, shape quickShape) wire.Transform {
	t := wire.Transform{Number: 1, ID: uint8(valueOf(espTransforms(), s.Encryption))}
	if s.Proto == sadb.AH {
		t.ID = uint8(valueOf(ahTransforms(), s.Integrity))
	}
	add := func(a wire.Attribute) { t.Attributes = append(t.Attributes, a) }
	if shape.PFS != 0 {
		add(wire.Uint16(attr2Group, uint16(shape.PFS)))
	}
	if s.Integrity != sadb.IntegrityNone {
		add(wire.Uint16(attr2Auth, valueOf(authAlgorithms(), s.Integrity)))
	}
	if s.KeyBits != 0 {
		add(wire.Uint16(attr2KeyLength, uint16(s.KeyBits)))
	}
	add(wire.Uint16(attr2Mode, shape.modeValue()))
	if shape.ESN {
		add(wire.Uint16(attr2ESN, esn64))
	}
	t.Attributes = append(t.Attributes, lifeAttributes(life)...)
	return t
}

// lifeAttributes says a lifetime; kilobytes are of 1024 bytes.
func lifeAttributes(l sadb.Limits) []wire.Attribute {
	var attrs []wire.Attribute
	if l.Time > 0 {
		attrs = append(attrs, wire.Uint16(attr2LifeType, lifeSeconds), wire.Uint32(attr2LifeDuration, seconds(l.Time)))
	}
	if kb := min(l.Bytes/1024, 1<<32-1); kb > 0 {
		attrs = append(attrs, wire.Uint16(attr2LifeType, lifeKilobytes), wire.Uint32(attr2LifeDuration, uint32(kb)))
	}
	return attrs
}

// readLifetime adds up lifetimes as attributes say them. Zero and what is too
// short count as not said.
func readLifetime(attrs []wire.Attribute) sadb.Limits {
	var l sadb.Limits
	kind := uint64(0)
	for _, a := range attrs {
		v, _ := a.Uint()
		switch {
		case a.Type == attr2LifeType:
			kind = v
		case a.Type == attr2LifeDuration && kind == lifeSeconds:
			l.Time = lifeDuration(v)
		case a.Type == attr2LifeDuration && kind == lifeKilobytes:
			l.Bytes = min(v, 1<<53) * 1024
		}
	}
	return l
}

func wireProto(p sadb.Proto) wire.ProtocolID {
	if p == sadb.AH {
		return wire.ProtoAH
	}
	return wire.ProtoESP
}

func sadbProto(p wire.ProtocolID) (sadb.Proto, bool) {
	switch p {
	case wire.ProtoAH:
		return sadb.AH, true
	case wire.ProtoESP:
		return sadb.ESP, true
	}
	return 0, false
}

// protocols returns the IPsec protocols that an offer needs inbound SPIs for,
// each once.
func protocols(proposals []sadb.Proposal) []sadb.Proto {
	var all []sadb.Proto
	for _, p := range proposals {
		for _, s := range p.Suites {
			if !slices.Contains(all, s.Proto) {
				all = append(all, s.Proto)
			}
		}
	}
	return all
}

// quickSA returns the body of the SA payload of an offer. Each proposal has a
// number of its own; suites that are applied together share it.
func quickSA(proposals []sadb.Proposal, spis map[sadb.Proto]sadb.SPI, shape quickShape) []byte {
	var out []wire.Proposal
	for i, p := range proposals {
		if len(out)+len(p.Suites) > wire.MaxProposals {
			break
		}
		for _, s := range p.Suites {
			out = append(out, wire.Proposal{Number: uint8(i + 1), Protocol: wireProto(s.Proto),
				SPI: spiBytes(spis[s.Proto]), Transforms: transformsOf(s, limits(p), shape)})
		}
	}
	return saBody(out...)
}

func spiBytes(s sadb.SPI) []byte { return []byte{byte(s >> 24), byte(s >> 16), byte(s >> 8), byte(s)} }

// quickGroup is the proposals of one number: taken together or not at all.
type quickGroup struct {
	parts []quickPart
}

// quickPart is one proposal payload: its transforms are alternatives.
type quickPart struct {
	proposal   wire.Proposal
	proto      sadb.Proto
	spi        sadb.SPI
	transforms []quickTransform
}

// quickReceived is what a peer offers in phase 2.
type quickReceived struct {
	groups []quickGroup
	first  wire.Proposal // for the SPI of a refusal
}

// readQuickSA reads a peer's offer. What cannot be read (IPComp, unknown
// algorithms or attributes) leaves its group without choices.
func readQuickSA(body []byte) (quickReceived, error) {
	sa, err := oneSA(body)
	if err != nil {
		return quickReceived{}, err
	}
	var r quickReceived
	if len(sa.Proposals) > 0 {
		r.first = sa.Proposals[0]
	}
	number := -1
	for _, p := range sa.Proposals {
		if int(p.Number) != number {
			number = int(p.Number)
			r.groups = append(r.groups, quickGroup{})
		}
		g := &r.groups[len(r.groups)-1]
		g.parts = append(g.parts, readQuickPart(p))
	}
	return r, nil
}

// words lists an offer for the administrator.
func (r quickReceived) words() []string {
	var words []string
	for _, g := range r.groups {
		words = append(words, g.words())
	}
	return words
}

func readQuickPart(p wire.Proposal) quickPart {
	part := quickPart{proposal: p}
	var proto, spi bool
	part.proto, proto = sadbProto(p.Protocol)
	part.spi, spi = spiOf(p.SPI)
	if !proto || !spi {
		return part
	}
	for _, t := range p.Transforms {
		if read, err := readQuickTransform(part.proto, t); err == nil {
			part.transforms = append(part.transforms, read)
		}
	}
	return part
}

// words lists a group for the administrator.
func (g quickGroup) words() string {
	var parts []string
	for _, p := range g.parts {
		var alternatives []string
		for _, t := range p.transforms {
			alternatives = append(alternatives, t.String())
		}
		if unread := len(p.proposal.Transforms) - len(p.transforms); unread > 0 {
			alternatives = append(alternatives, fmt.Sprintf("%d not known here", unread))
		}
		parts = append(parts, strings.Join(alternatives, " or "))
	}
	return strings.Join(parts, " with ")
}

var errUnknownTransform = errors.New("an algorithm or attribute not known here")

func readQuickTransform(proto sadb.Proto, t wire.Transform) (quickTransform, error) {
	q := quickTransform{raw: t, Suite: sadb.Suite{Proto: proto}, Lifetime: readLifetime(t.Attributes)}
	ok := false
	if proto == sadb.ESP {
		q.Suite.Encryption, ok = espTransforms()[uint64(t.ID)]
	} else {
		q.Suite.Integrity, ok = ahTransforms()[uint64(t.ID)]
	}
	mode := false
	for _, a := range t.Attributes {
		v, number := a.Uint()
		ok = ok && number && q.attribute(a.Type, v)
		mode = mode || a.Type == attr2Mode
	}
	tooShort := q.Lifetime.Time != 0 && q.Lifetime.Time < minLife
	if !ok || !mode || tooShort || !q.Suite.Valid() {
		return q, errUnknownTransform
	}
	return q, nil
}

// attribute takes one attribute; false: the transform cannot be used.
func (q *quickTransform) attribute(class uint16, v uint64) bool {
	switch class {
	case attr2LifeType, attr2LifeDuration:
		return true
	case attr2Group:
		q.PFS = sadb.Group(v)
		return v <= 0xffff && crypt.PublicLen(q.PFS) > 0
	case attr2Mode:
		return q.readMode(v)
	case attr2Auth:
		return q.integrity(v)
	case attr2KeyLength:
		q.Suite.KeyBits = int(v)
		return v <= 256
	case attr2ESN:
		q.ESN = v == esn64
		return v <= esn64
	}
	return false
}

// integrity takes the authentication algorithm; with AH it must be the one the
// transform names.
func (q *quickTransform) integrity(v uint64) bool {
	i, ok := authAlgorithms()[v]
	if q.Suite.Proto == sadb.AH {
		return ok && i == q.Suite.Integrity
	}
	q.Suite.Integrity = i
	return ok
}
