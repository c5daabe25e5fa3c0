package crypt

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ipsecagent/sadb"
)

// octets are bytes that stand as hexadecimal digits in JSON.
type octets []byte

func (o *octets) UnmarshalText(text []byte) (err error) {
	*o, err = hex.DecodeString(string(text))
	return err
}

type sides struct{ I, R octets }

// message is one ISAKMP message of a transcript.
type message struct {
	Exchange, Flags int
	ISAKMP          octets
	IV, Plaintext   octets // of encrypted ones
}

func (m message) msgid() uint32      { return binary.BigEndian.Uint32(m.ISAKMP[20:]) }
func (m message) ciphertext() []byte { return m.ISAKMP[28:] }
func (m message) encrypted() bool    { return m.Flags&1 != 0 }
func (m message) payloads(t *testing.T) payloads {
	return parse(t, m.ISAKMP[16], m.Plaintext)
}

// transcript is a negotiation between two other implementations with all
// that was derived in it.
type transcript struct {
	SKEYID, SKEYID_d, SKEYID_a, SKEYID_e octets
	Ka, IV0, Gxy                         octets
	HASH_I, HASH_R                       octets
	Cookies                              []octets
	Nonces, KE, IDs                      sides
	SAi_b                                octets
	Hash, PSK                            string
	Messages                             []message
	Child                                []struct{ MID, SPI, Enc, Integ, GQM octets }
	GSSTokens                            struct{ I, R []octets } `json:"gss_tokens"`
	GSSNames                             sides                   `json:"gss_names_attr"`
}

