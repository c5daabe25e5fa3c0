package cert

import (
	"bytes"
	"encoding/asn1"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ipsecagent/auth"
)

// later is when the files of testdata/tools are in force.
var later = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// tool reads a file that another tool wrote.
func tool(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata/tools", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// toolKeeper makes a directory of such files.
func toolKeeper(t *testing.T, files map[string]string) *Keeper {
	t.Helper()
	dir := t.TempDir()
	for to, from := range files {
		write(t, filepath.Join(dir, to), tool(t, from), 0o600)
		if strings.HasSuffix(to, ".p12") {
			write(t, filepath.Join(dir, to+".password"), []byte("secret\n"), 0o600)
		}
	}
	s, err := Load(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return newKeeper(t, s, Settings{Revocation: RevocationStrict, Usage: UsageWindows, Now: func() time.Time { return later }})
}

func TestFilesOfOtherToolsWork(t *testing.T) {
	const opensslRoot, pkiRoot = "C=XX,O=Tools,CN=Root", "CN=pki Root,O=Tools,C=XX"
	for name, c := range map[string]struct {
		method auth.Method
		ca     string
		files  map[string]string
	}{
		"OpenSSL RSA":             {auth.RSA, opensslRoot, map[string]string{"own/a.pem": "openssl/rsa.pem", "own/a.key": "openssl/rsa.key"}},
		"OpenSSL EC":              {auth.ECDSA256, opensslRoot, map[string]string{"own/a.pem": "openssl/ec.pem", "own/a.key": "openssl/ec.key"}},
		"OpenSSL PKCS#7":          {auth.RSA, opensslRoot, map[string]string{"own/a.p7b": "openssl/chain.p7b", "own/a.key": "openssl/rsa.key"}},
		"OpenSSL PKCS#12":         {auth.RSA, opensslRoot, map[string]string{"own/a.p12": "openssl/modern.p12"}},
		"OpenSSL PKCS#12, legacy": {auth.RSA, opensslRoot, map[string]string{"own/a.p12": "openssl/legacy.p12"}},
		"OpenSSL PKCS#12, open":   {auth.ECDSA256, opensslRoot, map[string]string{"own/a.pfx": "openssl/open.p12"}},
		"pki":                     {auth.ECDSA256, pkiRoot, map[string]string{"own/a.der": "pki/host.der", "own/a.key": "pki/host.key"}},
	} {
		c.files["ca/1.pem"], c.files["ca/2.der"] = "openssl/ca.pem", "pki/ca.der"
		c.files["crls/1.crl"], c.files["crls/2.crl"] = "openssl/list.crl", "pki/list.crl"
		me := side{toolKeeper(t, c.files), auth.Requirement{Method: c.method, CA: c.ca}}
		if _, _, err := exchange(me, me); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestListsOfOtherToolsRevoke(t *testing.T) {
	for name, ca := range map[string]string{"openssl/revoked.pem": "ca.pem", "pki/revoked.der": "ca.der"} {
		issuer := contentOf(t, tool(t, filepath.Join(filepath.Dir(name), ca)))
		victim := contentOf(t, tool(t, name))
		l := contentOf(t, tool(t, filepath.Join(filepath.Dir(name), "list.crl"))).lists[0]
		k := toolKeeper(t, nil)
		chain := victim.certs[:1:1]
		if err := k.revoked(&Store{lists: []*list{l}}, append(chain, issuer.certs[0])); code(err) != codeRevoked {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func contentOf(t *testing.T, data []byte) *content {
	t.Helper()
	c, err := parse("x", data)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestOpenSSLsEncryptedKeyIsRefused(t *testing.T) {
	if _, err := parse("x", tool(t, "openssl/encrypted.key")); err == nil || !strings.Contains(err.Error(), "encrypted") {
		t.Error(err)
	}
}

// OpenSSL signs the bytes of a hash as IKEv1 wants them signed: PKCS#1 without
// DigestInfo, and ECDSA over the bytes themselves.
func TestOpenSSLsSignaturesOverABareHash(t *testing.T) {
	hash := tool(t, "openssl/hash")
	rsaCert, ecCert := contentOf(t, tool(t, "openssl/rsa.pem")).certs[0], contentOf(t, tool(t, "openssl/ec.pem")).certs[0]
	rsaSig := tool(t, "openssl/rsa.sig")
	if err := verifyProof(rsaCert.PublicKey, hash, rsaSig); err != nil {
		t.Errorf("RSA: %v", err)
	}
	ecSig, err := fixedWidth(tool(t, "openssl/ec.sig"), 32)
	if err != nil {
		t.Fatal(err)
	}
	if err := verifyProof(ecCert.PublicKey, hash, ecSig); err != nil {
		t.Errorf("ECDSA: %v", err)
	}
	ours, err := contentOf(t, tool(t, "openssl/rsa.key")).keys[0].sign(nil, hash)
	if err != nil || !bytes.Equal(ours, rsaSig) {
		t.Errorf("another RSA signature, %v", err)
	}
}

// A file that names billions of rounds is refused at once, wherever it does.
func TestPKCS12WithEndlessRounds(t *testing.T) {
	for _, name := range []string{"openssl/modern.p12", "openssl/open.p12", "openssl/legacy.p12"} {
		data := tool(t, name)
		rounds := []byte{asn1.TagInteger, 2, 8, 0} // 2048
		found := 0
		for i := range data {
			if !bytes.HasPrefix(data[i:], rounds) {
				continue
			}
			found++
			many := bytes.Clone(data)
			copy(many[i:], []byte{asn1.TagInteger, 2, 0x7f, 0xff})
			if _, err := parsePKCS12(many, "secret"); err == nil {
				t.Errorf("%s: damaged at %d, and read", name, i)
			}
		}
		if found < 2 {
			t.Errorf("%s: %d numbers of rounds: the test looks at nothing", name, found)
		}
	}
	salted := []byte{0x30, 8, 4, 1, 1, 2, 3, 0x1e, 0x84, 0x81} // 2 000 001 behind a salt
	deep := salted
	for range maxNested + 1 {
		deep = append([]byte{asn1.TagOctetString, byte(len(deep))}, deep...)
	}
	for name, der := range map[string][]byte{"rounds": salted, "rounds in a string": append([]byte{asn1.TagOctetString, byte(len(salted))}, salted...), "depth": deep} {
		if checkRounds(der, 0) == nil {
			t.Errorf("%s: allowed", name)
		}
	}
	salted[9] = 0x80 // 2 000 000
	if err := checkRounds(salted, 0); err != nil {
		t.Error(err)
	}
}
