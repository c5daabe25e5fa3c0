package crypt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"ipsecagent/sadb"
)

// Exchange is what both sides of a phase 1 put in, as octets on the wire. The
// keys made of it keep KEi and KEr, which must not be changed.
type Exchange struct {
	Suite            sadb.ISAKMPSuite
	ICookie, RCookie [8]byte
	Ni, Nr           []byte // bodies of the nonce payloads
	KEi, KEr         []byte // bodies of the key exchange payloads
	Shared           []byte // g^xy, as DH.Shared returns it
	// AuthHash is the hash of the prf that makes HASH_I and HASH_R, where the
	// authentication method has one of its own; else HashNone.
	AuthHash sadb.Hash
}

// Keys is the key material of one ISAKMP SA (RFC 2409 §5) and what its hashes
// are computed over. It holds no g^xy. There may be thousands of them, of
// exchanges that come to nothing, so all keys are in one piece.
type Keys struct {
	material sadb.Secret // SKEYID_d, SKEYID_a, Ka; until phase 1 has ended SKEYID, SKEYID_e
	keyLen   int         // of Ka, in bytes; the others have the length of the hash

	suite            sadb.ISAKMPSuite
	authHash         sadb.Hash
	icookie, rcookie [8]byte
	kei, ker         []byte
}

// D returns SKEYID_d: keys of phase 2 come from it.
func (k *Keys) D() sadb.Secret { return k.part(0, 0) }

// A returns SKEYID_a: it authenticates messages.
func (k *Keys) A() sadb.Secret { return k.part(1, 0) }

// Ka returns the cipher key made from SKEYID_e (RFC 2409 App. B).
func (k *Keys) Ka() sadb.Secret {
	n := HashLen(k.suite.Hash)
	return k.material.Part(2*n, 2*n+k.keyLen)
}

// ID returns SKEYID; nothing once phase 1 has ended.
func (k *Keys) ID() sadb.Secret { return k.part(2, k.keyLen) }

// E returns SKEYID_e; nothing once phase 1 has ended.
func (k *Keys) E() sadb.Secret { return k.part(3, k.keyLen) }

// part returns the nth key of the hash's length, which has so many more bytes
// before it.
func (k *Keys) part(n, more int) sadb.Secret {
	size := HashLen(k.suite.Hash)
	return k.material.Part(more+n*size, more+(n+1)*size)
}

// PSK derives the keys of an SA authenticated by a preshared key:
// SKEYID = prf(psk, Ni_b | Nr_b). An empty key is an error: it would
// authenticate everybody.
func (x Exchange) PSK(key []byte) (*Keys, error) {
	if len(key) == 0 {
		return nil, errors.New("ike/crypt: derive keys: empty preshared key")
	}
	return x.derive(PRF(x.Suite.Hash, key, x.Ni, x.Nr))
}

// Signature derives the keys of an SA authenticated by signatures or by
// GSSAPI: SKEYID = prf(Ni_b | Nr_b, g^xy). Such keys alone authenticate
// nobody.
func (x Exchange) Signature() (*Keys, error) {
	nonces := append(append([]byte(nil), x.Ni...), x.Nr...)
	return x.derive(PRF(x.Suite.Hash, nonces, x.Shared))
}

func (x Exchange) derive(skeyid []byte) (*Keys, error) {
	if err := Check(x.Suite); err != nil {
		return nil, err
	}
	if len(x.Ni) == 0 || len(x.Nr) == 0 || len(x.Shared) == 0 {
		return nil, errors.New("ike/crypt: derive keys: a nonce or g^xy is missing")
	}
	step := func(before []byte, n byte) []byte {
		return PRF(x.Suite.Hash, skeyid, before, x.Shared, x.ICookie[:], x.RCookie[:], []byte{n})
	}
	d := step(nil, 0)
	a := step(d, 1)
	e := step(a, 2)
	ka, err := cipherKey(x.Suite, e)
	if err != nil {
		return nil, err
	}
	if x.AuthHash == sadb.HashNone {
		x.AuthHash = x.Suite.Hash
	}
	material := slices.Concat(d, a, ka, skeyid, e)
	defer clear(material)
	return &Keys{material: sadb.NewSecret(material), keyLen: len(ka),
		suite: x.Suite, authHash: x.AuthHash, icookie: x.ICookie, rcookie: x.RCookie, kei: x.KEi, ker: x.KEr,
	}, nil
}

// Zero overwrites all keys. Nothing can be computed with them afterwards.
func (k *Keys) Zero() { k.material.Zero() }

// EndPhase1 forgets what only phase 1 needs, SKEYID and SKEYID_e with it: IV,
// HashI and HashR are not to be asked any more.
func (k *Keys) EndPhase1() {
	all := k.material
	k.material = sadb.NewSecret(all.Part(0, 2*HashLen(k.suite.Hash)+k.keyLen).Bytes())
	all.Zero()
	k.kei, k.ker = nil, nil
}

