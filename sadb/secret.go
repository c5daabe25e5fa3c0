package sadb

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// Secret is key material that cannot print itself: every fmt verb, slog, JSON
// and text encoding give "[secret]". The bytes stand behind a function, the one
// kind of value that fmt never looks into: of a struct that holds a Secret in
// an unexported field it shows an address, whatever the verb. The zero value is
// the empty secret. Secrets do not compare with ==.
type Secret struct {
	key func() []byte
}

const hidden = "[secret]"

// NewSecret copies b. The caller may then clear b.
func NewSecret(b []byte) Secret {
	c := append([]byte(nil), b...)
	return Secret{func() []byte { return c }}
}

// Part returns the bytes from up to, but not including, to as a secret of their
// own, which shares them with s. Beyond the end of s there are none.
func (s Secret) Part(from, to int) Secret {
	whole := s.Bytes()
	to = min(to, len(whole))
	if from >= to {
		return Secret{}
	}
	part := whole[from:to:to]
	return Secret{func() []byte { return part }}
}

// Bytes returns the key itself, not a copy. Nil for the empty secret.
func (s Secret) Bytes() []byte {
	if s.key == nil {
		return nil
	}
	return s.key()
}

// Len returns the length in bytes.
func (s Secret) Len() int { return len(s.Bytes()) }

// Equal compares in constant time for equal lengths.
func (s Secret) Equal(t Secret) bool {
	return subtle.ConstantTimeCompare(s.Bytes(), t.Bytes()) == 1
}

// Zero overwrites the key. All copies of s share the bytes and lose them too.
func (s Secret) Zero() { clear(s.Bytes()) }

// Format answers every fmt verb with "[secret]".
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, hidden) }

// String returns "[secret]".
func (s Secret) String() string { return hidden }

// GoString returns "[secret]".
func (s Secret) GoString() string { return hidden }

// LogValue returns "[secret]".
func (s Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText returns "[secret]", for JSON, YAML and the like.
func (s Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// MarshalBinary refuses: a key crosses a process boundary only where the code
// names Bytes.
func (s Secret) MarshalBinary() ([]byte, error) {
	return nil, fmt.Errorf("sadb: a secret is not encoded implicitly")
}
