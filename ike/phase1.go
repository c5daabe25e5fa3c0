package ike

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/crypt"
	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// Attribute classes of phase 1 (RFC 2409 App. A).
const (
	attrEncryption   = 1
	attrHash         = 2
	attrAuth         = 3
	attrGroup        = 4
	attrLifeType     = 11
	attrLifeDuration = 12
	attrKeyLength    = 14
	attrGSSName      = 16384 // draft-ietf-ipsec-isakmp-gss-auth
)

// isGSSName reports whether an attribute of a transform of Kerberos is the GSS
// name: by the number of the last draft, of the drafts before, and by the one
// that Windows 2000 has been seen to send. An answer mirrors the number.
func isGSSName(class uint16) bool { return class == attrGSSName || class == 16 || class == 32001 }

// Types of a lifetime, in both phases.
const (
	lifeSeconds   = 1
	lifeKilobytes = 2
)

const (
	keyIKE          = 1 // the only transform of phase 1
	defaultMainLife = 8 * time.Hour
	// minLife is the shortest lifetime that is accepted from a peer: below
	// it the associations would be renewed all the time.
	minLife = time.Minute
)

func encryptionValues() map[uint64]sadb.Encryption {
	return map[uint64]sadb.Encryption{1: sadb.DES, 5: sadb.TripleDES, 7: sadb.AESCBC}
}

func hashValues() map[uint64]sadb.Hash {
	return map[uint64]sadb.Hash{1: sadb.MD5, 2: sadb.SHA1, 4: sadb.SHA256, 5: sadb.SHA384, 6: sadb.SHA512}
}

// valueOf returns the wire's number of an algorithm, 0 if it has none.
func valueOf[T comparable](table map[uint64]T, algorithm T) uint16 {
	for v, a := range table {
		if a == algorithm {
			return uint16(v)
		}
	}
	return 0
}

// mainChoice is one transform of phase 1.
type mainChoice struct {
	Suite  sadb.ISAKMPSuite
	Method auth.Method
	Life   time.Duration   // 0: not said
	name   []byte          // of method Kerberos: the GSS name of who sends it
	raw    *wire.Transform // as the peer offered it
}

// String returns "aes256-sha256-ecp256, preshared key".
func (c mainChoice) String() string { return c.Suite.String() + ", " + c.Method.String() }

// methods returns the methods of the requirements, each once, in order.
func methods(reqs []auth.Requirement) []auth.Method {
	var all []auth.Method
	for _, r := range reqs {
		if !slices.Contains(all, r.Method) {
			all = append(all, r.Method)
		}
	}
	return all
}

// choices returns what an offer means, in order of preference: each suite with
// each method.
func (o MainOffer) choices() []mainChoice {
	var all []mainChoice
	for _, s := range o.Suites {
		for _, method := range methods(o.Auth) {
			if crypt.Check(s) == nil && len(all) < wire.MaxTransforms {
				all = append(all, mainChoice{Suite: s, Method: method, Life: o.lifetime()})
			}
		}
	}
	return all
}

func (o MainOffer) lifetime() time.Duration {
	if o.Lifetime <= 0 {
		return defaultMainLife
	}
	return max(o.Lifetime, minLife)
}

func (c mainChoice) transform(number int) wire.Transform {
	attrs := []wire.Attribute{wire.Uint16(attrEncryption, valueOf(encryptionValues(), c.Suite.Encryption))}
	if c.Suite.KeyBits != 0 {
		attrs = append(attrs, wire.Uint16(attrKeyLength, uint16(c.Suite.KeyBits)))
	}
	attrs = append(attrs,
		wire.Uint16(attrHash, valueOf(hashValues(), c.Suite.Hash)),
		wire.Uint16(attrAuth, uint16(c.Method)),
		wire.Uint16(attrGroup, uint16(c.Suite.Group)),
		wire.Uint16(attrLifeType, lifeSeconds),
		wire.Uint32(attrLifeDuration, seconds(c.Life)))
	if len(c.name) > 0 {
		attrs = append(attrs, wire.Attribute{Type: attrGSSName, Value: c.name})
	}
	return wire.Transform{Number: uint8(number), ID: keyIKE, Attributes: attrs}
}

func seconds(d time.Duration) uint32 {
	return uint32(min(d/time.Second, 1<<32-1))
}

// mainSA returns the body of the SA payload that makes the offer.
func mainSA(choices []mainChoice) []byte {
	p := wire.Proposal{Number: 1, Protocol: wire.ProtoISAKMP}
	for i, c := range choices {
		p.Transforms = append(p.Transforms, c.transform(i+1))
	}
	return saBody(p)
}

