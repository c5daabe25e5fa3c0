package file

import (
	"testing"
	"time"
)

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0s": 0, "8h": 8 * time.Hour, "1h30m": 90 * time.Minute, "90s": 90 * time.Second, "500ms": 500 * time.Millisecond,
		"1d": 24 * time.Hour, "2d1h": 49 * time.Hour, "1.5h": 90 * time.Minute,
	} {
		got, err := parseDuration(text)
		if err != nil || got != want {
			t.Errorf("%q: %v %v, want %v", text, got, err, want)
		}
		back, err := parseDuration(formatDuration(got))
		if err != nil || back != got {
			t.Errorf("%v is written %q and read as %v, %v", got, formatDuration(got), back, err)
		}
	}
	for _, text := range []string{"", "8", "h", "-8h", "+8h", "1d-1h", "d", "65536d", "9999999999h", "1d1d", "1h2d", "1dx", ".5h"} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]uint64{
		"0B": 0, "1B": 1, "100MB": 100e6, "100GB": 100e9, "1GiB": 1 << 30, "2KiB": 2048, "3kB": 3000, "3KB": 3000, "4TB": 4e12, "1TiB": 1 << 40, "1MiB": 1 << 20,
	} {
		got, err := parseSize(text)
		if err != nil || got != want {
			t.Errorf("%q: %v %v, want %v", text, got, err, want)
		}
		back, err := parseSize(formatSize(got))
		if err != nil || back != got {
			t.Errorf("%v is written %q and read as %v, %v", got, formatSize(got), back, err)
		}
	}
	for _, text := range []string{"", "1", "B", "1.5GB", "-1B", "1gb", "1 GB", "1GBB", "99999999TB", "18446744073709551615KB"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}
