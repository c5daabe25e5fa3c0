package directory

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"

	"ipsecagent/auth/gss"
)

// The security layers of the mechanism GSSAPI (RFC 4752 §3.3).
const (
	layerNone = 1
	layerSeal = 4
)

// saslClient is the mechanism GSSAPI as the LDAP library drives it.
type saslClient struct {
	initiator *gss.Initiator
	gate      *gate
	tls       bool // TLS protects: no layer is wanted
	agreed    bool // on protection
}

// InitSecContext makes the next token of the context; the target is the
// ticket's.
func (c *saslClient) InitSecContext(_ string, token []byte) ([]byte, bool, error) {
	out, done, err := c.initiator.Step(token)
	return out, !done, err
}

// InitSecContextWithOptions is InitSecContext: mutual authentication is always
// asked for.
func (c *saslClient) InitSecContextWithOptions(target string, token []byte, _ []int) ([]byte, bool, error) {
	return c.InitSecContext(target, token)
}

// NegotiateSaslAuth chooses the layer from what the server offers, and begins
// it.
func (c *saslClient) NegotiateSaslAuth(token []byte, _ string) ([]byte, error) {
	context := c.initiator.Context()
	if context == nil {
		return nil, errors.New("the server offers protection before it has proven itself")
	}
	offer, _, err := context.Unwrap(token)
	if err != nil {
		return nil, err
	}
	if len(offer) != 4 {
		return nil, fmt.Errorf("%w: an offer of protection of %d bytes", errBER, len(offer))
	}
	size := int(binary.BigEndian.Uint32(append([]byte{0}, offer[1:]...)))
	choice := byte(layerSeal)
	if c.tls {
		choice = layerNone
	}
	if offer[0]&choice == 0 {
		return nil, fmt.Errorf("the server offers no protection that will do: layers %03b, needed %03b", offer[0], choice)
	}
	answer := []byte{choice, 0, 0, 0}
	if c.tls {
		c.agreed = true
		return context.Wrap(answer, false)
	}
	if size <= 2*frameRoom {
		return nil, fmt.Errorf("the server takes frames of %d bytes only", size)
	}
	binary.BigEndian.PutUint32(answer, layerSeal<<24|maxFrame)
	out, err := context.Wrap(answer, false)
	if err != nil {
		return nil, err
	}
	c.gate.layer.Store(&layer{conn: c.gate.Conn, max: size, context: context})
	c.agreed = true
	return out, nil
}

// DeleteSecContext does nothing: the context lives as long as the connection.
func (c *saslClient) DeleteSecContext() error { return nil }

// bindings returns what ties a bind to its TLS connection: the server's
// certificate (RFC 5929 §4).
func bindings(state tls.ConnectionState) [16]byte {
	leaf := state.PeerCertificates[0]
	h := endPointHash(leaf.SignatureAlgorithm).New()
	h.Write(leaf.Raw)
	return gss.Bindings(h.Sum([]byte("tls-server-end-point:")))
}

// endPointHash is the hash of the certificate's signature, SHA-256 at least
// (RFC 5929 §4.1).
func endPointHash(a x509.SignatureAlgorithm) crypto.Hash {
	switch a {
	case x509.SHA384WithRSA, x509.ECDSAWithSHA384, x509.SHA384WithRSAPSS:
		return crypto.SHA384
	case x509.SHA512WithRSA, x509.ECDSAWithSHA512, x509.SHA512WithRSAPSS:
		return crypto.SHA512
	}
	return crypto.SHA256
}
