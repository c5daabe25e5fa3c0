package cert

import (
	"crypto/x509"
	"testing"

	"ipsecagent/auth"
)

// FuzzPKCS7: what is unwrapped is bounded, and wraps to something that unwraps
// to the same.
func FuzzPKCS7(f *testing.F) {
	f.Add(tool(f, "openssl/chain.p7b"))
	wrapped, err := wrapPKCS7([][]byte{{0x30, 0}, {0x30, 1, 5}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wrapped)
	f.Fuzz(func(t *testing.T, data []byte) {
		certs, err := unwrapPKCS7(data)
		if err != nil {
			return
		}
		if len(certs) > maxCerts {
			t.Errorf("%d certificates", len(certs))
		}
		again, err := wrapPKCS7(certs)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := unwrapPKCS7(again); err != nil || len(got) != len(certs) {
			t.Errorf("%d certificates become %d: %v", len(certs), len(got), err)
		}
	})
}

// FuzzClaim: whatever a peer claims, it is refused, or is a certificate of the
// authority that has that name; without a signature it is nobody.
func FuzzClaim(f *testing.F) {
	root := newAuthority(f, "Root", nil)
	host := newHost(f, "peer.example", root, auth.ECDSA256)
	k := newKeeper(f, storeOf(f, []*entity{root}, []*entity{host}), Settings{})
	wrapped, err := wrapPKCS7([][]byte{host.Raw, root.Raw})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(byte(idDN), host.RawSubject, append([]byte{encodingX509}, host.Raw...), []byte{encodingX509}, root.RawSubject)
	f.Add(byte(idFQDN), []byte("peer.example"), append([]byte{encodingPKCS7}, wrapped...), []byte{7}, []byte{})
	f.Add(byte(idIPv4), []byte{10, 0, 0, 1}, []byte{}, append([]byte{encodingX509}, root.Raw...), []byte{0x30, 0})
	f.Fuzz(func(t *testing.T, kind byte, id, one, two, asked []byte) {
		s, err := begin(k, under(auth.ECDSA256, root), false)
		if err != nil {
			t.Fatal(err)
		}
		err = s.Remote(auth.Claim{IDType: kind, ID: id, Certs: [][]byte{one, two}, CAs: [][]byte{asked}})
		if err == nil {
			for _, leaf := range s.(*session).leaves {
				chain, err := s.(*session).verify([]*x509.Certificate{leaf})
				if !matchesID(leaf, kind, id) || err == nil && !chain[len(chain)-1].Equal(root.Certificate) {
					t.Error("a certificate of another authority or name")
				}
			}
		} else if code(err) == "" || code(err) == codeMalformed && recoveredPanic(err) {
			t.Errorf("refused without a reason: %v", err)
		}
		if who, err := s.Check(hashOf("I"), two); err == nil {
			t.Errorf("proven to be %q without a signature", who)
		}
		s.Local()
	})
}

// recoveredPanic reports whether an error hides a panic.
func recoveredPanic(err error) bool {
	e, ok := err.(*auth.Error)
	return ok && e.Reason == panicReason
}

// FuzzList: a list is refused, or says of itself until when it holds.
func FuzzList(f *testing.F) {
	f.Add(tool(f, "pki/list.crl"))
	root := newAuthority(f, "Root", nil)
	f.Add(newList(f, root, noon, noon.AddDate(0, 1, 0), root))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := parseList("x", data)
		if err != nil {
			return
		}
		if l.fresh(l.crl.NextUpdate.Add(1)) || !l.refreshAt().Before(l.crl.NextUpdate) {
			t.Error("a list without an end")
		}
		l.speaksOf(root.Certificate, root.Certificate)
	})
}

// FuzzFile: a file of certificates and keys is refused or has something in it.
func FuzzFile(f *testing.F) {
	for _, name := range []string{"openssl/rsa.pem", "openssl/ec.key", "openssl/rsa.key", "openssl/encrypted.key", "openssl/chain.p7b", "pki/host.der", "pki/host.key", "pki/list.crl"} {
		f.Add(tool(f, name))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parse("x", data)
		if err == nil && len(c.certs)+len(c.keys)+len(c.lists) == 0 {
			t.Error("a file with nothing in it is accepted")
		}
	})
}

// FuzzPKCS12: a damaged file is refused without end of the program, and in
// bounded time.
func FuzzPKCS12(f *testing.F) {
	f.Add(tool(f, "openssl/open.p12"), "")
	f.Add(tool(f, "openssl/modern.p12"), "secret")
	f.Add(tool(f, "openssl/legacy.p12"), "secret")
	f.Fuzz(func(t *testing.T, data []byte, password string) {
		c, err := parsePKCS12(data, password)
		if err == nil && (len(c.certs) == 0 || len(c.keys) != 1) {
			t.Errorf("%d certificates, %d keys", len(c.certs), len(c.keys))
		}
	})
}
