package ike

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
	"slices"
	"testing"
	"time"

	"ipsecagent/auth"
	"ipsecagent/auth/cert"
	"ipsecagent/ike/iketest"
	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// authority makes certificates of a test.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key}
	a.cert = a.sign(&x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, key.Public())
	return a
}

func (a *authority) sign(c, parent *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
	a.t.Helper()
	c.NotBefore, c.NotAfter = epoch.Add(-time.Hour), epoch.Add(24*365*time.Hour)
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, public, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	signed, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return signed
}

// keeper is the certificates of a host: its own, by a, and the authorities.
func (a *authority) keeper(name string, key crypto.Signer, trusted ...*authority) []auth.Authenticator {
	a.t.Helper()
	dir := a.t.TempDir()
	write := func(path, kind string, der []byte) {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			a.t.Fatal(err)
		}
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	leaf := a.sign(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		KeyUsage: x509.KeyUsageDigitalSignature}, a.cert, key.Public())
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	write("own/host.pem", "CERTIFICATE", leaf.Raw)
	write("own/host.key", "PRIVATE KEY", der)
	for _, ca := range trusted {
		write("ca/"+ca.cert.Subject.CommonName+".pem", "CERTIFICATE", ca.cert.Raw)
	}
	store, err := cert.Load(dir, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	k, err := cert.New(store, cert.Settings{Now: func() time.Time { return epoch }})
	if err != nil {
		a.t.Fatal(err)
	}
	return k.Authenticators()
}

func ecKey(t *testing.T, c elliptic.Curve) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func certOffer(t *testing.T, reqs ...auth.Requirement) MainOffer {
	o := mainOffer(t)
	o.Auth = reqs
	return o
}

// certificates has two hosts with certificates negotiate.
func certificates(t *testing.T, a, b []auth.Authenticator, oa, ob MainOffer) (*world, *host, *host) {
	w := newWorld(t, 1)
	w.net.SetPath(iketest.Path{Delay: 10 * time.Millisecond})
	ha, hb := w.bareHost(v4[0], 1, a...), w.bareHost(v4[1], 2, b...)
	hb.m.Handle(w.now, SetPolicy{policyOf(ob, responderQuick(t))})
	ha.m.Handle(w.now, Initiate{Request: 1, Local: ha.addr, Remote: hb.addr, Main: oa, Quick: quickOffer(t, ha.addr, hb.addr)})
	return w, ha, hb
}

func TestMainModeByCertificates(t *testing.T) {
	for method, key := range map[auth.Method]func() crypto.Signer{
		auth.RSA:      func() crypto.Signer { return rsaKey(t) },
		auth.ECDSA256: func() crypto.Signer { return ecKey(t, elliptic.P256()) },
		auth.ECDSA384: func() crypto.Signer { return ecKey(t, elliptic.P384()) },
		auth.ECDSA521: func() crypto.Signer { return ecKey(t, elliptic.P521()) },
	} {
		ca := newAuthority(t, "Root")
		req := certOffer(t, auth.Requirement{Method: method, CA: "CN=Root"})
		w, a, b := certificates(t, ca.keeper("a", key(), ca), ca.keeper("b", key(), ca), req, req)
		w.net.SetPath(iketest.Path{Loss: 0.2, Duplicate: 0.1, Delay: 10 * time.Millisecond})
		w.run(200 * time.Second)
		w.checkPaired(a, b)
		if a.newestPair().Principal != "CN=b" || b.newestPair().Principal != "CN=a" {
			t.Errorf("%s: %+v", method, a.newestPair())
		}
	}
}

