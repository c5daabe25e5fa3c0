package sadb

import (
	"fmt"
	"strings"
)

// Encryption is an encryption algorithm of ESP or of ISAKMP, by this project's
// own number; wire and kernel numbers live where they are spoken.
type Encryption uint8

// EncNone means that no encryption is part of the suite (AH).
const (
	EncNone Encryption = iota
	Null               // ESP with integrity only (RFC 2410)
	DES                // DES-CBC (RFC 2405)
	TripleDES
	AESCBC // RFC 3602
	AESGCM // with a 16-byte ICV (RFC 4106)
)

// Integrity is an integrity algorithm with its truncation.
type Integrity uint8

// IntegrityNone is right with combined-mode ciphers only.
const (
	IntegrityNone Integrity = iota
	HMACMD5                 // -96 (RFC 2403)
	HMACSHA1                // -96 (RFC 2404)
	HMACSHA256              // -128 (RFC 4868)
	HMACSHA384              // -192
	HMACSHA512              // -256
)

// KeyLen returns the key length in bytes.
func (i Integrity) KeyLen() int {
	return [...]int{0, 16, 20, 32, 48, 64}[i]
}

// ICVLen returns the length of the truncated check value in bytes.
func (i Integrity) ICVLen() int {
	return [...]int{0, 12, 12, 16, 24, 32}[i]
}

// Suite is the algorithms of one ESP or AH association.
type Suite struct {
	Proto      Proto
	Encryption Encryption
	KeyBits    int // 128, 192 or 256 for AES, without the salt; else 0
	Integrity  Integrity
}

// The suites this project can carry, by name.
type namedSuite struct {
	name  string
	suite Suite
}

// suites yields them. They are no slice, which would be made anew each time:
// every message of quick mode asks.
func suites(yield func(namedSuite) bool) {
	for _, s := range [...]namedSuite{
		{"esp-aes256gcm", Suite{ESP, AESGCM, 256, IntegrityNone}},
		{"esp-aes192gcm", Suite{ESP, AESGCM, 192, IntegrityNone}},
		{"esp-aes128gcm", Suite{ESP, AESGCM, 128, IntegrityNone}},
		{"esp-aes256-sha512", Suite{ESP, AESCBC, 256, HMACSHA512}},
		{"esp-aes256-sha384", Suite{ESP, AESCBC, 256, HMACSHA384}},
		{"esp-aes256-sha256", Suite{ESP, AESCBC, 256, HMACSHA256}},
		{"esp-aes256-sha1", Suite{ESP, AESCBC, 256, HMACSHA1}},
		{"esp-aes192-sha256", Suite{ESP, AESCBC, 192, HMACSHA256}},
		{"esp-aes192-sha1", Suite{ESP, AESCBC, 192, HMACSHA1}},
		{"esp-aes128-sha256", Suite{ESP, AESCBC, 128, HMACSHA256}},
		{"esp-aes128-sha1", Suite{ESP, AESCBC, 128, HMACSHA1}},
		{"esp-3des-sha1", Suite{ESP, TripleDES, 0, HMACSHA1}},
		{"esp-3des-md5", Suite{ESP, TripleDES, 0, HMACMD5}},
		{"esp-des-sha1", Suite{ESP, DES, 0, HMACSHA1}},
		{"esp-des-md5", Suite{ESP, DES, 0, HMACMD5}},
		{"esp-null-sha512", Suite{ESP, Null, 0, HMACSHA512}},
		{"esp-null-sha384", Suite{ESP, Null, 0, HMACSHA384}},
		{"esp-null-sha256", Suite{ESP, Null, 0, HMACSHA256}},
		{"esp-null-sha1", Suite{ESP, Null, 0, HMACSHA1}},
		{"esp-null-md5", Suite{ESP, Null, 0, HMACMD5}},
		{"ah-sha512", Suite{AH, EncNone, 0, HMACSHA512}},
		{"ah-sha384", Suite{AH, EncNone, 0, HMACSHA384}},
		{"ah-sha256", Suite{AH, EncNone, 0, HMACSHA256}},
		{"ah-sha1", Suite{AH, EncNone, 0, HMACSHA1}},
		{"ah-md5", Suite{AH, EncNone, 0, HMACMD5}},
	} {
		if !yield(s) {
			return
		}
	}
}

