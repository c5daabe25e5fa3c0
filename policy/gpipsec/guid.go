package gpipsec

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// GUID is a GUID in Windows' binary form: the first three groups little-endian.
// It is comparable; the zero value stands for none.
type GUID [16]byte

// IsZero reports whether g is the zero GUID.
func (g GUID) IsZero() bool { return g == GUID{} }

// String returns "{72385232-70FA-11D1-864C-14A300000000}".
func (g GUID) String() string {
	return fmt.Sprintf("{%08X-%04X-%04X-%X-%X}", binary.LittleEndian.Uint32(g[:]),
		binary.LittleEndian.Uint16(g[4:]), binary.LittleEndian.Uint16(g[6:]), g[8:10], g[10:])
}

// ParseGUID reads a GUID in braces or without, in either case. Blanks inside
// the braces are ignored: directories were seen with them.
func ParseGUID(s string) (GUID, error) {
	text := strings.TrimSpace(s)
	if inner, ok := strings.CutPrefix(text, "{"); ok {
		inner, ok = strings.CutSuffix(inner, "}")
		if !ok {
			return GUID{}, fmt.Errorf("%q is not a GUID", s)
		}
		text = strings.TrimSpace(inner)
	}
	const dashes = 4
	raw, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(raw) != len(GUID{}) || len(text) != 2*len(raw)+dashes || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return GUID{}, fmt.Errorf("%q is not a GUID such as {72385232-70FA-11D1-864C-14A300000000}", s)
	}
	return swapped(GUID(raw)), nil
}

// swapped exchanges the textual and the binary order of the first groups.
func swapped(g GUID) GUID {
	g[0], g[1], g[2], g[3] = g[3], g[2], g[1], g[0]
	g[4], g[5] = g[5], g[4]
	g[6], g[7] = g[7], g[6]
	return g
}

// knownGUID is ParseGUID for the constants of the format.
func knownGUID(s string) GUID {
	g, err := ParseGUID(s)
	if err != nil {
		panic(err)
	}
	return g
}

// derivedGUID is a GUID that is the same for the same parts on every run: the
// identity of an object that has a name but no GUID yet (RFC 9562 §5.8).
func derivedGUID(parts ...string) GUID {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	g := GUID(h.Sum(nil)[:16])
	g[6] = g[6]&0x0f | 0x80
	g[8] = g[8]&0x3f | 0x80
	return swapped(g)
}
