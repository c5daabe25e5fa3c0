package gpipsec

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// ReadLDIF reads the objects of CN=IP Security from LDIF (RFC 2849), as
// ldapsearch, ldbsearch and ldifde write it, and the assignments of group
// policy objects if they are there. Entries of other kinds are passed over;
// change records may add entries and values, nothing else. Files are never
// followed. An error names the line.
func ReadLDIF(from io.Reader) ([]Object, error) {
	l := &ldifReader{at: map[string]int{}}
	text, err := readText(from)
	if err == nil {
		err = eachLine(text, l.physical)
	}
	if err == nil {
		err = l.flush()
	}
	if err == nil {
		err = l.entryEnd()
	}
	if err != nil {
		return nil, fmt.Errorf("gpipsec: read LDIF: %w", err)
	}
	return some(l.objects)
}

type ldifReader struct {
	objects []Object
	at      map[string]int // entries of interest by DN in small letters
	folded  []string       // the pieces of the line that is being read
	start   int            // the number of the first
	comment bool           // that line is a comment
	entry   ldifEntry
}

// ldifEntry is the entry that is being read.
type ldifEntry struct {
	open    bool
	object  *Object // nil: of no interest here
	modify  bool    // a change record of this kind
	adding  string  // the attribute that it adds now
	pointer bool    // the assignment of a group policy object
}

// physical joins folded lines.
func (l *ldifReader) physical(number int, text string) error {
	if rest, ok := strings.CutPrefix(text, " "); ok && (len(l.folded) > 0 || l.comment) {
		if !l.comment {
			l.folded = append(l.folded, rest)
		}
		return nil
	}
	if err := l.flush(); err != nil {
		return err
	}
	l.comment = strings.HasPrefix(text, "#")
	switch {
	case l.comment:
		return nil
	case text == "":
		return l.entryEnd()
	}
	l.folded, l.start = append(l.folded, text), number
	return nil
}

// flush takes the line that was read.
func (l *ldifReader) flush() error {
	if len(l.folded) == 0 {
		return nil
	}
	return atLine(l.start, l.logical())
}

func (l *ldifReader) logical() error {
	text := strings.Join(l.folded, "")
	l.folded = l.folded[:0]
	if text == "-" {
		l.entry.adding = ""
		return nil
	}
	name, value, err := ldifValue(text)
	if err != nil {
		return err
	}
	if strings.EqualFold(name, "dn") {
		return l.entryBegin(string(value))
	}
	return l.attribute(name, value)
}

// ldifValue takes "name: value" or "name:: base64" apart.
func ldifValue(text string) (name string, value []byte, err error) {
	name, rest, ok := strings.Cut(text, ":")
	if !ok || name == "" || strings.ContainsAny(name, " \t") {
		return "", nil, errors.New("not LDIF: no attribute with its value")
	}
	if strings.HasPrefix(rest, "<") {
		return "", nil, fmt.Errorf("%s is to be read from %q; values of other files are not read, write them into this one", name, strings.TrimSpace(rest[1:]))
	}
	if encoded, ok := strings.CutPrefix(rest, ":"); ok {
		value, err = base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
		if err != nil {
			return "", nil, fmt.Errorf("%s is not base64: %w", name, err)
		}
		return name, value, nil
	}
	return name, []byte(strings.TrimLeft(rest, " ")), nil
}

func (l *ldifReader) entryBegin(dn string) error {
	if err := l.entryEnd(); err != nil {
		return err
	}
	l.entry = ldifEntry{open: true, pointer: strings.EqualFold(firstRDN(dn), "IPSEC")}
	if l.entry.pointer {
		l.entry.object = &Object{Ref: Ref{Class: ClassAssignment}}
		return nil
	}
	if i, ok := l.at[strings.ToLower(dn)]; ok {
		l.entry.object = &l.objects[i]
		return nil
	}
	if r, err := parseDN(dn); err == nil {
		if len(l.objects) >= maxObjects {
			return fmt.Errorf("more than %d objects", maxObjects)
		}
		l.at[strings.ToLower(dn)] = len(l.objects)
		l.objects = append(l.objects, Object{Ref: r})
		l.entry.object = &l.objects[len(l.objects)-1]
	}
	return nil
}

func (l *ldifReader) entryEnd() error {
	if e := l.entry; e.pointer && len(e.object.Refs) > 0 {
		l.objects = append(l.objects, *e.object)
	}
	l.entry = ldifEntry{}
	return nil
}

