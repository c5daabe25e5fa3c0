package cert

import (
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// attribute is one type and value of a distinguished name. Value keeps the
// bytes, for some encodings have no text.
type attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

// rdnSET is a relative distinguished name; encoding/asn1 knows by the name of
// the type that it is a SET.
type rdnSET []attribute

// maxName bounds a distinguished name: as DER, and as text.
const maxName = 4096

// The attribute types with a short name: RFC 4514 §3 and what Windows and
// OpenSSL write. The first name of a type is the one that is printed.
var shortNames = []struct{ name, oid string }{
	{"CN", "2.5.4.3"}, {"C", "2.5.4.6"}, {"O", "2.5.4.10"}, {"OU", "2.5.4.11"},
	{"L", "2.5.4.7"}, {"ST", "2.5.4.8"}, {"S", "2.5.4.8"}, {"STREET", "2.5.4.9"},
	{"DC", "0.9.2342.19200300.100.1.25"}, {"UID", "0.9.2342.19200300.100.1.1"},
	{"emailAddress", "1.2.840.113549.1.9.1"}, {"E", "1.2.840.113549.1.9.1"},
	{"serialNumber", "2.5.4.5"}, {"SN", "2.5.4.4"}, {"GN", "2.5.4.42"}, {"G", "2.5.4.42"},
	{"title", "2.5.4.12"}, {"T", "2.5.4.12"}, {"postalCode", "2.5.4.17"}, {"I", "2.5.4.43"}, {"initials", "2.5.4.43"},
}

// decodeName reads a Name (RFC 5280 §4.1.2.4) that fills der to its end.
func decodeName(der []byte) ([]rdnSET, error) {
	if len(der) > maxName {
		return nil, fmt.Errorf("a name of %d bytes", len(der))
	}
	var rdns []rdnSET
	rest, err := asn1.Unmarshal(der, &rdns)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, errors.New("bytes behind a name")
	}
	return rdns, nil
}

// nameText returns a DER name in the form of RFC 2253, the most specific part
// first: "CN=a.example,O=Bank,C=XX". What is no name is shown in hex.
func nameText(der []byte) string {
	rdns, err := decodeName(der)
	if err != nil {
		return "#" + hex.EncodeToString(der[:min(len(der), 64)])
	}
	var parts []string
	for _, rdn := range slices.Backward(rdns) {
		var pairs []string
		for _, a := range rdn {
			pairs = append(pairs, shortName(a.Type)+"="+valueText(a.Value))
		}
		parts = append(parts, strings.Join(pairs, "+"))
	}
	return strings.Join(parts, ",")
}

func shortName(oid asn1.ObjectIdentifier) string {
	text := oid.String()
	for _, s := range shortNames {
		if s.oid == text {
			return s.name
		}
	}
	return text
}

// valueText escapes a value as RFC 2253 §2.4 has it, and control characters
// too, so that it is one line and no two values look the same.
func valueText(v asn1.RawValue) string {
	text, ok := stringOf(v)
	if !ok {
		return "#" + hex.EncodeToString(v.FullBytes)
	}
	var b strings.Builder
	for i, r := range text {
		switch {
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, "\\%02X", r)
			continue
		case strings.ContainsRune(`,+"\<>;`, r), r == '#' && i == 0, r == ' ' && (i == 0 || i == len(text)-1):
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// The string types of ASN.1 that encoding/asn1 has no constant or no text for.
const tagBMPString = 30

// stringOf returns the text of a DirectoryString or IA5String.
func stringOf(v asn1.RawValue) (string, bool) {
	if v.Class != asn1.ClassUniversal || v.IsCompound {
		return "", false
	}
	switch v.Tag {
	case asn1.TagUTF8String, asn1.TagPrintableString, asn1.TagIA5String, asn1.TagNumericString:
		return string(v.Bytes), utf8.Valid(v.Bytes)
	case asn1.TagT61String: // in practice Latin-1
		runes := make([]rune, len(v.Bytes))
		for i, c := range v.Bytes {
			runes[i] = rune(c)
		}
		return string(runes), true
	case tagBMPString:
		return bmpText(v.Bytes)
	}
	return "", false
}

func bmpText(b []byte) (string, bool) {
	if len(b)%2 != 0 {
		return "", false
	}
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = uint16(b[2*i])<<8 | uint16(b[2*i+1])
		if utf16.IsSurrogate(rune(units[i])) {
			return "", false
		}
	}
	return string(utf16.Decode(units)), true
}

// foldDER returns the parts of a DER name, the most specific last, in a form
// in which names are compared that administrators write: without case, with
// single spaces (RFC 5280 §7.1 in outline).
func foldDER(der []byte) ([]string, error) {
	rdns, err := decodeName(der)
	if err != nil {
		return nil, err
	}
	var parts []string
	for _, rdn := range rdns {
		var pairs []string
		for _, a := range rdn {
			text, ok := stringOf(a.Value)
			if !ok {
				text = "#" + hex.EncodeToString(a.Value.FullBytes)
			}
			pairs = append(pairs, a.Type.String()+"="+foldValue(text))
		}
		slices.Sort(pairs)
		parts = append(parts, strings.Join(pairs, "\x00"))
	}
	return parts, nil
}

func foldValue(s string) string {
	return strings.ToLower(strings.Join(strings.Fields(s), " "))
}

// sameName reports whether a folded text of a rule names the subject of an
// authority. RFC 4514 writes the most specific part first, Windows last: both
// orders are meant by somebody, and an authority's own file decides which
// authorities there are.
func sameName(text, der []string) bool {
	if slices.Equal(text, der) {
		return true
	}
	turned := slices.Clone(text)
	slices.Reverse(turned)
	return slices.Equal(turned, der)
}
