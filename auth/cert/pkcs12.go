package cert

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
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

// passwordOf returns the first line of the password file; "" if there is none.
func passwordOf(path string) (string, error) {
	path += ".password"
	data, mode, err := readOwned(path, 1024)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	defer clear(data)
	if err != nil {
		return "", fmt.Errorf("its password file %s: %w", path, err)
	}
	if mode&0o077 != 0 {
		return "", fmt.Errorf("the mode %04o of its password file lets others than its owner read it; run: chmod 600 %s", mode, path)
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
