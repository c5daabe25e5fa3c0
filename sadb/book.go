package sadb

import (
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"slices"
	"sort"
	"time"
)

// PairID names a pair of associations, one for each direction, on this host.
// Random, so that a pair of an earlier process is not mistaken for a new one.
// 0 is none.
type PairID uint64

// NewPairID returns a random PairID that is not 0.
func NewPairID() PairID {
	var b [8]byte
	for {
		rand.Read(b[:]) // never fails (crypto/rand)
		// 53 bits survive every JSON reader.
		if id := PairID(binary.BigEndian.Uint64(b[:]) >> 11); id != 0 {
			return id
		}
	}
}

// Pair is what is known of a pair of associations, without any key: what the
// status shows, what the store keeps, and what a fresh agent adopts.
type Pair struct {
	ID            PairID     `json:"id"`
	Filter        FilterID   `json:"filter"`
	Local, Remote netip.Addr // outer addresses
	Selector      Selector   `json:"-"`
	Flow          string     `json:"flow"` // Selector in words
	Mode          Mode       `json:"mode"`
	In, Out       []SAID     // one each, or AH and ESP of a bundle
	Suites        []Suite    `json:"suites"`
	Lifetime      Limits     `json:"lifetime"` // hard limits
	Initiator     bool       `json:"initiator"`
	Principal     string     `json:"principal"`    // the peer's proven identity
	Method        string     `json:"method"`       // how it was proven
	CA            string     `json:"ca,omitempty"` // certificates: under which authority
	// How the identity was proven; see auth.Proof.
	Mapped  bool   `json:"mapped,omitempty"`
	Subject string `json:"subject,omitempty"`
	Named   bool   `json:"named,omitempty"`
	Listed  bool   `json:"listed,omitempty"`

	// Main is the suite of the ISAKMP SA it was made under; zero: not known.
	Main ISAKMPSuite `json:"main,omitzero"`

	Since    time.Time `json:"since"`
	Replaces PairID    `json:"replaces,omitempty"`
	// Round orders the pairs with one peer, the same on both ends: each is of
	// a later round than all that were known when it was made. See Outranks.
	Round uint32 `json:"round,omitempty"`
	// Encap is the UDP encapsulation of both directions; zero: none.
	Encap Encap `json:"encap,omitzero"`
	// DefaultResponse: made by the default response rule.
	DefaultResponse bool `json:"defaultResponse,omitempty"`
}

// Outranks reports whether p is to carry the traffic rather than o, which
// serves the same: the pair of the later round, and of two that were made at
// once the one with the lowest SPI. Both ends come to the same answer.
func (p Pair) Outranks(o Pair) bool {
	if p.Round != o.Round {
		return p.Round > o.Round
	}
	return slices.Compare(p.spis(), o.spis()) < 0
}

// spis returns the SPIs of both directions, the lowest first.
func (p Pair) spis() []SPI {
	var all []SPI
	for _, id := range slices.Concat(p.In, p.Out) {
		all = append(all, id.SPI)
	}
	slices.Sort(all)
	return all
}

// Book is the book of pairs: which serves whom and what replaced what. It is
// a plain value for one owner; it does no I/O and holds no keys.
type Book struct {
	pairs map[PairID]Pair
}

// NewBook returns an empty book.
func NewBook() *Book { return &Book{pairs: map[PairID]Pair{}} }

// Put enters p or replaces the entry of the same ID.
func (b *Book) Put(p Pair) { b.pairs[p.ID] = p }

// Remove takes a pair out and returns it.
func (b *Book) Remove(id PairID) (Pair, bool) {
	p, ok := b.pairs[id]
	delete(b.pairs, id)
	return p, ok
}

// Get returns the pair of that ID.
func (b *Book) Get(id PairID) (Pair, bool) {
	p, ok := b.pairs[id]
	return p, ok
}

// Len returns the number of pairs.
func (b *Book) Len() int { return len(b.pairs) }

// All returns the pairs, oldest first; equal times by ID.
func (b *Book) All() []Pair {
	all := make([]Pair, 0, len(b.pairs))
	for _, p := range b.pairs {
		all = append(all, p)
	}
	sort.Slice(all, func(i, j int) bool {
		if !all[i].Since.Equal(all[j].Since) {
			return all[i].Since.Before(all[j].Since)
		}
		return all[i].ID < all[j].ID
	})
	return all
}

// Serving returns the newest pair of a filter with a peer.
func (b *Book) Serving(f FilterID, remote netip.Addr) (Pair, bool) {
	var best Pair
	for _, p := range b.All() {
		if p.Filter == f && p.Remote == remote {
			best = p
		}
	}
	return best, best.ID != 0
}

// ByInbound returns the pair that an inbound association belongs to.
func (b *Book) ByInbound(id SAID) (Pair, bool) {
	for _, p := range b.pairs {
		for _, in := range p.In {
			if in == id {
				return p, true
			}
		}
	}
	return Pair{}, false
}

// BySA returns the pair that an association of either direction belongs to.
func (b *Book) BySA(id SAID) (Pair, bool) {
	for _, p := range b.pairs {
		if slices.Contains(p.In, id) || slices.Contains(p.Out, id) {
			return p, true
		}
	}
	return Pair{}, false
}

// ReplacedBy returns the pair that replaced id, if it is in the book.
func (b *Book) ReplacedBy(id PairID) (Pair, bool) {
	for _, p := range b.pairs {
		if p.Replaces == id {
			return p, true
		}
	}
	return Pair{}, false
}
