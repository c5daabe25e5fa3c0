package directory

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

var errDescriptor = errors.New("malformed security descriptor")

// Rights over an object of Active Directory ([MS-ADTS] 5.1.3.2) and the generic
// ones that contain them.
const (
	rightRead     = 0x10  // read properties
	rightControl  = 0x100 // the extended right that the entry's object type names
	genericAll    = 0x10000000
	genericRead   = 0x80000000
	aceInheritOny = 0x08 // for entries below alone
	daclPresent   = 0x04
)

// applyGroupPolicy is the extended right Apply-Group-Policy,
// {EDACFD8F-FFB3-11D1-B41D-00A0C968F939}, as it stands in a descriptor.
const applyGroupPolicy = "\x8f\xfd\xac\xed\xb3\xff\xd1\x11\xb4\x1d\x00\xa0\xc9\x68\xf9\x39"

// Identities that every computer of a domain has beside its groups.
const (
	sidEveryone      = "S-1-1-0"
	sidAuthenticated = "S-1-5-11"
	sidOrganization  = "S-1-5-15" // its own
)

// descriptor is the discretionary part of a security descriptor ([MS-DTYP]
// 2.4.6).
type descriptor struct {
	open bool // it has no list: everyone may do everything
	aces []ace
}

// ace is an entry of an access control list.
type ace struct {
	allow  bool
	mask   uint32
	object string // the GUID that the right is for, as it stands; "": all
	sid    string
}

// allows reports whether somebody with these identities has a right. The first
// entry that speaks of it decides.
func (d descriptor) allows(token []string, right uint32, object string) bool {
	if d.open {
		return true
	}
	wanted := right | genericAll
	if right == rightRead {
		wanted |= genericRead
	}
	for _, a := range d.aces {
		if a.mask&wanted != 0 && (a.object == "" || a.object == object) && contains(token, a.sid) {
			return a.allow
		}
	}
	return false
}

func contains(token []string, sid string) bool {
	for _, s := range token {
		if strings.EqualFold(s, sid) {
			return true
		}
	}
	return false
}

// parseDescriptor reads a self-relative descriptor.
func parseDescriptor(b []byte) (descriptor, error) {
	const fixed = 20
	if len(b) < fixed || b[0] != 1 {
		return descriptor{}, fmt.Errorf("%w: %d bytes", errDescriptor, len(b))
	}
	at := binary.LittleEndian.Uint32(b[16:])
	if binary.LittleEndian.Uint16(b[2:])&daclPresent == 0 || at == 0 {
		return descriptor{open: true}, nil
	}
	if int64(at) > int64(len(b)) {
		return descriptor{}, fmt.Errorf("%w: its list is beyond its end", errDescriptor)
	}
	aces, err := parseACL(b[at:])
	return descriptor{aces: aces}, err
}

// parseACL reads an access control list ([MS-DTYP] 2.4.5).
func parseACL(b []byte) ([]ace, error) {
	const fixed = 8
	if len(b) < fixed {
		return nil, fmt.Errorf("%w: a list of %d bytes", errDescriptor, len(b))
	}
	size, count := int(binary.LittleEndian.Uint16(b[2:])), int(binary.LittleEndian.Uint16(b[4:]))
	if size < fixed || size > len(b) {
		return nil, fmt.Errorf("%w: a list of %d bytes in %d", errDescriptor, size, len(b))
	}
	b = b[fixed:size]
	var all []ace
	for range count {
		if len(b) < 4 {
			return nil, fmt.Errorf("%w: the list ends within an entry", errDescriptor)
		}
		n := int(binary.LittleEndian.Uint16(b[2:]))
		if n < 4 || n > len(b) {
			return nil, fmt.Errorf("%w: an entry of %d bytes in %d", errDescriptor, n, len(b))
		}
		a, counts, err := parseACE(b[:n])
		if err != nil {
			return nil, err
		}
		if counts {
			all = append(all, a)
		}
		b = b[n:]
	}
	return all, nil
}

// parseACE reads one entry ([MS-DTYP] 2.4.4). Those that are for entries below
// alone do not count, nor do kinds that depend on claims: such an entry grants
// nothing here.
func parseACE(b []byte) (a ace, counts bool, err error) {
	const (
		allow, deny             = 0, 1
		allowObject, denyObject = 5, 6
		hasObject, hasInherited = 1, 2
	)
	kind := b[0]
	switch kind {
	case allow, deny, allowObject, denyObject:
	default:
		return ace{}, false, nil
	}
	if b[1]&aceInheritOny != 0 {
		return ace{}, false, nil
	}
	if len(b) < 12 {
		return ace{}, false, fmt.Errorf("%w: an entry of %d bytes", errDescriptor, len(b))
	}
	a = ace{allow: kind == allow || kind == allowObject, mask: binary.LittleEndian.Uint32(b[4:])}
	rest := b[8:]
	if kind == allowObject || kind == denyObject {
		flags := binary.LittleEndian.Uint32(rest)
		rest = rest[4:]
		const guid = 16
		if flags&hasObject != 0 {
			if len(rest) < guid {
				return ace{}, false, fmt.Errorf("%w: an entry ends within a GUID", errDescriptor)
			}
			a.object, rest = string(rest[:guid]), rest[guid:]
		}
		if flags&hasInherited != 0 {
			if len(rest) < guid {
				return ace{}, false, fmt.Errorf("%w: an entry ends within a GUID", errDescriptor)
			}
			rest = rest[guid:]
		}
	}
	a.sid, err = parseSID(rest)
	return a, err == nil, err
}

// parseSID reads a security identifier ([MS-DTYP] 2.4.2.2) and returns its text.
// What follows it is left.
func parseSID(b []byte) (string, error) {
	const fixed, maxParts = 8, 15
	if len(b) < fixed || b[0] != 1 || b[1] > maxParts || len(b) < fixed+4*int(b[1]) {
		return "", fmt.Errorf("%w: a security identifier of %d bytes", errDescriptor, len(b))
	}
	var authority [8]byte
	copy(authority[2:], b[2:fixed])
	text := fmt.Sprintf("S-1-%d", binary.BigEndian.Uint64(authority[:]))
	for i := range int(b[1]) {
		text += fmt.Sprintf("-%d", binary.LittleEndian.Uint32(b[fixed+4*i:]))
	}
	return text, nil
}