// cipherKey makes the cipher's key from SKEYID_e: its first bytes, or the
// expansion of RFC 2409 App. B where it is too short.
func cipherKey(s sadb.ISAKMPSuite, e []byte) ([]byte, error) {
	c, err := cipherOf(s)
	if err != nil {
		return nil, err
	}
	if s.Encryption == sadb.DES {
		return desKey(e)
	}
	if len(e) >= c.keyLen {
		return e[:c.keyLen], nil
	}
	var key []byte
	for k := []byte{0}; len(key) < c.keyLen; key = append(key, k...) {
		k = PRF(s.Hash, e, k)
	}
	return key[:c.keyLen], nil
}

// desKey returns the first eight bytes of SKEYID_e that are no weak or
// semi-weak key of DES (RFC 2409 App. B).
func desKey(e []byte) ([]byte, error) {
	for ; len(e) >= 8; e = e[8:] {
		if !weakDES(e[:8]) {
			return e[:8], nil
		}
	}
	return nil, errors.New("ike/crypt: derive keys: SKEYID_e gives only weak DES keys; negotiate again")
}

// HashI returns HASH_I (RFC 2409 §5): sa is the body of the initiator's SA
// payload as it was sent, id the body of its identification payload, extra
// what an authentication method adds (GSSAPI: name and tokens).
func (k *Keys) HashI(sa, id, extra []byte) []byte {
	return PRF(k.authHash, k.ID().Bytes(), k.kei, k.ker, k.icookie[:], k.rcookie[:], sa, id, extra)
}

// HashR returns HASH_R. sa is the initiator's SA payload here too, id the
// responder's identification.
func (k *Keys) HashR(sa, id, extra []byte) []byte {
	return PRF(k.authHash, k.ID().Bytes(), k.ker, k.kei, k.rcookie[:], k.icookie[:], sa, id, extra)
}

// Hash1 returns HASH(1) of quick mode and of the informational exchange
// (RFC 2409 §5.5, §5.7): payloads is all that follows the hash payload, with
// its generic headers and without padding.
func (k *Keys) Hash1(msgid uint32, payloads []byte) []byte {
	return PRF(k.suite.Hash, k.A().Bytes(), be32(msgid), payloads)
}

// Hash2 returns HASH(2) of quick mode; ni is the body of the initiator's
// nonce payload.
func (k *Keys) Hash2(msgid uint32, ni, payloads []byte) []byte {
	return PRF(k.suite.Hash, k.A().Bytes(), be32(msgid), ni, payloads)
}

// HashDelete returns the hash of the answer to a delete that is acknowledged
// (MS-IKEE): ni is the body of the nonce payload of that delete. The order is
// not that of quick mode.
func (k *Keys) HashDelete(msgid uint32, ni, payloads []byte) []byte {
	return PRF(k.suite.Hash, k.A().Bytes(), ni, be32(msgid), payloads)
}

// Hash3 returns HASH(3) of quick mode.
func (k *Keys) Hash3(msgid uint32, ni, nr []byte) []byte {
	return PRF(k.suite.Hash, k.A().Bytes(), []byte{0}, be32(msgid), ni, nr)
}

// Quick is what both sides of a quick mode put into the keys of one
// association.
type Quick struct {
	Ni, Nr []byte // bodies of the nonce payloads
	Shared []byte // g(qm)^xy; nil without PFS
	SPI    sadb.SPI
	Suite  sadb.Suite
}

// Keymat returns the encryption and the integrity key of the association q
// (RFC 2409 §5.5); each is empty where the suite has none. An AES-GCM key
// ends with its salt.
func (k *Keys) Keymat(q Quick) (enc, integ sadb.Secret, err error) {
	if !q.Suite.Valid() {
		return enc, integ, fmt.Errorf("ike/crypt: derive KEYMAT: no such suite: %v", q.Suite)
	}
	seed := append(append([]byte(nil), q.Shared...), protocolID(q.Suite.Proto))
	seed = append(append(append(seed, be32(uint32(q.SPI))...), q.Ni...), q.Nr...)
	defer clear(seed)
	encLen, integLen := q.Suite.EncKeyLen(), q.Suite.Integrity.KeyLen()
	mat := expand(k.suite.Hash, k.D().Bytes(), seed, encLen+integLen)
	defer clear(mat)
	return sadb.NewSecret(mat[:encLen]), sadb.NewSecret(mat[encLen:]), nil
}

// expand returns n bytes of K1 | K2 | …, K1 = prf(key, seed),
// Kn = prf(key, Kn-1 | seed).
func expand(h sadb.Hash, key, seed []byte, n int) []byte {
	var out, k []byte
	for len(out) < n {
		k = PRF(h, key, k, seed)
		out = append(out, k...)
	}
	return out[:n]
}

// protocolID returns the protocol's number in the DOI (RFC 2407 §4.4.1),
// which is not that of IP.
func protocolID(p sadb.Proto) byte {
	if p == sadb.AH {
		return 2
	}
	return 3
}

func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
