package psk

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"ipsecagent/auth"
)

// canary is a good key that must not show anywhere.
const canary = "canary-Q7w9Zx2vT4bN8mK1-canary"

// retired is the key that canary has replaced.
const retired = "retired-J5h3Gd6fS0aP2oI7-retired"

const groups = `apiVersion: ipsecagent/v1
kind: PresharedKeys
keys:
  - name: default
    peers: [any]
    keys: ["default-key-0123456789-abcdef"]
  - name: branch
    peers: [10.0.0.0/8, 2001:db8::/32]
    keys: ["` + canary + `", '` + retired + `']
  - name: one
    peers: [10.1.2.3]
    keys: ["one-key-0123456789-abcdef-ghij"]
  - name: fallback
    keys: ["fallback-key-0123456789-abcdef"]
`

func parse(t *testing.T, text string) *Keyring {
	t.Helper()
	r, err := Parse("keys.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func request(remote, key string) auth.Request {
	return auth.Request{Local: netip.MustParseAddr("10.9.9.9"), Remote: netip.MustParseAddr(remote),
		Requirement: auth.Requirement{Method: auth.PSK, Key: key}}
}

func start(t *testing.T, a *Authenticator, r auth.Request) auth.Session {
	t.Helper()
	s, err := a.Start(r)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// prf is a stand-in for HASH_I: it depends on the key and on the extra.
func prf(key string) func([]byte) []byte {
	return func(extra []byte) []byte {
		sum := sha256.Sum256(append([]byte(key), extra...))
		return sum[:]
	}
}

func TestSelection(t *testing.T) {
	a := New(parse(t, groups))
	for _, c := range []struct{ remote, key, want string }{
		{"192.0.2.1", "", "psk:default"},
		{"10.1.2.4", "", "psk:branch"},
		{"10.1.2.3", "", "psk:one"},
		{"::ffff:10.1.2.3", "", "psk:one"},
		{"2001:db8::7", "", "psk:branch"},
		{"fe80::1%eth0", "", "psk:default"},
		{"10.1.2.3", "branch", "psk:branch"},
		{"10.1.2.3", "fallback", "psk:fallback"},
	} {
		s := start(t, a, request(c.remote, c.key))
		key := string(s.Seeds()[0])
		proof, err := s.Prove(prf(key))
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Check(prf(key), proof)
		if err != nil || string(got) != c.want {
			t.Errorf("%s with key %q: %q, %v, want %q", c.remote, c.key, got, err, c.want)
		}
	}
}

func TestNoKeyForPeer(t *testing.T) {
	narrow := strings.Replace(groups, "any", "192.0.2.0/24", 1)
	narrow = narrow[:strings.Index(narrow, "  - name: fallback")]
	nowhere := t.TempDir()
	empty, err := Load(nowhere)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		ring      *Keyring
		remote    string
		key       string
		wantWords []string
	}{
		{nil, "198.51.100.1", "", []string{"198.51.100.1", "no preshared keys have been read"}},
		{empty, "198.51.100.1", "", []string{"198.51.100.1", nowhere + " holds no key; add one and reload"}},
		{parse(t, narrow), "198.51.100.1", "", []string{"198.51.100.1", "keys.yaml", "reload"}},
		{parse(t, narrow), "198.51.100.1", "branch", []string{"198.51.100.1", `"branch"`, "keys.yaml"}},
		{parse(t, narrow), "10.0.0.1", "nosuch", []string{"10.0.0.1", `"nosuch"`, "default, branch, one", "keys.yaml"}},
	} {
		_, err := New(c.ring).Start(request(c.remote, c.key))
		var e *auth.Error
		if !errors.As(err, &e) {
			t.Errorf("%s: error %v is no *auth.Error", c.remote, err)
			continue
		}
		for _, w := range c.wantWords {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q does not say %q", err, w)
			}
		}
	}
	if _, err := New(parse(t, groups)).Start(auth.Request{}); err == nil {
		t.Error("a request of no method was accepted")
	}
	invalid := auth.Request{Requirement: auth.Requirement{Method: auth.PSK}}
	if _, err := New(parse(t, groups)).Start(invalid); err == nil {
		t.Error("a peer without an address got a key")
	}
}

