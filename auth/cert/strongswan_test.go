package cert

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ipsecagent/auth"
)

// hexBytes are bytes written in hex.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// transcript is what strongSwan 5.9.8 said to itself in main mode: bodies of
// payloads, and the hashes that were signed.
type transcript struct {
	HashI, HashR   hexBytes
	IDI, IDR       hexBytes
	CertsI, CertsR []hexBytes
	SigI, SigR     hexBytes
	RequestsR      []hexBytes // of message 4, with the encoding byte
}

func transcripts(t *testing.T) map[string]transcript {
	t.Helper()
	data, err := os.ReadFile("testdata/strongswan/transcripts.json")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]transcript{}
	if err := json.Unmarshal(data, &all); err != nil || len(all) != 2 {
		t.Fatalf("%d transcripts, %v", len(all), err)
	}
	return all
}

// fixed returns a hash function with one result.
func fixed(hash []byte) func([]byte) []byte { return func([]byte) []byte { return hash } }

// sampleKeeper is the host of a transcript's PKI: "a" or "b".
func sampleKeeper(t *testing.T, host string) *Keeper {
	t.Helper()
	dir := t.TempDir()
	for from, to := range map[string]string{"ca.pem": dirCA + "/ca.pem", host + ".pem": dirOwn + "/host.pem", host + ".key": dirOwn + "/host.key"} {
		data, err := os.ReadFile("testdata/strongswan/" + from)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, to), data, 0o600)
	}
	s, err := Load(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return newKeeper(t, s, at(time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)))
}

// half is one direction of a transcript.
type half struct {
	host    string
	id, sig []byte
	certs   []hexBytes
	hash    []byte
	name    auth.Principal
}

func (x transcript) halves() []half {
	return []half{
		{"a", x.IDI, x.SigI, x.CertsI, x.HashI, "CN=a.example,O=ipsecagent test,C=XX"},
		{"b", x.IDR, x.SigR, x.CertsR, x.HashR, "CN=b.example,O=ipsecagent test,C=XX"},
	}
}

func (h half) claim() auth.Claim {
	c := auth.Claim{IDType: h.id[0], ID: h.id[4:]}
	for _, body := range h.certs {
		c.Certs = append(c.Certs, body)
	}
	return c
}

func TestStrongSwansTranscriptsVerify(t *testing.T) {
	rule := auth.Requirement{Method: auth.RSA, CA: "C=XX, O=ipsecagent test, CN=Test Root"}
	for name, x := range transcripts(t) {
		for i, h := range x.halves() {
			s, err := begin(sampleKeeper(t, x.halves()[1-i].host), rule, i == 1)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Remote(h.claim()); err != nil {
				t.Fatalf("%s %s: %v", name, h.host, err)
			}
			got, err := s.Check(fixed(h.hash), h.sig)
			if err != nil || got != h.name {
				t.Errorf("%s %s: proven %q, %v", name, h.host, got, err)
			}
			for _, at := range []int{0, 1, len(h.sig) / 2, len(h.sig) - 1} {
				broken := bytes.Clone(h.sig)
				broken[at] ^= 1
				_, err := s.Check(fixed(h.hash), broken)
				wantCode(t, err, codeSignature)
			}
			other := bytes.Clone(h.hash)
			other[len(other)-1] ^= 1
			_, err = s.Check(fixed(other), h.sig)
			wantCode(t, err, codeSignature)
		}
	}
}

func TestWeSendWhatStrongSwanSent(t *testing.T) {
	rule := auth.Requirement{Method: auth.RSA, CA: "CN=Test Root,O=ipsecagent test,C=XX"}
	for name, x := range transcripts(t) {
		for _, h := range x.halves() {
			s, err := begin(sampleKeeper(t, h.host), rule, true)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Remote(auth.Claim{CAs: [][]byte{x.RequestsR[0][1:]}}); err != nil {
				t.Fatal(err)
			}
			got, want := s.Local(), h.claim()
			if got.IDType != want.IDType || !bytes.Equal(got.ID, want.ID) || len(got.Certs) != len(want.Certs) || !bytes.Equal(got.Certs[0], want.Certs[0]) {
				t.Errorf("%s %s: claim %+v", name, h.host, got)
			}
			if !bytes.Equal(got.CAs[0], x.RequestsR[0][1:]) {
				t.Errorf("%s %s: asks for %x", name, h.host, got.CAs[0])
			}
			proof, err := s.Prove(fixed(h.hash))
			if err != nil || !bytes.Equal(proof, h.sig) {
				t.Errorf("%s %s: another signature, %v", name, h.host, err)
			}
		}
	}
}
