package crypt

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"ipsecagent/sadb"
)

func groups() []sadb.Group {
	return []sadb.Group{sadb.MODP768, sadb.MODP1024, sadb.MODP2048, sadb.MODP3072, sadb.MODP4096, sadb.ECP256, sadb.ECP384, sadb.ECP521}
}

// random is a source of bytes that is the same for the same seed.
func random(seed byte) io.Reader { return rand.NewChaCha8([32]byte{seed}) }

func newDH(t *testing.T, g sadb.Group, seed byte) *DH {
	t.Helper()
	d, err := NewDH(g, random(seed))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestPrimes(t *testing.T) {
	var want map[string]struct {
		Bits            int
		Prime           octets
		SHA256_of_prime octets
	}
	readJSON(t, "modp-groups.json", &want)
	for _, g := range []sadb.Group{sadb.MODP768, sadb.MODP1024, sadb.MODP2048, sadb.MODP3072, sadb.MODP4096} {
		p, w := modpOf(g).p, want[fmt.Sprint(uint16(g))]
		equal(t, g.String(), p.Bytes(), w.Prime)
		sum := sha256.Sum256(p.Bytes())
		equal(t, g.String()+" SHA-256", sum[:], w.SHA256_of_prime)
		if p.BitLen() != w.Bits || !p.ProbablyPrime(1) || !new(big.Int).Rsh(p, 1).ProbablyPrime(1) {
			t.Errorf("%v is no safe prime of %d bits", g, w.Bits)
		}
	}
}

func TestBothSidesShare(t *testing.T) {
	for _, g := range groups() {
		a, b := newDH(t, g, 1), newDH(t, g, 2)
		s1, err1 := a.Shared(b.Public())
		s2, err2 := b.Shared(a.Public())
		if err1 != nil || err2 != nil || !bytes.Equal(s1, s2) {
			t.Errorf("%v: %v, %v, equal %v", g, err1, err2, bytes.Equal(s1, s2))
		}
		if bytes.Equal(a.Public(), b.Public()) {
			t.Errorf("%v: two sources of randomness give one key", g)
		}
		wantShared := PublicLen(g)
		if curveOf(g) != nil {
			wantShared /= 2
		}
		if len(a.Public()) != PublicLen(g) || len(s1) != wantShared {
			t.Errorf("%v: %d bytes of public value, %d shared", g, len(a.Public()), len(s1))
		}
	}
}

func TestSameRandomnessSameKey(t *testing.T) {
	for _, g := range groups() {
		if !bytes.Equal(newDH(t, g, 1).Public(), newDH(t, g, 1).Public()) {
			t.Errorf("%v does not depend on its source of randomness alone", g)
		}
	}
}

func TestRFC5903(t *testing.T) {
	var vectors map[string]struct{ I, GIX, GIY, R, GRX, GRY, GIRX octets }
	readJSON(t, "rfc5903.json", &vectors)
	for _, g := range []sadb.Group{sadb.ECP256, sadb.ECP384, sadb.ECP521} {
		v, ok := vectors[fmt.Sprintf("rfc5903-group%d", uint16(g))]
		if !ok {
			t.Fatalf("no vector of %v", g)
		}
		i, err := NewDH(g, bytes.NewReader(v.I))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "g^i", i.Public(), slices.Concat(v.GIX, v.GIY))
		shared, err := i.Shared(slices.Concat(v.GRX, v.GRY))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "g^ir", shared, v.GIRX)
	}
}

// A transcript's g^xy cannot be computed again without its exponents; what
// can be checked by hand is 2^x mod p with a known x.
func TestMODPByHand(t *testing.T) {
	for _, g := range []sadb.Group{sadb.MODP768, sadb.MODP1024, sadb.MODP2048, sadb.MODP3072, sadb.MODP4096} {
		m := modpOf(g)
		x := bytes.Repeat([]byte{0x81}, m.exponent)
		d, err := NewDH(g, bytes.NewReader(x))
		if err != nil {
			t.Fatal(err)
		}
		want := big.NewInt(1) // square and multiply, bit by bit
		for _, b := range x {
			for bit := 7; bit >= 0; bit-- {
				want.Mul(want, want)
				if b>>bit&1 == 1 {
					want.Lsh(want, 1)
				}
				want.Mod(want, m.p)
			}
		}
		equal(t, g.String(), d.Public(), want.FillBytes(make([]byte, PublicLen(g))))
	}
}

