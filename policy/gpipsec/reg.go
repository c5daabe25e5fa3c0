package gpipsec

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// regLocal is the end of the key that holds the local policy store, in small
// letters; below it is one key for each object.
const regLocal = `\ipsec\policy\local`

// RegistryKey is the key of the local policy store.
const RegistryKey = `HKEY_LOCAL_MACHINE\SOFTWARE\Policies\Microsoft\Windows\IPSec\Policy\Local`

// Types of registry values.
const (
	regString = 1
	regBinary = 3
	regDWord  = 4
	regMulti  = 7
)

// ReadReg reads the objects of the local policy store from a file that regedit
// or "reg export" wrote, of Windows 2000 and later (UTF-16 or UTF-8) or REGEDIT4,
// and which of them is active. Other keys are passed over. An error names the
// line.
func ReadReg(from io.Reader) ([]Object, error) {
	text, err := readText(from)
	if err == nil && !utf8.ValidString(text) {
		err = errors.New("the text is neither UTF-16 with a byte order mark nor UTF-8; export it again as Windows Registry Editor Version 5.00")
	}
	if err != nil {
		return nil, fmt.Errorf("gpipsec: read registry export: %w", err)
	}
	r := &regReader{at: map[Ref]int{}, here: -1}
	if err := eachLine(text, r.physical); err != nil {
		return nil, fmt.Errorf("gpipsec: read registry export: %w", err)
	}
	if len(r.pending) > 0 {
		return nil, errors.New("gpipsec: read registry export: the file ends within a value")
	}
	return some(r.objects)
}

type regReader struct {
	objects []Object
	at      map[Ref]int
	here    int    // the object of the key, -1: of no interest
	store   bool   // the key is the store itself
	started bool   // the header was read
	ansi    bool   // REGEDIT4: strings are bytes
	pending []byte // a value that goes on in the next line
	inside  bool   // and that within a string
}

func (r *regReader) physical(_ int, text string) error {
	if !r.inside {
		text = strings.TrimSpace(text)
	}
	if !r.started {
		r.started = true
		r.ansi = text == "REGEDIT4"
		if !r.ansi && text != "Windows Registry Editor Version 5.00" {
			return errors.New("the file does not begin with Windows Registry Editor Version 5.00 or REGEDIT4")
		}
		return nil
	}
	if len(r.pending) == 0 && (text == "" || strings.HasPrefix(text, ";")) {
		return nil
	}
	if len(r.pending) == 0 && strings.HasPrefix(text, "[") {
		return r.key(text)
	}
	r.inside = quoted(text, r.inside)
	if head, ok := strings.CutSuffix(text, `\`); ok && !r.inside {
		r.pending = append(r.pending, head...)
		return nil
	}
	r.pending = append(r.pending, text...)
	if r.inside {
		r.pending = append(r.pending, '\n')
		return nil
	}
	whole := string(r.pending)
	r.pending = r.pending[:0]
	return r.value(whole)
}

// quoted reports whether a string is open at the end of text, at whose start one
// is open or not.
func quoted(text string, inside bool) bool {
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			inside = !inside
		case '\\':
			i++
		}
	}
	return inside
}

func (r *regReader) key(text string) error {
	path, ok := strings.CutSuffix(strings.TrimPrefix(text, "["), "]")
	if !ok {
		return errors.New("a key without its closing bracket")
	}
	if strings.HasPrefix(path, "-") {
		return errors.New("the file deletes keys; it is no export")
	}
	r.here, r.store = -1, strings.HasSuffix(strings.ToLower(path), regLocal)
	parent := path[:max(strings.LastIndexByte(path, '\\'), 0)]
	if !strings.HasSuffix(strings.ToLower(parent), regLocal) {
		return nil
	}
	ref, err := parseKeyPath(path)
	if err != nil {
		return nil // not an object
	}
	if _, ok := r.at[ref]; ok {
		return fmt.Errorf("%s is there twice", ref)
	}
	if len(r.objects) >= maxObjects {
		return fmt.Errorf("more than %d objects", maxObjects)
	}
	r.here, r.at[ref] = len(r.objects), len(r.objects)
	r.objects = append(r.objects, Object{Ref: ref})
	return nil
}

// value takes `"name"=…`.
func (r *regReader) value(text string) error {
	if r.here < 0 && !r.store {
		return nil
	}
	if strings.HasPrefix(text, "@=") {
		return nil // the default value, which means nothing here
	}
	name, rest, err := regQuoted(text)
	if err != nil {
		return err
	}
	rest, ok := strings.CutPrefix(strings.TrimSpace(rest), "=")
	if !ok {
		return fmt.Errorf("%s has no value", name)
	}
	kind, data, err := r.data(strings.TrimSpace(rest))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if r.store {
		return r.active(name, data)
	}
	return r.set(name, kind, data)
}

// active reads which policy is assigned.
func (r *regReader) active(name string, data []byte) error {
	if !strings.EqualFold(name, "ActivePolicy") || len(data) == 0 {
		return nil
	}
	ref, err := parseKeyPath(string(data))
	if err != nil {
		return err
	}
	r.objects = append(r.objects, Object{Ref: Ref{Class: ClassAssignment}, Refs: []Ref{ref}})
	return nil
}

func (r *regReader) set(name string, kind int, data []byte) error {
	o := &r.objects[r.here]
	if kind != regMulti {
		return o.set(name, data, parseKeyPath)
	}
	for _, one := range strings.Split(string(data), "\x00") {
		if one == "" {
			continue
		}
		if err := o.set(name, []byte(one), parseKeyPath); err != nil {
			return err
		}
	}
	return nil
}

// regQuoted takes a quoted string off the front of text.
func regQuoted(text string) (s, rest string, err error) {
	if !strings.HasPrefix(text, `"`) {
		return "", "", errors.New("a name or value is not in quotes")
	}
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] == '"':
			return b.String(), text[i+1:], nil
		case text[i] == '\\' && i+1 < len(text):
			i++
			b.WriteByte(text[i])
		default:
			b.WriteByte(text[i])
		}
	}
	return "", "", errors.New("a string without its closing quote")
}

