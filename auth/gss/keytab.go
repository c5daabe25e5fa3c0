package gss

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/jcmturner/gokrb5/v8/keytab"
)

// maxKeytab bounds a keytab file in bytes.
const maxKeytab = 1 << 20

// Keytab is the keys of this host's principals. It never changes once read.
type Keytab struct {
	entries []keytabEntry
}

type keytabEntry struct {
	principal Principal
	kvno      uint32
	key       Key
}

// ReadKeytab reads a keytab file.
func ReadKeytab(path string) (*Keytab, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("gss: read keytab: %w", err)
	}
	k, err := ParseKeytab(b)
	if err != nil {
		return nil, fmt.Errorf("gss: read keytab %s: %w", path, err)
	}
	return k, nil
}

// ParseKeytab reads a keytab in the format of MIT Kerberos, version 1 or 2.
// Keys of encryption types that this package does not know are left out.
func ParseKeytab(b []byte) (k *Keytab, err error) {
	defer guard(&err)
	if len(b) > maxKeytab {
		return nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	k = &Keytab{}
	if len(b) == 2 {
		return k, nil // what ktutil leaves of a keytab without keys
	}
	var file keytab.Keytab
	if file.Unmarshal(b) != nil {
		return nil, fmt.Errorf("%w: not a keytab", ErrMalformed) // the library's words quote keys
	}
	for _, e := range file.Entries {
		p := Principal{Type: e.Principal.NameType, Name: e.Principal.Components, Realm: e.Principal.Realm}
		key, err := NewKey(e.Key.KeyType, e.Key.KeyValue)
		if err != nil || p.check() != nil {
			continue
		}
		k.entries = append(k.entries, keytabEntry{p, e.KVNO, key})
	}
	return k, nil
}

// Principals returns whose keys these are, each once, in the file's order.
func (k *Keytab) Principals() []Principal {
	var all []Principal
	for _, e := range k.entries {
		if !slices.ContainsFunc(all, e.principal.Equal) {
			all = append(all, e.principal)
		}
	}
	return all
}

// Key returns the newest key of a principal of this encryption type, and its
// version.
func (k *Keytab) Key(p Principal, etype int32) (key Key, kvno uint32, ok bool) {
	for _, e := range k.entries {
		if e.principal.Equal(p) && e.key.Etype() == etype && (!ok || e.kvno >= kvno) {
			key, kvno, ok = e.key, e.kvno, true
		}
	}
	return key, kvno, ok
}

// Version returns a principal's key of this encryption type and version.
// Version 0 and 8-bit versions stand for what they can stand for (MIT's
// keytabs once had 8 bits).
func (k *Keytab) Version(p Principal, etype int32, kvno uint32) (Key, bool) {
	for _, e := range k.entries {
		if e.principal.Equal(p) && e.fits(etype, kvno) {
			return e.key, true
		}
	}
	return Key{}, false
}

// Etypes returns the encryption types of a principal's keys, the best first.
func (k *Keytab) Etypes(p Principal) []int32 {
	var all []int32
	for _, e := range Etypes(true) {
		if _, _, ok := k.Key(p, e); ok {
			all = append(all, e)
		}
	}
	return all
}

// fits reports whether a ticket under this type and version can be opened.
func (e keytabEntry) fits(etype int32, kvno uint32) bool {
	if e.key.Etype() != etype {
		return false
	}
	return kvno == 0 || e.kvno == kvno || e.kvno < 256 && e.kvno == kvno&0xff
}

// candidates returns the entries that may open a ticket for service: those of
// a named principal if the keytab has it, else all, for computers are known to
// their domain by more names than their keytab lists.
func (k *Keytab) candidates(service Principal, etype int32, kvno uint32) []keytabEntry {
	named := slices.ContainsFunc(k.entries, func(e keytabEntry) bool { return e.principal.Equal(service) })
	var fit []keytabEntry
	for _, e := range k.entries {
		if e.fits(etype, kvno) && (!named || e.principal.Equal(service)) {
			fit = append(fit, e)
		}
	}
	return fit
}

// lacks says which key is missing.
func (k *Keytab) lacks(service Principal, etype int32, kvno uint32) error {
	return fmt.Errorf("%w: the ticket for %s is under key version %d, %s; the keytab has %s",
		ErrNoKey, service, kvno, EtypeName(etype), k.has(service))
}

// has lists the keys of a principal in words, or the principals if it has
// none.
func (k *Keytab) has(p Principal) string {
	var s []string
	for _, e := range k.entries {
		if e.principal.Equal(p) {
			s = append(s, fmt.Sprintf("version %d %s", e.kvno, EtypeName(e.key.Etype())))
		}
	}
	if s == nil {
		for _, q := range k.Principals() {
			s = append(s, q.String())
		}
	}
	if s == nil {
		return "no key"
	}
	const enough = 12
	if len(s) > enough {
		s = append(s[:enough], "and more")
	}
	return strings.Join(s, ", ")
}
