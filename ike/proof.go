package ike

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/crypt"
	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// The limits of what a peer may bring to prove itself.
const (
	maxCerts    = 8 // certificates in a message
	maxCertLen  = 16 << 10
	maxRequests = 32 // requests for certificates in a message
)

// signs reports whether a method proves by a signature, not by a hash.
func signs(m auth.Method) bool {
	switch m {
	case auth.RSA, auth.ECDSA256, auth.ECDSA384, auth.ECDSA521:
		return true
	}
	return false
}

// proofType returns the payload that carries the proof of a method.
func proofType(m auth.Method) wire.PayloadType {
	if signs(m) {
		return wire.SignaturePayload
	}
	return wire.HashPayload
}

// keyShape is that of messages 3 and 4.
func keyShape(m auth.Method) shape {
	s := shape{once: []wire.PayloadType{wire.KEPayload, wire.NoncePayload}, any: []wire.PayloadType{wire.CertRequestPayload}}
	if m == auth.Kerberos {
		s.once = append(s.once, wire.GSSPayload)
	}
	return s
}

// proofShape is that of the messages that prove an identity.
func proofShape(m auth.Method) shape {
	s := shape{once: []wire.PayloadType{wire.IDPayload, proofType(m)}, any: []wire.PayloadType{wire.NotifyPayload}}
	if signs(m) {
		s.any = append(s.any, wire.CertPayload, wire.CertRequestPayload)
	}
	return s
}

// errMoreTokens refuses a GSS context that one token each way does not make.
// Kerberos needs no more; what does is none that this host speaks.
var errMoreTokens = &auth.Error{Reason: "the GSS context wants more than one token each way, which Kerberos does not"}

// checkProofShape checks a message 5 or 6 once it is decrypted.
func checkProofShape(m auth.Method, c wire.Chain) error {
	if _, more := c.Find(wire.GSSPayload); more && m == auth.Kerberos {
		return errMoreTokens
	}
	return proofShape(m).check(c)
}

// requested returns the names of the authorities that a message 3 or 4 asks
// for. A request without a name asks for any, and so does none.
func requested(c wire.Chain) ([][]byte, error) {
	var names [][]byte
	bodies := c.All(wire.CertRequestPayload)
	if len(bodies) > maxRequests {
		return nil, fmt.Errorf("%d requests for certificates", len(bodies))
	}
	for _, body := range bodies {
		req, err := wire.ParseCert(body)
		if err != nil {
			return nil, err
		}
		if len(req.Data) == 0 {
			return nil, nil
		}
		names = append(names, req.Data)
	}
	return names, nil
}

// requests returns the payloads that ask for certificates of authorities; of
// any, if none is to be named.
func requests(method auth.Method, names [][]byte) []wire.Payload {
	if !signs(method) {
		return nil
	}
	if len(names) == 0 {
		names = [][]byte{nil}
	}
	var all []wire.Payload
	for _, name := range names[:min(len(names), maxRequests)] {
		p := wire.Payload{Type: wire.CertRequestPayload, Body: wire.Cert{Encoding: wire.CertX509Signature, Data: name}.Append(nil)}
		if !slices.ContainsFunc(all, func(q wire.Payload) bool { return bytes.Equal(p.Body, q.Body) }) {
			all = append(all, p)
		}
	}
	return all
}

// tokens returns the payload of a GSS token.
func tokens(token []byte) []wire.Payload {
	if token == nil {
		return nil
	}
	return []wire.Payload{{Type: wire.GSSPayload, Body: token}}
}

// proof is what a message 5 or 6 claims and proves.
type proof struct {
	id    []byte // body of the identification payload
	certs [][]byte
	asked [][]byte // authorities, in message 5: some ask as late as that
	body  []byte   // the signature or hash
}