// TestCertificatesOfSeveralAuthorities: the responder has a rule for each and
// finds the one that the initiator's certificate satisfies; what it may carry
// is that rule's.
func TestCertificatesOfSeveralAuthorities(t *testing.T) {
	one, two := newAuthority(t, "One"), newAuthority(t, "Two")
	only := func(ca string) auth.Requirement { return auth.Requirement{Method: auth.ECDSA256, CA: "CN=" + ca} }
	both := certOffer(t, only("One"), only("Two"))
	w, a, b := certificates(t, two.keeper("a", ecKey(t, elliptic.P256()), two),
		two.keeper("b", ecKey(t, elliptic.P256()), one, two), certOffer(t, only("Two")), both)
	w.run(2 * time.Second)
	w.checkPaired(a, b)
	s := b.m.established()[0]
	if s.proof.CA != "CN=Two" || s.satisfies(certOffer(t, only("One"))) {
		t.Errorf("%+v", s.proof)
	}
}

// TestCertificateOfAnotherAuthority: both ends say why, by a code of its own.
func TestCertificateOfAnotherAuthority(t *testing.T) {
	good, bad := newAuthority(t, "Good"), newAuthority(t, "Bad")
	req := certOffer(t, auth.Requirement{Method: auth.ECDSA256, CA: "CN=Good", ExcludeCAName: true})
	wrong := certOffer(t, auth.Requirement{Method: auth.ECDSA256, CA: "CN=Bad", ExcludeCAName: true})
	w, a, b := certificates(t, bad.keeper("a", ecKey(t, elliptic.P256()), bad), good.keeper("b", ecKey(t, elliptic.P256()), good), wrong, req)
	w.run(300 * time.Second)
	if len(a.mains)+len(b.mains) != 0 || len(a.failed) != 1 {
		t.Fatalf("%+v %+v", a.mains, a.failed)
	}
	if len(b.failed) == 0 || b.failed[0].Code != "certificate-untrusted" || b.failed[0].Hint == "" {
		t.Errorf("%+v", b.failed)
	}
}

// Each method by ECDSA signs a hash of its own kind, whatever hash is
// negotiated: strongSwan refuses others.
func TestECDSAMethodsBringTheirHash(t *testing.T) {
	for method, want := range map[auth.Method]sadb.Hash{auth.ECDSA256: sadb.SHA256, auth.ECDSA384: sadb.SHA384, auth.ECDSA521: sadb.SHA512,
		auth.RSA: sadb.HashNone, auth.PSK: sadb.HashNone, auth.Kerberos: sadb.HashNone} {
		x := &mainMode{choice: mainChoice{Method: method}}
		if got := x.exchange().AuthHash; got != want {
			t.Errorf("%v: %v", method, got)
		}
	}
}

// heard is a session that keeps the last claim it was told.
type heard struct {
	*method
	claim auth.Claim
}

func (h *heard) Remote(c auth.Claim) error { h.claim = c; return nil }

// strongSwan as initiator asks for authorities in message 5, beside its proof.
func TestRequestsBesideTheProofCount(t *testing.T) {
	request := func(name string) wire.Payload {
		return wire.Payload{Type: wire.CertRequestPayload, Body: append([]byte{byte(wire.CertX509Signature)}, name...)}
	}
	id := wire.Payload{Type: wire.IDPayload, Body: idBody(auth.Claim{IDType: 1, ID: []byte{10, 0, 0, 1}})}
	p, err := readProof(auth.RSA, wire.Chain{Payloads: []wire.Payload{id, {Type: wire.SignaturePayload, Body: []byte{1}}, request("late")}})
	if err != nil {
		t.Fatal(err)
	}
	s := &heard{method: sound()}
	nothing := func(_, _, _ []byte) []byte { return []byte{1} }
	if _, err := p.check(s, auth.Claim{CAs: [][]byte{[]byte("early")}}, nothing, nil); err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(s.claim.CAs, []string{"early", "late"}, func(b []byte, s string) bool { return string(b) == s }) {
		t.Errorf("asked for %q", s.claim.CAs)
	}
	many := make([]wire.Payload, maxRequests+1)
	for i := range many {
		many[i] = request("x")
	}
	if _, err := readProof(auth.RSA, wire.Chain{Payloads: many}); err == nil {
		t.Error("any number of requests is taken")
	}
}
