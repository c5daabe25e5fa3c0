package gss

import (
	"fmt"
	"time"

	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/messages"
)

// PeerError is a KRB-ERROR: what the peer, or a KDC, says went wrong. It is
// not authenticated.
type PeerError struct {
	Code int32     // RFC 4120 §7.5.9
	Text string    // the peer's words, printable, at most 200 bytes
	Time time.Time // the peer's clock
	Data []byte    // e-data: what a KDC asks for before it answers
}

// Error returns code and words; of a clock that differs what it says.
func (e *PeerError) Error() string {
	s := errorcode.Lookup(e.Code)
	if e.Text != "" {
		s += ": " + e.Text
	}
	if e.Code == errorcode.KRB_AP_ERR_SKEW && !e.Time.IsZero() {
		s += "; its clock says " + e.Time.UTC().Format(time.RFC3339)
	}
	return s
}

// Unwrap returns the reason of this package that the code stands for; nil if
// there is none.
func (e *PeerError) Unwrap() error {
	switch e.Code {
	case errorcode.KRB_AP_ERR_SKEW:
		return ErrSkew
	case errorcode.KRB_AP_ERR_REPEAT:
		return ErrReplay
	case errorcode.KRB_AP_ERR_TKT_EXPIRED:
		return ErrExpired
	case errorcode.KRB_AP_ERR_TKT_NYV:
		return ErrNotYetValid
	case errorcode.KRB_AP_ERR_BADKEYVER, errorcode.KRB_AP_ERR_NOKEY:
		return ErrNoKey
	case errorcode.KRB_AP_ERR_NOT_US:
		return ErrService
	case errorcode.KRB_AP_ERR_BAD_INTEGRITY, errorcode.KRB_AP_ERR_MODIFIED:
		return ErrIntegrity
	case errorcode.KDC_ERR_ETYPE_NOSUPP:
		return ErrEtype
	}
	return nil
}

// ParsePeerError returns the error that a KRB-ERROR message states, a
// *PeerError, or ErrMalformed.
func ParsePeerError(b []byte) (err error) {
	defer guard(&err)
	var e messages.KRBError
	if e.Unmarshal(b) != nil {
		return fmt.Errorf("%w: KRB-ERROR", ErrMalformed)
	}
	return &PeerError{Code: e.ErrorCode, Text: printable(e.EText), Time: e.STime, Data: e.EData}
}

// printable cuts a stranger's words to what a log may hold.
func printable(s string) string {
	b := make([]byte, 0, 200)
	for i := 0; i < len(s) && len(b) < cap(b); i++ {
		if s[i] >= ' ' && s[i] < 0x7f {
			b = append(b, s[i])
		}
	}
	return string(b)
}
