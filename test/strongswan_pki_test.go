package test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// identity is what one end proves itself with: a preshared key, or a
// certificate and its key.
type identity struct {
	key          string // preshared
	caName       string // of the authority, as a policy writes it
	ca, own, pkc []byte // PEM: the authority's certificate, ours, our key
}

// identities has a pair of certificates for each kind of key.
type identities map[string][2]identity

// pair returns our identity and the peer's for a method of authentication.
func (ids identities) pair(t *testing.T, auth string) (ours, theirs identity) {
	if auth == "psk" {
		both := identity{key: aKey(t.Name())}
		return both, both
	}
	return ids[auth][0], ids[auth][1]
}

// newIdentities makes an authority for each kind of key and two hosts under it.
func newIdentities(t *testing.T) identities {
	t.Helper()
	ids := identities{}
	for auth, generate := range map[string]func() (crypto.Signer, error){
		"rsa":      func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) },
		"ecdsa256": func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) },
		"ecdsa384": func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) },
		"ecdsa521": func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P521(), rand.Reader) },
	} {
		ids[auth] = newAuthority(t, generate)
	}
	return ids
}

// newAuthority makes an authority and the two identities it has certified.
func newAuthority(t *testing.T, generate func() (crypto.Signer, error)) (pair [2]identity) {
	t.Helper()
	caKey, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	ca := template(1, "Peers Root CA")
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	root := certify(t, ca, ca, caKey, caKey)
	parent, err := x509.ParseCertificate(root)
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"us", "peer"} {
		key, err := generate()
		if err != nil {
			t.Fatal(err)
		}
		leaf := template(int64(i)+2, name)
		leaf.KeyUsage, leaf.DNSNames = x509.KeyUsageDigitalSignature, []string{name + ".example"}
		leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		pair[i] = identity{caName: "CN=Peers Root CA,O=Peers", ca: pemBlock("CERTIFICATE", root),
			own: pemBlock("CERTIFICATE", certify(t, leaf, parent, key, caKey)), pkc: pemBlock("PRIVATE KEY", private)}
	}
	return pair
}

func template(serial int64, name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{Organization: []string{"Peers"}, CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(90 * 24 * time.Hour),
	}
}

func certify(t *testing.T, c, parent *x509.Certificate, key, signer crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// writeStrongSwan puts the identity where swanctl loads it from.
func (i identity) writeStrongSwan(h *host) {
	h.write("swanctl/x509ca/ca.pem", string(i.ca), 0o600)
	h.write("swanctl/x509/own.pem", string(i.own), 0o600)
	h.write("swanctl/private/own.pem", string(i.pkc), 0o600)
}

// writeAgent puts the identity where the agent loads it from.
func (i identity) writeAgent(h *host) {
	h.t.Helper()
	for _, dir := range []string{"ca", "own", "crls"} {
		if err := os.MkdirAll(filepath.Join(h.dir, "certificates", dir), 0o700); err != nil {
			h.t.Fatal(err)
		}
	}
	h.write("certificates/ca/ca.pem", string(i.ca), 0o644)
	h.write("certificates/own/host.pem", string(i.own)+string(i.pkc), 0o600)
}
