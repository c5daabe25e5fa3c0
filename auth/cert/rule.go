package cert

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"ipsecagent/auth"
)

// rule is what a rule's authority means with the files of one store.
type rule struct {
	name          string              // as the rule has it
	authorities   []*x509.Certificate // of that name
	roots         *x509.CertPool      // the same
	intermediates []*x509.Certificate // what else the host has to build chains with
	own           []candidate
	notes         []string  // why others of our certificates do not fit
	until         time.Time // when it has to be made anew
}

// candidate is a certificate of ours that the rule's authority stands behind.
type candidate struct {
	*identity
	chain []*x509.Certificate // leaf to root
}

// ruleLife is how long a rule is kept: chains are made with a time in mind.
const ruleLife = time.Minute

// rule returns what the authority of that name means at this time.
func (s *Store) rule(ca string, now time.Time) (*rule, error) {
	if have, ok := s.rules.Load(ca); ok {
		// A clock that was set back makes it anew, too.
		if r := have.(*rule); now.Before(r.until) && r.until.Sub(now) <= ruleLife {
			return r, nil
		}
	}
	r, err := s.makeRule(ca, now)
	if err != nil {
		return nil, err
	}
	s.rules.Store(ca, r)
	return r, nil
}

func (s *Store) makeRule(ca string, now time.Time) (*rule, error) {
	want, err := foldText(ca)
	if err != nil {
		return nil, &auth.Error{Code: codeUntrusted, Reason: fmt.Sprintf("the rule's authority %q is no distinguished name", ca), Err: err,
			Hint: "write it as CN=Example Root,O=Example"}
	}
	r := &rule{name: ca, roots: x509.NewCertPool(), until: now.Add(ruleLife)}
	for _, c := range s.authorities {
		if name, err := foldDER(c.RawSubject); err == nil && sameName(want, name) {
			r.authorities = append(r.authorities, c)
			r.roots.AddCert(c)
		} else if !bytes.Equal(c.RawSubject, c.RawIssuer) {
			r.intermediates = append(r.intermediates, c)
		}
	}
	if len(r.authorities) == 0 {
		return nil, refuse(codeUntrusted, "put its certificate into "+s.path("ca")+", or name one that is there",
			"the authority %q of the rule has no certificate on this host (there: %s)", ca, s.authorityNames())
	}
	r.intermediates = append(r.intermediates, s.between...)
	for _, id := range s.own {
		r.consider(id, now)
	}
	return r, nil
}

// consider adds one of our certificates if it leads to the authority.
func (r *rule) consider(id *identity, now time.Time) {
	v := verifier{rule: r, usage: UsageAny, now: now}
	chain, err := v.chain(id.leaf, nil, nil)
	if err != nil {
		r.notes = append(r.notes, fmt.Sprintf("%s: %s", id.file, strings.ReplaceAll(err.Error(), "the peer's ", "its ")))
		return
	}
	r.own = append(r.own, candidate{identity: id, chain: chain})
}

// choose returns the certificate to prove ourselves with: of the method, valid
// now, from an authority that the peer asks for (none: any); of several the one
// that is valid longest. Nil: none.
func (r *rule) choose(method auth.Method, asked [][]byte, now time.Time) *candidate {
	var best *candidate
	for i := range r.own {
		c := &r.own[i]
		if c.method != method || !c.valid(now) || !c.from(asked) {
			continue
		}
		if best == nil || c.leaf.NotAfter.After(best.leaf.NotAfter) {
			best = c
		}
	}
	return best
}

func (c *candidate) valid(now time.Time) bool {
	return !now.Before(c.leaf.NotBefore) && !now.After(c.leaf.NotAfter)
}

// from reports whether one of the names stands in the chain as an issuer. An
// empty name asks for any.
func (c *candidate) from(asked [][]byte) bool {
	if len(asked) == 0 {
		return true
	}
	return slices.ContainsFunc(asked, func(name []byte) bool {
		return emptyName(name) || slices.ContainsFunc(c.chain, func(x *x509.Certificate) bool { return bytes.Equal(x.RawIssuer, name) })
	})
}

// none says why no certificate of ours will do.
func (r *rule) none(method auth.Method, asked [][]byte, now time.Time) error {
	var because []string
	for i := range r.own {
		switch c := &r.own[i]; {
		case c.method != method:
			because = append(because, fmt.Sprintf("%s is for the method %v", c.file, c.method))
		case !c.valid(now):
			because = append(because, fmt.Sprintf("%s is valid from %s to %s", c.file, day(c.leaf.NotBefore), day(c.leaf.NotAfter)))
		default:
			because = append(because, c.file+" is not of an authority the peer asks for")
		}
	}
	because = append(because, r.notes...)
	if len(because) == 0 {
		because = []string{"there is no certificate with a private key"}
	}
	wanted, hint := "", "put a certificate of that authority with its private key into the directory of own certificates"
	if len(asked) > 0 {
		wanted = "; the peer asks for " + namesText(asked)
		hint = "name the same authority in the rules of both hosts, or " + hint
	}
	return refuse(codeNoCertificate, hint,
		"no certificate of this host serves %v under the authority %s%s: %s", method, r.name, wanted, strings.Join(because, "; "))
}

func namesText(names [][]byte) string {
	var texts []string
	for _, n := range names[:min(len(names), maxCerts)] {
		if emptyName(n) {
			texts = append(texts, "any authority")
			continue
		}
		texts = append(texts, nameText(n))
	}
	return strings.Join(texts, " or ")
}