// readProof takes the proof out of a message that has the shape for it.
func readProof(m auth.Method, c wire.Chain) (proof, error) {
	var p proof
	p.id, _ = c.Find(wire.IDPayload)
	p.body, _ = c.Find(proofType(m))
	p.certs = c.All(wire.CertPayload)
	if len(p.certs) > maxCerts || slices.ContainsFunc(p.certs, func(b []byte) bool { return len(b) > maxCertLen }) {
		return p, fmt.Errorf("more than %d certificates, or one of more than %d bytes", maxCerts, maxCertLen)
	}
	var err error
	p.asked, err = requested(c)
	return p, err
}

// payloads returns the proof as it is sent.
func (p proof) payloads(m auth.Method) []wire.Payload {
	all := []wire.Payload{{Type: wire.IDPayload, Body: p.id}}
	for _, c := range p.certs {
		all = append(all, wire.Payload{Type: wire.CertPayload, Body: c})
	}
	return append(all, wire.Payload{Type: proofType(m), Body: p.body})
}

// prove makes this side's proof, in the pool.
func (x *mainMode) prove(s auth.Session, hash func(id, extra []byte) []byte) (proof, error) {
	claim := s.Local()
	if claim.IDType == 0 {
		addr := x.local.Addr()
		claim.IDType = uint8(pickType(addr.Is6(), wire.IDIPv4, wire.IDIPv6))
		claim.ID = addr.AsSlice()
	}
	p := proof{id: idBody(claim)}
	if signs(x.choice.Method) {
		p.certs = claim.Certs
	}
	var err error
	p.body, err = s.Prove(func(extra []byte) []byte { return hash(p.id, extra) })
	return p, err
}

// check verifies what a peer claims and proves, in the pool. known is what it
// has claimed before.
func (p proof) check(s auth.Session, known auth.Claim, hash func(sa, id, extra []byte) []byte, sai []byte) (auth.Principal, error) {
	id, err := wire.ParseID(p.id)
	if err != nil {
		return "", err
	}
	if !fitsID(id) {
		return "", fmt.Errorf("identification with protocol %d and port %d", id.Proto, id.Port)
	}
	known.IDType, known.ID, known.Certs = uint8(id.Type), id.Data, p.certs
	known.CAs = slices.Concat(known.CAs, p.asked)
	if err := s.Remote(known); err != nil {
		return "", err
	}
	return s.Check(func(extra []byte) []byte { return hash(sai, p.id, extra) }, p.body)
}

// authHash returns the hash that a method brings along for HASH_I and HASH_R:
// each of RFC 4754 §1 is a curve with its hash. Else it is the negotiated one.
func authHash(m auth.Method) sadb.Hash {
	switch m {
	case auth.ECDSA256:
		return sadb.SHA256
	case auth.ECDSA384:
		return sadb.SHA384
	case auth.ECDSA521:
		return sadb.SHA512
	}
	return sadb.HashNone
}

// deriveKeys makes the keys of the ISAKMP SA; seed is nil for the methods
// that start from g^xy.
func deriveKeys(e crypt.Exchange, seed []byte) (*crypt.Keys, error) {
	if seed == nil {
		return e.Signature()
	}
	return e.PSK(seed)
}

// authFailure is a failed authentication as it is reported.
func authFailure(method auth.Method, err error) Failed {
	f := Failed{Code: localCode(method, err), Reason: err.Error()}
	var refused *auth.Error
	if errors.As(err, &refused) {
		f.Hint = refused.Hint
		if refused.Code != "" {
			f.Code = FailCode(refused.Code)
		}
	}
	return f
}

// localCode tells a failed authentication from other failures of this side.
func localCode(method auth.Method, err error) FailCode {
	var refused *auth.Error
	if !errors.As(err, &refused) {
		return FailLocal
	}
	if method == auth.PSK {
		return FailPSK
	}
	return FailAuth
}

// failAuth ends x because this side cannot authenticate, or must not.
func (m *Machine) failAuth(now time.Time, x *mainMode, err error) {
	f := authFailure(x.choice.Method, err)
	if f.Code != FailLocal {
		x.suspect = func() Failed { return f }
	}
	m.failMain(now, x, f)
}
