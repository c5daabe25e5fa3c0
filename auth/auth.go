// Package auth is the seam between IKE and the ways to prove an identity:
// preshared keys, certificates, Kerberos. It owns the vocabulary only; the
// methods are packages below it.
//
// It does not decide which identities are welcome: policy does, in its
// requirements, with which Proof compares what was proven.
package auth

import (
	"fmt"
	"net/netip"
)

// Method is an authentication method by its IKEv1 number (RFC 2409 App. A,
// RFC 4754; 65001 as draft-ietf-ipsec-isakmp-gss-auth has it).
type Method uint16

// The methods this project knows.
const (
	PSK      Method = 1
	RSA      Method = 3
	ECDSA256 Method = 9
	ECDSA384 Method = 10
	ECDSA521 Method = 11
	Kerberos Method = 65001
)

// String returns the method in the administrator's words.
func (m Method) String() string {
	switch m {
	case PSK:
		return "preshared key"
	case RSA:
		return "certificate (RSA)"
	case ECDSA256:
		return "certificate (ECDSA P-256)"
	case ECDSA384:
		return "certificate (ECDSA P-384)"
	case ECDSA521:
		return "certificate (ECDSA P-521)"
	case Kerberos:
		return "Kerberos"
	}
	return fmt.Sprintf("authentication method %d", uint16(m))
}

// Principal is an identity that has been proven, in the form of its method:
// "psk:NAME", a certificate's subject, a Kerberos principal. Printable.
type Principal string

// Requirement is what a rule asks of an authentication.
type Requirement struct {
	Method Method
	// Key names the preshared key or group of keys ("" : the default ones).
	Key string
	// CA is the distinguished name of the authority (certificates).
	CA string
	// ExcludeCAName: do not tell the peer the name of the authority.
	ExcludeCAName bool
	// MapToAccount: the principal is the account that the certificate maps
	// to; without a mapping it is refused.
	MapToAccount bool
	// AcceptPrincipals are the identities welcome; empty: every one the
	// method itself trusts.
	AcceptPrincipals []string
	// AcceptTrusted: every one the method itself trusts is welcome beside
	// those of AcceptPrincipals: what several rules ask for together.
	AcceptTrusted bool
}

// Authenticator starts authentications of one method. It may be used by
// several goroutines at once.
type Authenticator interface {
	Method() Method
	Start(Request) (Session, error)
}

// Request is one authentication of one peer.
type Request struct {
	Initiator     bool
	Local, Remote netip.Addr
	Requirement   Requirement
	// Attempt counts earlier failed attempts with this peer for the same
	// need, so that an initiator can try the next of several keys.
	Attempt int
}

// Claim is what one side says of itself before it proves it.
type Claim struct {
	IDType uint8  // RFC 2407 §4.6.2.1
	ID     []byte // the data behind type, protocol and port
	// Certs are bodies of CERT payloads as they are on the wire: an encoding
	// byte (RFC 2408 §3.9; 4: a certificate in DER, 1: several in PKCS#7) and
	// the data behind it. Local gives them in the order to send them in.
	Certs [][]byte
	// CAs are the DER names of the authorities asked for: bodies of CERTREQ
	// payloads behind their encoding byte, which is 4. No name, or an empty
	// one among them, asks for a certificate of any authority.
	CAs [][]byte
	GSS []byte // identity name attribute
	// Vendor is which implementation the peer says it is ("Windows 2000",
	// "racoon"), "" when it does not say: a hint at the form it expects.
	Vendor string
}

// Session is one authentication of one peer. Its methods may block, so they
// run in the worker pool, one at a time.
type Session interface {
	// Local returns this side's claim as far as it can be made by now. It is
	// asked before each message that carries a part of it: the GSS name goes
	// with the SA, CAs with the key exchange, ID and Certs with the proof, by
	// when Remote has told which authorities the peer asks for.
	Local() Claim
	// Remote takes the peer's claim, unproven, as far as it is known: it is
	// called after each message that carried a part of it, with all parts so
	// far. An error refuses it.
	Remote(Claim) error
	// Seeds returns the preshared keys to derive SKEYID from, the best one
	// first; nil: SKEYID starts from g^xy. An initiator uses the first, a
	// responder tries each against the first encrypted message, so that two
	// keys can be valid at once.
	Seeds() [][]byte
	// Token takes the peer's GSS token and returns ours; nil when there is
	// none to send.
	Token(in []byte) (out []byte, err error)
	// Prove returns the proof over this side's hash.
	Prove(hash func(extra []byte) []byte) (proof []byte, err error)
	// Check verifies the peer's proof. It may try several extras.
	Check(hash func(extra []byte) []byte, proof []byte) (Principal, error)
	// Trusted reports, once Check has succeeded, whether the method itself
	// trusts the principal, so that a rule need not list it.
	Trusted() bool
}

// Error is a failed authentication with its reason in words. Reason is for
// this host's administrator and never sent to the peer.
type Error struct {
	// Code tells reasons apart for scripts: "clock-skew",
	// "certificate-expired", ...; docs/troubleshooting.md lists them all.
	// Empty: the method says no more than that it failed.
	Code   string
	Reason string
	// Hint is what to do about it; empty: Reason says it.
	Hint string
	Err  error
}

// Error returns the reason.
func (e *Error) Error() string {
	if e.Err != nil {
		return e.Reason + ": " + e.Err.Error()
	}
	return e.Reason
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
