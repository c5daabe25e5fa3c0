package cert

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ipsecagent/auth"
)

// verifying is a host that checks revocation: the lists in its directory, and
// one peer with a certificate of the issuing authority.
type verifying struct {
	*world
	peer *entity
}

func newVerifying(t *testing.T, set Settings, points ...string) *verifying {
	t.Helper()
	v := &verifying{world: newWorld(t, set)}
	v.issuing = newAuthority(t, "Issuing", v.root, pointsTo(points))
	v.peer = newHost(t, "peer.example", v.issuing, auth.ECDSA256, pointsTo(points))
	return v
}

func pointsTo(points []string) change {
	return func(c *x509.Certificate) { c.CRLDistributionPoints = points }
}

// put writes lists into the directory and reads it again.
func (v *verifying) put(t *testing.T, lists ...[]byte) {
	t.Helper()
	s := v.keeper.Store()
	for i, l := range lists {
		write(t, filepath.Join(s.dir, dirLists, string(rune('a'+i))+".crl"), l, 0o644)
	}
	if err := v.keeper.Reload(); err != nil {
		t.Fatal(err)
	}
}

func (v *verifying) result(t *testing.T) error {
	t.Helper()
	_, err := v.meet(t, auth.ECDSA256, claims(v.peer, v.issuing), v.peer)
	return err
}

func TestRevocationByLevel(t *testing.T) {
	day := 24 * time.Hour
	type lists func(v *verifying) [][]byte
	for name, c := range map[string]struct {
		lists         lists
		known, strict string // codes
	}{
		"no list":   {func(*verifying) [][]byte { return nil }, "", codeCRLUnavailable},
		"all good":  {func(v *verifying) [][]byte { return v.good(t) }, "", ""},
		"one level": {func(v *verifying) [][]byte { return v.good(t)[:1] }, "", codeCRLUnavailable},
		"revoked": {func(v *verifying) [][]byte {
			return [][]byte{newList(t, v.issuing, noon.Add(-day), noon.Add(day), v.peer)}
		}, codeRevoked, codeRevoked},
		"authority revoked": {func(v *verifying) [][]byte {
			return [][]byte{v.good(t)[0], newList(t, v.root, noon.Add(-day), noon.Add(day), v.issuing)}
		}, codeRevoked, codeRevoked},
		"run out": {func(v *verifying) [][]byte {
			return [][]byte{newList(t, v.issuing, noon.Add(-2*day), noon.Add(-day))}
		}, "", codeCRLExpired},
		"revoked by one that ran out": {func(v *verifying) [][]byte {
			return append(v.good(t), newList(t, v.issuing, noon.Add(-2*day), noon.Add(-day), v.peer))
		}, codeRevoked, codeRevoked},
		"not yet of force": {func(v *verifying) [][]byte {
			return [][]byte{newList(t, v.issuing, noon.Add(day), noon.Add(2*day)), v.good(t)[1]}
		}, "", codeCRLExpired},
		"of another issuer": {func(v *verifying) [][]byte {
			return [][]byte{newList(t, v.other, noon.Add(-day), noon.Add(day), v.peer)}
		}, "", codeCRLUnavailable},
		"of an impostor": {func(v *verifying) [][]byte {
			return [][]byte{newList(t, newAuthority(t, "Issuing", v.root), noon.Add(-day), noon.Add(day), v.peer)}
		}, "", codeCRLUnavailable},
		"another is revoked": {func(v *verifying) [][]byte {
			return append(v.good(t), newList(t, v.issuing, noon.Add(-day), noon.Add(day), newHost(t, "x", v.issuing, auth.ECDSA256)))
		}, "", ""},
	} {
		for level, want := range map[Revocation]string{RevocationOff: "", RevocationKnown: c.known, RevocationStrict: c.strict} {
			v := newVerifying(t, Settings{Revocation: level})
			v.put(t, c.lists(v)...)
			err := v.result(t)
			if code(err) != want || want == "" && err != nil {
				t.Errorf("%s, level %d: code %q, want %q: %v", name, level, code(err), want, err)
			} else if want != "" {
				wantCode(t, err, want, "list")
			}
		}
	}
}

// good returns lists in force of both authorities that revoke nothing.
func (v *verifying) good(t *testing.T) [][]byte {
	t.Helper()
	return [][]byte{newList(t, v.issuing, noon.Add(-time.Hour), noon.Add(time.Hour)), newList(t, v.root, noon.Add(-time.Hour), noon.Add(time.Hour))}
}

