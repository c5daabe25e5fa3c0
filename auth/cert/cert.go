// Package cert authenticates IKE peers by certificates: RSA signatures of
// IKEv1 (RFC 2409 §5.1) and ECDSA on the curves P-256, P-384 and P-521 (RFC
// 4754). It reads the certificates, private keys, authorities and revocation
// lists of this host from a directory, chooses the certificate to send, and
// checks a peer's certificate, identity and signature.
//
// It trusts the authority of the rule and no other, never the system's. It
// does not derive IKE's keys, and does not decide whether the proven principal
// is welcome.
package cert

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"ipsecagent/auth"
)

// Settings are an administrator's decisions on certificates. The zero value is
// the default.
type Settings struct {
	Usage   Usage
	IDCheck IDCheck
	// LeastRSA is the shortest RSA modulus of a peer's chain in bits: 1024 to
	// 8192; 0: 2048.
	LeastRSA int
	// WrapPKCS7 sends a chain that has intermediates as one PKCS#7, which
	// Windows 2000 wants. Both forms are always accepted.
	WrapPKCS7 bool
	// Accounts maps the certificates of rules that map to accounts. Nil: none
	// has an account.
	Accounts Accounts
	// Revocation is when a peer is refused because of revocation lists.
	Revocation Revocation
	// AllowLocalLists lets lists be fetched from loopback and link-local
	// addresses.
	AllowLocalLists bool
	// Dialer makes the connections for revocation lists; its Control may mark
	// the sockets. Nil: a plain one.
	Dialer *net.Dialer
	// Now is the clock certificates are held against. Nil: the system's.
	Now func() time.Time
	// Random is for signatures. Nil: crypto/rand.
	Random io.Reader
}

// Keeper has this host's certificates and gives an authenticator for each
// method. It may be used by several goroutines at once; sessions keep the
// store they started with.
type Keeper struct {
	set   Settings
	store atomic.Pointer[Store]
	lists *cache
}

// New returns a keeper of the certificates of s. Nil: none.
func New(s *Store, set Settings) (*Keeper, error) {
	if set.LeastRSA == 0 {
		set.LeastRSA = defaultRSA
	}
	if set.LeastRSA < leastRSA || set.LeastRSA > mostRSA {
		return nil, fmt.Errorf("auth/cert: RSA keys of %d bits as the shortest: between %d and %d is allowed", set.LeastRSA, leastRSA, mostRSA)
	}
	if set.Usage > UsageAny || set.IDCheck > IDChainOnly || set.Revocation > RevocationStrict {
		return nil, errors.New("auth/cert: a setting out of range")
	}
	if set.Now == nil {
		set.Now = time.Now
	}
	if set.Random == nil {
		set.Random = rand.Reader
	}
	k := &Keeper{set: set, lists: newCache(set)}
	k.Replace(s)
	return k, nil
}

// Replace puts s in the place of the certificates so far. Authentications
// under way are not touched.
func (k *Keeper) Replace(s *Store) {
	if s == nil {
		s = &Store{}
	}
	k.store.Store(s)
}

// Store returns the certificates in use.
func (k *Keeper) Store() *Store { return k.store.Load() }

// Authenticators returns one authenticator for each method of certificates.
func (k *Keeper) Authenticators() []auth.Authenticator {
	var all []auth.Authenticator
	for _, m := range []auth.Method{auth.RSA, auth.ECDSA256, auth.ECDSA384, auth.ECDSA521} {
		all = append(all, &authenticator{keeper: k, method: m})
	}
	return all
}

// Methods returns the methods that this host can prove itself by now, under an
// authority given by its distinguished name: those it has a valid certificate
// with a private key for. An *auth.Error says why there is none.
func (k *Keeper) Methods(ca string) ([]auth.Method, error) {
	now := k.set.Now()
	r, err := k.Store().rule(ca, now)
	if err != nil {
		return nil, err
	}
	var all []auth.Method
	for _, a := range k.Authenticators() {
		if r.choose(a.Method(), nil, now) != nil {
			all = append(all, a.Method())
		}
	}
	if len(all) == 0 {
		return nil, r.none(auth.RSA, nil, now)
	}
	return all, nil
}