func readJSON(t *testing.T, name string, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// transcripts gives the file of every transcript, the suite of its main mode
// and of its quick modes.
func transcripts(t *testing.T) map[string][2]string {
	t.Helper()
	m := map[string][2]string{
		"v1-main-psk-3des-md5-modp1024-pfs":           {"3des-md5-modp1024", "esp-3des-md5"},
		"v1-main-psk-aes128-sha1-modp2048":            {"aes128-sha1-modp2048", "esp-aes128-sha1"},
		"v1-main-psk-aes256-sha256-ecp256-pfs":        {"aes256-sha256-ecp256", "esp-aes256gcm"},
		"v1-main-gss-krb5rc4-3des-md5-modp1024":       {"3des-md5-modp1024", "esp-aes128-sha1"},
		"v1-main-gss-krb5aes256-aes128-sha1-modp2048": {"aes128-sha1-modp2048", "esp-aes128-sha1"},
		"v1-main-gss-krb5aes256-aes256-sha256-modp2048": {
			"aes256-sha256-modp2048", "esp-aes128-sha1"},
	}
	files, _ := filepath.Glob("testdata/v1-*.json")
	if len(files) != len(m) {
		t.Fatalf("%d transcripts in testdata, %d known", len(files), len(m))
	}
	return m
}

func TestTranscripts(t *testing.T) {
	for name, suites := range transcripts(t) {
		t.Run(name, func(t *testing.T) {
			var tr transcript
			readJSON(t, name+".json", &tr)
			main, err := sadb.ParseISAKMPSuite(suites[0])
			if err != nil {
				t.Fatal(err)
			}
			quick, err := sadb.ParseSuite(suites[1])
			if err != nil {
				t.Fatal(err)
			}
			k := tr.derive(t, main)
			tr.checkKeys(t, k)
			tr.checkProofs(t, k)
			tr.checkMessages(t, k)
			tr.checkChildren(t, k, quick)
		})
	}
}

func (tr transcript) derive(t *testing.T, suite sadb.ISAKMPSuite) *Keys {
	t.Helper()
	x := Exchange{Suite: suite, ICookie: [8]byte(tr.Cookies[0]), RCookie: [8]byte(tr.Cookies[1]),
		Ni: tr.Nonces.I, Nr: tr.Nonces.R, KEi: tr.KE.I, KEr: tr.KE.R, Shared: tr.Gxy}
	derive := x.Signature
	if tr.PSK != "" {
		derive = func() (*Keys, error) { return x.PSK([]byte(tr.PSK)) }
	}
	k, err := derive()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (tr transcript) checkKeys(t *testing.T, k *Keys) {
	t.Helper()
	equal(t, "SKEYID", k.ID().Bytes(), tr.SKEYID)
	equal(t, "SKEYID_d", k.D().Bytes(), tr.SKEYID_d)
	equal(t, "SKEYID_a", k.A().Bytes(), tr.SKEYID_a)
	equal(t, "SKEYID_e", k.E().Bytes(), tr.SKEYID_e)
	equal(t, "Ka", k.Ka().Bytes(), tr.Ka)
	equal(t, "IV", k.IV(), tr.IV0)
}

func (tr transcript) checkProofs(t *testing.T, k *Keys) {
	t.Helper()
	equal(t, "HASH_I", k.HashI(tr.SAi_b, tr.IDs.I, gssExtra(tr.GSSNames.I, tr.GSSTokens.I)), tr.HASH_I)
	equal(t, "HASH_R", k.HashR(tr.SAi_b, tr.IDs.R, gssExtra(tr.GSSNames.R, tr.GSSTokens.R)), tr.HASH_R)
}

// gssExtra is what that implementation adds to the hash: its name in
// ISO 8859-1, made from the UTF-16LE attribute, and the tokens it sent.
func gssExtra(name []byte, tokens []octets) []byte {
	extra := bytes.ReplaceAll(name, []byte{0}, nil)
	for _, tok := range tokens {
		extra = append(extra, tok...)
	}
	return extra
}

// checkMessages follows the IV chains through all messages, in both
// directions of the cipher, and verifies every hash of phase 2.
func (tr transcript) checkMessages(t *testing.T, k *Keys) {
	t.Helper()
	phase1, chains, nonces := k.IV(), map[uint32][]byte{}, map[uint32][][]byte{}
	for i, m := range tr.Messages {
		if !m.encrypted() {
			continue
		}
		iv := chains[m.msgid()]
		if m.msgid() == 0 {
			iv = phase1
		} else if iv == nil {
			iv = k.ExchangeIV(phase1, m.msgid())
		}
		equal(t, "IV", iv, m.IV)
		next := tr.crypt(t, k, iv, m)
		if m.msgid() == 0 {
			phase1 = next
			continue
		}
		chains[m.msgid()] = next
		p := m.payloads(t)
		got := p.body(t, payloadHash)
		if n := nonces[m.msgid()]; m.Exchange == exchangeQuick && len(n) == 2 {
			equal(t, "HASH(3)", k.Hash3(m.msgid(), n[0], n[1]), got)
		} else if m.Exchange == exchangeQuick && len(n) == 1 {
			equal(t, "HASH(2)", k.Hash2(m.msgid(), n[0], p.after), got)
			nonces[m.msgid()] = append(n, p.body(t, payloadNonce))
		} else {
			equal(t, "HASH(1)", k.Hash1(m.msgid(), p.after), got)
			if m.Exchange == exchangeQuick {
				nonces[m.msgid()] = [][]byte{p.body(t, payloadNonce)}
			}
		}
		if t.Failed() {
			t.Fatalf("message %d", i+1)
		}
	}
}

func (tr transcript) crypt(t *testing.T, k *Keys, iv []byte, m message) (next []byte) {
	t.Helper()
	plain, next, err := k.Decrypt(iv, m.ciphertext())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "plaintext", plain, m.Plaintext)
	ciphertext, same, err := k.Encrypt(iv, plain)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "ciphertext", ciphertext, m.ciphertext())
	equal(t, "next IV", same, next)
	return next
}

func (tr transcript) checkChildren(t *testing.T, k *Keys, suite sadb.Suite) {
	t.Helper()
	if len(tr.Child) < 2 {
		t.Fatal("the transcript has no associations")
	}
	for _, c := range tr.Child {
		q := Quick{Shared: c.GQM, SPI: sadb.SPI(binary.BigEndian.Uint32(c.SPI)), Suite: suite}
		q.Ni, q.Nr = tr.quickNonces(t, c.MID)
		enc, integ, err := k.Keymat(q)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "encryption key", enc.Bytes(), c.Enc)
		equal(t, "integrity key", integ.Bytes(), c.Integ)
	}
}

