package cert

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"strings"

	"software.sslmate.com/src/go-pkcs12"
)

// readPKCS12 reads a certificate with its key and chain.
func readPKCS12(path string, data []byte) (*content, error) {
	password, err := passwordOf(path)
	if err != nil {
		return nil, err
	}
	return parsePKCS12(data, password)
}

// passwordOf returns the password of a file; "" if there is none.
func passwordOf(path string) (string, error) {
	line, err := firstLine(path + ".password")
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return line, err
}

// firstLine returns the first line of a file with a password, which nobody but
// its owner may read.
func firstLine(path string) (string, error) {
	data, mode, err := readOwned(path, 1024)
	defer clear(data)
	if err != nil {
		return "", fmt.Errorf("the password file %s: %w", path, err)
	}
	if mode&0o077 != 0 {
		return "", fmt.Errorf("the mode %04o of the password file lets others than its owner read it; run: chmod 600 %s", mode, path)
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSuffix(line, "\r"), nil
}

func parsePKCS12(data []byte, password string) (_ *content, err error) {
	// The file is this host's own, but a damaged one must not end the agent.
	defer func() {
		if recover() != nil {
			err = errors.New("a PKCS#12 file that makes the reader fail")
		}
	}()
	if err := checkRounds(data, 0); err != nil {
		return nil, err
	}
	private, leaf, chain, err := pkcs12.DecodeChain(data, password)
	if errors.Is(err, pkcs12.ErrIncorrectPassword) {
		return nil, errors.New("its password is wrong; write it into the first line of a file of the same name with .password behind it, mode 0600")
	}
	if err != nil {
		return nil, fmt.Errorf("a PKCS#12 file that cannot be read (is it one private key with its certificate?): %w", err)
	}
	c := &content{certs: append([]*x509.Certificate{leaf}, chain...)}
	return c, c.addPrivate(private)
}

// Bounds of what a PKCS#12 file makes its reader do.
const (
	maxRounds = 2_000_000 // of deriving a key from a password
	maxNested = 32
)

// checkRounds refuses a file that names so many rounds that reading it would
// not end: in all forms of key derivation their number stands right behind the
// salt. It looks into OCTET STRINGs, which hold the inner structures.
func checkRounds(der []byte, depth int) error {
	if depth > maxNested {
		return errors.New("a PKCS#12 file that is nested too deep")
	}
	salt := false
	for len(der) > 0 {
		var v asn1.RawValue
		rest, err := asn1.Unmarshal(der, &v)
		if err != nil {
			return nil // the reader itself says what is wrong
		}
		universal := v.Class == asn1.ClassUniversal
		if universal && v.Tag == asn1.TagInteger && salt && new(big.Int).SetBytes(v.Bytes).Cmp(big.NewInt(maxRounds)) > 0 {
			return fmt.Errorf("a PKCS#12 file that wants more than %d rounds of its password", maxRounds)
		}
		salt = universal && v.Tag == asn1.TagOctetString
		if v.IsCompound || salt {
			if err := checkRounds(v.Bytes, depth+1); err != nil {
				return err
			}
		}
		der = rest
	}
	return nil
}