// Suites returns every suite that exists, the strongest first.
func Suites() []Suite {
	var all []Suite
	for n := range suites {
		all = append(all, n.suite)
	}
	return all
}

// ParseSuite reads a name such as "esp-aes256gcm" or "ah-sha1". The error
// says which known name it resembles, or lists them.
func ParseSuite(name string) (Suite, error) {
	var names []string
	for n := range suites {
		if n.name == name {
			return n.suite, nil
		}
		if letters(n.name) == letters(name) {
			return Suite{}, fmt.Errorf("unknown suite %q; did you mean %s?", name, n.name)
		}
		names = append(names, n.name)
	}
	return Suite{}, fmt.Errorf("unknown suite %q (known: %s)", name, strings.Join(names, ", "))
}

// letters is what a suite's name consists of, however it is written.
func letters(name string) string {
	return strings.TrimPrefix(strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(name)), "esp")
}

// String returns the suite's name.
func (s Suite) String() string {
	for n := range suites {
		if n.suite == s {
			return n.name
		}
	}
	return fmt.Sprintf("%s enc %d/%d int %d", s.Proto, s.Encryption, s.KeyBits, s.Integrity)
}

// Valid reports whether s is one of the suites that exist. ESP without
// integrity is not.
func (s Suite) Valid() bool {
	for n := range suites {
		if n.suite == s {
			return true
		}
	}
	return false
}

// EncKeyLen returns the length in bytes of the encryption key, with AES-GCM
// including the 4-byte salt.
func (s Suite) EncKeyLen() int {
	switch s.Encryption {
	case DES:
		return 8
	case TripleDES:
		return 24
	case AESCBC:
		return s.KeyBits / 8
	case AESGCM:
		return s.KeyBits/8 + 4
	}
	return 0
}

// Encrypts reports whether the suite hides what it carries: the class of a
// method is encryption or integrity only.
func (s Suite) Encrypts() bool {
	return s.Encryption != EncNone && s.Encryption != Null
}

// Weak reports whether the suite uses DES, 3DES or MD5.
func (s Suite) Weak() bool {
	return s.Encryption == DES || s.Encryption == TripleDES || s.Integrity == HMACMD5
}

// Proposal is one choice of quick mode: the suites that are applied together
// (one, or AH and ESP) and how long their associations live.
type Proposal struct {
	Suites   []Suite
	Lifetime Limits // hard limits; zero: 8 h
}

// String returns the suites joined by "+".
func (p Proposal) String() string {
	var s []string
	for _, suite := range p.Suites {
		s = append(s, suite.String())
	}
	return strings.Join(s, "+")
}

// Hash is a hash function of ISAKMP, also its prf as HMAC.
type Hash uint8

// HashNone is the zero value and never valid.
const (
	HashNone Hash = iota
	MD5
	SHA1
	SHA256
	SHA384
	SHA512
)

// Group is a Diffie-Hellman group by its IANA number (RFC 2409 §6, RFC 3526,
// RFC 5903). 0: none.
type Group uint16

// The groups this project can compute.
const (
	MODP768  Group = 1
	MODP1024 Group = 2
	MODP2048 Group = 14
	MODP3072 Group = 15
	MODP4096 Group = 16
	ECP256   Group = 19
	ECP384   Group = 20
	ECP521   Group = 21
)

func groupNames() map[Group]string {
	return map[Group]string{MODP768: "modp768", MODP1024: "modp1024", MODP2048: "modp2048",
		MODP3072: "modp3072", MODP4096: "modp4096", ECP256: "ecp256", ECP384: "ecp384", ECP521: "ecp521"}
}

