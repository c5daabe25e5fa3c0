package file

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"ipsecagent/policy"
)

func TestDamagedDocumentsAreReadOrRefused(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "examples", "database-servers.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(data) {
		check(t, data[:n])
	}
	rng := rand.New(rand.NewPCG(5, 6))
	for range 2000 {
		damaged := bytes.Clone(data)
		damaged[rng.IntN(len(damaged))] ^= byte(1 + rng.IntN(255))
		check(t, damaged)
	}
}

func check(t *testing.T, data []byte) {
	t.Helper()
	p, err := Parse("t.yaml", data)
	if err == nil {
		if _, err := policy.Compile(p, policy.Host{}); err != nil {
			t.Fatalf("read but not compiled: %v\n%q", err, data)
		}
		roundTrip(t, p)
		return
	}
	places := Errors(err)
	if len(places) == 0 {
		t.Fatalf("%v has no place", err)
	}
	for _, e := range places {
		if e.Line < 1 || e.Column < 1 || e.Message == "" {
			t.Fatalf("%+v in %q", e, data)
		}
	}
}

func FuzzParse(f *testing.F) {
	entries, err := Dir(filepath.Join("..", "..", "examples"))
	if err != nil || len(entries) == 0 {
		f.Fatalf("no examples: %v", err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(e.Path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(allFields))
	f.Add([]byte(header + "tests: [{flow: \"tcp me=::1 -> [::2]:3\", expect: none}]"))
	f.Fuzz(func(t *testing.T, data []byte) { check(t, data) })
}
