package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"ipsecagent/auth"
)

// caName is the authority that both ends trust.
const caName = "CN=Benchmark CA"

// pki is an authority and the certificates it has issued: one for the server,
// some for the peers.
type pki struct {
	method    auth.Method
	authority *x509.Certificate
	signer    crypto.Signer
	server    credential
	peers     []credential
}

// identities is how many certificates the peers have between them. With one for
// each, charon's initiator would search a thousand of its own for every
// handshake; with one for all, both would search a thousand IKE SAs of one
// identity. A real initiator has neither; between the two charon is fastest.
const identities = 16

// credential is a certificate with its private key, both in DER (PKCS #8).
type credential struct {
	name      string
	cert, key []byte
}

func newPKI(method auth.Method) (*pki, error) {
	p := &pki{method: method}
	if err := p.makeAuthority(); err != nil {
		return nil, err
	}
	var err error
	if p.server, err = p.issue(serverName, 2); err != nil {
		return nil, err
	}
	for n := range identities {
		c, err := p.issue(peerName(n), int64(n+3))
		if err != nil {
			return nil, err
		}
		p.peers = append(p.peers, c)
	}
	return p, nil
}

// serverName and peerName are the names in the certificates, and of the
// directories they are in.
const serverName = "server"

func peerName(n int) string { return fmt.Sprintf("peer %d", n) }

// peer is the certificate of the nth peer.
func (p *pki) peer(n int) credential { return p.peers[n%identities] }

func (p *pki) newKey() (crypto.Signer, error) {
	if p.method == auth.RSA {
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

func template(name string, serial int64) *x509.Certificate {
	return &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature}
}

func (p *pki) makeAuthority() error {
	var err error
	if p.signer, err = p.newKey(); err != nil {
		return err
	}
	t := template("Benchmark CA", 1)
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, p.signer.Public(), p.signer)
	if err != nil {
		return err
	}
	p.authority, err = x509.ParseCertificate(der)
	return err
}

func (p *pki) issue(name string, serial int64) (credential, error) {
	c := credential{name: name}
	key, err := p.newKey()
	if err != nil {
		return c, err
	}
	if c.cert, err = x509.CreateCertificate(rand.Reader, template(name, serial), p.authority, key.Public(), p.signer); err != nil {
		return c, err
	}
	c.key, err = x509.MarshalPKCS8PrivateKey(key)
	return c, err
}

// write puts the certificates below a directory as our ends want them.
func (p *pki) write(dir string) error {
	for _, c := range append([]credential{p.server}, p.peers...) {
		if err := p.writeOne(filepath.Join(dir, c.name), c); err != nil {
			return err
		}
	}
	return nil
}

func (p *pki) writeOne(dir string, c credential) error {
	for _, f := range []struct {
		path, kind string
		der        []byte
	}{
		{"ca/ca.pem", "CERTIFICATE", p.authority.Raw},
		{"own/cert.pem", "CERTIFICATE", c.cert},
		{"own/key.pem", "PRIVATE KEY", c.key},
	} {
		path := filepath.Join(dir, f.path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), 0o600); err != nil {
			return err
		}
	}
	return nil
}
