package esp

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"sync"

	"ipsecagent/sadb"
)

// transform is the algorithms of one association with its keys. Its methods
// may run in several goroutines at once: what a packet needs beside the keys
// comes from a pool.
type transform struct {
	ivLen, icvLen int
	align         int // payload and trailer are padded to a multiple of it
	ahLen         int // AH: length of the header we write; ESP: 0

	aead  cipher.AEAD  // combined mode, else nil
	salt  [4]byte      // of the nonce (RFC 4106 §4)
	block cipher.Block // CBC, else nil
	mac   func() hash.Hash
	esn   bool
	work  sync.Pool // of *scratch
}

// scratch is what the work on one packet needs besides the packet.
type scratch struct {
	aad      [12]byte // SPI and sequence number (RFC 4106 §5, RFC 4303 §2.2.1)
	nonce    [12]byte
	iv       [16]byte
	mac      hash.Hash
	icv      []byte
	enc, dec cbcMode
	head     []byte // AH: the IP header as it is authenticated
}

// cbcMode is what crypto/cipher's CBC modes are: it lets one object serve many
// packets.
type cbcMode interface {
	cipher.BlockMode
	SetIV([]byte)
}

func newTransform(sa sadb.SA) (*transform, error) {
	if err := check(sa); err != nil {
		return nil, err
	}
	t := &transform{align: 4, icvLen: sa.Suite.Integrity.ICVLen(), esn: sa.ESN}
	if err := t.setCipher(sa.Suite.Encryption, sa.EncKey.Bytes()); err != nil {
		return nil, err
	}
	if sa.ID.Proto == sadb.AH {
		t.ahLen = ahLen(t.icvLen, sa.ID.Dst.Is6())
	}
	if h := hashOf(sa.Suite.Integrity); h != nil {
		key := append([]byte(nil), sa.AuthKey.Bytes()...)
		t.mac = func() hash.Hash { return hmac.New(h, key) }
	}
	t.work.New = func() any { return t.newScratch() }
	return t, nil
}

// check refuses what this package cannot carry.
func check(sa sadb.SA) error {
	s := sa.Suite
	switch {
	case s.Proto != sa.ID.Proto:
		return fmt.Errorf("suite %s is not one of %s", s, sa.ID.Proto)
	case !s.Valid():
		return fmt.Errorf("suite %s does not exist", s)
	case sa.ID.SPI < 256:
		return fmt.Errorf("SPI %s is reserved", sa.ID.SPI)
	case !sa.Src.IsValid() || sa.Src.Is4() != sa.ID.Dst.Is4() || sa.Src.Zone()+sa.ID.Dst.Zone() != "":
		return fmt.Errorf("addresses %s and %s are not a pair of one family", sa.Src, sa.ID.Dst)
	case sa.EncKey.Len() != s.EncKeyLen():
		return fmt.Errorf("encryption key of %s has %d bytes, not %d", s, sa.EncKey.Len(), s.EncKeyLen())
	case sa.AuthKey.Len() != s.Integrity.KeyLen():
		return fmt.Errorf("integrity key of %s has %d bytes, not %d", s, sa.AuthKey.Len(), s.Integrity.KeyLen())
	}
	return checkEncap(sa)
}

// checkEncap refuses UDP endpoints that are not those of the association.
func checkEncap(sa sadb.SA) error {
	local, remote := sa.Encap.Local, sa.Encap.Remote
	switch {
	case sa.Encap.IsZero():
		return nil
	case sa.ID.Proto == sadb.AH:
		return errors.New("AH does not pass a NAT: it is not carried in UDP")
	case local.Port() == 0 || remote.Port() == 0:
		return fmt.Errorf("UDP encapsulation from %s to %s: a port is missing", local, remote)
	case remote.Addr().Zone() != "" || remote.Addr().BitLen() != sa.ID.Dst.BitLen():
		return fmt.Errorf("UDP encapsulation to %s: not of the family of %s", remote, sa.ID.Dst)
	}
	return nil
}

func (t *transform) setCipher(e sadb.Encryption, key []byte) (err error) {
	switch e {
	case sadb.Null, sadb.EncNone: // none: AH
		return nil
	case sadb.AESGCM:
		return t.setGCM(key)
	case sadb.AESCBC:
		t.block, err = aes.NewCipher(key)
	case sadb.TripleDES:
		t.block, err = des.NewTripleDESCipher(key)
	case sadb.DES:
		t.block, err = des.NewCipher(key)
	default:
		err = fmt.Errorf("encryption %s is not carried here", e)
	}
	if err != nil {
		return err
	}
	t.ivLen, t.align = t.block.BlockSize(), t.block.BlockSize()
	return nil
}

