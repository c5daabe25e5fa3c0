package wire

import (
	"fmt"
	"slices"

	"ipsecagent/sadb"
)

// The kernel's names of algorithms. Its crypto API finds the implementation,
// loading modules as it needs them.
const (
	nameGCM  = "rfc4106(gcm(aes))"
	nameCBC  = "cbc(aes)"
	name3DES = "cbc(des3_ede)"
	nameDES  = "cbc(des)"
	nameNull = "ecb(cipher_null)"
)

const (
	sizeName = 64
	bitsGCM  = 128 // of the ICV
)

func cipherName(e sadb.Encryption) string {
	switch e {
	case sadb.AESCBC:
		return nameCBC
	case sadb.TripleDES:
		return name3DES
	case sadb.DES:
		return nameDES
	case sadb.Null:
		return nameNull
	}
	return ""
}

func integrityName(i sadb.Integrity) string {
	switch i {
	case sadb.HMACMD5:
		return "hmac(md5)"
	case sadb.HMACSHA1:
		return "hmac(sha1)"
	case sadb.HMACSHA256:
		return "hmac(sha256)"
	case sadb.HMACSHA384:
		return "hmac(sha384)"
	case sadb.HMACSHA512:
		return "hmac(sha512)"
	}
	return ""
}

// algorithms returns the attributes of the suite with its keys. The truncation
// is always said: the kernel's own of SHA-256 is 96 bits.
func (s State) algorithms() ([]byte, error) {
	if !s.Suite.Valid() || s.Suite.Proto != s.ID.Proto {
		return nil, fmt.Errorf("wire: suite %s for %s", s.Suite, s.ID.Proto)
	}
	if s.EncKey.Len() != s.Suite.EncKeyLen() || s.AuthKey.Len() != s.Suite.Integrity.KeyLen() {
		return nil, fmt.Errorf("wire: keys of %d and %d bytes for %s", s.EncKey.Len(), s.AuthKey.Len(), s.Suite)
	}
	if s.Suite.Encryption == sadb.AESGCM {
		return appendKeyed(nil, attrAlgAEAD, algorithm(nameGCM, s.EncKey, bitsGCM)), nil
	}
	b := make([]byte, 0, 2*(attrHeader+sizeName+8+attrAlign)+s.EncKey.Len()+s.AuthKey.Len())
	if name := cipherName(s.Suite.Encryption); name != "" {
		b = appendKeyed(b, attrAlgCrypt, algorithm(name, s.EncKey))
	}
	integrity := s.Suite.Integrity
	return appendKeyed(b, attrAlgAuthTrunc, algorithm(integrityName(integrity), s.AuthKey, uint32(integrity.ICVLen()*8))), nil
}

// appendKeyed appends an attribute and clears what it was made of.
func appendKeyed(b []byte, typ uint16, algorithm []byte) []byte {
	b = appendAttr(slices.Grow(b, attrHeader+len(algorithm)+attrAlign), typ, algorithm)
	clear(algorithm)
	return b
}

// algorithm returns struct xfrm_algo or, with the ICV's length in bits,
// xfrm_algo_auth and xfrm_algo_aead.
func algorithm(name string, key sadb.Secret, icv ...uint32) []byte {
	b := make([]byte, sizeName, sizeName+8+key.Len())
	copy(b, name)
	b = native.AppendUint32(b, uint32(key.Len()*8))
	for _, bits := range icv {
		b = native.AppendUint32(b, bits)
	}
	return append(b, key.Bytes()...)
}
