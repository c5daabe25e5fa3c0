package kerberos

import (
	"errors"
	"fmt"

	"ipsecagent/auth"
	"ipsecagent/auth/gss"

	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
)

// The reasons why an authentication by Kerberos fails, as auth.Error has them
// in Code; docs/troubleshooting.md explains each.
const (
	codeNoKeytab         = "no-keytab"
	codeKDCUnreachable   = "kdc-unreachable"
	codeKDCRefused       = "kdc-refused"
	codeClockSkew        = "clock-skew"
	codeKeyVersion       = "key-version"
	codeWrongKey         = "wrong-key"
	codeTicketExpired    = "ticket-expired"
	codeWrongRealm       = "wrong-realm"
	codeUnknownService   = "unknown-service"
	codeUnknownPrincipal = "unknown-principal"
	codeReplay           = "replay"
	codeTargetRefused    = "target-refused"
	codePrincipalRefused = "principal-refused"
	codeIdentity         = "identity-mismatch"
	codeEtype            = "etype"
)

// hints say what to do about each.
func hint(code string) string {
	switch code {
	case codeNoKeytab:
		return "join this host to the domain or realm, so that it has a keytab with a key of host/NAME or NAME$"
	case codeKDCUnreachable:
		return "see whether the KDC runs and port 88 (TCP and UDP) passes; name it in krb5.conf, or in DNS as _kerberos._tcp.REALM"
	case codeKDCRefused:
		return "the log of the KDC says why"
	case codeClockSkew:
		return "set the clocks: Kerberos allows five minutes between any two of this host, the peer and the KDC"
	case codeKeyVersion:
		return "fetch the keytab anew on the host that the ticket is for; a peer with an old ticket has to ask for a new one"
	case codeWrongKey:
		return "the keytab does not hold the key that the KDC has for this name: fetch it anew"
	case codeTicketExpired:
		return "compare the clocks; a new ticket is asked for at the next attempt"
	case codeWrongRealm:
		return "add the realm to the trusted realms of this host, or make a trust between the realms"
	case codeUnknownService:
		return "register the name with the KDC (Windows: setspn), or correct the peer's keytab"
	case codeUnknownPrincipal:
		return "the keytab names a principal that the KDC does not know: join the domain again, or set the principal to use"
	case codeReplay:
		return "if it comes again and again, somebody replays what the peer sent; otherwise the next attempt will do"
	case codeTargetRefused, codePrincipalRefused:
		return "add the principal to acceptPrincipals of the rule if it is the right one"
	case codeIdentity:
		return "let the peer identify itself by its own name or address; behind address translation, by its name"
	case codeEtype:
		return "give both hosts AES keys; for Windows 2000 to 2003, allow RC4 in the settings"
	}
	return ""
}

// refuse makes an auth.Error.
func refuse(code string, err error, format string, args ...any) *auth.Error {
	return &auth.Error{Code: code, Reason: fmt.Sprintf(format, args...), Hint: hint(code), Err: err}
}

// explain makes an auth.Error of whatever failed, with the code that fits; one
// that is already explained stays.
func explain(err error, format string, args ...any) error {
	var done *auth.Error
	if errors.As(err, &done) {
		return done
	}
	return refuse(codeOf(err), err, format, args...)
}

// codeOf returns the code of a failure; empty if there is none of its own.
func codeOf(err error) string {
	for _, c := range []struct {
		err  error
		code string
	}{
		{gss.ErrSkew, codeClockSkew},
		{gss.ErrNoKey, codeKeyVersion},
		{gss.ErrEtype, codeEtype},
		{gss.ErrExpired, codeTicketExpired},
		{gss.ErrNotYetValid, codeClockSkew},
		{gss.ErrReplay, codeReplay},
		{gss.ErrReplayCache, codeReplay},
		{gss.ErrService, codeUnknownService},
		{gss.ErrTransit, codeWrongRealm},
		{gss.ErrIntegrity, codeWrongKey},
		{errUnreachable, codeKDCUnreachable},
		{errSilent, codeKDCUnreachable},
	} {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	var said *gss.PeerError
	if errors.As(err, &said) {
		return codeOfKDC(said.Code)
	}
	return ""
}

// codeOfKDC returns the code of what a KDC says (RFC 4120 §7.5.9), for what
// package gss has no name for.
func codeOfKDC(code int32) string {
	switch code {
	case errorcode.KDC_ERR_C_PRINCIPAL_UNKNOWN:
		return codeUnknownPrincipal
	case errorcode.KDC_ERR_S_PRINCIPAL_UNKNOWN:
		return codeUnknownService
	case errorcode.KDC_ERR_PREAUTH_FAILED:
		return codeWrongKey
	case errorcode.KDC_ERR_WRONG_REALM, errorcode.KDC_ERR_PATH_NOT_ACCEPTED:
		return codeWrongRealm
	case errorcode.KDC_ERR_NEVER_VALID:
		return codeClockSkew
	case errorcode.KDC_ERR_SVC_UNAVAILABLE:
		return codeKDCUnreachable
	}
	return codeKDCRefused
}