// quickNonces returns the nonces of the quick mode with message ID mid, of
// the only one if the transcript does not say.
func (tr transcript) quickNonces(t *testing.T, mid []byte) (ni, nr []byte) {
	t.Helper()
	var found [][]byte
	for _, m := range tr.Messages {
		if m.Exchange == exchangeQuick && (mid == nil || bytes.Equal(m.ISAKMP[20:24], mid)) && len(found) < 2 {
			found = append(found, m.payloads(t).body(t, payloadNonce))
		}
	}
	if len(found) != 2 {
		t.Fatalf("quick mode %x not in the transcript", mid)
	}
	return found[0], found[1]
}

const (
	payloadHash   = 8
	payloadNonce  = 10
	exchangeQuick = 32
)

type payloads struct {
	bodies map[byte][]byte // the first of each type
	after  []byte          // all that follows the first payload
}

func (p payloads) body(t *testing.T, kind byte) []byte {
	t.Helper()
	if p.bodies[kind] == nil {
		t.Fatalf("no payload %d", kind)
	}
	return p.bodies[kind]
}

func parse(t *testing.T, kind byte, b []byte) payloads {
	t.Helper()
	p := payloads{bodies: map[byte][]byte{}}
	first, at := 0, 0
	for kind != 0 {
		n := int(binary.BigEndian.Uint16(b[at+2:]))
		if p.bodies[kind] == nil {
			p.bodies[kind] = b[at+4 : at+n]
		}
		kind, at = b[at], at+n
		if first == 0 {
			first = at
		}
	}
	p.after = b[first:at]
	return p
}

func equal(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s is %x, want %x", what, got, want)
	}
}

// The formulas by NIST's validation program, whose samples give the result
// only; what goes in is written here.
func TestNIST(t *testing.T) {
	psk := Exchange{Suite: sha1Suite(t), ICookie: cookie(t, "83d374c30b3b5082"), RCookie: cookie(t, "5afc0da06c728029"),
		Ni: unhex(t, "b9a2d0e922dc66dd"), Nr: unhex(t, "2130166863b5ddef"),
		Shared: unhex(t, "739003ba2c11c982946c65e26acf661fbf8ebb78011a9fead79efa12fe3e71cc")}
	k, err := psk.PSK([]byte{0x75})
	checkNIST(t, "test.acvp.ikev1_psk.json", k, err)
	signature := Exchange{Suite: sha1Suite(t), ICookie: cookie(t, "8c3bcd3a69831d7f"), RCookie: cookie(t, "d2d9a7ff4fbe95a7"),
		Ni: unhex(t, "69a62284195f1680"), Nr: unhex(t, "80c94ba25c8abda5"),
		Shared: unhex(t, "8ba4cbc73c0187301dc19a975823854dbd641c597f637f8d053a83b9514673eb")}
	k, err = signature.Signature()
	checkNIST(t, "test.acvp.ikev1_dsa.json", k, err)
}

func checkNIST(t *testing.T, file string, k *Keys, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	var want struct{ SKeyID, SKeyIDD, SKeyIDA, SKeyIDE octets }
	readJSON(t, file, &want)
	equal(t, "SKEYID", k.ID().Bytes(), want.SKeyID)
	equal(t, "SKEYID_d", k.D().Bytes(), want.SKeyIDD)
	equal(t, "SKEYID_a", k.A().Bytes(), want.SKeyIDA)
	equal(t, "SKEYID_e", k.E().Bytes(), want.SKeyIDE)
}

func sha1Suite(t *testing.T) sadb.ISAKMPSuite { return suite(t, "aes128-sha1-modp2048") }

func suite(t *testing.T, name string) sadb.ISAKMPSuite {
	t.Helper()
	s, err := sadb.ParseISAKMPSuite(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func cookie(t *testing.T, s string) [8]byte { return [8]byte(unhex(t, s)) }