func saBody(proposals ...wire.Proposal) []byte {
	sa := wire.SA{DOI: wire.DOIIPsec, Situation: wire.SituationIdentityOnly, Proposals: proposals}
	return sa.Append(nil)
}

// received is what a peer offers in phase 1, and what can be read of it.
type received struct {
	choices  []mainChoice
	proposal wire.Proposal
	gssapi   bool // the peer has said that by method 65001 it means Kerberos
}

// words lists everything for the administrator, also what cannot be read.
func (r received) words() []string {
	var words []string
	for _, t := range r.proposal.Transforms {
		if c, err := r.read(t); err != nil {
			words = append(words, err.Error())
		} else {
			words = append(words, c.String())
		}
	}
	return words
}

// read reads one transform of the offer.
func (r received) read(t wire.Transform) (mainChoice, error) {
	c, err := readMainTransform(t)
	if err == nil && c.Method == auth.Kerberos && !r.gssapi {
		err = fmt.Errorf("%s, XAUTH with a preshared key (method 65001 without the vendor ID GSSAPI)", c.Suite)
	}
	return c, err
}

// errSA is a refusal of a whole SA payload with the notify it deserves.
type errSA struct {
	notify wire.NotifyType
	reason string
}

// Error returns the reason.
func (e *errSA) Error() string { return e.reason }

// oneSA parses an SA payload and checks domain and situation.
func oneSA(body []byte) (wire.SA, error) {
	sa, err := wire.ParseSA(body)
	switch {
	case err != nil:
		return sa, err
	case sa.DOI != wire.DOIIPsec:
		return sa, &errSA{wire.DOINotSupported, fmt.Sprintf("domain of interpretation %d", sa.DOI)}
	case sa.Situation != wire.SituationIdentityOnly:
		return sa, &errSA{wire.SituationNotSupported, fmt.Sprintf("situation %d", sa.Situation)}
	}
	return sa, nil
}

// readMainSA reads what a peer offers. A transform with anything unknown in it
// is none of the choices; it does not spoil the rest. gssapi: the peer has said
// that by method 65001 it means Kerberos.
func readMainSA(body []byte, gssapi bool) (received, error) {
	sa, err := oneSA(body)
	if err != nil {
		return received{}, err
	}
	if len(sa.Proposals) != 1 || sa.Proposals[0].Protocol != wire.ProtoISAKMP {
		return received{}, &errSA{wire.NoProposalChosen, "phase 1 takes exactly one proposal, of protocol ISAKMP"}
	}
	r := received{proposal: sa.Proposals[0], gssapi: gssapi}
	for _, t := range r.proposal.Transforms {
		if c, err := r.read(t); err == nil {
			r.choices = append(r.choices, c)
		}
	}
	return r, nil
}

// maxGSSName bounds the GSS name of a peer, in bytes.
const maxGSSName = 512

// readMainTransform reads one transform; the error says what is strange in it.
func readMainTransform(t wire.Transform) (mainChoice, error) {
	c := mainChoice{raw: &t}
	if t.ID != keyIKE {
		return c, fmt.Errorf("transform %d", t.ID)
	}
	lifeType := uint64(lifeSeconds)
	for _, a := range t.Attributes {
		v, ok := a.Uint()
		if isGSSName(a.Type) && len(a.Value) <= maxGSSName {
			c.name = a.Value
			continue
		}
		if !ok {
			return c, fmt.Errorf("attribute %d", a.Type)
		}
		if err := c.attribute(a.Type, v, &lifeType); err != nil {
			return c, err
		}
	}
	if c.name != nil && c.Method != auth.Kerberos {
		return c, fmt.Errorf("%s with a GSS name or a group order", c)
	}
	if c.Life != 0 && c.Life < minLife {
		return c, fmt.Errorf("%s with a lifetime of %s", c, c.Life)
	}
	if err := crypt.Check(c.Suite); err != nil {
		return c, fmt.Errorf("%s: incomplete", c)
	}
	return c, nil
}

func (c *mainChoice) attribute(class uint16, v uint64, lifeType *uint64) error {
	known := true
	switch class {
	case attrEncryption:
		c.Suite.Encryption, known = encryptionValues()[v]
	case attrHash:
		c.Suite.Hash, known = hashValues()[v]
	case attrAuth:
		c.Method, known = auth.Method(v), v <= 0xffff
	case attrGroup:
		c.Suite.Group, known = sadb.Group(v), v <= 0xffff && crypt.PublicLen(sadb.Group(v)) > 0
	case attrKeyLength:
		c.Suite.KeyBits, known = int(v), v == 128 || v == 192 || v == 256
	case attrLifeType:
		*lifeType = v
	case attrLifeDuration:
		if *lifeType == lifeSeconds {
			c.Life = lifeDuration(v)
		}
	default:
		known = false
	}
	if !known {
		return fmt.Errorf("attribute %d = %d", class, v)
	}
	return nil
}

