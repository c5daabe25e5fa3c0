// Package psk authenticates IKE peers by preshared keys: it reads the keys,
// chooses the one for a peer and checks the peer's proof.
//
// It does not derive IKE's keys and does not decide whether the proven
// principal is welcome. A key shared by several hosts cannot tell them apart:
// what is proven is the name of the group of keys, never the identity that a
// peer claims.
package psk

import (
	"crypto/hmac"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"ipsecagent/auth"
)

// Authenticator is the method "preshared key" (RFC 2409 §5.4). Sessions keep
// the keyring they started with.
type Authenticator struct {
	ring atomic.Pointer[Keyring]
}

// New returns an authenticator with the keys of ring. Nil: none.
func New(ring *Keyring) *Authenticator {
	a := &Authenticator{}
	a.Replace(ring)
	return a
}

// Replace puts ring in the place of the keys so far.
func (a *Authenticator) Replace(ring *Keyring) {
	if ring == nil {
		ring = &Keyring{}
	}
	a.ring.Store(ring)
}

// Has reports whether there is a key of that name; "": any.
func (a *Authenticator) Has(name string) bool { return a.ring.Load().Has(name) }

// Method returns auth.PSK.
func (a *Authenticator) Method() auth.Method { return auth.PSK }

// Start chooses the key for the peer. That there is none is an *auth.Error
// naming the peer and the files that were read.
func (a *Authenticator) Start(r auth.Request) (auth.Session, error) {
	if r.Requirement.Method != auth.PSK {
		return nil, fmt.Errorf("auth/psk: %v is not this package's method", r.Requirement.Method)
	}
	g, err := a.ring.Load().find(r.Remote, r.Requirement.Key)
	if err != nil {
		return nil, err
	}
	keys := g.keys
	if r.Initiator && r.Attempt > 0 {
		first := r.Attempt % len(keys)
		keys = append(slices.Clone(keys[first:]), keys[:first]...)
	}
	return &session{local: r.Local, remote: r.Remote, group: g, keys: keys}, nil
}

// session is one authentication with the keys of one group.
type session struct {
	local, remote netip.Addr
	group         *group
	keys          []key // the group's, which never change
}

// Identification types (RFC 2407 §4.6.2.1).
const (
	idIPv4 = 1
	idIPv6 = 5
)

// Local claims this host's address, as Windows does.
func (s *session) Local() auth.Claim {
	addr := s.local.Unmap()
	c := auth.Claim{IDType: idIPv6, ID: addr.AsSlice()}
	if addr.Is4() {
		c.IDType = idIPv4
	}
	return c
}

// Remote refuses a malformed claim only. Behind a NAT a peer claims an address
// of its own network, and whoever holds the key could claim any.
func (s *session) Remote(c auth.Claim) error {
	if c.IDType == idIPv4 && len(c.ID) != 4 || c.IDType == idIPv6 && len(c.ID) != 16 {
		return &auth.Error{Reason: fmt.Sprintf("identity of peer %s has type %d and %d bytes", s.remote, c.IDType, len(c.ID))}
	}
	return nil
}

// Seeds returns the keys: as initiator the one to try first in front.
func (s *session) Seeds() [][]byte {
	var all [][]byte
	for _, k := range s.keys {
		all = append(all, k())
	}
	return all
}

// Token has nothing to send; a token from the peer is an error.
func (s *session) Token(in []byte) ([]byte, error) {
	if len(in) > 0 {
		return nil, &auth.Error{Reason: fmt.Sprintf("peer %s sent a GSS token to an authentication by preshared key", s.remote)}
	}
	return nil, nil
}

// Prove returns the hash itself: who can compute it has the key.
func (s *session) Prove(hash func(extra []byte) []byte) ([]byte, error) {
	return hash(nil), nil
}

// Check compares in constant time.
func (s *session) Check(hash func(extra []byte) []byte, proof []byte) (auth.Principal, error) {
	want := hash(nil)
	if len(want) == 0 || !hmac.Equal(want, proof) {
		return "", &auth.Error{Reason: "preshared key does not match",
			Err: fmt.Errorf("key %q of %s is not the key of peer %s; give both ends the same one", s.group.name, s.group.file, s.remote)}
	}
	return auth.Principal("psk:" + s.group.name), nil
}

// Trusted: who has the key is trusted.
func (s *session) Trusted() bool { return true }

// errNoKeys tells that no key was ever read.
var errNoKeys = errors.New("no preshared keys have been read; put a document of kind PresharedKeys into the secrets directory and reload")