// extended makes a list of the issuing authority with extensions.
func (v *verifying) extended(t *testing.T, revoked []x509.RevocationListEntry, extensions ...pkix.Extension) []byte {
	t.Helper()
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: nextSerial(), ThisUpdate: noon.Add(-time.Hour),
		NextUpdate: noon.Add(time.Hour), ExtraExtensions: extensions, RevokedCertificateEntries: revoked}, v.issuing.Certificate, v.issuing.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func issuingPointOf(t *testing.T, p issuingPoint) pkix.Extension {
	t.Helper()
	value, err := asn1.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: oidIssuingPoint, Critical: true, Value: value}
}

func TestListsOfLimitedScope(t *testing.T) {
	const point = "http://lists.example/users.crl"
	named := func(urls ...string) pointName {
		var p pointName
		for _, u := range urls {
			p.Full = append(p.Full, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(u)})
		}
		return p
	}
	for name, c := range map[string]struct {
		scope issuingPoint
		speak bool
	}{
		"users":             {issuingPoint{OnlyUser: true}, true},
		"authorities":       {issuingPoint{OnlyCA: true}, false},
		"this point":        {issuingPoint{Point: named("ldap:///x", point)}, true},
		"this point, users": {issuingPoint{Point: named(point), OnlyUser: true}, true},
		"another point":     {issuingPoint{Point: named("http://lists.example/other.crl")}, false},
	} {
		v := newVerifying(t, Settings{}, point)
		l, err := parseList("x", v.extended(t, nil, issuingPointOf(t, c.scope)))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if l.speaksOf(v.peer.Certificate, v.issuing.Certificate) != c.speak {
			t.Errorf("%s: not %v", name, c.speak)
		}
	}
}

func TestListsThatAreRefused(t *testing.T) {
	v := newVerifying(t, Settings{})
	good := v.extended(t, nil)
	critical := pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}
	for name, der := range map[string][]byte{
		"delta":         v.extended(t, nil, pkix.Extension{Id: oidDelta, Value: []byte{2, 1, 1}}),
		"indirect":      v.extended(t, nil, issuingPointOf(t, issuingPoint{Indirect: true})),
		"attributes":    v.extended(t, nil, issuingPointOf(t, issuingPoint{OnlyOther: true})),
		"some reasons":  v.extended(t, nil, issuingPointOf(t, issuingPoint{SomeReasons: asn1.BitString{Bytes: []byte{0x40}, BitLength: 2}})),
		"bad point":     v.extended(t, nil, pkix.Extension{Id: oidIssuingPoint, Value: []byte{0x30, 1, 0xff}}),
		"critical":      v.extended(t, nil, critical),
		"of an entry":   v.extended(t, []x509.RevocationListEntry{{SerialNumber: nextSerial(), RevocationTime: noon, ExtraExtensions: []pkix.Extension{critical}}}),
		"a certificate": v.peer.Raw,
		"and more":      append(bytes.Clone(good), 0),
		"too large":     make([]byte, maxList+1),
	} {
		if _, err := parseList("x", der); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for n := range len(good) {
		if _, err := parseList("x", good[:n]); err == nil {
			t.Fatalf("%d bytes of a list are accepted", n)
		}
	}
}

// server answers with what body returns, and counts.
func server(t *testing.T, body func(w http.ResponseWriter, path string)) (string, *atomic.Int32) {
	t.Helper()
	asked := &atomic.Int32{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		body(w, r.URL.Path)
	}))
	t.Cleanup(s.Close)
	return s.URL, asked
}

// fetching is a host that fetches lists from a test server.
func fetching(t *testing.T, level Revocation, body func(v *verifying, path string) []byte) (*verifying, *atomic.Int32) {
	t.Helper()
	var v *verifying
	url, asked := server(t, func(w http.ResponseWriter, path string) { w.Write(body(v, path)) })
	v = newVerifying(t, Settings{Revocation: level, AllowLocalLists: true}, url+"/a.crl")
	return v, asked
}