func TestOrderOfKeys(t *testing.T) {
	a := New(parse(t, groups))
	for _, c := range []struct {
		initiator bool
		attempt   int
		first     string
	}{{true, 0, canary}, {true, 1, retired}, {true, 2, canary}, {false, 0, canary}, {false, 1, canary}} {
		r := request("10.0.0.1", "branch")
		r.Initiator, r.Attempt = c.initiator, c.attempt
		seeds := start(t, a, r).Seeds()
		if len(seeds) != 2 || string(seeds[0]) != c.first {
			t.Errorf("initiator %v, attempt %d: %d keys, the wrong one first", c.initiator, c.attempt, len(seeds))
		}
	}
}

func TestProofs(t *testing.T) {
	s := start(t, New(parse(t, groups)), request("10.0.0.1", "branch"))
	right := prf(canary)(nil)
	for name, proof := range map[string][]byte{
		"nothing": nil, "another key's": prf(retired)(nil), "a part": right[:31], "more": append(slices.Clone(right), 0),
		"the right one with an extra": prf(canary)([]byte("x")),
	} {
		principal, err := s.Check(prf(canary), proof)
		var e *auth.Error
		if principal != "" || !errors.As(err, &e) || e.Reason != "preshared key does not match" {
			t.Errorf("%s: principal %q, error %v", name, principal, err)
			continue
		}
		if text := err.Error(); !strings.Contains(text, `"branch"`) || !strings.Contains(text, "10.0.0.1") {
			t.Errorf("%q names no key or no peer", text)
		}
	}
	empty := func([]byte) []byte { return nil }
	if _, err := s.Check(empty, nil); err == nil {
		t.Error("an empty hash proves something")
	}
	if p, err := s.Check(prf(canary), right); err != nil || p != "psk:branch" {
		t.Errorf("the right proof: %q, %v", p, err)
	}
}

func TestClaims(t *testing.T) {
	a := New(parse(t, groups))
	s := start(t, a, request("10.0.0.1", ""))
	if c := s.Local(); c.IDType != 1 || !bytes.Equal(c.ID, []byte{10, 9, 9, 9}) {
		t.Errorf("claim %+v", c)
	}
	r := request("2001:db8::1", "")
	r.Local = netip.MustParseAddr("2001:db8::9")
	if c := start(t, a, r).Local(); c.IDType != 5 || len(c.ID) != 16 || c.ID[15] != 9 {
		t.Errorf("claim %+v", c)
	}
	for _, c := range []auth.Claim{{IDType: 1, ID: []byte{192, 168, 0, 1}}, {IDType: 5, ID: make([]byte, 16)}, {IDType: 2, ID: []byte("pc.example")}} {
		if err := s.Remote(c); err != nil {
			t.Errorf("claim %+v: %v", c, err)
		}
	}
	for _, c := range []auth.Claim{{IDType: 1}, {IDType: 5, ID: make([]byte, 4)}} {
		if err := s.Remote(c); err == nil {
			t.Errorf("malformed claim %+v was accepted", c)
		}
	}
	if out, err := s.Token(nil); out != nil || err != nil {
		t.Errorf("token %x, %v", out, err)
	}
	if _, err := s.Token([]byte("token")); err == nil {
		t.Error("a GSS token was accepted")
	}
}

func TestSingleLine(t *testing.T) {
	for _, text := range []string{canary, canary + "\n", canary + "\r\n"} {
		r := parse(t, text)
		s := start(t, New(r), request("203.0.113.9", ""))
		if got := s.Seeds(); len(got) != 1 || string(got[0]) != canary {
			t.Errorf("keys of a file of %d bytes: %d", len(text), len(got))
		}
		if !slices.Equal(r.Names(), []string{"default"}) || len(r.Warnings()) != 0 {
			t.Errorf("names %v, warnings %v", r.Names(), r.Warnings())
		}
	}
}

// head starts a document; one group is added by a case.
const head = "apiVersion: ipsecagent/v1\nkind: PresharedKeys\nkeys:\n"

