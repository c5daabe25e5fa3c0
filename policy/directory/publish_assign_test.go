package directory

import (
	"errors"
	"testing"
)

func TestExtensionNames(t *testing.T) {
	const (
		ours  = "[" + extension + toolExtension + "]"
		first = "[{35378EAC-683F-11D2-A89A-00C04FBBCFA2}{D02B1F72-3407-48AE-BA88-E8213C6761F1}]"
		last  = "[{F3CCC681-B74C-4060-9F26-CD84525DCA2A}{0F3F3735-573D-9804-99E4-AB2A69BA5FD4}]"
		lower = "[{e437bc1c-aa7d-11d2-a382-00c04f991e27}{DEA8AFA0-CC85-11D0-9CE2-0080C7221EBD}]"
	)
	for _, c := range []struct {
		before  string
		present bool
		want    string
	}{
		{"", true, ours}, {first + last, true, first + ours + last}, {last + first, true, first + ours + last},
		{first + ours, true, first + ours}, {first + ours + last, false, first + last}, {ours, false, ""}, {" ", true, ours},
		{lower, true, ours}, {lower + last, false, last},
	} {
		if got, err := withExtension(c.before, c.present); err != nil || got != c.want {
			t.Errorf("%q, %v: %q, %v, want %q", c.before, c.present, got, err, c.want)
		}
	}
	for _, bad := range []string{"x", "[", first + "x", "]" + first} {
		if got, err := withExtension(bad, true); !errors.Is(err, errAttribute) {
			t.Errorf("%q becomes %q, %v", bad, got, err)
		}
	}
}

func TestVersionsOfGroupPolicy(t *testing.T) {
	for before, want := range map[uint32]uint32{0: 1, 1: 2, 0x20000: 0x20001, 0x2ffff: 0x20001, 0xffffffff: 0xffff0001} {
		if got := nextVersion(before); got != want {
			t.Errorf("%#x becomes %#x, not %#x", before, got, want)
		}
	}
}
