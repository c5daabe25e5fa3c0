package gss

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func at(s int) time.Time { return time.Unix(1_800_000_000+int64(s), 0) }

func id(n int) ReplayID { return ReplayID{byte(n), byte(n >> 8), byte(n >> 16)} }

func someone(n int) Principal {
	return Principal{Name: []string{"host", fmt.Sprintf("h%d", n)}, Realm: "LAB.TEST"}
}

func open(t *testing.T, path string, now time.Time) *ReplayCache {
	t.Helper()
	c, err := OpenReplayCache(path, now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestReplayIsSeenAfterARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "replay")
	c := open(t, path, at(0))
	if err := c.Use(id(1), someone(1), at(0), at(1), DefaultSkew); err != nil {
		t.Fatal(err)
	}
	// The process dies here: nothing is closed.
	d := open(t, path, at(2))
	if err := d.Use(id(1), someone(1), at(0), at(3), DefaultSkew); !errors.Is(err, ErrReplay) {
		t.Errorf("%v", err)
	}
	if err := d.Use(id(2), someone(1), at(0), at(3), DefaultSkew); err != nil {
		t.Error(err)
	}
	if d.Warning() != "" {
		t.Error(d.Warning())
	}
	// An entry lasts as long as the check of the time would let it pass.
	e := open(t, path, at(300))
	if err := e.Use(id(2), someone(1), at(0), at(300), DefaultSkew); !errors.Is(err, ErrReplay) {
		t.Errorf("at the end of the window: %v", err)
	}
	if f := open(t, path, at(302)); len(f.entries) != 0 {
		t.Error("history is kept")
	}
}

func TestHalfARecordAtTheEndIsNoDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "replay")
	c := open(t, path, at(0))
	for n := range 3 {
		if err := c.Use(id(n), someone(n), at(0), at(0), DefaultSkew); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) != len(replayMagic)+3*replayRecord {
		t.Fatalf("%d bytes", len(b))
	}
	for cut := 1; cut < replayRecord; cut++ {
		records, damage := parseReplayLog(b[:len(b)-cut])
		if damage != nil || len(records) != 2 {
			t.Fatalf("%d bytes short: %d records, %v", cut, len(records), damage)
		}
	}
}

func TestDamagedReplayCacheClosesTheWindow(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"a bit in a record": func(b []byte) []byte { b[len(replayMagic)+40] ^= 1; return b },
		"another file":      func([]byte) []byte { return []byte("root:x:0:0::/root:/bin/sh\n") },
		"empty":             func([]byte) []byte { return nil },
		"zeros after a crash": func(b []byte) []byte {
			clear(b[len(replayMagic):])
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "replay")
			c := open(t, path, at(0))
			if err := c.Use(id(1), someone(1), at(0), at(0), DefaultSkew); err != nil {
				t.Fatal(err)
			}
			b, _ := os.ReadFile(path)
			if err := os.WriteFile(path, damage(b), 0o600); err != nil {
				t.Fatal(err)
			}
			d := open(t, path, at(10))
			if !strings.Contains(d.Warning(), path+damagedSuffix) {
				t.Errorf("warning %q", d.Warning())
			}
			if _, err := os.Stat(path + damagedSuffix); err != nil {
				t.Error(err)
			}
			if err := d.Use(id(1), someone(1), at(0), at(20), DefaultSkew); !errors.Is(err, ErrReplayCache) {
				t.Errorf("what may have been used: %v", err)
			}
			// The sender's clock may have been ahead: until that is over, no.
			if err := d.Use(id(2), someone(1), at(310), at(309), DefaultSkew); !errors.Is(err, ErrReplayCache) {
				t.Errorf("at the end of the window: %v", err)
			}
			if err := d.Use(id(2), someone(1), at(311), at(311), DefaultSkew); err != nil {
				t.Errorf("after it: %v", err)
			}
		})
	}
}

func TestReplayCacheIsBounded(t *testing.T) {
	c := NewReplayCache()
	n := 0
	use := func(client int) error {
		n++
		return c.Use(id(n), someone(client), at(0), at(0), DefaultSkew)
	}
	for range maxPerClient {
		if err := use(0); err != nil {
			t.Fatal(err)
		}
	}
	if err := use(0); !errors.Is(err, ErrReplayCache) {
		t.Errorf("one client too often: %v", err)
	}
	for client := 1; len(c.entries) < maxSeen; client++ {
		if err := use(client % 100); err != nil && !errors.Is(err, ErrReplayCache) {
			t.Fatal(err)
		}
	}
	if err := use(1000); !errors.Is(err, ErrReplayCache) {
		t.Errorf("full: %v", err)
	}
	if err := c.Use(id(1<<20), someone(0), at(400), at(400), DefaultSkew); err != nil {
		t.Errorf("a window later: %v", err)
	}
	if len(c.entries) != 1 || len(c.clients) != 1 {
		t.Errorf("%d entries of %d clients left", len(c.entries), len(c.clients))
	}
}

func TestReplayFileIsRewritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "replay")
	c := open(t, path, at(0))
	c.log.records = 2 * maxSeen
	for n := range 3 {
		if err := c.Use(id(n), someone(n), at(0), at(0), DefaultSkew); err != nil {
			t.Fatal(err)
		}
	}
	if c.log.records != 3 {
		t.Errorf("%d records", c.log.records)
	}
	if d := open(t, path, at(1)); len(d.entries) != 3 {
		t.Errorf("%d entries", len(d.entries))
	}
}

func TestUnwritableReplayFileRefuses(t *testing.T) {
	c := open(t, filepath.Join(t.TempDir(), "replay"), at(0))
	c.Close()
	if err := c.Use(id(1), someone(1), at(0), at(0), DefaultSkew); !errors.Is(err, ErrReplayCache) {
		t.Errorf("%v", err)
	}
	if _, err := OpenReplayCache(filepath.Join(t.TempDir(), "none", "replay"), at(0)); err == nil {
		t.Error("no directory, no error")
	}
}

func TestOneOfManyWins(t *testing.T) {
	c := open(t, filepath.Join(t.TempDir(), "replay"), at(0))
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if c.Use(id(1), someone(1), at(0), at(0), DefaultSkew) == nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d times accepted", won.Load())
	}
}