func malformed() map[string]string {
	key := `"` + canary + `"`
	return map[string]string{
		"empty":                 " \n",
		"space before the key":  " " + canary,
		"short key":             "canary1",
		"control character":     "canary\x00" + canary,
		"not UTF-8":             canary + "\xff",
		"long key":              canary + strings.Repeat("x", maxLength),
		"no YAML":               head + "  - name: [" + canary,
		"alias":                 head + "  - {name: a, keys: [*" + canary + "]}\n",
		"tabs":                  "apiVersion:\n\t" + canary,
		"no fields":             "# apiVersion\n- " + canary + "\n",
		"two documents":         head + "---\n" + head,
		"wrong version":         "apiVersion: " + canary + "\nkind: PresharedKeys\n",
		"no version":            "kind: PresharedKeys\nkeys: []\n",
		"wrong kind":            "apiVersion: ipsecagent/v1\nkind: " + canary + "\n",
		"unknown field":         head + "  - {name: a, " + canary + ": x, keys: [" + key + "]}\n",
		"unknown field on top":  head + "  []\n" + canary + ": x\n",
		"field twice":           head + "  - {name: a, name: b, keys: [" + key + "]}\n",
		"keys no list":          head + "  " + canary + "\n",
		"group no fields":       head + "  - " + canary + "\n",
		"no name":               head + "  - {keys: [" + key + "]}\n",
		"odd name":              head + "  - {name: 'a b', keys: [" + key + "]}\n",
		"long name":             head + "  - {name: " + strings.Repeat("a", maxName+1) + ", keys: [" + key + "]}\n",
		"name twice":            head + "  - {name: a, keys: [" + key + "]}\n  - {name: a, keys: [" + key + "]}\n",
		"no keys":               head + "  - {name: a}\n",
		"three keys":            head + "  - {name: a, keys: [" + key + ", " + key + ", " + key + "]}\n",
		"keys of a group a map": head + "  - {name: a, keys: {x: " + key + "}}\n",
		"key without quotes":    head + "  - {name: a, keys: [" + canary + "]}\n",
		"key a map":             head + "  - {name: a, keys: [{x: " + key + "}]}\n",
		"short key in a group":  head + "  - {name: a, keys: [\"canary1\"]}\n",
		"peers no list":         head + "  - {name: a, peers: " + canary + ", keys: [" + key + "]}\n",
		"peers empty":           head + "  - {name: a, peers: [], keys: [" + key + "]}\n",
		"peer no address":       head + "  - {name: a, peers: [" + canary + "], keys: [" + key + "]}\n",
		"peer with a zone":      head + "  - {name: a, peers: ['fe80::1%eth0'], keys: [" + key + "]}\n",
		"peer mapped":           head + "  - {name: a, peers: ['::ffff:10.0.0.1'], keys: [" + key + "]}\n",
		"prefix mapped":         head + "  - {name: a, peers: ['::ffff:10.0.0.0/104'], keys: [" + key + "]}\n",
		"prefix with host bits": head + "  - {name: a, peers: [10.0.0.1/8], keys: [" + key + "]}\n",
		"too large":             strings.Repeat(canary, maxSize/len(canary)+1),
	}
}

func TestMalformedIsRefusedWithoutEcho(t *testing.T) {
	for name, text := range malformed() {
		_, err := Parse("keys.yaml", []byte(text))
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		if !strings.HasPrefix(err.Error(), "auth/psk: read keys.yaml: ") {
			t.Errorf("%s: %q does not name the file", name, err)
		}
		hidesKeys(t, name, err)
	}
}

func TestErrorsGiveTheLine(t *testing.T) {
	text := head + "  - name: a\n    keys:\n      - \"" + canary + "\"\n      - short\n"
	if _, err := Parse("keys.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), "line 7:") {
		t.Errorf("error %v", err)
	}
	text = head + "  - name: a\n    peers: [10.0.0.1, 10.0.0.1/8]\n    keys: [\"" + canary + "\"]\n"
	if _, err := Parse("keys.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), "line 5:") || !strings.Contains(err.Error(), "10.0.0.0/8") {
		t.Errorf("error %v", err)
	}
	text = head + "  - name: [" + canary
	if _, err := Parse("keys.yaml", []byte(text)); err == nil || strings.Contains(err.Error(), "line 0") {
		t.Errorf("error %v", err)
	}
}

