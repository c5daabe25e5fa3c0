//go:build pkcs11

package cert

import (
	"crypto"

	"github.com/ThalesGroup/crypto11"
)

// openToken logs in to a token and returns the keys meant. The session stays
// open: its keys sign as long as the program runs.
func openToken(t tokenKey) ([]crypto.Signer, error) {
	pin, err := t.pin()
	if err != nil {
		return nil, err
	}
	ctx, err := crypto11.Configure(&crypto11.Config{Path: t.module, TokenLabel: t.token, Pin: pin})
	if err != nil {
		return nil, err
	}
	var found []crypto11.Signer
	if t.object == "" && t.id == "" {
		found, err = ctx.FindAllKeyPairs()
	} else {
		found, err = ctx.FindKeyPairs(bytesOf(t.id), bytesOf(t.object))
	}
	if err != nil {
		ctx.Close()
		return nil, err
	}
	var signers []crypto.Signer
	for _, s := range found {
		signers = append(signers, s)
	}
	return signers, nil
}

// bytesOf returns nil for what is not asked for.
func bytesOf(s string) []byte {
	if s == "" {
		return nil
	}
	return []byte(s)
}
