package cert

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"ipsecagent/auth"
)

// mesh makes as many certificates as a peer may send, all authorities of one
// name and one key, each signed by each: paths without end.
func mesh(t testing.TB, root *entity, bits int) []*entity {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	var all []*entity
	for i := range maxCerts {
		template := &x509.Certificate{SerialNumber: nextSerial(), Subject: root.Subject, NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(1, 0, 0),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, DNSNames: []string{string(rune('a' + i))}}
		all = append(all, sign(t, template, key, nil))
	}
	return all
}

// quick bounds what strangers may cost: with eight rules of certificates a
// quarter of a second in all. The path building of crypto/x509 alone takes
// several times as long over a mesh.
func quick(t *testing.T, what string, do func()) {
	t.Helper()
	const most = 30 * time.Millisecond
	best := time.Hour
	for range 10 { // others share this machine
		begun := time.Now()
		do()
		best = min(best, time.Since(begun))
	}
	t.Log(what, best)
	if best > most {
		t.Errorf("%s took %v, more than %v", what, best, most)
	}
}

// A peer's certificates cost little, whoever made them: before its signature is
// seen, when the signature is none, and when a key of its own has signed.
func TestAMeshOfCertificatesCostsLittle(t *testing.T) {
	w := newWorld(t, Settings{})
	certs := mesh(t, w.root, mostPeerRSA)
	proof, err := rsa.SignPKCS1v15(rand.Reader, certs[0].key.(*rsa.PrivateKey), 0, hashOf("I")(nil))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		proof []byte
		code  string
	}{"signed": {proof, codeUntrusted}, "not signed": {make([]byte, len(proof)), codeSignature}} {
		quick(t, name, func() {
			s, err := begin(w.keeper, under(auth.ECDSA256, w.root), false)
			if err != nil {
				t.Fatal(err)
			}
			s.(*session).request.Requirement.Method = auth.RSA
			if err := s.Remote(claims(certs...)); err != nil {
				t.Fatal(err)
			}
			_, err = s.Check(hashOf("I"), c.proof)
			wantCode(t, err, c.code)
		})
	}
}

// Of what a peer sent, only what an authority of this host stands behind is
// built with, whatever it calls itself.
func TestOnlyVouchedCertificatesAreBuiltWith(t *testing.T) {
	w := newWorld(t, Settings{})
	below := newAuthority(t, "Below", w.issuing)
	impostor := newAuthority(t, "Root", nil)
	false1 := newAuthority(t, "Issuing", impostor)
	false2 := newAuthority(t, "Below", false1)
	r, err := w.keeper.Store().rule(under(auth.ECDSA256, w.root).CA, noon)
	if err != nil {
		t.Fatal(err)
	}
	var sent []*x509.Certificate
	for _, e := range []*entity{false2, below, false1, w.issuing, impostor, newHost(t, "peer.example", w.root, auth.ECDSA256)} {
		sent = append(sent, e.Certificate)
	}
	got := verifier{rule: r, now: noon}.vouched(sent)
	if len(got) != 2 || !got[0].Equal(w.issuing.Certificate) || !got[1].Equal(below.Certificate) {
		t.Errorf("built with %d certificates", len(got))
	}
}

// A key that a peer signs with is computed with before anybody vouches for it:
// so it is bounded more tightly than the keys of authorities.
func TestALongKeyIsNotComputedWithForStrangers(t *testing.T) {
	w := newWorld(t, Settings{})
	key := &rsa.PublicKey{N: longModulus(mostPeerRSA + 8), E: 65537}
	if quickKey(key) || !quickKey(&rsa.PublicKey{N: longModulus(mostPeerRSA), E: 65537}) {
		t.Error("the bound is elsewhere")
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: nextSerial(), Subject: subject("peer.example"),
		NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(1, 0, 0)}, w.root.Certificate, key, w.root.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	s, err := begin(w.keeper, under(auth.ECDSA256, w.root), false)
	if err != nil {
		t.Fatal(err)
	}
	s.(*session).request.Requirement.Method = auth.RSA
	wantCode(t, s.Remote(claims(&entity{c, nil})), codeUsage, "4096")
}

// longModulus is an odd number of so many bits; nobody has a key for it.
func longModulus(bits uint) *big.Int {
	n := new(big.Int).Lsh(big.NewInt(1), bits-1)
	return n.Add(n, big.NewInt(1))
}