// setGCM takes the AES key and the 4-byte salt behind it (RFC 4106 §8.1).
func (t *transform) setGCM(key []byte) error {
	n := len(key) - len(t.salt)
	b, err := aes.NewCipher(key[:n])
	if err != nil {
		return err
	}
	copy(t.salt[:], key[n:])
	t.ivLen, t.icvLen = 8, 16
	t.aead, err = cipher.NewGCM(b)
	return err
}

func hashOf(i sadb.Integrity) func() hash.Hash {
	switch i {
	case sadb.HMACMD5:
		return md5.New
	case sadb.HMACSHA1:
		return sha1.New
	case sadb.HMACSHA256:
		return sha256.New
	case sadb.HMACSHA384:
		return sha512.New384
	case sadb.HMACSHA512:
		return sha512.New
	}
	return nil
}

func (t *transform) newScratch() *scratch {
	s := new(scratch)
	copy(s.nonce[:], t.salt[:])
	if t.mac != nil {
		s.mac = t.mac()
		s.icv = make([]byte, 0, s.mac.Size())
	}
	if t.ahLen > 0 {
		s.head = make([]byte, maxAuthenticated)
	}
	if t.block != nil {
		iv := make([]byte, t.ivLen)
		s.enc = cipher.NewCBCEncrypter(t.block, iv).(cbcMode)
		s.dec = cipher.NewCBCDecrypter(t.block, iv).(cbcMode)
	}
	return s
}

// associated returns what a combined mode authenticates besides the payload.
func (t *transform) associated(s *scratch, p []byte, seq uint64) []byte {
	n := copy(s.aad[:], p[:4])
	if t.esn {
		binary.BigEndian.PutUint64(s.aad[n:], seq)
		return s.aad[:12]
	}
	binary.BigEndian.PutUint32(s.aad[n:], uint32(seq))
	return s.aad[:8]
}

// seal encrypts and authenticates p, from the ESP header to the end of the
// trailer with the IV in its place, and appends the ICV: p has room for it.
func (t *transform) seal(p []byte, seq uint64) {
	s := t.work.Get().(*scratch)
	body := headerLen + t.ivLen
	switch {
	case t.aead != nil:
		copy(s.nonce[4:], p[headerLen:body])
		t.aead.Seal(p[body:body], s.nonce[:], p[body:], t.associated(s, p, seq))
	case t.block != nil:
		s.enc.SetIV(p[headerLen:body])
		s.enc.CryptBlocks(p[body:], p[body:])
		fallthrough
	default:
		copy(p[len(p):len(p)+t.icvLen], t.tag(s, p, seq))
	}
	t.work.Put(s)
}

// open verifies p, from the ESP header to the end of the ICV, and only then
// decrypts it in place. It returns payload and trailer.
func (t *transform) open(p []byte, seq uint64) ([]byte, error) {
	s := t.work.Get().(*scratch)
	defer t.work.Put(s)
	body, end := headerLen+t.ivLen, len(p)-t.icvLen
	if t.aead != nil {
		copy(s.nonce[4:], p[headerLen:body])
		plain, err := t.aead.Open(p[body:body], s.nonce[:], p[body:], t.associated(s, p, seq))
		if err != nil {
			return nil, ErrICV
		}
		return plain, nil
	}
	if !hmac.Equal(t.tag(s, p[:end], seq), p[end:]) {
		return nil, ErrICV
	}
	if t.block != nil {
		s.dec.SetIV(p[headerLen:body])
		s.dec.CryptBlocks(p[body:end], p[body:end])
	}
	return p[body:end], nil
}

// tag computes the truncated HMAC of p, with the high half of an extended
// sequence number behind it.
func (t *transform) tag(s *scratch, p []byte, seq uint64) []byte {
	s.mac.Reset()
	s.mac.Write(p)
	if t.esn {
		binary.BigEndian.PutUint32(s.aad[:], uint32(seq>>32))
		s.mac.Write(s.aad[:4])
	}
	return s.mac.Sum(s.icv)[:t.icvLen]
}

// fits reports whether a protected part of n bytes, ESP header to ICV, can
// hold a trailer and is whole cipher blocks.
func (t *transform) fits(n int) bool {
	n -= headerLen + t.ivLen + t.icvLen
	return n >= trailerLen && (t.block == nil || n%t.align == 0)
}

// padding returns how many pad bytes follow a payload of n bytes.
func (t *transform) padding(n int) int {
	return (t.align - (n+trailerLen)%t.align) % t.align
}
