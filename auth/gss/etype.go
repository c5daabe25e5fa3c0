package gss

import (
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"slices"

	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/types"
)

// Encryption types (RFC 3961 §8; RFC 3962, 8009, 4757).
const (
	AES128SHA1   int32 = 17
	AES256SHA1   int32 = 18
	AES128SHA256 int32 = 19
	AES256SHA384 int32 = 20
	RC4          int32 = 23
)

// Etypes returns the encryption types, the best first; RC4 only when asked for.
func Etypes(rc4 bool) []int32 {
	all := []int32{AES256SHA384, AES128SHA256, AES256SHA1, AES128SHA1}
	if rc4 {
		all = append(all, RC4)
	}
	return all
}

// EtypeName returns the name that krb5.conf and ktutil use.
func EtypeName(e int32) string {
	switch e {
	case AES128SHA1:
		return "aes128-cts-hmac-sha1-96"
	case AES256SHA1:
		return "aes256-cts-hmac-sha1-96"
	case AES128SHA256:
		return "aes128-cts-hmac-sha256-128"
	case AES256SHA384:
		return "aes256-cts-hmac-sha384-192"
	case RC4:
		return "arcfour-hmac"
	}
	return fmt.Sprintf("encryption type %d", e)
}

// keyLength returns the octets of a key. The library's own answer for AES-256
// with SHA-384 is 24; RFC 8009 §5 has 32.
func keyLength(e int32) int {
	switch e {
	case AES128SHA1, AES128SHA256, RC4:
		return 16
	case AES256SHA1, AES256SHA384:
		return 32
	}
	return 0
}

// overhead is what encryption adds at least: confounder and checksum.
func overhead(e int32) int {
	switch e {
	case AES128SHA1, AES256SHA1:
		return 16 + 12
	case AES128SHA256:
		return 16 + 16
	case AES256SHA384:
		return 16 + 24
	case RC4:
		return 8 + 16
	}
	return 0
}

// Key is a Kerberos key that cannot print itself: its octets stand behind a
// function, which fmt shows as an address. The zero value is no key.
type Key struct {
	etype int32
	value func() []byte
}

// NewKey copies the octets. They must fit the encryption type.
func NewKey(etype int32, b []byte) (Key, error) {
	if keyLength(etype) == 0 {
		return Key{}, fmt.Errorf("%w: %s", ErrEtype, EtypeName(etype))
	}
	if len(b) != keyLength(etype) {
		return Key{}, fmt.Errorf("%w: a key of %d bytes for %s", ErrMalformed, len(b), EtypeName(etype))
	}
	c := slices.Clone(b)
	return Key{etype, func() []byte { return c }}, nil
}

// generate makes a fresh key.
func generate(etype int32) (Key, error) {
	b := make([]byte, keyLength(etype))
	if _, err := rand.Read(b); err != nil {
		return Key{}, err
	}
	return NewKey(etype, b)
}

// Etype returns the encryption type; 0 for no key.
func (k Key) Etype() int32 { return k.etype }

// IsZero reports whether this is no key.
func (k Key) IsZero() bool { return k.value == nil }

// Equal compares in constant time.
func (k Key) Equal(l Key) bool {
	if k.IsZero() || l.IsZero() {
		return k.IsZero() && l.IsZero()
	}
	return k.etype == l.etype && subtle.ConstantTimeCompare(k.value(), l.value()) == 1
}

// wire returns the key as the messages carry it. The result prints itself: it
// must not be kept or logged.
func (k Key) wire() types.EncryptionKey {
	if k.IsZero() {
		return types.EncryptionKey{}
	}
	return types.EncryptionKey{KeyType: k.etype, KeyValue: k.value()}
}

// allowed refuses encryption types that are unknown or, for RC4, not allowed.
func allowed(etype int32, rc4 bool) error {
	if !slices.Contains(Etypes(rc4), etype) {
		return fmt.Errorf("%w: %s", ErrEtype, EtypeName(etype))
	}
	return nil
}

// Encrypt seals b under the key for one use (RFC 4120 §7.5.1).
func (k Key) Encrypt(b []byte, usage uint32) (out []byte, err error) {
	defer guard(&err)
	et, err := crypto.GetEtype(k.etype)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrEtype, EtypeName(k.etype))
	}
	_, out, err = et.EncryptMessage(k.value(), b, usage)
	return out, err
}

// Decrypt opens what Encrypt sealed.
func (k Key) Decrypt(b []byte, usage uint32) (out []byte, err error) {
	defer guard(&err)
	et, err := crypto.GetEtype(k.etype)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrEtype, EtypeName(k.etype))
	}
	if len(b) < overhead(k.etype) {
		return nil, fmt.Errorf("%w: %d encrypted bytes", ErrMalformed, len(b))
	}
	// The library may write into what it decrypts.
	out, err = et.DecryptMessage(k.value(), slices.Clone(b), usage)
	if err != nil {
		return nil, ErrIntegrity
	}
	return out, nil
}

// Checksum returns the keyed checksum of b for one use.
func (k Key) Checksum(b []byte, usage uint32) (sum []byte, err error) {
	defer guard(&err)
	et, err := crypto.GetEtype(k.etype)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrEtype, EtypeName(k.etype))
	}
	return et.GetChecksumHash(k.value(), b, usage)
}

// ChecksumType returns the checksum type that goes with the key (RFC 3961 §4).
func (k Key) ChecksumType() int32 {
	et, err := crypto.GetEtype(k.etype)
	if err != nil {
		return 0
	}
	return et.GetHashID()
}