// String returns the group's name, "none" for 0.
func (g Group) String() string {
	if g == 0 {
		return "none"
	}
	if n, ok := groupNames()[g]; ok {
		return n
	}
	return fmt.Sprintf("group %d", uint16(g))
}

// ParseGroup reads a name such as "ecp256" or "modp2048".
func ParseGroup(name string) (Group, error) {
	for g, n := range groupNames() {
		if n == name {
			return g, nil
		}
	}
	return 0, fmt.Errorf("unknown Diffie-Hellman group %q (known: modp768, modp1024, modp2048, modp3072, modp4096, ecp256, ecp384, ecp521)", name)
}

// ISAKMPSuite is the algorithms of one main-mode transform.
type ISAKMPSuite struct {
	Encryption Encryption // DES, TripleDES or AESCBC
	KeyBits    int        // 128, 192 or 256 for AESCBC; else 0
	Hash       Hash
	Group      Group
}

// ParseISAKMPSuite reads "aes256-sha256-ecp256": cipher, hash, group.
func ParseISAKMPSuite(name string) (ISAKMPSuite, error) {
	parts := strings.Split(name, "-")
	if len(parts) != 3 {
		return ISAKMPSuite{}, fmt.Errorf("main-mode method %q is not CIPHER-HASH-GROUP, for example aes256-sha256-ecp256", name)
	}
	var s ISAKMPSuite
	switch parts[0] {
	case "des":
		s.Encryption = DES
	case "3des":
		s.Encryption = TripleDES
	case "aes128", "aes192", "aes256":
		s.Encryption = AESCBC
		fmt.Sscanf(parts[0], "aes%d", &s.KeyBits)
	default:
		return ISAKMPSuite{}, fmt.Errorf("unknown main-mode cipher %q (known: aes256, aes192, aes128, 3des, des)", parts[0])
	}
	for h, n := range hashNames() {
		if n == parts[1] {
			s.Hash = h
		}
	}
	if s.Hash == HashNone {
		return ISAKMPSuite{}, fmt.Errorf("unknown main-mode hash %q (known: sha512, sha384, sha256, sha1, md5)", parts[1])
	}
	g, err := ParseGroup(parts[2])
	if err != nil {
		return ISAKMPSuite{}, err
	}
	s.Group = g
	return s, nil
}

func hashNames() map[Hash]string {
	return map[Hash]string{MD5: "md5", SHA1: "sha1", SHA256: "sha256", SHA384: "sha384", SHA512: "sha512"}
}

// String returns the hash's name.
func (h Hash) String() string {
	if n, ok := hashNames()[h]; ok {
		return n
	}
	return fmt.Sprintf("hash %d", uint8(h))
}

// String returns "des", "3des", "aes", "aesgcm", "null" or "none".
func (e Encryption) String() string {
	switch e {
	case EncNone:
		return "none"
	case Null:
		return "null"
	case DES:
		return "des"
	case TripleDES:
		return "3des"
	case AESCBC:
		return "aes"
	case AESGCM:
		return "aesgcm"
	}
	return fmt.Sprintf("encryption %d", uint8(e))
}

// String returns "aes256-sha256-ecp256".
func (s ISAKMPSuite) String() string {
	enc := s.Encryption.String()
	if s.KeyBits != 0 {
		enc = fmt.Sprintf("%s%d", enc, s.KeyBits)
	}
	return enc + "-" + s.Hash.String() + "-" + s.Group.String()
}

// Weak reports whether the suite uses DES, 3DES, MD5 or a group below 2048 bits.
func (s ISAKMPSuite) Weak() bool {
	return s.Encryption == DES || s.Encryption == TripleDES || s.Hash == MD5 || s.Group == MODP768 || s.Group == MODP1024
}