// data reads a value: strings as UTF-8, several strings parted by NUL, a number
// in decimal digits, bytes as they are.
func (r *regReader) data(text string) (kind int, data []byte, err error) {
	switch {
	case strings.HasPrefix(text, `"`):
		s, rest, err := regQuoted(text)
		if err == nil && rest != "" {
			err = errors.New("text after its closing quote")
		}
		return regString, []byte(s), err
	case text == "-":
		return 0, nil, errors.New("the file deletes it; it is no export")
	case strings.HasPrefix(text, "dword:"):
		n, err := strconv.ParseUint(text[len("dword:"):], 16, 32)
		return regDWord, strconv.AppendUint(nil, n, 10), err
	case strings.HasPrefix(text, "hex:"):
		data, err = regHex(text[len("hex:"):])
		return regBinary, data, err
	case strings.HasPrefix(text, "hex("):
		return r.typed(text[len("hex("):])
	}
	return 0, nil, errors.New("neither a string nor a dword nor hex bytes")
}

// typed reads "7):41,00,…".
func (r *regReader) typed(text string) (kind int, data []byte, err error) {
	number, digits, ok := strings.Cut(text, "):")
	n, err := strconv.ParseUint(number, 16, 8)
	if !ok || err != nil {
		return 0, nil, errors.New("hex bytes without their type")
	}
	if data, err = regHex(digits); err != nil || n == regBinary {
		return int(n), data, err
	}
	switch {
	case n == regDWord && len(data) == 4:
		return regDWord, strconv.AppendUint(nil, uint64(binary.LittleEndian.Uint32(data)), 10), nil
	case n != regString && n != regMulti && n != 2:
		return int(n), data, nil
	case r.ansi:
		data = bytes.TrimRight(data, "\x00")
	default:
		data, err = regWide(data)
	}
	if !utf8.Valid(data) {
		return 0, nil, errors.New("text that is not ASCII in a REGEDIT4 file; export it again as Windows Registry Editor Version 5.00")
	}
	return int(n), data, err
}

// regWide converts one or several UTF-16 strings, parted by NUL.
func regWide(b []byte) ([]byte, error) {
	if len(b)%2 != 0 {
		return nil, errors.New("UTF-16 of an odd number of bytes")
	}
	var all []byte
	for len(b) > 0 {
		end := indexNUL(b)
		if end < 0 {
			end = len(b)
		}
		s, err := Wide(b[:end]).Text()
		if err != nil {
			return nil, err
		}
		all = append(append(all, s...), 0)
		b = b[min(end+2, len(b)):]
	}
	return bytes.TrimRight(all, "\x00"), nil
}

// regHex reads bytes such as "6f,01".
func regHex(text string) ([]byte, error) {
	text = strings.Map(func(c rune) rune {
		if c == ' ' || c == '\t' {
			return -1
		}
		return c
	}, text)
	if text == "" {
		return []byte{}, nil
	}
	var digits strings.Builder
	for _, one := range strings.Split(text, ",") {
		if len(one) == 1 {
			digits.WriteByte('0')
		} else if len(one) != 2 {
			return nil, fmt.Errorf("%q is not a byte", one)
		}
		digits.WriteString(one)
	}
	return hex.DecodeString(digits.String())
}
