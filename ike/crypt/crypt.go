// Package crypt is the cryptography of IKEv1: the prf, the key derivation of
// RFC 2409 §5 and §5.5, the Diffie-Hellman groups and the CBC ciphers with
// their IV chaining.
//
// It computes what it is told over the octets it is given. It parses no
// message, keeps no state of an exchange and decides about no peer; which
// suite may be used is the caller's decision.
package crypt

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"

	"ipsecagent/sadb"
)

// Check reports, as an error that names it, the algorithm of a suite that this
// package cannot compute. A suite is checked once, when it is negotiated.
func Check(s sadb.ISAKMPSuite) error {
	if s.Hash < sadb.MD5 || s.Hash > sadb.SHA512 {
		return fmt.Errorf("ike/crypt: no prf for %v", s.Hash)
	}
	if _, err := cipherOf(s); err != nil {
		return err
	}
	if PublicLen(s.Group) == 0 {
		return fmt.Errorf("ike/crypt: no Diffie-Hellman %v", s.Group)
	}
	return nil
}

// hashOf returns the constructor of h. A hash that Check refuses gives SHA-512
// and no panic: nothing agrees with it, and it is no weaker than any other.
func hashOf(h sadb.Hash) func() hash.Hash {
	switch h {
	case sadb.MD5:
		return md5.New
	case sadb.SHA1:
		return sha1.New
	case sadb.SHA256:
		return sha256.New
	case sadb.SHA384:
		return sha512.New384
	}
	return sha512.New
}

// Hash returns the negotiated hash over the concatenation of data, as NAT
// detection (RFC 3947 §3.2) and the first IV use it.
func Hash(h sadb.Hash, data ...[]byte) []byte {
	return sum(hashOf(h)(), data)
}

// PRF returns prf(key, data…): HMAC of the negotiated hash (RFC 2409 §4) over
// the concatenation of data.
func PRF(h sadb.Hash, key []byte, data ...[]byte) []byte {
	return sum(hmac.New(hashOf(h), key), data)
}

func sum(w hash.Hash, data [][]byte) []byte {
	for _, d := range data {
		w.Write(d) // never fails (package hash)
	}
	return w.Sum(nil)
}

// HashLen returns the length in bytes of the hash's and the prf's output.
func HashLen(h sadb.Hash) int { return hashOf(h)().Size() }