func TestShortPublicValueIsPaddedAndSecretToo(t *testing.T) {
	d := newDH(t, sadb.MODP768, 1)
	short, err := d.Shared([]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	long, err := d.Shared(append(make([]byte, 95), 2))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "shared with a short value", short, long)
	equal(t, "2^x", short, d.Public())
	// Some seed gives a secret with a leading zero; its length stays.
	for seed := byte(0); ; seed++ {
		s, err := newDH(t, sadb.MODP768, seed).Shared([]byte{3})
		if err != nil || len(s) != 96 {
			t.Fatalf("%d bytes, %v", len(s), err)
		}
		if s[0] == 0 {
			return
		}
		if seed == 255 {
			t.Fatal("no secret with a leading zero was seen")
		}
	}
}

func TestPublicValuesOutsideTheGroup(t *testing.T) {
	for _, g := range []sadb.Group{sadb.MODP768, sadb.MODP2048} {
		p, n := modpOf(g).p, PublicLen(g)
		at := func(d int64) []byte { return new(big.Int).Add(p, big.NewInt(d)).FillBytes(make([]byte, n)) }
		for name, peer := range map[string][]byte{"nothing": nil, "0": make([]byte, n), "1": {1}, "p-1": at(-1), "p": at(0), "p+1": at(1),
			"too long": append([]byte{0}, at(-2)...)} {
			refused(t, g, name, peer)
		}
		if _, err := newDH(t, g, 1).Shared(at(-2)); err != nil {
			t.Errorf("%v: p-2: %v", g, err)
		}
	}
	for _, g := range []sadb.Group{sadb.ECP256, sadb.ECP384, sadb.ECP521} {
		point := newDH(t, g, 2).Public()
		off := slices.Clone(point)
		off[len(off)-1] ^= 1
		for name, peer := range map[string][]byte{"nothing": nil, "infinity": make([]byte, len(point)), "off the curve": off,
			"short": point[1:], "with the prefix of SEC 1": append([]byte{4}, point...), "x alone": point[:len(point)/2],
			"beyond the field": bytes.Repeat([]byte{0xff}, len(point))} {
			refused(t, g, name, peer)
		}
	}
}

func refused(t *testing.T, g sadb.Group, name string, peer []byte) {
	t.Helper()
	s, err := newDH(t, g, 1).Shared(peer)
	if err == nil || s != nil || !strings.Contains(err.Error(), g.String()) {
		t.Errorf("%v: %s: %x, %v", g, name, s, err)
	}
}

