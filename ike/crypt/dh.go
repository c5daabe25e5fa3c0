package crypt

import (
	"crypto/ecdh"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"

	"ipsecagent/sadb"
)

// DH is one side of a Diffie-Hellman exchange: a fresh private value and its
// public one. It is used once and then forgotten.
type DH struct {
	group   sadb.Group
	private sadb.Secret      // exponent
	scalar  *ecdh.PrivateKey // of a curve
	public  []byte
}

// NewDH makes a key pair of a group. All randomness comes from rand.
func NewDH(group sadb.Group, rand io.Reader) (*DH, error) {
	d := &DH{group: group}
	var err error
	switch {
	case curveOf(group) != nil:
		err = d.generateECP(rand)
	case modpOf(group).p != nil:
		err = d.generateMODP(rand)
	default:
		err = errors.New("the group is not supported")
	}
	if err != nil {
		return nil, fmt.Errorf("ike/crypt: make a Diffie-Hellman key of %v: %w", group, err)
	}
	return d, nil
}

// Public returns the body of our key exchange payload: g^x in the length of
// the prime, for curves x | y (RFC 5903 §7). It must not be changed.
func (d *DH) Public() []byte { return d.public }

// Shared returns the secret shared with the peer's key exchange payload, in
// the length of the prime, for curves the x coordinate (RFC 5903 §9). An
// error means that the peer's value lies outside its group; nothing may be
// derived from it.
func (d *DH) Shared(peer []byte) ([]byte, error) {
	share := d.sharedMODP
	if curveOf(d.group) != nil {
		share = d.sharedECP
	}
	s, err := share(peer)
	if err != nil {
		return nil, fmt.Errorf("ike/crypt: public value of the peer in %v: %w", d.group, err)
	}
	return s, nil
}

// Zero forgets the private value. An exponent is overwritten; crypto/ecdh has no
// way to overwrite a scalar, which is gone with the next garbage collection.
func (d *DH) Zero() {
	d.private.Zero()
	d.scalar = nil
}

// PublicLen returns the length in bytes of a public value of a group; 0: the
// group is not supported.
func PublicLen(group sadb.Group) int {
	if n := coordinateLen(group); n > 0 {
		return 2 * n
	}
	if m := modpOf(group); m.p != nil {
		return m.p.BitLen() / 8
	}
	return 0
}

// generateMODP draws an exponent of about twice the group's strength in bits
// (RFC 3526 §8), which is as good as one of full length and far quicker.
//
// math/big does not run in constant time. The exponent serves one exchange,
// so what an observer of the time learns of it is of no use in the next.
func (d *DH) generateMODP(rand io.Reader) error {
	m := modpOf(d.group)
	x := make([]byte, m.exponent)
	if _, err := io.ReadFull(rand, x); err != nil {
		return fmt.Errorf("read randomness: %w", err)
	}
	defer clear(x)
	x[0] |= 0x80 // full length: never 0 or 1
	d.private = sadb.NewSecret(x)
	y := new(big.Int).Exp(big.NewInt(2), new(big.Int).SetBytes(x), m.p)
	d.public = y.FillBytes(make([]byte, PublicLen(d.group)))
	return nil
}

func (d *DH) sharedMODP(peer []byte) ([]byte, error) {
	p, n := modpOf(d.group).p, PublicLen(d.group)
	if len(peer) == 0 || len(peer) > n {
		return nil, fmt.Errorf("it has %d bytes, the group %d", len(peer), n)
	}
	y := new(big.Int).SetBytes(peer)
	one := big.NewInt(1)
	if y.Cmp(one) <= 0 || y.Cmp(new(big.Int).Sub(p, one)) >= 0 {
		return nil, errors.New("it is not between 2 and p-2")
	}
	s := new(big.Int).Exp(y, new(big.Int).SetBytes(d.private.Bytes()), p)
	return s.FillBytes(make([]byte, n)), nil
}

func curveOf(g sadb.Group) ecdh.Curve {
	switch g {
	case sadb.ECP256:
		return ecdh.P256()
	case sadb.ECP384:
		return ecdh.P384()
	case sadb.ECP521:
		return ecdh.P521()
	}
	return nil
}

// coordinateLen returns the length in bytes of a coordinate and of a scalar.
func coordinateLen(g sadb.Group) int {
	switch g {
	case sadb.ECP256:
		return 32
	case sadb.ECP384:
		return 48
	case sadb.ECP521:
		return 66
	}
	return 0
}

// scalarTries bounds the search for a scalar below the curve's order: half of
// all values of P-521 are, nearly all of the others.
const scalarTries = 128

// generateECP draws the scalar itself, since crypto/ecdh does not read from a
// reader it is given.
func (d *DH) generateECP(rand io.Reader) error {
	x := make([]byte, coordinateLen(d.group))
	defer clear(x)
	for range scalarTries {
		if _, err := io.ReadFull(rand, x); err != nil {
			return fmt.Errorf("read randomness: %w", err)
		}
		if d.group == sadb.ECP521 {
			x[0] &= 1 // 521 bits in 66 bytes
		}
		if key, err := curveOf(d.group).NewPrivateKey(x); err == nil {
			d.scalar = key
			d.public = slices.Clone(key.PublicKey().Bytes()[1:]) // without the 0x04 of an uncompressed point, and what is behind it
			return nil
		}
	}
	return errors.New("the source of randomness gives no value below the curve's order")
}

// sharedECP refuses, with crypto/ecdh, points that are not on the curve
// (RFC 6989 §2.3).
func (d *DH) sharedECP(peer []byte) ([]byte, error) {
	if len(peer) != PublicLen(d.group) {
		return nil, fmt.Errorf("it has %d bytes, the group %d", len(peer), PublicLen(d.group))
	}
	point, err := curveOf(d.group).NewPublicKey(append([]byte{4}, peer...))
	if err != nil {
		return nil, err
	}
	if d.scalar == nil {
		return nil, errors.New("the private value has been used already")
	}
	return d.scalar.ECDH(point)
}
