package ike

import (
	"errors"
	"fmt"
	"strings"

	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// quickPick is what both sides agree on: the suites with the peer's SPIs.
type quickPick struct {
	Shape    quickShape
	Suites   []sadb.Suite
	Peer     []sadb.SPI // per suite: the peer's inbound SPI
	Lifetime sadb.Limits
	// Shorter: our limits are below what the peer said, who must be told.
	Shorter bool
	answer  []wire.Proposal
}

// wanted says which shapes a responder accepts.
type wanted struct {
	mode    sadb.Mode
	pfs     sadb.Group // this group and no other, if not 0
	require bool       // PFS is required
	main    sadb.Group // of the ISAKMP SA
	udp     bool       // encapsulation in UDP, in either form
	esn     bool       // 64-bit sequence numbers are welcome
}

func (o QuickOffer) wants(s *isakmp) wanted {
	w := wanted{mode: o.Mode, pfs: o.PFS, require: o.PFS != 0 || o.PFSAny, main: s.suite.Group,
		udp: !s.encap().IsZero(), esn: o.ESN}
	if o.PFSAny {
		w.pfs = w.main
	}
	return w
}

// shape is what is wanted, as the peer would have to offer it.
func (w wanted) shape() quickShape {
	s := quickShape{Mode: w.mode, PFS: w.pfs}
	if w.udp {
		s.UDP = rfcUDP
	}
	return s
}

// accepts reports whether a shape will do. More than what is asked for is
// welcome: PFS with the main mode's group or a strong one.
func (w wanted) accepts(s quickShape) bool {
	if s.Mode != w.mode || (s.UDP != noUDP) != w.udp || s.ESN && !w.esn {
		return false
	}
	if w.require {
		return s.PFS == w.pfs
	}
	return s.PFS == 0 || s.PFS == w.main || s.PFS != sadb.MODP768 && s.PFS != sadb.MODP1024
}

// pickQuick chooses from a peer's offer by this host's own preference.
func pickQuick(own []sadb.Proposal, w wanted, peer quickReceived) (quickPick, bool) {
	for _, p := range own {
		for _, g := range peer.groups {
			if pick, ok := g.match(p, w.accepts); ok {
				return pick, true
			}
		}
	}
	return quickPick{}, false
}

// match reports whether a group has a transform for each suite of p and
// nothing beside.
func (g quickGroup) match(p sadb.Proposal, accepts func(quickShape) bool) (quickPick, bool) {
	if len(g.parts) != len(p.Suites) {
		return quickPick{}, false
	}
	pick := quickPick{Lifetime: limits(p)}
	for i, s := range p.Suites {
		part, t, ok := g.find(s, func(shape quickShape) bool {
			return accepts(shape) && (i == 0 || shape == pick.Shape)
		})
		if !ok {
			return quickPick{}, false
		}
		pick.take(s, part, t)
	}
	return pick, true
}

func (g quickGroup) find(s sadb.Suite, fits func(quickShape) bool) (quickPart, quickTransform, bool) {
	for _, part := range g.parts {
		for _, t := range part.transforms {
			if t.Suite == s && fits(t.quickShape) {
				return part, t, true
			}
		}
	}
	return quickPart{}, quickTransform{}, false
}

func (p *quickPick) take(s sadb.Suite, part quickPart, t quickTransform) {
	p.Shape = t.quickShape
	p.Suites = append(p.Suites, s)
	p.Peer = append(p.Peer, part.spi)
	least := p.Lifetime.Min(t.Lifetime)
	p.Shorter = p.Shorter || least != t.Lifetime
	p.Lifetime = least
	answer := part.proposal
	answer.Transforms = []wire.Transform{t.raw}
	p.answer = append(p.answer, answer)
}

// answerBody returns the SA payload that takes the pick, with our own SPIs.
func (p quickPick) answerBody(spis map[sadb.Proto]sadb.SPI) []byte {
	var out []wire.Proposal
	for i, a := range p.answer {
		a.SPI = spiBytes(spis[p.Suites[i].Proto])
		out = append(out, a)
	}
	return saBody(out...)
}

// answeredBy reports whether a shape answers an offer of s.
func (s quickShape) answeredBy(t quickShape) bool {
	t.ESN = t.ESN || s.ESN // either was offered, if ESN was
	return s == t
}

// checkQuickAnswer returns which of the own proposals the responder took.
func checkQuickAnswer(own []sadb.Proposal, shape quickShape, body []byte) (quickPick, error) {
	r, err := readQuickSA(body)
	if err != nil {
		return quickPick{}, err
	}
	if len(r.groups) != 1 {
		return quickPick{}, fmt.Errorf("the answer takes %d proposals", len(r.groups))
	}
	for _, part := range r.groups[0].parts {
		if len(part.proposal.Transforms) != 1 {
			return quickPick{}, errors.New("the answer is not exactly one transform")
		}
	}
	for _, p := range own {
		pick, ok := r.groups[0].match(p, shape.answeredBy)
		if ok {
			return pick, nil
		}
	}
	return quickPick{}, fmt.Errorf("the answer %s was not offered", strings.Join(r.words(), ", "))
}

func quickWords(own []sadb.Proposal, shape quickShape) []string {
	var words []string
	for _, p := range own {
		var parts []string
		for _, s := range p.Suites {
			parts = append(parts, quickTransform{quickShape: shape, Suite: s}.String())
		}
		words = append(words, strings.Join(parts, " with "))
	}
	return words
}

// quickDiffers names the first item in which two offers of phase 2 differ.
func quickDiffers(own []sadb.Proposal, w wanted, peer quickReceived) string {
	best, text := -1, "the peer offers nothing that is known here"
	for _, p := range own {
		for _, g := range peer.groups {
			if same, t := g.differs(p, w); same > best {
				best, text = same, t
			}
		}
	}
	return text
}

// differs compares one of ours with the transforms of a group.
func (g quickGroup) differs(p sadb.Proposal, w wanted) (int, string) {
	best, text := -1, ""
	if len(g.parts) != len(p.Suites) {
		return best, text
	}
	for _, t := range g.parts[0].transforms {
		s := p.Suites[0]
		same, difference := firstDifference([]item{
			{"protocol", s.Proto.String(), t.Suite.Proto.String()},
			{"mode", w.shape().modeName(), t.modeName()},
			{"encryption", suiteCipher(s), suiteCipher(t.Suite)},
			{"integrity", integrityName(s.Integrity), integrityName(t.Suite.Integrity)},
			{"PFS group", w.pfs.String(), t.PFS.String()},
		})
		if same > best {
			best, text = same, difference
		}
	}
	return best, text
}

func suiteCipher(s sadb.Suite) string {
	if s.KeyBits == 0 {
		return s.Encryption.String()
	}
	return fmt.Sprintf("%s%d", s.Encryption, s.KeyBits)
}

func integrityName(i sadb.Integrity) string {
	return [...]string{"none", "md5", "sha1", "sha256", "sha384", "sha512"}[i]
}
