package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of requests and answers.
const (
	// MaxRequest bounds a request's body in bytes.
	MaxRequest = 1 << 20
	// MaxAnswer bounds an answer's body in bytes, for clients.
	MaxAnswer = 64 << 20
	// MaxName bounds the name of a policy in bytes.
	MaxName = 255
	// MaxAuth bounds the authentication of a request in bytes.
	MaxAuth = 1024
)

// What Auth of an AssignRequest can be. AuthPSKFile comes with Keys, behind
// AuthCertificate stands the distinguished name of the authority.
const (
	AuthPSKFile     = "psk-file"
	AuthKerberos    = "kerberos"
	AuthCertificate = "cert:"
	// AuthWords is how they are written on a command line.
	AuthWords = "kerberos, cert:CA-NAME, psk-file:FILE"
)

// CompatWindows2000 is the Compat of an AssignRequest.
const CompatWindows2000 = "windows2000"

// PolicyList is the answer of /v1/policies.
type PolicyList struct {
	SchemaVersion string       `json:"schemaVersion"`
	Policies      []PolicyInfo `json:"policies"`
}

// Validate says what is wrong with the request's form. Whether the policy
// exists and the keys parse, Backend knows.
func (r AssignRequest) Validate() error {
	if r.Policy == "" {
		return invalid("assign: the name of the policy is missing")
	}
	if err := checkName(r.Policy); err != nil {
		return err
	}
	ca, certificate := strings.CutPrefix(r.Auth, AuthCertificate)
	switch {
	case r.Compat != "" && r.Compat != CompatWindows2000:
		return invalid("assign: compat %q is not known; %q is", r.Compat, CompatWindows2000)
	case certificate && strings.TrimSpace(ca) == "":
		return invalid("assign: %s needs the distinguished name of the authority, for example cert:CN=Bank Root CA,O=Bank", AuthCertificate)
	case len(r.Auth) > MaxAuth || strings.ContainsFunc(r.Auth, notPrintable):
		return invalid("assign: the authentication is longer than %d bytes or cannot be printed", MaxAuth)
	case r.Auth != "" && r.Auth != AuthPSKFile && r.Auth != AuthKerberos && !certificate:
		return invalid("assign: authentication %q is not known; known: %s", r.Auth, AuthWords)
	case r.Auth == AuthPSKFile && strings.TrimSpace(r.Keys) == "":
		return invalid("assign: authentication %q needs keys, and the key file is empty", AuthPSKFile)
	case r.Auth != AuthPSKFile && r.Keys != "":
		return invalid("assign: keys are given, but no authentication that uses them")
	}
	return nil
}

// checkName refuses what cannot be the name of a policy. A name is compared and
// not opened, so it may have a slash, as names of Windows do; what could be a way
// out of a folder is refused nevertheless.
func checkName(name string) error {
	switch {
	case len(name) > MaxName:
		return invalid("the name of a policy has at most %d bytes", MaxName)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, notPrintable):
		return invalid("policy name %q holds characters that cannot be printed", name)
	case strings.HasPrefix(name, "/") || strings.HasPrefix(name, ".") || strings.Contains(name, "/."):
		return invalid("policy name %q: a name does not begin with a dot or a slash, and has no dot behind a slash", name)
	}
	return nil
}

func notPrintable(r rune) bool { return !unicode.IsPrint(r) }

// decodeAssign reads the body of /v1/assign.
func decodeAssign(body io.Reader) (AssignRequest, error) {
	var r AssignRequest
	if err := decodeStrict(body, &r); err != nil {
		return AssignRequest{}, err
	}
	if err := r.Validate(); err != nil {
		return AssignRequest{}, err
	}
	return r, nil
}

// decodeEmpty reads the body of a request without parameters: nothing or {}.
func decodeEmpty(body io.Reader) error {
	var none struct{}
	return decodeStrict(body, &none)
}

// decodeStrict reads one JSON object into v. Unknown fields and anything
// behind the object are refused; an empty body is the empty object.
func decodeStrict(body io.Reader, v any) error {
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return invalid("the request is not understood: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return invalid("the request is not understood: something follows its JSON object")
	}
	return nil
}

// policyQuery reads the parameters of /v1/policy.
func policyQuery(q url.Values) (name string, effective bool, err error) {
	if err := onlyKeys(q, "name", "effective"); err != nil {
		return "", false, err
	}
	name = q.Get("name")
	if err := checkName(name); err != nil {
		return "", false, err
	}
	effective, err = boolParam(q, "effective")
	return name, effective, err
}

// peerQuery reads the address of a peer from the parameter "peer"; known are
// all parameters of the request.
func peerQuery(q url.Values, known ...string) (netip.Addr, error) {
	if err := onlyKeys(q, known...); err != nil {
		return netip.Addr{}, err
	}
	peer, err := netip.ParseAddr(q.Get("peer"))
	if err != nil {
		return netip.Addr{}, invalid("parameter peer=%q: it is the address of a peer", q.Get("peer"))
	}
	return peer.Unmap().WithZone(""), nil
}

// boolParam reads a parameter that is true or false; absent is false.
func boolParam(q url.Values, key string) (bool, error) {
	switch v := q.Get(key); v {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	default:
		return false, invalid("parameter %s=%q: it is true or false", key, v)
	}
}

// onlyKeys refuses parameters that are unknown or repeated.
func onlyKeys(q url.Values, known ...string) error {
	left := len(q)
	for _, k := range known {
		if v, ok := q[k]; ok {
			left--
			if len(v) != 1 {
				return invalid("parameter %s is repeated", k)
			}
		}
	}
	if left > 0 {
		return invalid("a parameter of the request is not known; known are: %s", strings.Join(known, ", "))
	}
	return nil
}

func invalid(format string, args ...any) *Error {
	return &Error{Code: Invalid, Message: fmt.Sprintf(format, args...)}
}
