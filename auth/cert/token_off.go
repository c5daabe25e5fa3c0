//go:build !pkcs11

package cert

import (
	"crypto"
	"errors"
)

// openToken is of programs built with the tag pkcs11, which takes a C compiler.
func openToken(tokenKey) ([]crypto.Signer, error) {
	return nil, errors.New("this program was built without PKCS#11; build ./cmd with CGO_ENABLED=1 and the tag pkcs11")
}
