package file

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// patience is how long a test waits for what must come.
const patience = 10 * time.Second

func hinted(t *testing.T, hints <-chan struct{}) (open bool) {
	t.Helper()
	select {
	case _, open = <-hints:
		return open
	case <-time.After(patience):
		t.Fatal("nothing heard of a change")
		return false
	}
}

func TestWatchHintsAtEveryKindOfChange(t *testing.T) {
	dir := t.TempDir()
	hints, err := Watch(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	path, moved := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml")
	for name, change := range map[string]func() error{
		"write":  func() error { return os.WriteFile(path, []byte(header), 0o600) },
		"rename": func() error { return errors.Join(os.WriteFile(path, nil, 0o600), os.Rename(path, moved)) },
		"remove": func() error { return errors.Join(os.WriteFile(path, nil, 0o600), os.Remove(path)) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if !hinted(t, hints) {
			t.Fatalf("%s: the channel was closed", name)
		}
	}
}

func TestWatchTellsASaveOnce(t *testing.T) {
	dir := t.TempDir()
	hints, err := Watch(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		writeFile(t, filepath.Join(dir, "a.yaml"), header)
	}
	hinted(t, hints)
	select {
	case <-hints:
		t.Error("a second hint for one save")
	case <-time.After(3 * settle):
	}
}

func TestWatchEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	hints, err := Watch(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if hinted(t, hints) {
		t.Error("a hint after the end")
	}
}

func TestWatchEndsWithTheFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "policies.d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	hints, err := Watch(t.Context(), dir+"/")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if hinted(t, hints) {
		t.Error("a hint, not the end")
	}
}

func TestWatchNeedsAFolder(t *testing.T) {
	if _, err := Watch(t.Context(), filepath.Join(t.TempDir(), "lost")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