// lifeDuration caps what a peer says at a year: a number of 64 bits of seconds
// does not fit in a Duration.
func lifeDuration(v uint64) time.Duration {
	return time.Duration(min(v, 365*24*3600)) * time.Second
}

// pick returns the first of own choices that the peer offers too.
func pick(own []mainChoice, peer []mainChoice) (mainChoice, bool) {
	for _, o := range own {
		for _, p := range peer {
			if o.Suite == p.Suite && o.Method == p.Method {
				if p.Life != 0 {
					o.Life = min(o.Life, p.Life)
				}
				o.raw, o.name = p.raw, p.name
				return o, true
			}
		}
	}
	return mainChoice{}, false
}

// answerSA returns the SA payload that takes one transform of a proposal. In
// the place of the peer's GSS name it has ours.
func answerSA(p wire.Proposal, t wire.Transform, name []byte) []byte {
	t.Attributes = slices.Clone(t.Attributes)
	for i, a := range t.Attributes {
		if isGSSName(a.Type) {
			t.Attributes[i].Value = name
		}
	}
	p.Transforms = []wire.Transform{t}
	return saBody(p)
}

// checkMainAnswer returns which of own choices the responder took. The answer
// must be one of them; attributes may come in another order or encoding.
func checkMainAnswer(own []mainChoice, body []byte, gssapi bool) (mainChoice, error) {
	r, err := readMainSA(body, gssapi)
	if err != nil {
		return mainChoice{}, err
	}
	if len(r.proposal.Transforms) != 1 || len(r.choices) != 1 {
		return mainChoice{}, errors.New("the answer is not exactly one transform that can be read")
	}
	c, ok := pick(own, r.choices)
	if !ok {
		return mainChoice{}, fmt.Errorf("the answer %s was not offered", r.choices[0])
	}
	return c, nil
}

// mainDiffers names the first item in which two offers differ: in the pair of
// choices that agree the most.
func mainDiffers(own, peer []mainChoice) string {
	best, text := -1, "the peer offers nothing that can be read"
	for _, o := range own {
		for _, p := range peer {
			same, t := firstDifference([]item{
				{"encryption", cipherName(o.Suite), cipherName(p.Suite)},
				{"hash", o.Suite.Hash.String(), p.Suite.Hash.String()},
				{"Diffie-Hellman group", o.Suite.Group.String(), p.Suite.Group.String()},
				{"authentication method", o.Method.String(), p.Method.String()},
			})
			if same > best {
				best, text = same, t
			}
		}
	}
	return text
}

// item is one property of two choices, in words.
type item struct{ name, own, peer string }

// firstDifference returns how many items agree, and the first that does not.
func firstDifference(items []item) (same int, text string) {
	for _, i := range items {
		if i.own == i.peer {
			same++
		} else if text == "" {
			text = fmt.Sprintf("%s: here %s, peer %s", i.name, i.own, i.peer)
		}
	}
	return same, text
}

func cipherName(s sadb.ISAKMPSuite) string {
	if s.KeyBits == 0 {
		return s.Encryption.String()
	}
	return fmt.Sprintf("%s%d", s.Encryption, s.KeyBits)
}

func mainWords(choices []mainChoice) []string {
	var words []string
	for _, c := range choices {
		words = append(words, c.String())
	}
	return words
}

// fitsID reports whether protocol and port of a phase 1 identification are
// ones that RFC 2407 §4.6.2 allows, and the port that NAT traversal adds.
func fitsID(id wire.ID) bool {
	if id.Proto == 0 {
		return id.Port == 0
	}
	return id.Proto == sadb.UDP && (id.Port == 0 || id.Port == 500 || id.Port == 4500)
}

// idBody returns the body of the identification payload of a claim.
func idBody(c auth.Claim) []byte {
	return wire.ID{Type: wire.IDType(c.IDType), Data: c.ID}.Append(nil)
}

// spiOf reads an SPI of a peer: four bytes, not of the reserved range.
func spiOf(b []byte) (sadb.SPI, bool) {
	if len(b) != 4 || bytes.Equal(b[:3], []byte{0, 0, 0}) {
		return 0, false
	}
	return sadb.SPI(binary.BigEndian.Uint32(b)), true
}
