package gpipsec

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
)

// What the format cannot say (modern algorithms, IPv6, whom a rule accepts, …)
// rides in an extension record behind everything Windows reads:
//
//	16  GUID of the record
//	 4  length of what follows
//	32  SHA-256 of all bytes of the value before the record
//	 n  JSON
//
// What stands before it is the nearest that Windows can say. The hash ties the
// two together: after another tool has edited the value and kept what it did not
// understand, the record no longer holds, and what that tool wrote counts.

// extended returns value with a record that says v.
func extended(value []byte, v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // the types of this package always encode
	}
	hash := sha256.Sum256(value)
	b := appendFixed(bytes.Clone(value), recordOurs())
	b = binary.LittleEndian.AppendUint32(b, uint32(len(hash)+len(text)))
	return append(append(b, hash[:]...), text...)
}

// extension is what was found behind a value.
type extension struct {
	text  []byte // JSON; nil: no record of ours that holds
	stale bool   // a record is there and no longer holds
	other int    // bytes that nobody here understands
}

// findExtension looks for our record in the tail that ends a value.
func findExtension(value, tail []byte) (extension, error) {
	id := recordOurs()
	i := bytes.Index(tail, id[:])
	if i < 0 {
		return extension{other: unknown(tail)}, nil
	}
	start := len(value) - len(tail) + i
	r := &reader{data: value, off: start + len(id)}
	body := r.take(r.count(1, "bytes of our extension record"), "our extension record")
	if r.err == nil && len(body) < sha256.Size {
		r.fail(start, "our extension record is cut off")
	}
	if r.err != nil {
		return extension{}, r.err
	}
	e := extension{other: unknown(tail[:i]) + r.left()}
	if hash := sha256.Sum256(value[:start]); !bytes.Equal(hash[:], body[:sha256.Size]) {
		e.stale = true
		return e, nil
	}
	e.text = body[sha256.Size:]
	return e, nil
}

// unknown is the length of a tail without its trailer.
func unknown(tail []byte) int {
	if len(tail) > 0 && (tail[0] == 0 || tail[len(tail)-1] == 0) {
		return len(tail) - 1
	}
	return len(tail)
}

// extend reads the extension of a value into to, which v1 already filled, and
// reports whether there is one. What it cannot read it must not ignore: the first
// version may say less than was meant.
func (r *report) extend(value, tail []byte, to any) bool {
	e, err := findExtension(value, tail)
	if err != nil {
		r.fail("%v", err)
		return false
	}
	if e.other > 0 {
		r.warn("%d bytes behind its data are of another program and are not taken over", e.other)
	}
	if e.stale {
		r.warn("another tool changed it after this program wrote it: what Windows cannot say, modern algorithms above all, is gone, and what Windows reads is taken")
	}
	if e.text == nil {
		return false
	}
	d := json.NewDecoder(bytes.NewReader(e.text))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		r.fail("its extension record cannot be read: %v; a newer version of this program may have written it", err)
		return false
	}
	return true
}

// parse wraps a mistake in a value.
func parse[T any](r *report, read func([]byte) (T, error), data []byte) (T, bool) {
	v, err := read(data)
	if err != nil {
		r.fail("ipsecData, %v", err)
	}
	return v, err == nil
}

// same compares by what would be written.
func same(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	if errX != nil || errY != nil {
		panic(fmt.Sprint(errX, errY)) // the types of this package always encode
	}
	return bytes.Equal(x, y)
}
