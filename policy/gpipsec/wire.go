package gpipsec

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf16"
)

// MaxData bounds an ipsecData value, in bytes: what hosts read from a directory,
// and so what is written. It is room for more than 50 000 plain filters in one
// list; a policy can have several.
const MaxData = 4<<20 - 64<<10

// DataError is a mistake in an ipsecData value.
type DataError struct {
	Offset  int // in bytes from the start of the value
	Message string
}

// Error returns "offset 24: …".
func (e *DataError) Error() string { return fmt.Sprintf("offset %d: %s", e.Offset, e.Message) }

// reader takes a value apart. The first mistake ends it: later reads give zero.
type reader struct {
	data []byte
	off  int
	err  *DataError
}

// failure is the first mistake as an error, nil if there was none.
func (r *reader) failure() error {
	if r.err == nil {
		return nil
	}
	return r.err
}

func (r *reader) fail(off int, format string, args ...any) {
	if r.err == nil {
		r.err = &DataError{off, fmt.Sprintf(format, args...)}
	}
}

func (r *reader) left() int { return len(r.data) - r.off }

// take returns the next n bytes, nil when they are not there.
func (r *reader) take(n int, what string) []byte {
	if r.err == nil && r.left() < n {
		r.fail(r.off, "%s is cut off: %d bytes needed, %d left", what, n, r.left())
	}
	if r.err != nil {
		return nil
	}
	r.off += n
	return r.data[r.off-n : r.off]
}

func (r *reader) u32(what string) uint32 {
	b := r.take(4, what)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint32(b)
}

// fixed reads into a structure of fixed size.
func (r *reader) fixed(to any, what string) {
	if b := r.take(binary.Size(to), what); b != nil {
		binary.Decode(b, binary.LittleEndian, to) // the sizes agree
	}
}

// count reads a number of elements of at least size bytes each.
func (r *reader) count(size int, what string) int {
	at := r.off
	n := r.u32("number of " + what)
	if r.err == nil && uint64(n)*uint64(size) > uint64(r.left()) {
		r.fail(at, "%d %s need at least %d bytes, %d left", n, what, uint64(n)*uint64(size), r.left())
	}
	if r.err != nil {
		return 0
	}
	return int(n)
}

// wide reads a string: its length in bytes, then UTF-16.
func (r *reader) wide(what string) Wide {
	at := r.off
	n := r.u32("length of " + what)
	if r.err == nil && n%2 != 0 {
		r.fail(at, "%s has an odd length of %d bytes, which UTF-16 cannot have", what, n)
	}
	if r.err == nil && uint64(n) > uint64(r.left()) {
		r.fail(at, "%s of %d bytes is cut off: %d left", what, n, r.left())
	}
	w := Wide(r.take(int(n), what))
	if _, err := w.Text(); r.err == nil && err != nil {
		r.fail(at, "%s: %v", what, err)
	}
	return append(Wide{}, w...)
}

// rest takes what is left.
func (r *reader) rest() []byte { return append([]byte{}, r.take(r.left(), "the rest")...) }

// head reads the class GUID and the data length, which says too many different
// things to be believed.
func (r *reader) head(class GUID, kind Class) (length uint32) {
	if len(r.data) > MaxData {
		r.fail(0, "%d bytes, more than %d", len(r.data), MaxData)
	}
	var g GUID
	r.fixed(&g, "class id")
	if r.err == nil && g != class {
		r.fail(0, "class id %s is not that of an %s, %s", g, string(kind), class)
	}
	return r.u32("data length")
}

// Wide is a string as the format has it: UTF-16LE, as a rule with a NUL at its
// end.
type Wide []byte

// NewWide encodes s.
func NewWide(s string) Wide {
	w := Wide{}
	for _, c := range utf16.Encode([]rune(s)) {
		w = binary.LittleEndian.AppendUint16(w, c)
	}
	return append(w, 0, 0)
}

// Text returns the string up to the first NUL. Half a surrogate pair is an error.
func (w Wide) Text() (string, error) {
	var s strings.Builder
	for i := 0; i+1 < len(w); i += 2 {
		c := rune(binary.LittleEndian.Uint16(w[i:]))
		if c == 0 {
			break
		}
		if utf16.IsSurrogate(c) {
			if i+3 >= len(w) {
				return "", fmt.Errorf("half a UTF-16 surrogate pair at its end")
			}
			if c = utf16.DecodeRune(c, rune(binary.LittleEndian.Uint16(w[i+2:]))); c == '�' {
				return "", fmt.Errorf("half a UTF-16 surrogate pair at byte %d of it", i)
			}
			i += 2
		}
		s.WriteRune(c)
	}
	return s.String(), nil
}

// text is Text of a string that was parsed, which was checked then.
func (w Wide) text() string {
	s, _ := w.Text()
	return s
}

func appendWide(b []byte, w Wide) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(w))), w...)
}

func appendFixed(b []byte, v any) []byte {
	b, err := binary.Append(b, binary.LittleEndian, v)
	if err != nil {
		panic(err) // not of fixed size: a mistake of this package
	}
	return b
}

// framed puts the head before a body. length is the data length to write.
func framed(class GUID, length uint32, body []byte) []byte {
	b := append(make([]byte, 0, len(class)+4+len(body)), class[:]...)
	b = binary.LittleEndian.AppendUint32(b, length)
	return append(b, body...)
}