func TestListsAreFetchedOnceAndKept(t *testing.T) {
	for _, form := range []string{"DER", "PEM"} {
		v, asked := fetching(t, RevocationStrict, func(v *verifying, _ string) []byte {
			der := newList(t, v.issuing, noon.Add(-time.Hour), noon.Add(time.Hour))
			if form == "PEM" {
				return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
			}
			return der
		})
		v.put(t, v.good(t)[1]) // the root's
		for range 3 {
			if err := v.result(t); err != nil {
				t.Fatalf("%s: %v", form, err)
			}
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("%s: fetched %d times", form, n)
		}
	}
}

func TestFetchedListsCondemn(t *testing.T) {
	v, _ := fetching(t, RevocationKnown, func(v *verifying, _ string) []byte {
		return newList(t, v.issuing, noon.Add(-time.Hour), noon.Add(time.Hour), v.peer)
	})
	wantCode(t, v.result(t), codeRevoked, "/a.crl", "CN=peer.example", "CN=Issuing")
}

func TestWhatIsFetchedMustBeTheIssuersList(t *testing.T) {
	for name, body := range map[string]func(v *verifying, path string) []byte{
		"nothing": func(*verifying, string) []byte { return nil },
		"HTML":    func(*verifying, string) []byte { return []byte("<html>no</html>") },
		"impostor": func(v *verifying, _ string) []byte {
			return newList(t, newAuthority(t, "Issuing", v.root), noon.Add(-time.Hour), noon.Add(time.Hour))
		},
		"another": func(v *verifying, _ string) []byte {
			return newList(t, v.other, noon.Add(-time.Hour), noon.Add(time.Hour))
		},
		"too large": func(*verifying, string) []byte { return make([]byte, maxList+1) },
	} {
		strict, asked := fetching(t, RevocationStrict, body)
		for range 2 {
			wantCode(t, strict.result(t), codeCRLUnavailable, "127.0.0.1")
		}
		if asked.Load() != 1 {
			t.Errorf("%s: a failed fetch is repeated at once: %d", name, asked.Load())
		}
		known, _ := fetching(t, RevocationKnown, body)
		if err := known.result(t); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNothingIsFetchedForStrangers(t *testing.T) {
	v, asked := fetching(t, RevocationStrict, func(v *verifying, _ string) []byte { return nil })
	points := pointsTo(v.peer.CRLDistributionPoints)
	stranger := newAuthority(t, "Stranger", nil, points)
	liar := newHost(t, "liar.example", stranger, auth.ECDSA256, points)
	_, err := v.meet(t, auth.ECDSA256, claims(liar, stranger), liar)
	wantCode(t, err, codeUntrusted)
	// A certificate of the right chain, but without its key.
	_, err = v.meet(t, auth.ECDSA256, claims(v.peer, v.issuing), liar)
	wantCode(t, err, codeSignature)
	if asked.Load() != 0 {
		t.Errorf("fetched %d times", asked.Load())
	}
}

func TestPlacesThatAreNotAsked(t *testing.T) {
	for _, url := range []string{"https://x.example/a", "ldap://x.example/a", "file:///etc/shadow", "http:///a", "http://u:p@x.example/a", "http://x.example/" + strings.Repeat("a", maxURL), "::", ""} {
		if checkURL(url) == nil {
			t.Errorf("%s: allowed", url)
		}
	}
	for address, ok := range map[string]bool{
		"127.0.0.1:80": false, "[::1]:80": false, "169.254.169.254:80": false, "[fe80::1%eth0]:80": false, "0.0.0.0:80": false, "[::]:80": false,
		"224.0.0.1:80": false, "[::ffff:127.0.0.1]:80": false, "x.example:80": false, "192.0.2.1:80": true, "10.1.2.3:8080": true, "[2001:db8::1]:80": true,
	} {
		if err := checkTarget(address); (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
	v, asked := fetching(t, RevocationStrict, func(*verifying, string) []byte { return nil })
	v.keeper.lists.client = newClient(Settings{}) // without leave for this host
	wantCode(t, v.result(t), codeCRLUnavailable, "not fetched from 127.0.0.1")
	if asked.Load() != 0 {
		t.Error("this host itself was asked")
	}
}

func TestRedirectsLeadNowhereElse(t *testing.T) {
	target, reached := server(t, func(w http.ResponseWriter, _ string) {})
	for name, to := range map[string]string{"another scheme": strings.Replace(target, "http:", "https:", 1), "a loop": ""} {
		from, asked := server(t, func(w http.ResponseWriter, _ string) { w.Header().Set("Location", to); w.WriteHeader(302) })
		v := newVerifying(t, Settings{Revocation: RevocationStrict, AllowLocalLists: true}, from)
		wantCode(t, v.result(t), codeCRLUnavailable)
		if reached.Load() != 0 || asked.Load() > maxRedirects+1 {
			t.Errorf("%s: %d and %d requests", name, reached.Load(), asked.Load())
		}
	}
}

func TestTheCallersDialerMarksTheSockets(t *testing.T) {
	marked := 0
	v, _ := fetching(t, RevocationStrict, func(v *verifying, _ string) []byte { return v.good(t)[0] })
	set := Settings{AllowLocalLists: true, Dialer: &net.Dialer{Control: func(string, string, syscall.RawConn) error { marked++; return nil }}}
	v.keeper.lists.client = newClient(set)
	v.put(t, v.good(t)[1])
	if err := v.result(t); err != nil || marked != 1 {
		t.Errorf("%d sockets marked, %v", marked, err)
	}
}

// silent is a transport that answers nothing until its request is cancelled.
type silent struct{ asked atomic.Int32 }

func (s *silent) RoundTrip(r *http.Request) (*http.Response, error) {
	s.asked.Add(1)
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func TestASilentServerHoldsNobodyUpForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for level, want := range map[Revocation]string{RevocationKnown: "", RevocationStrict: codeCRLUnavailable} {
			v := newVerifying(t, Settings{Revocation: level}, "http://lists.example/a.crl", "http://lists.example/b.crl")
			s := &silent{}
			v.keeper.lists.client = &http.Client{Transport: s}
			began := time.Now()
			err := v.result(t)
			if took := time.Since(began); code(err) != want || took != listWait {
				t.Errorf("level %d: %v after %v", level, err, took)
			}
			time.Sleep(fetchTime) // of the fake clock: the fetches give up
			synctest.Wait()
			began, asked := time.Now(), s.asked.Load()
			if err := v.result(t); code(err) != want || time.Since(began) != 0 || s.asked.Load() != asked {
				t.Errorf("level %d: the second time %v after %v, %d requests", level, err, time.Since(began), s.asked.Load())
			}
		}
	})
}

func TestListsAreRenewedBeforeTheyRunOut(t *testing.T) {
	now := noon
	v, asked := fetching(t, RevocationStrict, func(v *verifying, _ string) []byte {
		return newList(t, v.issuing, now.Add(-time.Hour), now.Add(3*time.Hour))
	})
	v.keeper.lists.now = func() time.Time { return now }
	v.put(t, v.good(t)[1])
	if err := v.result(t); err != nil {
		t.Fatal(err)
	}
	refresh := func(at time.Time, want int32) {
		t.Helper()
		now = at
		v.keeper.lists.refresh()
		v.keeper.lists.settled(t)
		if asked.Load() != want {
			t.Errorf("%v: fetched %d times, want %d", at, asked.Load(), want)
		}
	}
	refresh(noon.Add(time.Hour), 1)                   // half its life
	refresh(noon.Add(2*time.Hour+time.Minute), 2)     // the last quarter
	refresh(noon.Add(2*time.Hour+2*time.Minute), 2)   // a new one
	refresh(noon.Add(forgetAfter+10*24*time.Hour), 2) // out of use
	if n := len(v.keeper.lists.entries); n != 0 {
		t.Errorf("%d lists remembered that nobody asks for", n)
	}
}

// settled waits until no fetch is under way.
func (c *cache) settled(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	var under []chan struct{}
	for _, e := range c.entries {
		if e.done != nil {
			under = append(under, e.done)
		}
	}
	c.mu.Unlock()
	for _, done := range under {
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatal("a fetch does not end")
		}
	}
}

func TestTheCacheIsBounded(t *testing.T) {
	c := newCache(Settings{Now: func() time.Time { return noon }})
	c.client = &http.Client{Transport: refusing{}}
	ca := newAuthority(t, "Root", nil)
	for i := range 3 * maxEntries {
		c.get(context.Background(), "http://lists.example/"+strings.Repeat("x", i), ca.Certificate)
	}
	if len(c.entries) > maxEntries {
		t.Errorf("%d lists remembered", len(c.entries))
	}
}

// refusing is a transport without a network.
type refusing struct{}

func (refusing) RoundTrip(*http.Request) (*http.Response, error) { return nil, http.ErrHandlerTimeout }
