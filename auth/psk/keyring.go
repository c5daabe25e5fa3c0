package psk

import (
	"crypto/subtle"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"ipsecagent/auth"
)

// key is a preshared key that cannot print itself: fmt shows a function's
// address, and no encoding takes one.
type key func() []byte

func newKey(b []byte) key {
	c := slices.Clone(b)
	return func() []byte { return c }
}

// group is keys with a name: the newest first, then the one it replaces.
type group struct {
	name  string
	file  string
	peers []netip.Prefix
	any   bool // every peer, after all prefixes
	keys  []key
}

// Keyring is the preshared keys of this host. It never changes once it is
// read.
type Keyring struct {
	groups   []*group
	files    []string // what was read
	warnings []string
}

// Names returns the names of the groups of keys, in the order of the files.
func (r *Keyring) Names() []string {
	var names []string
	for _, g := range r.groups {
		names = append(names, g.name)
	}
	return names
}

// Warnings returns what is allowed but weak, one sentence each, with file and
// group.
func (r *Keyring) Warnings() []string { return slices.Clone(r.warnings) }

// Has reports whether a rule that names this group of keys finds it; "" is
// found if there is any.
func (r *Keyring) Has(name string) bool {
	return slices.ContainsFunc(r.groups, func(g *group) bool { return name == "" || g.name == name })
}

// Holds reports whether the group of that name has this key.
func (r *Keyring) Holds(name string, text []byte) bool {
	return slices.ContainsFunc(r.groups, func(g *group) bool {
		return g.name == name && slices.ContainsFunc(g.keys, func(k key) bool { return subtle.ConstantTimeCompare(k(), text) == 1 })
	})
}

// merge returns the groups of both. A name defined twice is an error.
func (r *Keyring) merge(s *Keyring) (*Keyring, error) {
	for _, g := range s.groups {
		for _, have := range r.groups {
			if have.name == g.name {
				return nil, fmt.Errorf("auth/psk: key %q of %s is already defined in %s; give it another name", g.name, g.file, have.file)
			}
		}
	}
	return &Keyring{
		groups:   slices.Concat(r.groups, s.groups),
		files:    slices.Concat(r.files, s.files),
		warnings: slices.Concat(r.warnings, s.warnings),
	}, nil
}

// find returns the group whose peers match the address most narrowly; of equal
// ones the first. With a name, only the group of that name is looked at.
func (r *Keyring) find(peer netip.Addr, name string) (*group, error) {
	if !r.Has(name) {
		return nil, r.missing(peer, name)
	}
	peer = peer.Unmap().WithZone("")
	var best *group
	width := noMatch
	for _, g := range r.groups {
		if name != "" && g.name != name {
			continue
		}
		if w := g.match(peer); w > width {
			best, width = g, w
		}
	}
	if best == nil {
		return nil, r.missing(peer, name)
	}
	return best, nil
}

// What match returns beside prefix lengths.
const (
	noMatch  = -2
	matchAny = -1
)

// match returns the length of the longest prefix that holds peer.
func (g *group) match(peer netip.Addr) int {
	width := noMatch
	if g.any && peer.IsValid() {
		width = matchAny
	}
	for _, p := range g.peers {
		if p.Contains(peer) {
			width = max(width, p.Bits())
		}
	}
	return width
}

// missing says which peer has no key and where one would be written.
func (r *Keyring) missing(peer netip.Addr, name string) error {
	e := &auth.Error{Reason: fmt.Sprintf("no preshared key for peer %s", peer)}
	files := strings.Join(r.files, ", ")
	switch {
	case len(r.groups) == 0 && files == "":
		e.Err = errNoKeys
	case len(r.groups) == 0:
		e.Err = fmt.Errorf("%s holds no key; add one and reload", files)
	case !r.Has(name):
		e.Err = fmt.Errorf("the rule asks for key %q, which is not in %s (there: %s); add it and reload", name, files, strings.Join(r.Names(), ", "))
	case name != "":
		e.Err = fmt.Errorf("the peers of key %q do not hold this address; add it in %s and reload", name, files)
	default:
		e.Err = fmt.Errorf("no key's peers hold this address; add a key for it, or \"any\" to the peers of one, in %s and reload", files)
	}
	return e
}
