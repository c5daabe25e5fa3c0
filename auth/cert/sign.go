package cert

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"

	"ipsecagent/auth"
)

// signer makes the proof over a HASH_I or HASH_R. It is a function so that no
// key can be printed: fmt shows an address.
type signer func(random io.Reader, hash []byte) ([]byte, error)

// minHash is the length of the shortest output of an IKEv1 prf (MD5).
const minHash = 16

// methodOf returns the method that a public key signs for; 0: none.
func methodOf(key crypto.PublicKey) auth.Method {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return auth.RSA
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return auth.ECDSA256
		case elliptic.P384():
			return auth.ECDSA384
		case elliptic.P521():
			return auth.ECDSA521
		}
	}
	return 0
}

// newSigner returns the signer of a private key and the method it serves.
func newSigner(key crypto.Signer) (signer, auth.Method, error) {
	method := methodOf(key.Public())
	switch pub := key.Public().(type) {
	case *rsa.PublicKey:
		// Hash 0: RFC 2409 §5.1 signs HASH_x itself, without DigestInfo.
		return func(random io.Reader, hash []byte) ([]byte, error) {
			return key.Sign(random, hash, crypto.Hash(0))
		}, method, nil
	case *ecdsa.PublicKey:
		if method == 0 {
			return nil, 0, fmt.Errorf("no method signs with curve %s; take P-256, P-384 or P-521", pub.Params().Name)
		}
		size := (pub.Params().BitSize + 7) / 8
		return func(random io.Reader, hash []byte) ([]byte, error) {
			der, err := key.Sign(random, hash, crypto.Hash(0))
			if err != nil {
				return nil, err
			}
			return fixedWidth(der, size)
		}, method, nil
	}
	return nil, 0, fmt.Errorf("no method signs with keys of type %T; take RSA or ECDSA", key.Public())
}

// fixedWidth turns an ASN.1 signature into r and s of size bytes each (RFC
// 4754 §7).
func fixedWidth(der []byte, size int) ([]byte, error) {
	var sig struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &sig); err != nil || len(rest) > 0 {
		return nil, errors.New("the key made no ECDSA signature")
	}
	if sig.R.Sign() <= 0 || sig.S.Sign() <= 0 || sig.R.BitLen() > 8*size || sig.S.BitLen() > 8*size {
		return nil, errors.New("the key made an ECDSA signature out of range")
	}
	out := make([]byte, 2*size)
	sig.R.FillBytes(out[:size])
	sig.S.FillBytes(out[size:])
	return out, nil
}

var errSignature = errors.New("the signature does not verify")

// verifyProof checks a proof over hash by the key of a certificate.
func verifyProof(key crypto.PublicKey, hash, proof []byte) error {
	if len(hash) < minHash {
		return fmt.Errorf("a hash of %d bytes", len(hash))
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		// The whole block is built anew and compared: a lax reader of the
		// padding accepts forgeries under small exponents.
		return rsa.VerifyPKCS1v15(k, crypto.Hash(0), hash, proof)
	case *ecdsa.PublicKey:
		return verifyECDSA(k, hash, proof)
	}
	return fmt.Errorf("a key of type %T", key)
}

// verifyECDSA checks r and s of fixed width. The hash itself is the digest,
// cut to the curve's order if it is longer (RFC 4754 §7 over HASH_I, HASH_R).
func verifyECDSA(k *ecdsa.PublicKey, hash, proof []byte) error {
	size := (k.Params().BitSize + 7) / 8
	if len(proof) != 2*size {
		return fmt.Errorf("a signature of %d bytes where the curve has %d", len(proof), 2*size)
	}
	r, s := new(big.Int).SetBytes(proof[:size]), new(big.Int).SetBytes(proof[size:])
	if r.Sign() == 0 || s.Sign() == 0 {
		return errSignature
	}
	der, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
	if err != nil {
		return err
	}
	if !ecdsa.VerifyASN1(k, hash, der) { // refuses r, s >= the order
		return errSignature
	}
	return nil
}

// Bounds of RSA keys in bits. Windows 2000 had authorities of 1024.
const (
	leastRSA   = 1024
	defaultRSA = 2048
	mostRSA    = 8192
	// mostPeerRSA bounds the key that a peer signs with: it is computed with
	// before anybody vouches for it.
	mostPeerRSA = 4096
)

// quickKey reports whether a stranger may have us compute with a key.
func quickKey(key crypto.PublicKey) bool {
	k, ok := key.(*rsa.PublicKey)
	return !ok || k.N.BitLen() <= mostPeerRSA
}

// checkKey refuses keys that nobody should trust, before anything is computed
// with them. least is the shortest RSA modulus allowed.
func checkKey(key crypto.PublicKey, least int) error {
	k, ok := key.(*rsa.PublicKey)
	if !ok {
		return nil
	}
	switch bits := k.N.BitLen(); {
	case bits > mostRSA:
		return fmt.Errorf("an RSA key of %d bits, more than %d", bits, mostRSA)
	case bits < least:
		return fmt.Errorf("an RSA key of %d bits, less than %d", bits, least)
	case k.N.Bit(0) == 0:
		return errors.New("an RSA key with an even modulus")
	case k.E < 3 || k.E%2 == 0:
		return fmt.Errorf("an RSA key with the exponent %d", k.E)
	}
	return nil
}