// authenticator is one method of a keeper.
type authenticator struct {
	keeper *Keeper
	method auth.Method
}

// Method returns the method.
func (a *authenticator) Method() auth.Method { return a.method }

// Start finds the authority of the rule and a certificate of ours under it.
// That there is none is an *auth.Error.
func (a *authenticator) Start(r auth.Request) (auth.Session, error) {
	if r.Requirement.Method != a.method {
		return nil, fmt.Errorf("auth/cert: %v is not the method %v", r.Requirement.Method, a.method)
	}
	now := a.keeper.set.Now()
	found, err := a.keeper.Store().rule(r.Requirement.CA, now)
	if err != nil {
		return nil, err
	}
	s := &session{keeper: a.keeper, store: a.keeper.Store(), rule: found, request: r}
	if s.own = found.choose(a.method, nil, now); s.own == nil {
		return nil, found.none(a.method, nil, now)
	}
	return s, nil
}

// session is one authentication under one rule.
type session struct {
	keeper  *Keeper
	store   *Store
	rule    *rule
	request auth.Request
	asked   [][]byte   // the authorities the peer asks for
	own     *candidate // nil: none of ours is of these
	// What the peer sent, and which of it its identification may mean: read,
	// and no more until its signature is seen.
	sent, leaves []*x509.Certificate
}

// Local claims the subject of the certificate chosen, and sends its chain. A
// session without a certificate claims nothing, and Prove says why.
func (s *session) Local() auth.Claim {
	var c auth.Claim
	if !s.request.Requirement.ExcludeCAName {
		c.CAs = s.requests()
	}
	if s.own != nil {
		c.IDType, c.ID = claimID(s.own.leaf)
		c.Certs = payloads(s.own.chain, s.keeper.set.WrapPKCS7)
	}
	return c
}

// requests returns the names to ask the peer for, each once.
func (s *session) requests() [][]byte {
	var names [][]byte
	for _, c := range s.rule.authorities {
		if !slices.ContainsFunc(names, func(n []byte) bool { return string(n) == string(c.RawSubject) }) {
			names = append(names, c.RawSubject)
		}
	}
	return names
}

// Remote chooses our certificate by what the peer asks for, and reads what it
// claims. Anyone can send certificates: nothing is computed over them before a
// key among them has signed.
func (s *session) Remote(c auth.Claim) (err error) {
	defer recovered(&err)
	now := s.keeper.set.Now()
	s.asked = c.CAs
	s.own = s.rule.choose(s.request.Requirement.Method, s.asked, now)
	s.sent, s.leaves = nil, nil
	if c.IDType == 0 && len(c.ID) == 0 && len(c.Certs) == 0 {
		return nil // not yet said
	}
	certs, err := readPeer(c.Certs)
	if err != nil {
		return &auth.Error{Code: codeMalformed, Reason: "the peer's certificates are malformed", Err: err,
			Hint: "which implementation is the peer? give it a new certificate"}
	}
	if len(certs) == 0 {
		return refuse(codeMissing, "let the peer send its certificate", "the peer sent no certificate")
	}
	s.sent = certs
	s.leaves, err = s.meant(certs, c)
	return err
}