func TestWarnings(t *testing.T) {
	for text, want := range map[string]string{
		"short-Q7w9Zx2":                    "shorter than 20 characters",
		"abababababababababababababababab": "different characters",
		"0sQ7w9Zx2vT4bN8mK1Jh3Gd6fS0aP2oI": "taken as it stands",
		"pässwörd-Q7w9Zx2vT4bN8mK1-canary": "outside ASCII",
		"Q7w9Zx2vT4bN8mK1Jh3Gd6fS0aP2oI":   "",
	} {
		warnings := strings.Join(parse(t, text).Warnings(), "\n")
		if want == "" && warnings != "" || !strings.Contains(warnings, want) {
			t.Errorf("warnings %q, want %q", warnings, want)
		}
		if strings.Contains(warnings, text) {
			t.Errorf("%q shows the key", warnings)
		}
	}
}

// hidesKeys fails if v shows a key in any form that a log could take.
func hidesKeys(t *testing.T, what string, v any) {
	t.Helper()
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&out, verb+"\n", v)
	}
	if e, ok := v.(error); ok {
		fmt.Fprintln(&out, e.Error())
	}
	json.NewEncoder(&out).Encode(v)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
	for _, k := range []string{canary, retired, "canary1"} {
		for _, form := range []string{k, hex.EncodeToString([]byte(k)), strings.ToUpper(hex.EncodeToString([]byte(k))),
			base64.StdEncoding.EncodeToString([]byte(k)), fmt.Sprint([]byte(k))} {
			if strings.Contains(out.String(), form) {
				t.Errorf("%s: a key shows in %s", what, out.String())
			}
		}
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	ring := parse(t, groups)
	a := New(ring)
	s := start(t, a, request("10.0.0.1", "branch"))
	_, mismatch := s.Check(prf(canary), nil)
	_, missing := a.Start(request("10.0.0.1", "nosuch"))
	for what, v := range map[string]any{"keyring": ring, "keyring value": *ring, "group": *ring.groups[1], "key": ring.groups[1].keys[0],
		"authenticator": a, "session": s, "session value": *s.(*session), "mismatch": mismatch, "missing": missing} {
		hidesKeys(t, what, v)
	}
}

func TestReplaceWhileInUse(t *testing.T) {
	a := New(parse(t, groups))
	if a.Method() != auth.PSK {
		t.Error("wrong method")
	}
	old := start(t, a, request("10.0.0.1", ""))
	var users sync.WaitGroup
	for range 4 {
		users.Go(func() {
			for range 200 {
				if _, err := a.Start(request("10.0.0.1", "")); err != nil {
					t.Error(err)
					return
				}
				a.Replace(parse(t, canary))
			}
		})
	}
	users.Wait()
	if got := string(start(t, a, request("10.0.0.1", "")).Seeds()[0]); got != canary {
		t.Error("the new keys are not in use")
	}
	if len(old.Seeds()) != 2 {
		t.Error("a session lost its keys")
	}
	a.Replace(nil)
	if _, err := a.Start(request("10.0.0.1", "")); err == nil {
		t.Error("keys are left after all were taken away")
	}
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "10-groups.yaml"), groups, 0o600)
	write(t, filepath.Join(dir, "20-more.yaml"), head+"  - {name: more, peers: [10.7.0.0/16], keys: ['"+retired+"']}\n", 0o400)
	write(t, filepath.Join(dir, ".hidden.yaml"), "x", 0o644)
	write(t, filepath.Join(dir, "README"), "x", 0o644)
	r, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"default", "branch", "one", "fallback", "more"}; !slices.Equal(r.Names(), want) {
		t.Errorf("names %v, want %v", r.Names(), want)
	}
	if !r.Has("more") || !r.Has("") || r.Has("nosuch") {
		t.Error("Has is wrong")
	}
	one, err := Load(filepath.Join(dir, "20-more.yaml"))
	if err != nil || !slices.Equal(one.Names(), []string{"more"}) {
		t.Errorf("one file: %v, %v", one, err)
	}
}

