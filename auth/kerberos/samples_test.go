package kerberos

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"hash"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ipsecagent/auth"
	"ipsecagent/auth/gss"
)

// sample is a main mode that was recorded between two racoons.
type sample struct {
	SKEYID  string
	HashI   string `json:"HASH_I"`
	HashR   string `json:"HASH_R"`
	Cookies []string
	KE      map[string]string   `json:"ke"`
	IDs     map[string]string   `json:"ids"`
	SA      string              `json:"SAi_b"`
	Tokens  map[string][]string `json:"gss_tokens"`
	Names   map[string]string   `json:"gss_names_attr"`
	Hash    string
}

func samples(t testing.TB) map[string]sample {
	t.Helper()
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) != 4 {
		t.Fatal(files, err)
	}
	all := map[string]sample{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var s sample
		if err := json.Unmarshal(b, &s); err != nil {
			t.Fatal(f, err)
		}
		all[strings.TrimSuffix(filepath.Base(f), ".json")] = s
	}
	return all
}

func fromHex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (s sample) digest() func() hash.Hash {
	return map[string]func() hash.Hash{"md5": md5.New, "sha1": sha1.New, "sha256": sha256.New}[s.Hash]
}

// of returns HASH_I or HASH_R as RFC 2409 §5 has it, over extra octets.
func (s sample) of(t testing.TB, role string) func([]byte) []byte {
	other, cookies := "R", s.Cookies
	if role == "R" {
		other, cookies = "I", []string{s.Cookies[1], s.Cookies[0]}
	}
	return func(extra []byte) []byte {
		h := hmac.New(s.digest(), fromHex(t, s.SKEYID))
		for _, part := range []string{s.KE[role], s.KE[other], cookies[0], cookies[1], s.SA, s.IDs[role]} {
			h.Write(fromHex(t, part))
		}
		h.Write(extra)
		return h.Sum(nil)
	}
}

// The recorded hashes cover the sender's name in ISO 8859-1 and its token.
func TestRecordedHashes(t *testing.T) {
	for name, rec := range samples(t) {
		for role, want := range map[string]string{"I": rec.HashI, "R": rec.HashR} {
			token := fromHex(t, rec.Tokens[role][0])
			prefix, bare := splitToken(token)
			if prefix != "" || !bytes.Equal(bare, token) {
				t.Errorf("%s: token of %s: prefix %x", name, role, prefix)
			}
			s := &session{peer: auth.Claim{GSS: fromHex(t, rec.Names[role])}, got: tokens{token: bare}}
			q, ok := s.match(rec.of(t, role), fromHex(t, want))
			if !ok || q.form != formLatin1 {
				t.Errorf("%s: HASH_%s has form %d, %v", name, role, q.form, ok)
			}
			// And so does what this host would prove in its place.
			extra, ok := s.extra(formLatin1, s.peer.GSS, bare)
			if got := rec.of(t, role)(extra); !ok || !bytes.Equal(got, fromHex(t, want)) {
				t.Errorf("%s: HASH_%s %x", name, role, got)
			}
		}
	}
}

// The recorded names read as principals of the own realm, and the recorded
// identifications are those of the principals, but for the spoofed ones.
func TestRecordedIdentities(t *testing.T) {
	f := &facts{conf: &krb5Conf{}, self: gss.Principal{Realm: "IKE.TEST"}, realms: []string{"IKE.TEST"}}
	for name, rec := range samples(t) {
		for role, host := range map[string]string{"I": "a.ike.test", "R": "b.ike.test"} {
			p, err := f.peerName(fromHex(t, rec.Names[role]))
			if err != nil || p.String() != "host/"+host+"@IKE.TEST" {
				t.Errorf("%s: name of %s: %s, %v", name, role, p, err)
			}
			id := fromHex(t, rec.IDs[role])
			s := &session{host: &Authenticator{}, facts: f, peer: auth.Claim{IDType: id[0], ID: id[4:]}}
			err = s.checkID(p)
			if spoofed := name == "idspoof"; spoofed != (err != nil) {
				t.Errorf("%s: %s with %q: %v", name, p, id[4:], err)
			}
			if err != nil && codeOfError(t, err) != codeIdentity {
				t.Error(err)
			}
		}
	}
}
