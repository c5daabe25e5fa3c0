package kerberos

import (
	"encoding/binary"
	"errors"
	"strings"
	"unicode/utf16"

	"ipsecagent/auth/gss"
)

// maxName bounds the name attribute of a peer, in bytes.
const maxName = 512

var errName = errors.New("its name is no Kerberos principal")

// utf16le returns the name attribute's octets as Windows and racoon send them:
// UTF-16, least significant octet first, without an end.
func utf16le(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

// latin1 returns the name in ISO 8859-1, which racoon hashes; ok is false for
// names that it cannot hold.
func latin1(s string) (b []byte, ok bool) {
	for _, r := range s {
		if r > 0xff {
			return nil, false
		}
		b = append(b, byte(r))
	}
	return b, true
}

// decodeName reads a peer's name attribute: UTF-16 in either order of octets
// with a mark, else the order of Windows, else ISO 8859-1 (early racoons).
func decodeName(b []byte) (string, error) {
	if len(b) > maxName {
		return "", errName
	}
	var s string
	switch {
	case len(b)%2 == 0 && strings.HasPrefix(string(b), "\xfe\xff"):
		s = decode16(b[2:], binary.BigEndian)
	case len(b)%2 == 0 && strings.HasPrefix(string(b), "\xff\xfe"):
		s = decode16(b[2:], binary.LittleEndian)
	case len(b)%2 == 0 && strings.IndexByte(string(b), 0) >= 0:
		s = decode16(b, binary.LittleEndian)
	default:
		for _, c := range b {
			s += string(rune(c))
		}
	}
	s = strings.TrimRight(s, "\x00")
	if s == "" || strings.ContainsRune(s, '\uFFFD') {
		return "", errName
	}
	return s, nil
}

func decode16(b []byte, order binary.ByteOrder) string {
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = order.Uint16(b[2*i:])
	}
	return string(utf16.Decode(units))
}

// peerName reads the name of a peer. Without a realm it gets the one that
// krb5.conf has for the host, else the own.
func (f *facts) peerName(b []byte) (gss.Principal, error) {
	s, err := decodeName(b)
	if err != nil {
		return gss.Principal{}, err
	}
	p, err := gss.ParsePrincipal(s)
	if err != nil {
		return gss.Principal{}, errName
	}
	if p.Realm == "" && isHost(p) {
		p.Realm = f.conf.realmOf(p.Name[1])
	}
	if p.Realm == "" {
		p.Realm = f.self.Realm
	}
	if isHost(p) {
		p.Type = gss.NameHost
	}
	return p, nil
}

// isNameOf reports whether a DNS name, in lower case, is that of a computer's
// principal. An account's name has no domain; it is in the one that is called
// as its realm, and in those that krb5.conf puts into its realm.
func (f *facts) isNameOf(name string, p gss.Principal) bool {
	full := hostName(p)
	if name == "" || full == "" {
		return false
	}
	if !isAccount(p) || name == full {
		return name == full
	}
	host, domain, _ := strings.Cut(name, ".")
	short, _, _ := strings.Cut(full, ".")
	return host == short && (domain == "" || f.conf.realmOf(name) == p.Realm)
}