func TestNewDHFails(t *testing.T) {
	for _, g := range []sadb.Group{0, 5, 22, 31} {
		if _, err := NewDH(g, random(1)); err == nil || PublicLen(g) != 0 {
			t.Errorf("group %d: %v, %d bytes", g, err, PublicLen(g))
		}
	}
	for _, g := range groups() {
		if _, err := NewDH(g, bytes.NewReader([]byte{1, 2, 3})); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%v without randomness: %v", g, err)
		}
	}
	if _, err := NewDH(sadb.ECP256, zeros{}); err == nil {
		t.Error("a key was made of zeros")
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestScalarsBeyondTheOrderAreDrawnAgain(t *testing.T) {
	good := bytes.Repeat([]byte{1}, 32)
	a, err := NewDH(sadb.ECP256, bytes.NewReader(append(bytes.Repeat([]byte{0xff}, 32), good...)))
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewDH(sadb.ECP256, bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "public value", a.Public(), b.Public())
}

// keysOf derives keys for a suite from constants.
func keysOf(t *testing.T, name string) *Keys {
	t.Helper()
	k, err := constant(suite(t, name)).PSK([]byte("preshared key"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func constant(s sadb.ISAKMPSuite) Exchange {
	return Exchange{Suite: s, ICookie: [8]byte{1}, RCookie: [8]byte{2}, Ni: []byte("nonce of i"), Nr: []byte("nonce of r"),
		KEi: []byte("ke of i"), KEr: []byte("ke of r"), Shared: []byte("g^xy")}
}

// The cipher key where SKEYID_e is too short: K1 = prf(SKEYID_e, 0),
// K2 = prf(SKEYID_e, K1), … Transcripts cover 3DES with MD5; these are the
// other pairs.
func TestCipherKeyExpansion(t *testing.T) {
	for name, length := range map[string]int{"aes256-sha1-modp1024": 32, "aes192-sha1-modp1024": 24, "aes256-md5-modp1024": 32,
		"3des-sha1-modp1024": 24, "aes192-md5-modp1024": 24} {
		k := keysOf(t, name)
		h := suite(t, name).Hash
		k1 := PRF(h, k.E().Bytes(), []byte{0})
		k2 := PRF(h, k.E().Bytes(), k1)
		equal(t, name, k.Ka().Bytes(), append(k1, k2...)[:length])
	}
	for name, length := range map[string]int{"aes256-sha256-ecp256": 32, "aes128-sha1-modp1024": 16, "aes128-md5-modp1024": 16,
		"des-md5-modp768": 8, "3des-sha512-modp1024": 24, "aes256-sha384-ecp384": 32} {
		k := keysOf(t, name)
		equal(t, name, k.Ka().Bytes(), k.E().Bytes()[:length])
	}
}

// Weak keys of DES from FIPS 74, with odd parity and without.
func TestWeakDESKeys(t *testing.T) {
	good := unhex(t, "0123456789abcdef")
	for _, hex := range []string{"0101010101010101", "fefefefefefefefe", "1f1f1f1f0e0e0e0e", "e0e0e0e0f1f1f1f1", "01fe01fe01fe01fe", "fe01fe01fe01fe01",
		"1fe01fe00ef10ef1", "e01fe01ff10ef10e", "01e001e001f101f1", "e001e001f101f101", "1ffe1ffe0efe0efe", "fe1ffe1ffe0efe0e", "011f011f010e010e",
		"1f011f010e010e01", "e0fee0fef1fef1fe", "fee0fee0fef1fef1", "0000000000000000"} {
		weak := unhex(t, hex)
		key, err := desKey(slices.Concat(weak, good))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, hex, key, good)
		if _, err := desKey(slices.Concat(weak, weak)); err == nil {
			t.Errorf("%s: weak keys alone were accepted", hex)
		}
	}
	key, err := desKey(slices.Concat(good, good))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "good key", key, good)
}

func TestDeriveRefuses(t *testing.T) {
	right := suite(t, "aes128-sha1-modp1024")
	if _, err := constant(right).PSK(nil); err == nil {
		t.Error("an empty preshared key was accepted")
	}
	for name, spoil := range map[string]func(*Exchange){
		"no suite":      func(x *Exchange) { x.Suite = sadb.ISAKMPSuite{} },
		"no hash":       func(x *Exchange) { x.Suite.Hash = 0 },
		"unknown hash":  func(x *Exchange) { x.Suite.Hash = 6 },
		"no group":      func(x *Exchange) { x.Suite.Group = 0 },
		"AES-GCM":       func(x *Exchange) { x.Suite.Encryption = sadb.AESGCM },
		"AES with 40":   func(x *Exchange) { x.Suite.KeyBits = 40 },
		"DES with bits": func(x *Exchange) { x.Suite.Encryption = sadb.DES },
		"no Ni":         func(x *Exchange) { x.Ni = nil },
		"no Nr":         func(x *Exchange) { x.Nr = nil },
		"no g^xy":       func(x *Exchange) { x.Shared = nil },
	} {
		x := constant(right)
		spoil(&x)
		if k, err := x.PSK([]byte("key")); err == nil || k != nil {
			t.Errorf("%s: preshared key accepted", name)
		}
		if k, err := x.Signature(); err == nil || k != nil {
			t.Errorf("%s: signature accepted", name)
		}
	}
}

func TestCipherRefusesWhatCBCCannotTake(t *testing.T) {
	for _, name := range []string{"aes128-sha1-modp1024", "3des-sha1-modp1024", "des-sha1-modp1024"} {
		k := keysOf(t, name)
		n := k.BlockLen()
		for _, c := range []struct{ iv, data int }{{n, 0}, {n, 1}, {n, n - 1}, {n, n + 1}, {0, n}, {n - 1, n}, {n + 1, n}} {
			if _, _, err := k.Encrypt(make([]byte, c.iv), make([]byte, c.data)); err == nil {
				t.Errorf("%s: encrypted %d bytes with an IV of %d", name, c.data, c.iv)
			}
			if _, _, err := k.Decrypt(make([]byte, c.iv), make([]byte, c.data)); err == nil {
				t.Errorf("%s: decrypted %d bytes with an IV of %d", name, c.data, c.iv)
			}
		}
	}
	if _, _, err := (&Keys{}).Encrypt(nil, nil); err == nil {
		t.Error("encrypted without keys")
	}
}

func TestCipherChains(t *testing.T) {
	for _, name := range []string{"aes128-sha1-modp1024", "aes192-sha1-modp1024", "aes256-sha256-modp1024", "3des-sha1-modp1024", "des-md5-modp1024"} {
		k := keysOf(t, name)
		first, second := k.Pad([]byte("the first message")), k.Pad([]byte("the second"))
		whole, _, err := k.Encrypt(k.IV(), slices.Concat(first, second))
		if err != nil {
			t.Fatal(err)
		}
		c1, iv, err := k.Encrypt(k.IV(), first)
		if err != nil {
			t.Fatal(err)
		}
		c2, _, err := k.Encrypt(iv, second)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, name+": two messages in one chain", slices.Concat(c1, c2), whole)
		plain, next, err := k.Decrypt(k.IV(), c1)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, name+": plaintext", plain, first)
		equal(t, name+": next IV", next, iv)
	}
}

