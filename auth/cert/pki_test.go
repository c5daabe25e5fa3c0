package cert

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"ipsecagent/auth"
)

// noon is when the tests happen.
var noon = time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)

// entity is a certificate with its key.
type entity struct {
	*x509.Certificate
	key crypto.Signer
}

// change alters a template before it is signed.
type change func(*x509.Certificate)

var serial = struct {
	sync.Mutex
	last int64
}{}

func nextSerial() *big.Int {
	serial.Lock()
	defer serial.Unlock()
	serial.last++
	return big.NewInt(serial.last)
}

func newKey(t testing.TB, method auth.Method) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch method {
	case auth.RSA:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case auth.ECDSA384:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case auth.ECDSA521:
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	default:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func subject(cn string) pkix.Name {
	return pkix.Name{Organization: []string{"Bank"}, CommonName: cn}
}

// sign makes a certificate; issuer nil: by itself.
func sign(t testing.TB, template *x509.Certificate, key crypto.Signer, issuer *entity) *entity {
	t.Helper()
	parent, signer := template, key
	if issuer != nil {
		parent, signer = issuer.Certificate, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &entity{c, key}
}

func newAuthority(t testing.TB, cn string, issuer *entity, changes ...change) *entity {
	t.Helper()
	template := &x509.Certificate{SerialNumber: nextSerial(), Subject: subject(cn), NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(5, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	for _, c := range changes {
		c(template)
	}
	return sign(t, template, newKey(t, auth.ECDSA256), issuer)
}

func newHost(t testing.TB, cn string, issuer *entity, method auth.Method, changes ...change) *entity {
	t.Helper()
	template := &x509.Certificate{SerialNumber: nextSerial(), Subject: subject(cn), DNSNames: []string{cn},
		NotBefore: noon.AddDate(0, -1, 0), NotAfter: noon.AddDate(1, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature}
	for _, c := range changes {
		c(template)
	}
	return sign(t, template, newKey(t, method), issuer)
}

// newList makes a revocation list in DER.
func newList(t testing.TB, issuer *entity, from, to time.Time, revoked ...*entity) []byte {
	t.Helper()
	template := &x509.RevocationList{Number: nextSerial(), ThisUpdate: from, NextUpdate: to}
	for _, c := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: from})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, issuer.Certificate, issuer.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func certPEM(chain ...*entity) []byte {
	var out bytes.Buffer
	for _, e := range chain {
		pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: e.Raw})
	}
	return out.Bytes()
}

func keyPEM(t testing.TB, e *entity) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(e.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func write(t testing.TB, path string, data []byte, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// storeOf makes the store of a host that trusts authorities and has
// certificates of its own, the intermediates of each in its file.
func storeOf(t testing.TB, authorities []*entity, own ...[]*entity) *Store {
	t.Helper()
	dir := t.TempDir()
	for i, a := range authorities {
		write(t, filepath.Join(dir, dirCA, string(rune('a'+i))+".pem"), certPEM(a), 0o644)
	}
	for i, chain := range own {
		name := filepath.Join(dir, dirOwn, string(rune('a'+i)))
		write(t, name+".pem", certPEM(chain...), 0o644)
		write(t, name+".key", keyPEM(t, chain[0]), 0o600)
	}
	s, err := Load(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// at is a setting of the clock.
func at(now time.Time) Settings { return Settings{Now: func() time.Time { return now }} }

func newKeeper(t testing.TB, s *Store, set Settings) *Keeper {
	t.Helper()
	if set.Now == nil {
		set.Now = func() time.Time { return noon }
	}
	k, err := New(s, set)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// begin starts a session.
func begin(k *Keeper, req auth.Requirement, initiator bool) (auth.Session, error) {
	for _, a := range k.Authenticators() {
		if a.Method() == req.Method {
			return a.Start(auth.Request{Initiator: initiator, Local: netip.MustParseAddr("10.0.0.1"), Remote: netip.MustParseAddr("10.0.0.2"), Requirement: req})
		}
	}
	panic("no such method")
}

func under(method auth.Method, ca *entity) auth.Requirement {
	return auth.Requirement{Method: method, CA: nameText(ca.RawSubject)}
}

// hashOf stands for HASH_I and HASH_R of an exchange.
func hashOf(label string) func(extra []byte) []byte {
	return func(extra []byte) []byte {
		sum := sha256.Sum256(append([]byte(label), extra...))
		return sum[:]
	}
}

// side is one end of an exchange: its keeper and the rule it goes by.
type side struct {
	keeper *Keeper
	rule   auth.Requirement
}

// exchange runs an authentication in the order of main mode and returns whom
// the initiator and the responder have proven.
func exchange(initiator, responder side) (ofResponder, ofInitiator auth.Principal, err error) {
	i, err := begin(initiator.keeper, initiator.rule, true)
	if err != nil {
		return "", "", err
	}
	r, err := begin(responder.keeper, responder.rule, false)
	if err != nil {
		return "", "", err
	}
	// Messages 3 and 4 carry the requests.
	if err := r.Remote(auth.Claim{CAs: i.Local().CAs}); err != nil {
		return "", "", err
	}
	if err := i.Remote(auth.Claim{CAs: r.Local().CAs}); err != nil {
		return "", "", err
	}
	// Messages 5 and 6 carry identification, certificates and signature.
	if ofInitiator, err = transfer(i, r, "I"); err != nil {
		return "", "", err
	}
	ofResponder, err = transfer(r, i, "R")
	return ofResponder, ofInitiator, err
}

// transfer lets one session prove itself to another.
func transfer(from, to auth.Session, label string) (auth.Principal, error) {
	claim := from.Local()
	proof, err := from.Prove(hashOf(label))
	if err != nil {
		return "", err
	}
	if err := to.Remote(claim); err != nil {
		return "", err
	}
	return to.Check(hashOf(label), proof)
}
