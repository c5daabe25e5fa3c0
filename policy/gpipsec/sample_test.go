package gpipsec

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// blob is what the parsers of all classes return.
type blob interface {
	Bytes() []byte
	Canonical() []byte
}

func parseBlob(c Class, data []byte) (blob, error) {
	switch c {
	case ClassPolicy:
		return ParsePolicy(data)
	case ClassISAKMP:
		return ParseISAKMP(data)
	case ClassNegotiation:
		return ParseNegotiation(data)
	case ClassFilter:
		return ParseFilter(data)
	}
	return ParseNFA(data)
}

// classOf returns the class of a value by its first bytes.
func classOf(data []byte) Class {
	for _, c := range storedClasses() {
		if id := classID(c); bytes.HasPrefix(data, id[:]) {
			return c
		}
	}
	return ""
}

func readHex(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// samples returns every ipsecData value of testdata by its file.
func samples(t testing.TB) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	paths, err := filepath.Glob("testdata/*/*.hex")
	if err != nil || len(paths) < 35 {
		t.Fatalf("%d samples: %v", len(paths), err)
	}
	for _, p := range paths {
		all[p] = readHex(t, p)
	}
	return all
}

func TestEverySampleSurvives(t *testing.T) {
	for path, data := range samples(t) {
		b, err := parseBlob(classOf(data), data)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if !bytes.Equal(b.Bytes(), data) {
			t.Errorf("%s comes back as %x", path, b.Bytes())
		}
		again, err := parseBlob(classOf(data), b.Canonical())
		if err != nil || !bytes.Equal(again.Canonical(), b.Canonical()) {
			t.Errorf("%s: the canonical form is not one: %v", path, err)
		}
		if strings.Contains(path, "canonical") && !bytes.Equal(b.Canonical(), data) {
			t.Errorf("%s becomes %x", path, b.Canonical())
		}
	}
}