func TestPad(t *testing.T) {
	k := keysOf(t, "aes128-sha1-modp1024")
	for n, want := range map[int]int{0: 0, 1: 16, 15: 16, 16: 16, 17: 32} {
		in := bytes.Repeat([]byte{7}, n)
		out := k.Pad(in)
		if len(out) != want || !bytes.HasPrefix(out, in) || bytes.Count(out, []byte{0}) != want-n {
			t.Errorf("%d bytes padded to %x", n, out)
		}
	}
}

// KEYMAT of AH names AH, and its key differs from that of ESP.
func TestKeymat(t *testing.T) {
	k := keysOf(t, "aes128-sha1-modp1024")
	q := Quick{Ni: []byte("ni"), Nr: []byte("nr"), SPI: 0x01020304}
	for name, protocol := range map[string]byte{"ah-sha1": 2, "esp-null-sha1": 3} {
		q.Suite, _ = sadb.ParseSuite(name)
		enc, integ, err := k.Keymat(q)
		if err != nil {
			t.Fatal(err)
		}
		want := PRF(sadb.SHA1, k.D().Bytes(), []byte{protocol, 1, 2, 3, 4}, []byte("ninr"))
		if enc.Len() != 0 {
			t.Errorf("%s has an encryption key", name)
		}
		equal(t, name, integ.Bytes(), want)
	}
	q.Suite = sadb.Suite{Proto: sadb.ESP, Encryption: sadb.AESCBC, KeyBits: 128}
	if _, _, err := k.Keymat(q); err == nil {
		t.Error("ESP without integrity got a key")
	}
}

func TestHashLen(t *testing.T) {
	for h, want := range map[sadb.Hash]int{sadb.MD5: 16, sadb.SHA1: 20, sadb.SHA256: 32, sadb.SHA384: 48, sadb.SHA512: 64} {
		if got := HashLen(h); got != want || len(Hash(h)) != want || len(PRF(h, []byte("k"))) != want {
			t.Errorf("%v: %d bytes, want %d", h, got, want)
		}
	}
}

// HMAC by RFC 4231 §4.3 (test case 2) and RFC 2202 §2, §3 (test case 2), split
// over the arguments.
func TestPRF(t *testing.T) {
	for h, want := range map[sadb.Hash]string{
		sadb.MD5:    "750c783e6ab0b503eaa86e310a5db738",
		sadb.SHA1:   "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79",
		sadb.SHA256: "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
		sadb.SHA384: "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
		sadb.SHA512: "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
	} {
		equal(t, h.String(), PRF(h, []byte("Jefe"), []byte("what do ya "), nil, []byte("want for nothing?")), unhex(t, want))
	}
}

