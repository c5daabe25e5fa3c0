package cert

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
)

// Certificate encodings of a CERT payload (RFC 2408 §3.9).
const (
	encodingPKCS7 = 1
	encodingX509  = 4
)

// Bounds of what a peer may send.
const (
	maxCerts    = 8 // of a peer, unwrapped
	maxCertSize = 16 << 10
	maxWrapped  = maxCerts * maxCertSize
)

// readPeer parses the bodies of CERT payloads. Encodings other than X.509 and
// PKCS#7 are skipped; what is in these must be sound, all of it.
func readPeer(bodies [][]byte) ([]*x509.Certificate, error) {
	if len(bodies) > maxCerts {
		return nil, fmt.Errorf("%d certificate payloads, more than %d", len(bodies), maxCerts)
	}
	var certs []*x509.Certificate
	for _, body := range bodies {
		ders, err := unwrap(body)
		if err != nil {
			return nil, err
		}
		for _, der := range ders {
			c, err := parsePeer(der)
			if err != nil {
				return nil, err
			}
			certs = append(certs, c)
		}
		if len(certs) > maxCerts {
			return nil, fmt.Errorf("more than %d certificates", maxCerts)
		}
	}
	return distinct(certs), nil
}

// unwrap returns the certificates of one CERT payload.
func unwrap(body []byte) ([][]byte, error) {
	if len(body) < 2 {
		return nil, fmt.Errorf("a certificate payload of %d bytes", len(body))
	}
	switch body[0] {
	case encodingX509:
		return [][]byte{body[1:]}, nil
	case encodingPKCS7:
		if len(body) > maxWrapped {
			return nil, fmt.Errorf("a PKCS#7 wrapping of %d bytes", len(body))
		}
		return unwrapPKCS7(body[1:])
	}
	return nil, nil
}

func parsePeer(der []byte) (*x509.Certificate, error) {
	if len(der) > maxCertSize {
		return nil, fmt.Errorf("a certificate of %d bytes, more than %d", len(der), maxCertSize)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	// The bounds of computing; what is too weak is refused in the chain alone.
	if err := checkKey(c.PublicKey, 0); err != nil {
		return nil, err
	}
	return c, nil
}

func distinct(certs []*x509.Certificate) []*x509.Certificate {
	var all []*x509.Certificate
	for _, c := range certs {
		if !slices.ContainsFunc(all, c.Equal) {
			all = append(all, c)
		}
	}
	return all
}

// payloads returns the bodies of the CERT payloads for a chain, leaf first, the
// root left out (RFC 4945 §3.3.5). With wrapped, a chain that has intermediates
// goes as one PKCS#7, as Windows 2000 wants it.
func payloads(chain []*x509.Certificate, wrapped bool) [][]byte {
	send := chain
	if last := chain[len(chain)-1]; len(chain) > 1 && bytes.Equal(last.RawSubject, last.RawIssuer) {
		send = chain[:len(chain)-1]
	}
	var ders [][]byte
	for _, c := range send {
		ders = append(ders, c.Raw)
	}
	if wrapped && len(ders) > 1 {
		if der, err := wrapPKCS7(ders); err == nil {
			return [][]byte{append([]byte{encodingPKCS7}, der...)}
		}
	}
	var bodies [][]byte
	for _, der := range ders {
		bodies = append(bodies, append([]byte{encodingX509}, der...))
	}
	return bodies
}