func (l *ldifReader) attribute(name string, value []byte) error {
	base, option, _ := strings.Cut(name, ";")
	switch {
	case strings.EqualFold(base, "version"), strings.EqualFold(base, "search"), strings.EqualFold(base, "result"), strings.EqualFold(base, "ref"):
		return nil
	case !l.entry.open:
		return fmt.Errorf("%s stands before any dn", base)
	case strings.EqualFold(base, "changetype"):
		return l.change(string(value))
	case l.entry.modify && l.entry.adding == "":
		if !strings.EqualFold(base, "add") {
			return fmt.Errorf("a change record does %q; only adding is read here", base)
		}
		l.entry.adding = string(value)
		return nil
	case l.entry.modify && !strings.EqualFold(base, l.entry.adding):
		return fmt.Errorf("a change record adds %s and says %s", l.entry.adding, base)
	case l.entry.object == nil:
		return nil
	case strings.HasPrefix(strings.ToLower(option), "range="):
		return fmt.Errorf("%s is a part of its values only; search again with paging of values", name)
	case !strings.EqualFold(base, attrData) && !utf8.Valid(value):
		return fmt.Errorf("%s is not UTF-8", base)
	}
	if l.entry.pointer {
		return l.entry.object.point(base, string(value))
	}
	return l.entry.object.set(base, value, parseDN)
}

// point reads the assignment of a group policy object.
func (o *Object) point(name, value string) error {
	if !strings.EqualFold(name, attrOwners) {
		return nil
	}
	r, err := parseDN(value)
	o.Refs = append(o.Refs, r)
	return err
}

func (l *ldifReader) change(kind string) error {
	switch kind = strings.TrimSpace(kind); kind {
	case "add":
		return nil
	case "modify":
		l.entry.modify = true
		return nil
	}
	return fmt.Errorf("a change record of kind %q is not read here: only add and modify", kind)
}

// DefaultBaseDN is where a directory keeps the objects, below its own name.
const DefaultBaseDN = "CN=IP Security,CN=System"

// WriteLDIF writes objects as change records for ldapmodify, ldbmodify or
// ldifde, to stand below baseDN: first the objects, each after those it refers
// to, then the references back, which a directory would refuse while their
// objects are missing. Assignments belong to group policy objects and are
// written as comments.
func WriteLDIF(w io.Writer, baseDN string, objects []Object) error {
	if !safe(baseDN) || !strings.Contains(baseDN, "=") {
		return fmt.Errorf("gpipsec: write LDIF: %q is not a distinguished name such as %s,DC=example,DC=com", baseDN, DefaultBaseDN)
	}
	l := &ldifWriter{out: bufio.NewWriter(w), base: baseDN}
	l.line("# for ldapmodify, ldbmodify or ldifde -i") // ldbmodify refuses a version
	for _, c := range []Class{ClassFilter, ClassNegotiation, ClassNFA, ClassISAKMP, ClassPolicy} {
		for i := range objects {
			if objects[i].Class == c {
				l.entry(&objects[i])
			}
		}
	}
	for i := range objects {
		l.owners(&objects[i])
	}
	if err := l.out.Flush(); err != nil {
		return fmt.Errorf("gpipsec: write LDIF: %w", err)
	}
	return nil
}

type ldifWriter struct {
	out  *bufio.Writer
	base string
}

func (l *ldifWriter) dn(r Ref) string { return "CN=" + r.String() + "," + l.base }

func (l *ldifWriter) entry(o *Object) {
	l.line("")
	l.text("dn", l.dn(o.Ref))
	l.text("changetype", "add")
	for _, c := range []string{"top", "ipsecBase", string(o.Class)} {
		l.text("objectClass", c)
	}
	l.text("showInAdvancedViewOnly", "TRUE")
	for _, a := range o.attributes() {
		if a.bytes != nil {
			l.line(a.name + ":: " + base64.StdEncoding.EncodeToString(a.bytes))
			continue
		}
		l.text(a.name, a.text)
	}
	for _, r := range o.Refs {
		l.text(refAttribute(r.Class), l.dn(r))
	}
}

func (l *ldifWriter) owners(o *Object) {
	switch {
	case o.Class == ClassAssignment && len(o.Refs) > 0:
		l.line("")
		l.line("# assigned: " + o.Refs[0].String())
	case o.Class != ClassAssignment && len(o.Owners) > 0:
		l.line("")
		l.text("dn", l.dn(o.Ref))
		l.text("changetype", "modify")
		l.text("add", attrOwners)
		for _, r := range o.Owners {
			l.text(attrOwners, l.dn(r))
		}
		l.line("-")
	}
}

// text writes a value, in base64 where RFC 2849 does not allow it as it is.
func (l *ldifWriter) text(name, value string) {
	if safe(value) {
		l.line(name + ": " + value)
		return
	}
	l.line(name + ":: " + base64.StdEncoding.EncodeToString([]byte(value)))
}

// safe: ASCII without NUL, CR and LF, not begun by a blank, a colon or "<", not
// ended by a blank.
func safe(s string) bool {
	if s == "" {
		return true
	}
	if strings.ContainsRune(" :<", rune(s[0])) || s[len(s)-1] == ' ' {
		return false
	}
	return bytes.IndexFunc([]byte(s), func(c rune) bool { return c == 0 || c == '\r' || c == '\n' || c > 126 }) < 0
}

// line folds a line at 76 columns.
func (l *ldifWriter) line(s string) {
	const width = 76
	for first := true; first || s != ""; first = false {
		n := min(len(s), width)
		if !first {
			n = min(len(s), width-1)
			l.out.WriteByte(' ')
		}
		l.out.WriteString(s[:n])
		l.out.WriteByte('\n')
		s = s[n:]
	}
}
