// Package gss is the Kerberos mechanism of GSS-API (RFC 4121; RFC 4757 for
// RC4), on the messages and ciphers of gokrb5: security contexts of both
// roles, always with mutual authentication; per-message tokens; a replay cache
// that survives a restart; a keytab's view for acceptors.
//
// It talks to no KDC and opens no socket: an initiator is given its ticket. It
// decides nothing about who is welcome: the peer's principal is reported.
package gss

import (
	"encoding/asn1"
	"errors"
	"fmt"
	"time"
)

// The reasons why a token or a context is refused; errors.Is tells them apart.
var (
	// ErrMalformed: the bytes are no token of this mechanism.
	ErrMalformed = errors.New("malformed Kerberos token")
	// ErrIntegrity: a checksum does not fit, or a key does not open what came.
	ErrIntegrity = errors.New("integrity check failed")
	// ErrNoKey: the keytab has no key of this version and encryption type.
	ErrNoKey = errors.New("no matching key in the keytab")
	// ErrEtype: an encryption type that is unknown or not allowed.
	ErrEtype = errors.New("encryption type not allowed")
	// ErrSkew: the clocks of both hosts differ by too much.
	ErrSkew = errors.New("clocks differ by too much")
	// ErrExpired: the ticket has ended.
	ErrExpired = errors.New("ticket expired")
	// ErrNotYetValid: the ticket's time has not come.
	ErrNotYetValid = errors.New("ticket not yet valid")
	// ErrReplay: this authenticator was used before.
	ErrReplay = errors.New("authenticator used before")
	// ErrService: the ticket is for a service that is not ours.
	ErrService = errors.New("ticket for another service")
	// ErrMismatch: what belongs together differs, such as the client's name in
	// ticket and authenticator, or the times in AP-REQ and AP-REP.
	ErrMismatch = errors.New("ticket and authenticator do not belong together")
	// ErrTransit: the ticket came through realms that nobody has checked.
	ErrTransit = errors.New("unchecked realms between client and service")
	// ErrMutual: the initiator does not ask for mutual authentication.
	ErrMutual = errors.New("mutual authentication not requested")
	// ErrSequence: a per-message token that is not the next one.
	ErrSequence = errors.New("token out of sequence")
	// ErrNotSealed: a token without confidentiality where it is required.
	ErrNotSealed = errors.New("token not sealed")
	// ErrState: a call that does not fit the context's state.
	ErrState = errors.New("call does not fit the state of the context")
	// ErrReplayCache: the replay cache cannot vouch for this authenticator:
	// full, damaged a short time ago, or not writable.
	ErrReplayCache = errors.New("replay cache cannot vouch for the authenticator")
)

// DefaultSkew is how far two clocks may be apart (RFC 4120 §10, "5 minutes").
const DefaultSkew = 5 * time.Minute

// MaxToken bounds a context token in bytes. Tickets with a large PAC stay
// well below.
const MaxToken = 64 << 10

// maxMessage bounds a framed per-message token in bytes: what the length field
// of the SASL layer can say (RFC 4752 §3.1), and its framing.
const maxMessage = 1<<24 + 64

// Flags of a context (RFC 4121 §4.1.1.1).
const (
	FlagDeleg    = 1
	FlagMutual   = 2
	FlagReplay   = 4
	FlagSequence = 8
	FlagConf     = 16
	FlagInteg    = 32
)

// Token identifiers (RFC 4121 §4.1, §4.2; RFC 4757 §7).
const (
	tokAPReq   = 0x0100
	tokAPRep   = 0x0200
	tokError   = 0x0300
	tokMIC     = 0x0404
	tokWrap    = 0x0504
	tokMICRC4  = 0x0101
	tokWrapRC4 = 0x0201
)

// mechanism is OBJECT IDENTIFIER 1.2.840.113554.1.2.2 in DER.
const mechanism = "\x06\x09\x2a\x86\x48\x86\xf7\x12\x01\x02\x02"

// Clock tells the time; nil is time.Now.
type Clock func() time.Time

func (c Clock) now() time.Time {
	if c == nil {
		return time.Now().UTC()
	}
	return c().UTC()
}

// frame puts the pseudo-ASN.1 framing of RFC 2743 §3.1 around a token.
func frame(id uint16, inner []byte) ([]byte, error) {
	body := append([]byte(mechanism), byte(id>>8), byte(id))
	body = append(body, inner...)
	return asn1.Marshal(asn1.RawValue{Class: asn1.ClassApplication, Tag: 0, IsCompound: true, Bytes: body})
}

// unframe takes the framing off a token of at most limit octets and returns
// its identifier and what follows it.
func unframe(tok []byte, limit int) (id uint16, inner []byte, err error) {
	if len(tok) > limit {
		return 0, nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(tok))
	}
	var raw asn1.RawValue
	rest, err := asn1.Unmarshal(tok, &raw)
	if err != nil || len(rest) != 0 || raw.Class != asn1.ClassApplication || raw.Tag != 0 || !raw.IsCompound {
		return 0, nil, fmt.Errorf("%w: no GSS-API framing", ErrMalformed)
	}
	b := raw.Bytes
	n := len(mechanism)
	if len(b) < n+2 || string(b[:n]) != mechanism {
		return 0, nil, fmt.Errorf("%w: not the Kerberos mechanism", ErrMalformed)
	}
	return uint16(b[n])<<8 | uint16(b[n+1]), b[n+2:], nil
}

// guard turns a panic of the libraries below into ErrMalformed: nothing that
// came from the network may end the process. The panic's value is dropped, for
// it could quote a key.
func guard(err *error) {
	if recover() != nil {
		*err = fmt.Errorf("%w: the decoder gave up", ErrMalformed)
	}
}
