package crypt

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"errors"
	"fmt"

	"ipsecagent/sadb"
)

// blockCipher is a cipher of ISAKMP: the lengths in bytes and how to key it.
type blockCipher struct {
	keyLen, block int
	open          func(key []byte) (cipher.Block, error)
}

func cipherOf(s sadb.ISAKMPSuite) (blockCipher, error) {
	aesBits := s.KeyBits == 128 || s.KeyBits == 192 || s.KeyBits == 256
	switch {
	case s.Encryption == sadb.AESCBC && aesBits:
		return blockCipher{s.KeyBits / 8, aes.BlockSize, aes.NewCipher}, nil
	case s.Encryption == sadb.TripleDES && s.KeyBits == 0:
		return blockCipher{24, des.BlockSize, des.NewTripleDESCipher}, nil
	case s.Encryption == sadb.DES && s.KeyBits == 0:
		return blockCipher{8, des.BlockSize, des.NewCipher}, nil
	}
	return blockCipher{}, fmt.Errorf("ike/crypt: no ISAKMP cipher %v with a key of %d bits", s.Encryption, s.KeyBits)
}

// errLength tells of a message that no CBC cipher can have made.
var errLength = errors.New("ike/crypt: length is zero or no multiple of the cipher's block, or the IV is not one block")

// BlockLen returns the cipher's block length in bytes, to which messages are
// padded.
func (k *Keys) BlockLen() int {
	c, _ := cipherOf(k.suite) // Check has accepted the suite
	return c.block
}

// IV returns the IV of the first encrypted message of phase 1: the start of
// hash(g^xi | g^xr) (RFC 2409 App. B).
func (k *Keys) IV() []byte {
	return Hash(k.suite.Hash, k.kei, k.ker)[:k.BlockLen()]
}

// ExchangeIV returns the IV of the first message of an exchange under this SA:
// the start of hash(last | M-ID), last being the last ciphertext block of
// phase 1.
func (k *Keys) ExchangeIV(last []byte, msgid uint32) []byte {
	return Hash(k.suite.Hash, last, be32(msgid))[:k.BlockLen()]
}

// Pad returns a copy of plain with zero bytes up to a whole number of blocks
// (RFC 2409 App. B).
func (k *Keys) Pad(plain []byte) []byte {
	n := k.BlockLen()
	out := make([]byte, (len(plain)+n-1)/n*n)
	copy(out, plain)
	return out
}

// Encrypt returns the ciphertext of plain, which must be padded, and the IV
// of the exchange's next message. Both inputs stay as they are.
func (k *Keys) Encrypt(iv, plain []byte) (ciphertext, next []byte, err error) {
	b, err := k.open(iv, plain)
	if err != nil {
		return nil, nil, err
	}
	out := make([]byte, len(plain))
	cipher.NewCBCEncrypter(b, iv).CryptBlocks(out, plain)
	return out, lastBlock(out, b), nil
}

// Decrypt returns the plaintext with its padding, and the IV of the
// exchange's next message. That IV must not be kept before the plaintext has
// been authenticated.
func (k *Keys) Decrypt(iv, ciphertext []byte) (plain, next []byte, err error) {
	b, err := k.open(iv, ciphertext)
	if err != nil {
		return nil, nil, err
	}
	out := make([]byte, len(ciphertext))
	cipher.NewCBCDecrypter(b, iv).CryptBlocks(out, ciphertext)
	return out, lastBlock(ciphertext, b), nil
}

// open keys the cipher once the lengths are such that CBC cannot panic.
func (k *Keys) open(iv, data []byte) (cipher.Block, error) {
	c, err := cipherOf(k.suite)
	if err != nil {
		return nil, err
	}
	if len(iv) != c.block || len(data) == 0 || len(data)%c.block != 0 {
		return nil, errLength
	}
	return c.open(k.Ka().Bytes())
}

func lastBlock(ciphertext []byte, b cipher.Block) []byte {
	return append([]byte(nil), ciphertext[len(ciphertext)-b.BlockSize():]...)
}

// weakDES reports whether key is one of the 16 weak and semi-weak keys of DES
// (RFC 2409 App. A). The parity bit of each byte takes no part in DES and does
// not count here.
func weakDES(key []byte) bool {
	for _, w := range []uint64{
		0x0101010101010101, 0x1f1f1f1f0e0e0e0e, 0xe0e0e0e0f1f1f1f1, 0xfefefefefefefefe,
		0x01fe01fe01fe01fe, 0x1fe01fe00ef10ef1, 0x01e001e001f101f1, 0x1ffe1ffe0efe0efe,
		0x011f011f010e010e, 0xe0fee0fef1fef1fe, 0xfe01fe01fe01fe01, 0xe01fe01ff10ef10e,
		0xe001e001f101f101, 0xfe1ffe1ffe0efe0e, 0x1f011f010e010e01, 0xfee0fee0fef1fef1,
	} {
		if sameDES(key, w) {
			return true
		}
	}
	return false
}

func sameDES(key []byte, w uint64) bool {
	for i, b := range key {
		if (b^byte(w>>(56-8*i)))&0xfe != 0 {
			return false
		}
	}
	return true
}
