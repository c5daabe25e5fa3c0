package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ipsecagent/auth"
)

// certificateOf writes a certificate of this host's own, with its key, into a
// folder of certificates.
func certificateOf(t *testing.T, dir string, ends time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Bank"}, NotBefore: time.Now().Add(-48 * time.Hour),
		NotAfter: time.Now().Add(1000 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "teller"}, NotBefore: ca.NotBefore, NotAfter: ends,
		KeyUsage: x509.KeyUsageDigitalSignature}
	root, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	own, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "ca", "bank.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root})))
	write(t, filepath.Join(dir, "own", "teller.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own}))+
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

func TestCheckLooksAtCertificates(t *testing.T) {
	for name, tt := range map[string]struct {
		ends time.Time
		code int
		says string
	}{
		"good":     {time.Now().Add(900 * time.Hour), 0, ""},
		"expiring": {time.Now().Add(20 * time.Hour), 0, "expires at"},
		"expired":  {time.Now().Add(-time.Hour), 6, "expired at"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			certificateOf(t, filepath.Join(dir, "certificates"), tt.ends)
			_, stderr, code := run(t, append(folders(dir), "--certificates-dir", filepath.Join(dir, "certificates"), "--check")...)
			if code != tt.code || !strings.Contains(stderr, tt.says) {
				t.Errorf("exit code %d, %s", code, stderr)
			}
		})
	}
}

// reports collects what identities report.
type reports struct {
	events   []string
	problems map[string]string
}

func (r *reports) Problem(_ context.Context, kind, words string) error {
	r.problems[kind] = words
	return nil
}

func (r *reports) Report(_ context.Context, kind, severity, words string, fields map[string]string) error {
	r.events = append(r.events, kind+" "+severity+" "+fields["days"]+": "+words)
	return nil
}

func TestExpiryIsReportedOnceForEachNotice(t *testing.T) {
	dir := t.TempDir()
	ends := time.Now().Add(900 * time.Hour)
	certificateOf(t, dir, ends)
	s := defaults()
	s.Certificates.Dir = dir
	ids, problem, err := openIdentities(&s, newKeys(&s), "")
	if err := errors.Join(problem, err); err != nil {
		t.Fatal(err)
	}
	r := &reports{problems: map[string]string{}}
	noticed := map[string]bool{}
	for _, before := range []time.Duration{800, 20 * 24, 19 * 24, 6 * 24, 5, -1, -2} {
		if err := ids.reportExpiry(t.Context(), r, ends.Add(-before*time.Hour), noticed); err != nil {
			t.Fatal(err)
		}
	}
	var own []string
	for _, e := range r.events {
		if strings.Contains(e, "teller") {
			own = append(own, e[:strings.Index(e, ":")])
		}
	}
	want := "certificate-expiry warning 19, certificate-expiry warning 5, certificate-expiry warning 0, certificate-expiry error 0"
	if got := strings.Join(own, ", "); got != want {
		t.Errorf("reported: %s\nwant %s", got, want)
	}
	if !strings.Contains(r.problems["expiry"], "teller") {
		t.Errorf("problems %v", r.problems)
	}
}

func TestOwnCertificatesDecideWhatIsOffered(t *testing.T) {
	dir := t.TempDir()
	certificateOf(t, dir, time.Now().Add(900*time.Hour))
	s := defaults()
	s.Certificates.Dir = dir
	ids, _, err := openIdentities(&s, newKeys(&s), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		r      auth.Requirement
		usable bool
	}{
		{auth.Requirement{Method: auth.ECDSA256, CA: "CN=Bank"}, true},
		{auth.Requirement{Method: auth.RSA, CA: "CN=Bank"}, false},
		{auth.Requirement{Method: auth.ECDSA256, CA: "CN=Other"}, false},
		{auth.Requirement{Method: auth.PSK}, true},
	} {
		if why := ids.unusable(tt.r); (why == "") != tt.usable {
			t.Errorf("%+v: %q", tt.r, why)
		}
	}
}

func TestCertificateSettingsAreChecked(t *testing.T) {
	for _, text := range []string{"revocation: sometimes", "usage: all", "identity: loose", "leastRSA: 17", "dir: here"} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "agent.yaml"), "certificates: {"+text+"}\n")
		if _, stderr, code := run(t, append(folders(dir), "--check")...); code != 6 {
			t.Errorf("%s: exit code %d, %s", text, code, stderr)
		}
	}
}

// TestPlacesOfRevocationListsAreExempt: they are listed beside what else the
// policy does not touch.
func TestPlacesOfRevocationListsAreExempt(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	below := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "Below"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, CRLDistributionPoints: []string{"http://crl.example:8080/a.crl"}}
	root := &x509.Certificate{Subject: pkix.Name{CommonName: "Root"}}
	der, err := x509.CreateCertificate(rand.Reader, below, root, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "ca", "below.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	for revocation, want := range map[string]bool{"known": true, "strict": true, "off": false} {
		s := defaults()
		s.Certificates.Dir, s.Certificates.Revocation = dir, revocation
		ids, problem, err := openIdentities(&s, newKeys(&s), "")
		if err := errors.Join(problem, err); err != nil {
			t.Fatal(err)
		}
		list := strings.Join(ids.exempted(), "\n")
		if strings.Contains(list, "connections to http://crl.example:8080/a.crl") != want || strings.Contains(list, "certificates of a trusted chain name") != want {
			t.Errorf("%s: %s", revocation, list)
		}
	}
}
