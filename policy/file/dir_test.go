package file

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good.yaml")
	writeFile(t, good, header)
	if p, err := Load(good); err != nil || p.Name != "test" {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := Load(filepath.Join(dir, "lost.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("a folder: %v", err)
	}
	large := filepath.Join(dir, "large.yaml")
	writeFile(t, large, header+"#"+strings.Repeat("x", 2*maxSize))
	if _, err := Load(large); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a large file: %v", err)
	}
	bad := filepath.Join(dir, "bad.yaml")
	writeFile(t, bad, header+"x: 1\n")
	if _, err := Load(bad); len(Errors(err)) != 1 || Errors(err)[0].File != bad {
		t.Errorf("a bad file: %v", err)
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDirKeepsGoodDocumentsBesideBadOnes(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a.yaml"), header)
	writeFile(t, filepath.Join(dir, "b.yaml"), header+"x: 1\n")
	writeFile(t, filepath.Join(dir, "c.yaml"), header)
	writeFile(t, filepath.Join(dir, "d.yaml"), strings.Replace(header, "test", "other", 1))
	writeFile(t, filepath.Join(dir, "e.yaml"), strings.Replace(header, "test", "client", 1))
	writeFile(t, filepath.Join(dir, ".hidden.yaml"), "x")
	writeFile(t, filepath.Join(dir, "README.md"), "x")
	if err := os.Mkdir(filepath.Join(dir, "sub.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	entries, err := Dir(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []struct{ file, policy, problem string }{
		{"a.yaml", "test", ""},
		{"b.yaml", "", `unknown field "x"`},
		{"c.yaml", "", `policy "test" of`},
		{"d.yaml", "other", ""},
		{"e.yaml", "", "has the name of a predefined policy"},
	}
	if len(entries) != len(want) {
		t.Fatalf("%+v", entries)
	}
	for i, e := range entries {
		w := want[i]
		switch {
		case filepath.Base(e.Path) != w.file, (e.Err == nil) != (e.Policy != nil), (e.Err == nil) != (w.problem == ""):
			t.Errorf("entry %+v, want %+v", e, w)
		case e.Err != nil && !strings.Contains(e.Err.Error(), w.problem):
			t.Errorf("%v, want %q", e.Err, w.problem)
		case e.Policy != nil && e.Policy.Name != w.policy:
			t.Errorf("policy %q, want %q", e.Policy.Name, w.policy)
		}
	}
	if _, err := Dir(filepath.Join(dir, "lost")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
}

func TestDirIsBounded(t *testing.T) {
	dir := t.TempDir()
	for i := range maxFiles + 1 {
		writeFile(t, filepath.Join(dir, fmt.Sprintf("%04d.yaml", i)), "x")
	}
	entries, err := Dir(dir)
	if len(entries) != maxFiles || err == nil || !strings.Contains(err.Error(), "more than 1000 documents") {
		t.Errorf("%d entries, %v", len(entries), err)
	}
}
