package cert

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ipsecagent/auth"
)

func methods() []auth.Method {
	return []auth.Method{auth.RSA, auth.ECDSA256, auth.ECDSA384, auth.ECDSA521}
}

func TestBothEndsProveThemselvesByEachMethod(t *testing.T) {
	root := newAuthority(t, "Root", nil)
	issuing := newAuthority(t, "Issuing", root)
	for _, m := range methods() {
		for _, wrapped := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d wrapped %v", m, wrapped), func(t *testing.T) {
				a, b := newHost(t, "a.example", issuing, m), newHost(t, "b.example", root, m)
				set := Settings{WrapPKCS7: wrapped}
				left := side{newKeeper(t, storeOf(t, []*entity{root}, []*entity{a, issuing}), set), under(m, root)}
				right := side{newKeeper(t, storeOf(t, []*entity{root}, []*entity{b}), set), under(m, root)}
				for range 2 {
					ofRight, ofLeft, err := exchange(left, right)
					if err != nil {
						t.Fatal(err)
					}
					if ofLeft != principal(t, left) || ofRight != principal(t, right) || ofLeft == ofRight {
						t.Errorf("proven: %q and %q", ofLeft, ofRight)
					}
					left, right = right, left
				}
			})
		}
	}
}

// principal returns whom the only certificate of a side names.
func principal(t *testing.T, s side) auth.Principal {
	t.Helper()
	p, err := principalOf(s.keeper.Store().own[0].leaf)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// code returns the code of an auth.Error; "" for none.
func code(err error) string {
	var e *auth.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func wantCode(t *testing.T, err error, want string, parts ...string) {
	t.Helper()
	if code(err) != want {
		t.Fatalf("code %q, want %q: %v", code(err), want, err)
	}
	var e *auth.Error
	if errors.As(err, &e); e.Reason == "" || e.Hint == "" {
		t.Errorf("%s without reason or hint: %#v", want, e)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%q does not speak of %q", err, p)
		}
	}
}

func TestTheClaimIsTheSubjectAndTheChainWithoutRoot(t *testing.T) {
	root := newAuthority(t, "Root", nil)
	issuing := newAuthority(t, "Issuing", root)
	host := newHost(t, "a.example", issuing, auth.ECDSA256)
	s, err := begin(newKeeper(t, storeOf(t, []*entity{root}, []*entity{host, issuing}), Settings{}), under(auth.ECDSA256, root), true)
	if err != nil {
		t.Fatal(err)
	}
	c := s.Local()
	if c.IDType != idDN || !bytes.Equal(c.ID, host.RawSubject) {
		t.Errorf("identification %d %x", c.IDType, c.ID)
	}
	want := [][]byte{append([]byte{4}, host.Raw...), append([]byte{4}, issuing.Raw...)}
	if !slices.EqualFunc(c.Certs, want, bytes.Equal) {
		t.Errorf("%d certificates, want the leaf and the intermediate", len(c.Certs))
	}
	if len(c.CAs) != 1 || !bytes.Equal(c.CAs[0], root.RawSubject) {
		t.Errorf("requests %x", c.CAs)
	}
	if s.Seeds() != nil {
		t.Error("a seed for SKEYID")
	}
	if out, err := s.Token(nil); out != nil || err != nil {
		t.Error("a token")
	}
	if _, err := s.Token([]byte{1}); err == nil {
		t.Error("took a GSS token")
	}
}

func TestTheAuthorityIsNotNamedIfPolicySaysSo(t *testing.T) {
	root := newAuthority(t, "Root", nil)
	k := newKeeper(t, storeOf(t, []*entity{root}, []*entity{newHost(t, "a.example", root, auth.ECDSA256)}), Settings{})
	rule := under(auth.ECDSA256, root)
	rule.ExcludeCAName = true
	s, err := begin(k, rule, true)
	if err != nil || len(s.Local().CAs) != 0 {
		t.Errorf("requests %x, %v", s.Local().CAs, err)
	}
}

func TestOwnCertificateIsChosenByWhatThePeerAsksFor(t *testing.T) {
	root, other := newAuthority(t, "Root", nil), newAuthority(t, "Other", nil)
	first, second := newAuthority(t, "First", root), newAuthority(t, "Second", root)
	a := newHost(t, "a.example", first, auth.ECDSA256, func(c *x509.Certificate) { c.NotAfter = noon.AddDate(0, 6, 0) })
	b := newHost(t, "b.example", second, auth.ECDSA256, func(c *x509.Certificate) { c.NotAfter = noon.AddDate(0, 9, 0) })
	late := newHost(t, "late.example", root, auth.ECDSA256, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = noon.AddDate(0, 1, 0), noon.AddDate(3, 0, 0)
	})
	k := newKeeper(t, storeOf(t, []*entity{root, other}, []*entity{a, first}, []*entity{b, second}, []*entity{late}), Settings{})
	for name, c := range map[string]struct {
		asked [][]byte
		want  *entity
	}{
		"nobody asks: valid longest": {nil, b},
		"the root":                   {[][]byte{root.RawSubject}, b},
		"an intermediate":            {[][]byte{first.RawSubject}, a},
		"any":                        {[][]byte{other.RawSubject, {}}, b},
		"any, as an empty name":      {[][]byte{{0x30, 0}}, b},
		"another":                    {[][]byte{other.RawSubject}, nil},
	} {
		s, err := begin(k, under(auth.ECDSA256, root), true)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Remote(auth.Claim{CAs: c.asked}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		claim := s.Local()
		_, err = s.Prove(hashOf("x"))
		if c.want == nil {
			wantCode(t, err, codeNoCertificate, "CN=Other,O=Bank", "CN=Root,O=Bank")
			if claim.IDType != 0 || claim.Certs != nil {
				t.Errorf("%s: claims %d", name, claim.IDType)
			}
			continue
		}
		if err != nil || !bytes.Equal(claim.ID, c.want.RawSubject) {
			t.Errorf("%s: claims %s, %v", name, nameText(claim.ID), err)
		}
	}
}

func TestMethodsAreThoseOfTheKeys(t *testing.T) {
	root, other := newAuthority(t, "Root", nil), newAuthority(t, "Other", nil)
	k := newKeeper(t, storeOf(t, []*entity{root, other}, []*entity{newHost(t, "a", root, auth.RSA)}, []*entity{newHost(t, "b", root, auth.ECDSA384)}), Settings{})
	got, err := k.Methods("O=bank,  cn=ROOT")
	if err != nil || !slices.Equal(got, []auth.Method{auth.RSA, auth.ECDSA384}) {
		t.Errorf("methods %v, %v", got, err)
	}
	_, err = k.Methods("CN=Other,O=Bank")
	wantCode(t, err, codeNoCertificate, "CN=Other,O=Bank", "a.pem", "CN=Root,O=Bank")
	_, err = k.Methods("CN=Nobody")
	wantCode(t, err, codeUntrusted, "CN=Nobody", "CN=Root,O=Bank", dirCA)
	_, err = k.Methods("nonsense")
	wantCode(t, err, codeUntrusted, "nonsense")
	_, err = begin(k, under(auth.ECDSA256, root), true)
	wantCode(t, err, codeNoCertificate)
}

func TestSettingsOutOfRangeAreRefused(t *testing.T) {
	for name, set := range map[string]Settings{"short": {LeastRSA: 512}, "long": {LeastRSA: 16384}, "usage": {Usage: 3}, "id": {IDCheck: 2}, "revocation": {Revocation: 3}} {
		if _, err := New(nil, set); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	k, err := New(nil, Settings{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Methods("CN=Root"); err == nil {
		t.Error("methods without any certificate")
	}
}

// A certificate that runs out is not sent any more, at once.
func TestAnExpiredCertificateIsNotSent(t *testing.T) {
	now := noon
	root := newAuthority(t, "Root", nil)
	host := newHost(t, "a.example", root, auth.ECDSA256, func(c *x509.Certificate) { c.NotAfter = noon.Add(10 * time.Second) })
	k := newKeeper(t, storeOf(t, []*entity{root}, []*entity{host}), Settings{Now: func() time.Time { return now }})
	if _, err := begin(k, under(auth.ECDSA256, root), true); err != nil {
		t.Fatal(err)
	}
	for _, after := range []time.Duration{11 * time.Second, time.Hour} {
		now = noon.Add(after)
		_, err := begin(k, under(auth.ECDSA256, root), true)
		wantCode(t, err, codeNoCertificate, "2026-06-15 12:00 UTC")
	}
	now = noon.Add(-time.Hour) // the clock was set back
	if _, err := begin(k, under(auth.ECDSA256, root), true); err != nil {
		t.Error(err)
	}
}
