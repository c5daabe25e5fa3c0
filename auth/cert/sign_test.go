package cert

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"testing"

	"ipsecagent/auth"
)

// block is the RSA block of type 1 over a hash, as RFC 2409 §5.1 has it.
func block(size int, hash []byte) []byte {
	b := bytes.Repeat([]byte{0xff}, size)
	b[0], b[1], b[size-len(hash)-1] = 0, 1, 0
	copy(b[size-len(hash):], hash)
	return b
}

func TestForgedRSASignatures(t *testing.T) {
	key := newKey(t, auth.RSA).(*rsa.PrivateKey)
	hash := hashOf("I")(nil)
	// raw signs any block, as only the owner of the key can.
	raw := func(b []byte) []byte {
		return new(big.Int).Exp(new(big.Int).SetBytes(b), key.D, key.N).FillBytes(make([]byte, key.Size()))
	}
	good := raw(block(key.Size(), hash))
	if err := verifyProof(&key.PublicKey, hash, good); err != nil {
		t.Fatalf("the construction of the test is wrong: %v", err)
	}
	edit := func(change func(b []byte)) []byte {
		b := block(key.Size(), hash)
		change(b)
		return raw(b)
	}
	early := append(block(key.Size()-8, hash), "12345678"...)
	withInfo := block(key.Size(), append([]byte{0x30, 0x31, 0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 0x20}, hash...))
	for name, proof := range map[string][]byte{
		"empty": nil, "zero": make([]byte, key.Size()), "one": append(make([]byte, key.Size()-1), 1),
		"the modulus":            key.N.Bytes(),
		"the signature and n":    new(big.Int).Add(new(big.Int).SetBytes(good), key.N).Bytes(),
		"short":                  good[:len(good)-1],
		"long":                   append(bytes.Clone(good), 0),
		"zero in front":          append([]byte{0}, good...),
		"garbage behind":         raw(early),
		"with DigestInfo":        raw(withInfo),
		"block type 2":           edit(func(b []byte) { b[1] = 2 }),
		"padding not all ones":   edit(func(b []byte) { b[9] = 0xfe }),
		"hash cut":               raw(block(key.Size(), hash[:len(hash)-1])),
		"hash with zero":         raw(block(key.Size(), append([]byte{0}, hash...))),
		"another hash":           raw(block(key.Size(), hashOf("R")(nil))),
		"the block, not signed":  block(key.Size(), hash),
		"SHA-1 hash of the same": raw(block(key.Size(), hash[:20])),
	} {
		if err := verifyProof(&key.PublicKey, hash, proof); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, n := range []int{0, 1, 15} {
		if verifyProof(&key.PublicKey, hash[:n], raw(block(key.Size(), hash[:n]))) == nil {
			t.Errorf("a hash of %d bytes is accepted", n)
		}
	}
}

// Under the exponent 3 whoever may choose the end of the block needs no key:
// a cube root does.
func TestCubeRootForgery(t *testing.T) {
	key := &rsa.PublicKey{N: newKey(t, auth.RSA).(*rsa.PrivateKey).N, E: 3}
	hash := hashOf("I")(nil)
	short := append([]byte{0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0}, hash...)
	target := new(big.Int).SetBytes(append(short, bytes.Repeat([]byte{0xff}, key.Size()-len(short))...))
	root := cubeRoot(target)
	proof := root.FillBytes(make([]byte, key.Size()))
	cube := new(big.Int).Exp(root, big.NewInt(3), key.N).FillBytes(make([]byte, key.Size()))
	if !bytes.Equal(cube[:len(short)], short) {
		t.Fatal("the forgery of the test does not begin like a block")
	}
	if verifyProof(key, hash, proof) == nil {
		t.Error("accepted")
	}
}

// cubeRoot returns the largest integer whose cube is not above n.
func cubeRoot(n *big.Int) *big.Int {
	low, high := big.NewInt(0), new(big.Int).Lsh(big.NewInt(1), uint(n.BitLen()/3+1))
	for low.Cmp(high) < 0 {
		mid := new(big.Int).Add(low, high)
		mid.Add(mid, big.NewInt(1)).Rsh(mid, 1)
		if new(big.Int).Exp(mid, big.NewInt(3), nil).Cmp(n) > 0 {
			high = mid.Sub(mid, big.NewInt(1))
		} else {
			low = mid
		}
	}
	return low
}

func TestKeysNobodyShouldTrust(t *testing.T) {
	n := newKey(t, auth.RSA).(*rsa.PrivateKey).N
	for name, k := range map[string]*rsa.PublicKey{
		"e = 0": {N: n, E: 0}, "e = 1": {N: n, E: 1}, "e = 2": {N: n, E: 2}, "e even": {N: n, E: 65536}, "e negative": {N: n, E: -3},
		"even":  {N: new(big.Int).Sub(n, big.NewInt(1)), E: 65537},
		"short": {N: new(big.Int).Rsh(n, 1), E: 65537},
		"huge":  {N: new(big.Int).Lsh(n, mostRSA), E: 65537},
		"zero":  {N: new(big.Int), E: 65537},
	} {
		if checkKey(k, defaultRSA) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := checkKey(&rsa.PublicKey{N: n, E: 3}, defaultRSA); err != nil {
		t.Errorf("e = 3: %v", err)
	}
}

func TestForgedECDSASignatures(t *testing.T) {
	for _, m := range []auth.Method{auth.ECDSA256, auth.ECDSA384, auth.ECDSA521} {
		key := newKey(t, m).(*ecdsa.PrivateKey)
		size := (key.Params().BitSize + 7) / 8
		hash := hashOf("I")(nil)
		sign, got, err := newSigner(key)
		if err != nil || got != m {
			t.Fatalf("method %d, %v", got, err)
		}
		good, err := sign(rand.Reader, hash)
		if err != nil || len(good) != 2*size {
			t.Fatalf("a signature of %d bytes, %v", len(good), err)
		}
		if err := verifyProof(&key.PublicKey, hash, good); err != nil {
			t.Fatal(err)
		}
		zero := make([]byte, size)
		order := key.Params().N.FillBytes(make([]byte, size))
		der, err := key.Sign(rand.Reader, hash, crypto.Hash(0))
		if err != nil {
			t.Fatal(err)
		}
		for name, proof := range map[string][]byte{
			"empty": nil, "zero": make([]byte, 2*size), "r = 0": append(bytes.Clone(zero), good[size:]...), "s = 0": append(bytes.Clone(good[:size]), zero...),
			"r = n": append(bytes.Clone(order), good[size:]...), "s = n": append(bytes.Clone(good[:size]), order...),
			"short": good[:len(good)-1], "long": append(bytes.Clone(good), 0), "turned": append(bytes.Clone(good[size:]), good[:size]...), "ASN.1": der,
		} {
			if verifyProof(&key.PublicKey, hash, proof) == nil {
				t.Errorf("%d: %s: accepted", m, name)
			}
		}
	}
}

// A signature over a hash that is longer than the order of the curve is over
// its leftmost bits (RFC 4754 §3, FIPS 186).
func TestECDSASignsTheHashItself(t *testing.T) {
	key := newKey(t, auth.ECDSA256).(*ecdsa.PrivateKey)
	long := append(hashOf("I")(nil), hashOf("R")(nil)...)
	for _, hash := range [][]byte{hashOf("I")(nil), long, hashOf("short")(nil)[:20]} {
		sign, _, err := newSigner(key)
		if err != nil {
			t.Fatal(err)
		}
		proof, err := sign(rand.Reader, hash)
		if err != nil {
			t.Fatal(err)
		}
		digest := hash[:min(len(hash), 32)]
		r, s := new(big.Int).SetBytes(proof[:32]), new(big.Int).SetBytes(proof[32:])
		if !ecdsa.Verify(&key.PublicKey, digest, r, s) {
			t.Errorf("a hash of %d bytes is not signed as it is", len(hash))
		}
	}
}

func TestCurvesWithoutMethod(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := newSigner(key); err == nil {
		t.Error("P-224 signs")
	}
}
