package cert

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ipsecagent/auth"

	"software.sslmate.com/src/go-pkcs12"
)

// forms returns a certificate, its key and its chain in the forms of files
// that are read: names and contents for own.
func forms(t *testing.T, host, between *entity) map[string]map[string][]byte {
	t.Helper()
	sec1 := func() []byte {
		k, ok := host.key.(*ecdsa.PrivateKey)
		if !ok {
			return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(host.key.(*rsa.PrivateKey))})
		}
		der, err := x509.MarshalECPrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		return append([]byte("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})...)
	}()
	keyDER, _ := pem.Decode(keyPEM(t, host))
	wrapped, err := wrapPKCS7([][]byte{between.Raw, host.Raw})
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]map[string][]byte{
		"one file":      {"all.pem": slices.Concat([]byte("Subject: words of a tool\n"), certPEM(host, between), keyPEM(t, host))},
		"two files":     {"host.crt": certPEM(host, between), "host.key": keyPEM(t, host)},
		"three, SEC 1":  {"a.pem": certPEM(host), "b.cer": certPEM(between), "c.key": sec1},
		"DER":           {"a.cer": host.Raw, "b.der": between.Raw, "c.key": keyDER.Bytes},
		"PKCS#7":        {"chain.p7b": wrapped, "c.key": keyPEM(t, host)},
		"PKCS#7 in PEM": {"chain.p7b": pem.EncodeToMemory(&pem.Block{Type: "PKCS7", Bytes: wrapped}), "c.key": keyPEM(t, host)},
	}
	for name, encoder := range map[string]*pkcs12.Encoder{"PKCS#12 modern": pkcs12.Modern2023, "PKCS#12 of 2026": pkcs12.Modern2026, "PKCS#12 3DES": pkcs12.LegacyDES, "PKCS#12 RC2": pkcs12.LegacyRC2} {
		der, err := encoder.Encode(host.key, host.Certificate, []*x509.Certificate{between.Certificate}, "Pa$$word ü")
		if err != nil {
			t.Fatal(err)
		}
		files[name] = map[string][]byte{"host.p12": der, "host.p12.password": []byte("Pa$$word ü\r\nanother line")}
	}
	der, err := pkcs12.Modern.Encode(host.key, host.Certificate, []*x509.Certificate{between.Certificate}, "")
	if err != nil {
		t.Fatal(err)
	}
	files["PKCS#12 without password"] = map[string][]byte{"host.pfx": der}
	return files
}

func TestAllFormsOfFilesAreRead(t *testing.T) {
	root := newAuthority(t, "Root", nil)
	between := newAuthority(t, "Issuing", root)
	for _, m := range []auth.Method{auth.RSA, auth.ECDSA256} {
		host := newHost(t, "host.example", between, m)
		for name, files := range forms(t, host, between) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, dirCA, "root.der"), root.Raw, 0o644)
			for file, data := range files {
				write(t, filepath.Join(dir, dirOwn, file), data, 0o600)
			}
			write(t, filepath.Join(dir, dirOwn, ".hidden.pem"), []byte("x"), 0o666)
			write(t, filepath.Join(dir, dirOwn, "README"), []byte("x"), 0o666)
			s, err := Load(dir, nil)
			if err != nil {
				t.Errorf("%d %s: %v", m, name, err)
				continue
			}
			side := side{newKeeper(t, s, Settings{}), under(m, root)}
			if _, _, err := exchange(side, side); err != nil {
				t.Errorf("%d %s: %v", m, name, err)
			}
		}
	}
}

