package cert

import (
	"fmt"
	"time"

	"ipsecagent/auth"
)

// The reasons why an authentication by certificate fails, as auth.Error has
// them in Code; docs/troubleshooting.md explains each.
const (
	codeExpired        = "certificate-expired"
	codeNotYetValid    = "certificate-not-yet-valid"
	codeRevoked        = "certificate-revoked"
	codeUntrusted      = "certificate-untrusted"
	codeUsage          = "certificate-usage"
	codeIdentity       = "certificate-identity"
	codeWeak           = "certificate-weak"
	codeMalformed      = "certificate-malformed"
	codeMissing        = "certificate-missing"
	codeNoCertificate  = "no-certificate"
	codeNoAccount      = "no-account"
	codeCRLUnavailable = "crl-unavailable"
	codeCRLExpired     = "crl-expired"
	codeSignature      = "signature"
)

// refuse makes an auth.Error.
func refuse(code, hint, format string, args ...any) *auth.Error {
	return &auth.Error{Code: code, Hint: hint, Reason: fmt.Sprintf(format, args...)}
}

// day prints a time as administrators compare it with a clock.
func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
