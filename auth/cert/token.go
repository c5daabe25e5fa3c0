package cert

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// tokenKey names private keys on a PKCS#11 token.
type tokenKey struct {
	module string // path of the library
	token  string // label
	object string // label of the key; "": any
	id     string // of the key, raw; "": any
	pin    func() (string, error)
}

// parseTokenURI reads a PKCS#11 URI (RFC 7512) with what is needed here:
//
//	pkcs11:token=LABEL;object=LABEL;id=%01?module-path=/…/library.so&pin-source=file:/…
//
// The PIN is in a file of its own, the first line.
func parseTokenURI(line string) (tokenKey, error) {
	var t tokenKey
	rest, ok := strings.CutPrefix(line, "pkcs11:")
	if !ok {
		return t, errors.New("it does not begin with the scheme pkcs11")
	}
	path, query, _ := strings.Cut(rest, "?")
	t.pin = func() (string, error) { return "", errors.New("no pin-source") }
	for _, part := range append(strings.Split(path, ";"), strings.Split(query, "&")...) {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		value, err := url.PathUnescape(value)
		if err != nil {
			return t, fmt.Errorf("%s: %w", name, err)
		}
		if err := t.set(name, value); err != nil {
			return t, err
		}
	}
	if !filepath.IsAbs(t.module) || t.token == "" {
		return t, errors.New("it has to name module-path, from /, and token")
	}
	return t, nil
}

// set takes one attribute. One that is not known could narrow down which key is
// meant, so it is no good to pass over it.
func (t *tokenKey) set(name, value string) error {
	switch name {
	case "module-path":
		t.module = value
	case "token":
		t.token = value
	case "object":
		t.object = value
	case "id":
		t.id = value
	case "type":
		if value != "private" {
			return fmt.Errorf("type %q instead of private", value)
		}
	case "pin-source":
		path := strings.TrimPrefix(value, "file:")
		t.pin = func() (string, error) { return firstLine(path) }
	default:
		return fmt.Errorf("the attribute %.40q is not known here", name)
	}
	return nil
}

// readToken makes keys of a file with a PKCS#11 URI.
func readToken(data []byte) (*content, error) {
	line := strings.TrimSpace(string(data))
	t, err := parseTokenURI(line)
	if err != nil {
		return nil, fmt.Errorf("a PKCS#11 URI: %w", err)
	}
	signers, err := openToken(t)
	if err != nil {
		return nil, fmt.Errorf("the PKCS#11 token %q: %w", t.token, err)
	}
	c := &content{uri: line}
	for _, s := range signers {
		if err := c.addPrivate(s); err != nil {
			return nil, err
		}
	}
	if len(c.keys) == 0 {
		return nil, fmt.Errorf("the PKCS#11 token %q has no such key", t.token)
	}
	return c, nil
}