// meant returns the certificates that the peer's identification may mean, of
// the session's method.
func (s *session) meant(certs []*x509.Certificate, c auth.Claim) ([]*x509.Certificate, error) {
	named := certs
	if s.keeper.set.IDCheck == IDStrict {
		named = filter(certs, func(x *x509.Certificate) bool { return matchesID(x, c.IDType, c.ID) })
		if len(named) == 0 {
			return nil, refuse(codeIdentity, "let the peer's identification be the subject or an alternative name of its certificate",
				"the peer says it is %s, and its certificate %s does not", idText(c.IDType, c.ID), nameText(certs[0].RawSubject))
		}
	} else if ends := filter(certs, func(x *x509.Certificate) bool { return !x.IsCA }); len(ends) > 0 {
		named = ends
	}
	method := s.request.Requirement.Method
	leaves := filter(named, func(x *x509.Certificate) bool { return methodOf(x.PublicKey) == method })
	if len(leaves) == 0 {
		return nil, refuse(codeUsage, "name the method of the peer's key in both policies",
			"the peer's certificate %s has no key for the method %v", nameText(named[0].RawSubject), method)
	}
	quick := filter(leaves, func(x *x509.Certificate) bool { return quickKey(x.PublicKey) })
	if len(quick) == 0 {
		return nil, refuse(codeUsage, fmt.Sprintf("issue the peer a certificate with an RSA key of at most %d bits", mostPeerRSA),
			"the peer's certificate %s has a key of more than %d bits", nameText(leaves[0].RawSubject), mostPeerRSA)
	}
	return quick, nil
}

func filter(certs []*x509.Certificate, keep func(*x509.Certificate) bool) []*x509.Certificate {
	return slices.DeleteFunc(slices.Clone(certs), func(c *x509.Certificate) bool { return !keep(c) })
}

// verify returns the first chain from one of the leaves to the authority of the
// rule; an error if none leads there: that of the first.
func (s *session) verify(leaves []*x509.Certificate) ([]*x509.Certificate, error) {
	v := verifier{rule: s.rule, usage: s.keeper.set.Usage, least: s.keeper.set.LeastRSA, now: s.keeper.set.Now()}
	above := v.vouched(s.sent)
	var first error
	for _, leaf := range leaves {
		chain, err := v.chain(leaf, above, s.sent)
		if err == nil {
			return chain, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// Seeds returns nil: SKEYID starts from g^xy.
func (s *session) Seeds() [][]byte { return nil }

// Token has nothing to send; a token from the peer is an error.
func (s *session) Token(in []byte) ([]byte, error) {
	if len(in) > 0 {
		return nil, &auth.Error{Reason: fmt.Sprintf("peer %s sent a GSS token to an authentication by certificate", s.request.Remote)}
	}
	return nil, nil
}

// Prove signs.
func (s *session) Prove(hash func(extra []byte) []byte) ([]byte, error) {
	if s.own == nil {
		return nil, s.rule.none(s.request.Requirement.Method, s.asked, s.keeper.set.Now())
	}
	proof, err := s.own.sign(s.keeper.set.Random, hash(nil))
	if err != nil {
		return nil, &auth.Error{Code: codeSignature, Reason: fmt.Sprintf("the private key of %s does not sign", s.own.file), Err: err,
			Hint: "is the key, or the device it is on, in order?"}
	}
	return proof, nil
}

// Check verifies the peer's signature, then whether the certificate of the key
// that signed leads to the rule's authority, then whether it is revoked, which
// may wait for a list to be fetched.
func (s *session) Check(hash func(extra []byte) []byte, proof []byte) (_ auth.Principal, err error) {
	defer recovered(&err)
	sum := hash(nil)
	signed := filter(s.leaves, func(x *x509.Certificate) bool { return verifyProof(x.PublicKey, sum, proof) == nil })
	if len(signed) == 0 {
		return "", refuse(codeSignature, "does the peer's private key belong to its certificate? was the exchange altered on the way?",
			"the signature of peer %s does not fit its certificate", s.request.Remote)
	}
	chain, err := s.verify(signed)
	if err != nil {
		return "", err
	}
	if err := s.keeper.revoked(s.store, chain); err != nil {
		return "", err
	}
	if s.request.Requirement.MapToAccount {
		return s.keeper.set.Accounts.principal(chain[0])
	}
	return principalOf(chain[0])
}

// Trusted: whom the authority has certified is trusted.
func (s *session) Trusted() bool { return true }

const panicReason = "the peer's certificates made the reader fail"

// recovered turns a panic of a parser into a refusal. It is the last line: no
// certificate is known that panics.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = &auth.Error{Code: codeMalformed, Reason: panicReason, Err: fmt.Errorf("panic: %v", p),
			Hint: "refuse that peer, and report it"}
	}
}