func TestFilesThatAreRefusedAreNamed(t *testing.T) {
	root := newAuthority(t, "Root", nil)
	host := newHost(t, "host.example", root, auth.ECDSA256)
	both := slices.Concat(certPEM(host), keyPEM(t, host))
	old := &pem.Block{Type: "EC PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}, Bytes: []byte("x")}
	p12, err := pkcs12.Modern.Encode(host.key, host.Certificate, nil, "secret")
	if err != nil {
		t.Fatal(err)
	}
	list := newList(t, root, noon, noon.Add(time.Hour))
	for name, c := range map[string]struct {
		path string
		data []byte
		mode os.FileMode
		says string
	}{
		"key others read":      {"own/x.pem", both, 0o640, "chmod 600"},
		"key others write":     {"own/x.pem", both, 0o620, "chmod go-w"},
		"authority others set": {"ca/x.pem", certPEM(root), 0o664, "chmod go-w"},
		"PKCS#12 others read":  {"own/x.p12", mustEncode(t, host), 0o644, "chmod 600"},
		"PKCS#12 password":     {"own/x.p12", p12, 0o600, "password"},
		"PKCS#12 damaged":      {"own/x.p12", p12[:len(p12)/2], 0o600, "PKCS#12"},
		"encrypted key":        {"own/x.key", pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")}), 0o600, "openssl pkey"},
		"old encrypted key":    {"own/x.key", pem.EncodeToMemory(old), 0o600, "openssl pkey"},
		"no key at all":        {"own/x.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}), 0o600, "PKCS#8"},
		"key among CAs":        {"ca/x.pem", both, 0o600, "own"},
		"key among lists":      {"crls/x.pem", both, 0o600, "own"},
		"list among CAs":       {"ca/x.crl", list, 0o600, "no certificate"},
		"list in own":          {"own/x.crl", list, 0o600, "crls"},
		"CA among lists":       {"crls/x.pem", certPEM(root), 0o600, "no revocation list"},
		"empty":                {"ca/x.pem", nil, 0o644, "neither PEM nor DER"},
		"only words":           {"ca/x.pem", []byte("hello\n"), 0o644, "neither PEM nor DER"},
		"cut PEM":              {"ca/x.pem", certPEM(root)[:200], 0o644, "cut off"},
		"second block cut":     {"ca/x.pem", append(certPEM(root), certPEM(root)[:200]...), 0o644, "cut off"},
		"other PEM":            {"ca/x.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte("x")}), 0o644, "CERTIFICATE REQUEST"},
		"bad certificate":      {"ca/x.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw[:50]}), 0o644, "x.pem"},
		"too large":            {"ca/x.pem", make([]byte, maxFile+1), 0o644, "larger than"},
		"key without its pair": {"own/x.key", keyPEM(t, host), 0o600, "no certificate"},
		"a pair's other half":  {"own/x.pem", certPEM(host), 0o600, "no private key"},
		"short RSA":            {"own/x.key", keyPEM(t, &entity{key: shortKey(t)}), 0o600, "512 bits"},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, c.path)
		write(t, path, c.data, c.mode)
		s, err := Load(dir, nil)
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		if s == nil || len(s.own)+len(s.authorities)+len(s.lists) != 0 {
			t.Errorf("%s: it is in use all the same", name)
		}
	}
}

// shortKey is an RSA key of 512 bits, which crypto/rsa does not make any more.
func shortKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	k, err := rsa.GenerateKey(rand.Reader, 512)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustEncode(t *testing.T, e *entity) []byte {
	t.Helper()
	der, err := pkcs12.Modern.Encode(e.key, e.Certificate, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestAPipeAndAForeignFileAreRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: to make a file of somebody else")
	}
	dir := t.TempDir()
	root := newAuthority(t, "Root", nil)
	path := filepath.Join(dir, dirCA, "x.pem")
	write(t, path, certPEM(root), 0o644)
	if err := os.Chown(path, 7, 7); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, dirOwn, "dir.pem"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := Load(dir, nil)
	if err == nil || !strings.Contains(err.Error(), "user 7") || !strings.Contains(err.Error(), "not a regular file") {
		t.Error(err)
	}
}

func TestADirectoryThatIsNotThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	s, err := Load(dir, nil)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), dir) || s == nil {
		t.Error(err)
	}
	before := storeOf(t, []*entity{newAuthority(t, "Root", nil)})
	if err := os.RemoveAll(before.dir); err != nil {
		t.Fatal(err)
	}
	if s, err := Load(before.dir, before); err == nil || s != before {
		t.Errorf("what was read before is lost: %v", err)
	}
	if s, err := Load(t.TempDir(), nil); err != nil || s == nil {
		t.Errorf("an empty directory: %v", err)
	}
}

func TestReadingAgainKeepsWhatCannotBeRead(t *testing.T) {
	root := newAuthority(t, "Root", nil)
	host := newHost(t, "host.example", root, auth.ECDSA256)
	store := storeOf(t, []*entity{root}, []*entity{host})
	k := newKeeper(t, store, Settings{})
	me := side{k, under(auth.ECDSA256, root)}
	works := func(step string) {
		t.Helper()
		if _, _, err := exchange(me, me); err != nil {
			t.Errorf("%s: %v", step, err)
		}
	}
	ca, certificate, key := filepath.Join(store.dir, "ca/a.pem"), filepath.Join(store.dir, "own/a.pem"), filepath.Join(store.dir, "own/a.key")
	running, err := begin(k, me.rule, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{ca, certificate, key} {
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, good[:len(good)/2], 0o600)
		if err := k.Reload(); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "stays in use") {
			t.Errorf("%s damaged: %v", path, err)
		}
		works(path + " damaged")
		write(t, path, good, 0o600)
		if err := k.Reload(); err != nil {
			t.Error(err)
		}
	}
	// Renewed: first the certificate, later the key.
	renewed := newHost(t, "renewed.example", root, auth.ECDSA256)
	write(t, certificate, certPEM(renewed), 0o600)
	if err := k.Reload(); err == nil || !strings.Contains(err.Error(), "stays in use") {
		t.Errorf("a certificate without its key: %v", err)
	}
	works("half renewed")
	if err := k.Reload(); err == nil {
		t.Error("half renewed, and the second reading finds nothing wrong")
	}
	works("half renewed, read twice")
	write(t, key, keyPEM(t, renewed), 0o600)
	if err := k.Reload(); err != nil {
		t.Error(err)
	}
	if got, _, err := exchange(me, me); err != nil || got != "CN=renewed.example,O=Bank" {
		t.Errorf("renewed: %q, %v", got, err)
	}
	// Taken away.
	if err := errors.Join(os.Remove(certificate), os.Remove(key)); err != nil {
		t.Fatal(err)
	}
	if err := k.Reload(); err != nil {
		t.Error(err)
	}
	_, err = begin(k, me.rule, true)
	wantCode(t, err, codeNoCertificate)
	// What began before still has its certificate.
	if c := running.Local(); !bytes.Equal(c.ID, host.RawSubject) {
		t.Error("a session lost its certificate")
	}
	if _, err := running.Prove(hashOf("x")); err != nil {
		t.Error(err)
	}
}