func TestLoadOfAnEmptyDirectory(t *testing.T) {
	dir := t.TempDir()
	r, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(r).Start(request("10.0.0.1", "")); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("error %v does not name the directory", err)
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, path string) string{
		"chmod 600":    func(t *testing.T, path string) string { write(t, path, canary, 0o640); return path },
		"mode 0604":    func(t *testing.T, path string) string { write(t, path, canary, 0o604); return path },
		"regular file": func(t *testing.T, path string) string { os.Mkdir(path, 0o700); return filepath.Dir(path) },
		"no such file": func(_ *testing.T, path string) string { return path },
		"larger than": func(t *testing.T, path string) string {
			write(t, path, strings.Repeat("x\n", maxSize), 0o600)
			return path
		},
		"already defined":   twice,
		"belongs to user 7": foreign,
	} {
		path := prepare(t, filepath.Join(t.TempDir(), "keys.yaml"))
		if path == "" {
			continue
		}
		_, err := Load(path)
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v", name, err)
			continue
		}
		hidesKeys(t, name, err)
	}
}

// twice gives one name to two keys.
func twice(t *testing.T, path string) string {
	write(t, path, canary, 0o600)
	write(t, filepath.Join(filepath.Dir(path), "other.psk"), retired, 0o600)
	return filepath.Dir(path)
}

// foreign makes a file of somebody else.
func foreign(t *testing.T, path string) string {
	if os.Geteuid() != 0 {
		return "" // who is not root cannot make one
	}
	write(t, path, canary, 0o600)
	if err := os.Chown(path, 7, 7); err != nil {
		t.Fatal(err)
	}
	return path
}

// FuzzParse: whatever a file holds, it is refused without showing it, or gives
// one or two keys of allowed length to each group.
func FuzzParse(f *testing.F) {
	f.Add([]byte(groups))
	for _, text := range malformed() {
		if len(text) < 4096 {
			f.Add([]byte(text))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Parse("f", data)
		if err != nil {
			if strings.Contains(err.Error(), canary) {
				t.Errorf("error %q shows a key", err)
			}
			return
		}
		for _, g := range r.groups {
			if g.name == "" || len(g.keys) == 0 || len(g.keys) > maxKeys || !g.any && len(g.peers) == 0 {
				t.Errorf("group %q: %d keys, %d peers", g.name, len(g.keys), len(g.peers))
			}
			for _, k := range g.keys {
				if len(k()) < minLength || len(k()) > maxLength {
					t.Errorf("a key of %d bytes", len(k()))
				}
			}
		}
	})
}

// Every beginning of a document that ends within it is refused or has fewer
// groups; none gives a group without its keys.
func TestPrefixes(t *testing.T) {
	for n := range len(groups) {
		r, err := Parse("f", []byte(groups[:n]))
		if err != nil {
			hidesKeys(t, fmt.Sprintf("%d bytes", n), err)
			continue
		}
		for _, g := range r.groups {
			if len(g.keys) == 0 {
				t.Errorf("%d bytes: group %q without keys", n, g.name)
			}
		}
	}
}

// TestALineOfYAMLIsNoKey: the beginning of a document is not taken for the key of
// every peer; what keys are made of is.
func TestALineOfYAMLIsNoKey(t *testing.T) {
	for _, text := range []string{"kind: PresharedKeys", "apiVersion: ipsecagent/v1", "keys: []", "kind:PresharedKeys", `{"kind": "PresharedKeys", "keys": ["secret-secret-secret"]}`,
		"directory: {kind: ad}", "- name: default", "keys:", "uplift:"} {
		_, err := Parse("x.yaml", []byte(text+"\n"))
		if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "x.yaml") {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, text := range []string{"dGhpcyBpcyBhIGtleSBvZiBiYXNlNjQ=", "correct horse: battery staple!", "-{kindly}-{keys}-0123456789", "kinds:of+things/1234567890", "12:34:56:78:9a:bc:de:f0"} {
		if _, err := Parse("x.psk", []byte(text+"\n")); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}
