package directory

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// netlogon is what a controller says to an LDAP ping ([MS-ADTS] 6.3.1.9, as far
// as it is of use here).
type netlogon struct {
	flags      uint32
	domain     string // its DNS name
	host       string // the controller's
	serverSite string
	clientSite string // of whoever asks
}

// The version of the answer that is asked for (NETLOGON_NT_VERSION_5 and _5EX),
// and its operation code.
const (
	netlogonVersion = "\x06\x00\x00\x00"
	opSamLogonEx    = 23
)

var errNetlogon = errors.New("malformed answer to an LDAP ping")

// pingRequest encodes a search of the root for "netlogon" (RFC 4511 §4.5.1) as
// a datagram.
func pingRequest(domain string) []byte {
	equal := func(name, value string) []byte {
		return tlv(0xa3, tlv(tagOctetString, []byte(name)), tlv(tagOctetString, []byte(value)))
	}
	search := tlv(0x63,
		tlv(tagOctetString),
		tlv(tagEnumerated, []byte{0}), tlv(tagEnumerated, []byte{0}), // the entry itself, no aliases
		tlv(tagInteger, []byte{0}), tlv(tagInteger, []byte{0}), tlv(0x01, []byte{0}),
		tlv(0xa0, equal("DnsDomain", domain), equal("NtVer", netlogonVersion)),
		tlv(tagSequence, tlv(tagOctetString, []byte("netlogon"))))
	return tlv(tagSequence, tlv(tagInteger, []byte{1}), search)
}

// pingFilter is the filter of the same search.
func pingFilter(domain string) string {
	return "(&(DnsDomain=" + Escape(domain) + `)(NtVer=\06\00\00\00))`
}

// parsePing reads the datagram that answers: an entry with the one attribute.
func parsePing(b []byte) (netlogon, error) {
	for _, step := range []struct {
		tag  byte
		skip int // elements before the one to enter
	}{
		{tagSequence, 0}, // the message: its number, the operation
		{0x64, 1},        // the entry: its name, the attributes
		{tagSequence, 1}, // the attributes
		{tagSequence, 0}, // one: its name, the values
		{0x31, 1},        // the values
		{tagOctetString, 0},
	} {
		e, err := enter(b, step.skip)
		if err != nil {
			return netlogon{}, err
		}
		if e.tag != step.tag {
			return netlogon{}, fmt.Errorf("%w: tag %02x where %02x belongs", errNetlogon, e.tag, step.tag)
		}
		b = e.content
	}
	return parseNetlogon(b)
}

// enter returns the element after the first few.
func enter(b []byte, skip int) (e element, err error) {
	for range skip + 1 {
		if e, b, err = next(b); err != nil {
			return element{}, err
		}
	}
	return e, nil
}

// parseNetlogon reads NETLOGON_SAM_LOGON_RESPONSE_EX.
func parseNetlogon(b []byte) (netlogon, error) {
	const fixed = 24 // operation code, zero, flags and the domain's GUID
	if len(b) < fixed {
		return netlogon{}, fmt.Errorf("%w: %d bytes", errNetlogon, len(b))
	}
	if op := binary.LittleEndian.Uint16(b); op != opSamLogonEx {
		return netlogon{}, fmt.Errorf("%w: operation %d", errNetlogon, op)
	}
	n := netlogon{flags: binary.LittleEndian.Uint32(b[4:])}
	var forest, short, computer, user string
	at := fixed
	for _, to := range []*string{&forest, &n.domain, &n.host, &short, &computer, &user, &n.serverSite, &n.clientSite} {
		var err error
		if *to, at, err = compressedName(b, at); err != nil {
			return netlogon{}, err
		}
	}
	return n, nil
}

// compressedName reads a name in the way of the DNS (RFC 1035 §4.1.4) and
// returns where the next begins. A pointer goes backwards only, so that none
// can go in circles.
func compressedName(b []byte, at int) (name string, after int, err error) {
	var labels []string
	after = -1
	limit := at + 1 // what a pointer points before
	for length := 0; length <= 255; {
		if at >= len(b) {
			return "", 0, fmt.Errorf("%w: it ends within a name", errNetlogon)
		}
		n := int(b[at])
		switch {
		case n == 0:
			if after < 0 {
				after = at + 1
			}
			return strings.Join(labels, "."), after, nil
		case n < 0x40:
			if at+1+n > len(b) {
				return "", 0, fmt.Errorf("%w: it ends within a name", errNetlogon)
			}
			labels = append(labels, string(b[at+1:at+1+n]))
			at, length = at+1+n, length+1+n
		case n >= 0xc0 && at+1 < len(b):
			if after < 0 {
				after = at + 2
			}
			to := n&0x3f<<8 | int(b[at+1])
			if to >= limit-1 {
				return "", 0, fmt.Errorf("%w: a pointer that does not go back", errNetlogon)
			}
			at, limit = to, to+1
		default:
			return "", 0, fmt.Errorf("%w: a name with a length of %02x", errNetlogon, n)
		}
	}
	return "", 0, fmt.Errorf("%w: a name that is too long", errNetlogon)
}
