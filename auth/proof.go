package auth

import (
	"fmt"
	"slices"
	"strings"
)

// Proof is what a peer has proven of itself and how: all that decides which
// requirements it satisfies.
type Proof struct {
	Method    Method
	Principal Principal
	// Mapped: Principal is the account that the peer's certificate maps to.
	Mapped bool
	// Subject is who the certificate itself names, if that was proven beside
	// the account; else empty.
	Subject Principal
	// CA is the authority that the principal was proven under (certificates).
	CA string
	// Named: the preshared key is not known to be the one meant for the peer; a
	// rule asked for it by name.
	Named bool
	// Listed: the method itself does not trust the principal; a rule lists it.
	Listed bool
}

// ProofOf is the proof of p in a session for r. trusted is what the session says
// of it.
func ProofOf(r Requirement, p Principal, trusted bool) Proof {
	return Proof{Method: r.Method, Principal: p, Mapped: r.MapToAccount, CA: r.CA, Named: r.Key != "", Listed: !trusted}
}

// Satisfies reports whether the proof is what r asks for: by the method, with
// the key or under the authority it names or means, and of an identity that is
// welcome, in the form that r wants it in.
func (p Proof) Satisfies(r Requirement) bool {
	if r.Method != p.Method || r.CA != "" && r.CA != p.CA || r.MapToAccount && !p.Mapped {
		return false
	}
	return p.key(r.Key) && p.welcome(r)
}

// key reports whether the key of that name was used; "" is the one meant for
// the peer.
func (p Proof) key(name string) bool {
	switch {
	case p.Method != PSK:
		return true
	case name == "":
		return !p.Named
	}
	return p.Principal == Principal("psk:"+name)
}

func (p Proof) welcome(r Requirement) bool {
	if len(r.AcceptPrincipals) == 0 {
		return !p.Listed
	}
	name := p.Principal
	if p.Mapped && !r.MapToAccount {
		name = p.Subject
	}
	return name != "" && slices.Contains(r.AcceptPrincipals, string(name))
}

// Welcome returns nil if the proof satisfies one of reqs, and else why it
// satisfies none.
func (p Proof) Welcome(reqs []Requirement) error {
	var names []string
	for _, r := range reqs {
		if p.Satisfies(r) {
			return nil
		}
		names = append(names, r.AcceptPrincipals...)
	}
	if len(names) == 0 {
		return fmt.Errorf("the peer proved to be %q, which no rule for it accepts", p.Principal)
	}
	return fmt.Errorf("the peer proved to be %q, but the rule accepts only %s", p.Principal, strings.Join(names, ", "))
}

// MaxWays is how many keys, or authorities, the rules for one peer may name: a
// responder has to try its proof under each. A preshared key costs next to
// nothing to try, a chain of certificates does.
func MaxWays(m Method) int {
	if m == PSK {
		return 64
	}
	return 8
}