func TestZero(t *testing.T) {
	k := keysOf(t, "aes128-sha1-modp1024")
	k.Zero()
	for _, s := range []sadb.Secret{k.ID(), k.D(), k.A(), k.E(), k.Ka()} {
		if !bytes.Equal(s.Bytes(), make([]byte, s.Len())) {
			t.Error("a key is left")
		}
	}
	d := newDH(t, sadb.ECP256, 1)
	d.Zero()
	if _, err := d.Shared(newDH(t, sadb.ECP256, 2).Public()); err == nil {
		t.Error("a forgotten private value was used")
	}
}

// TestEndPhase1: SKEYID and SKEYID_e are overwritten; what phase 2 needs stays.
func TestEndPhase1(t *testing.T) {
	k := keysOf(t, "aes128-sha1-modp1024")
	id, e, before := k.ID(), k.E(), k.Hash1(1, []byte("payloads"))
	k.EndPhase1()
	for _, s := range []sadb.Secret{id, e} {
		if s.Len() == 0 || !bytes.Equal(s.Bytes(), make([]byte, s.Len())) {
			t.Error("a key of phase 1 is left")
		}
	}
	equal(t, "HASH(1)", k.Hash1(1, []byte("payloads")), before)
	if _, _, err := k.Encrypt(make([]byte, k.BlockLen()), make([]byte, k.BlockLen())); err != nil {
		t.Error(err)
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	k, d := keysOf(t, "aes128-sha1-modp1024"), newDH(t, sadb.MODP768, 1)
	var out strings.Builder
	for _, verb := range []string{"%v ", "%+v ", "%#v ", "%x ", "%s "} {
		for _, v := range []any{k, *k, d, *d} {
			fmt.Fprintf(&out, verb, v)
		}
	}
	for _, s := range []sadb.Secret{k.ID(), k.D(), k.A(), k.E(), k.Ka(), d.private} {
		if strings.Contains(out.String(), hex.EncodeToString(s.Bytes())) || strings.Contains(out.String(), strings.Trim(fmt.Sprint(s.Bytes()), "[]")) {
			t.Errorf("a key shows in %s", out.String())
		}
	}
}

// FuzzShared: whatever a peer sends as its public value, it is refused or
// gives a secret of the group's length.
func FuzzShared(f *testing.F) {
	for _, g := range []sadb.Group{sadb.MODP768, sadb.ECP256, sadb.ECP521} {
		d, err := NewDH(g, random(3))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint16(g), d.Public())
	}
	f.Fuzz(func(t *testing.T, group uint16, peer []byte) {
		d, err := NewDH(sadb.Group(group), random(1))
		if err != nil {
			return
		}
		s, err := d.Shared(peer)
		want := PublicLen(sadb.Group(group))
		if curveOf(sadb.Group(group)) != nil {
			want /= 2
		}
		if err == nil && len(s) != want {
			t.Errorf("%d bytes, want %d", len(s), want)
		}
	})
}

// FuzzDecrypt: no ciphertext and no IV makes the cipher panic, and what is
// decrypted encrypts to the same octets.
func FuzzDecrypt(f *testing.F) {
	f.Add([]byte("0123456789abcdef"), []byte("0123456789abcdef"))
	f.Add([]byte{}, []byte{})
	k, err := constant(sadb.ISAKMPSuite{Encryption: sadb.AESCBC, KeyBits: 128, Hash: sadb.SHA1, Group: sadb.MODP1024}).PSK([]byte("key"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, iv, ciphertext []byte) {
		plain, next, err := k.Decrypt(iv, ciphertext)
		if err != nil {
			return
		}
		again, same, err := k.Encrypt(iv, plain)
		if err != nil || !bytes.Equal(again, ciphertext) || !bytes.Equal(same, next) {
			t.Errorf("decrypted and encrypted again: %x, %v", again, err)
		}
	})
}