func TestTheDirectoryIsWatched(t *testing.T) {
	root := newAuthority(t, "Root", nil)
	store := storeOf(t, []*entity{root})
	k := newKeeper(t, store, Settings{})
	ctx, cancel := context.WithCancel(t.Context())
	reports, ended := make(chan error, 16), make(chan error, 1)
	go func() { ended <- k.Watch(ctx, func(err error) { reports <- err }) }()
	next := func() error {
		t.Helper()
		select {
		case err := <-reports:
			return err
		case <-time.After(10 * time.Second):
			t.Fatal("nothing heard of a change")
			return nil
		}
	}
	if err := next(); err != nil {
		t.Fatal(err)
	}
	host := newHost(t, "host.example", root, auth.ECDSA256)
	write(t, filepath.Join(store.dir, dirOwn, "x.pem"), slices.Concat(certPEM(host), keyPEM(t, host)), 0o640) // a new subdirectory
	if err := next(); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others can read: %v", err)
	}
	if err := os.Chmod(filepath.Join(store.dir, dirOwn, "x.pem"), 0o600); err != nil {
		t.Fatal(err)
	}
	for err := next(); err != nil; err = next() {
		t.Log(err)
	}
	if _, err := begin(k, under(auth.ECDSA256, root), true); err != nil {
		t.Error(err)
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the watch does not end")
	}
}

func TestWatchOfNothing(t *testing.T) {
	k := newKeeper(t, &Store{dir: filepath.Join(t.TempDir(), "none")}, Settings{})
	if err := k.Watch(t.Context(), func(error) {}); err == nil {
		t.Error("watches what is not there")
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	root := newAuthority(t, "Root", nil)
	hosts := []*entity{newHost(t, "a", root, auth.RSA), newHost(t, "b", root, auth.ECDSA256)}
	store := storeOf(t, []*entity{root}, hosts[:1], hosts[1:])
	k := newKeeper(t, store, Settings{})
	s, err := begin(k, under(auth.RSA, root), true)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, v := range []any{store, k, *s.(*session), *store.own[0], *store.own[1], store.files[filepath.Join(store.dir, "own/a.key")]} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		json.NewEncoder(&out).Encode(v)
	}
	rsaKey, ecKey := hosts[0].key.(*rsa.PrivateKey), hosts[1].key.(*ecdsa.PrivateKey)
	scalar, err := ecKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range [][]byte{rsaKey.D.Bytes(), rsaKey.Primes[0].Bytes(), scalar} {
		for _, form := range []string{hex.EncodeToString(secret[:16]), fmt.Sprint(secret)[1:40], strings.ToUpper(hex.EncodeToString(secret[:16]))} {
			if strings.Contains(out.String(), form) {
				t.Error("a key shows")
			}
		}
	}
	for _, d := range []string{rsaKey.D.String(), rsaKey.Primes[0].String(), new(big.Int).SetBytes(scalar).String()} {
		if strings.Contains(out.String(), d) {
			t.Error("a key shows in decimal")
		}
	}
}

func TestExpiring(t *testing.T) {
	root := newAuthority(t, "Root", nil)
	between := newAuthority(t, "Issuing", root, func(c *x509.Certificate) { c.NotAfter = noon.AddDate(0, 0, 40) })
	host := newHost(t, "host.example", between, auth.ECDSA256, func(c *x509.Certificate) { c.NotAfter = noon.AddDate(0, 0, 30) })
	k := newKeeper(t, storeOf(t, []*entity{root}, []*entity{host, between}), Settings{})
	write(t, filepath.Join(k.Store().dir, dirLists, "a.crl"), newList(t, root, noon, noon.AddDate(0, 0, 20)), 0o644)
	if err := k.Reload(); err != nil {
		t.Fatal(err)
	}
	for days, want := range map[int][]string{
		-1: nil, 0: {"certificate 30"}, 10: {"certificate 30", "authority 30"}, 16: {"certificate 14", "authority 30"},
		21: {"certificate 14", "authority 30", "revocation list 0"}, 23: {"certificate 7", "authority 30", "revocation list 0"},
		29: {"certificate 1", "authority 14", "revocation list 0"}, 31: {"certificate 0", "authority 14", "revocation list 0"},
	} {
		var got []string
		for _, n := range k.Expiring(noon.AddDate(0, 0, days)) {
			got = append(got, fmt.Sprintf("%s %d", n.What, n.Days))
			if text := n.String(); !strings.Contains(text, n.File) || !strings.Contains(text, n.Name) || (n.Days == 0) != strings.Contains(text, "expired") {
				t.Error(text)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("day %d: %q, want %q", days, got, want)
		}
	}
}
