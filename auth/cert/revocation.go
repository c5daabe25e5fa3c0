package cert

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"ipsecagent/auth"
)

// Revocation is when a peer is refused because of revocation lists. Windows
// has the same levels as the number StrongCRLCheck.
type Revocation uint8

const (
	// RevocationKnown refuses a certificate that a list names, and goes on
	// where there is no list (StrongCRLCheck 1).
	RevocationKnown Revocation = iota
	// RevocationOff looks at no list (StrongCRLCheck 0).
	RevocationOff
	// RevocationStrict wants a list in force for each certificate of a chain
	// (StrongCRLCheck 2).
	RevocationStrict
)

// listWait is how long an authentication waits for lists, all together; the
// peer's retransmissions bridge it.
const listWait = 3 * time.Second

// revoked checks a chain, the root aside. It may wait for lists; it is called
// for chains that lead to the authority of a rule and whose key has signed, so
// that a stranger cannot make this host fetch anything.
func (k *Keeper) revoked(s *Store, chain []*x509.Certificate) error {
	if k.set.Revocation == RevocationOff {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), listWait)
	defer cancel()
	for i := range len(chain) - 1 {
		c, issuer := chain[i], chain[i+1]
		v := k.verdict(s.listsOf(c, issuer), c)
		if v.code != "" && v.code != codeRevoked {
			v = k.fetched(ctx, v, c, issuer)
		}
		if v.code == codeRevoked || v.code != "" && k.set.Revocation == RevocationStrict {
			return v.refusal(c, issuer)
		}
	}
	return nil
}

// verdict is what lists say of a certificate: an empty code stands for good.
type verdict struct {
	code  string
	list  *list // revoked, expired: by this one
	cause error // unavailable: why
}

// verdict asks lists that speak of the certificate. A list that has run out can
// still condemn, not acquit.
func (k *Keeper) verdict(lists []*list, c *x509.Certificate) verdict {
	now := k.set.Now()
	v := verdict{code: codeCRLUnavailable}
	for _, l := range lists {
		if _, named := l.revoked[c.SerialNumber.String()]; named {
			return verdict{code: codeRevoked, list: l}
		}
		switch {
		case l.fresh(now):
			v = verdict{}
		case v.code == codeCRLUnavailable:
			v = verdict{code: codeCRLExpired, list: l}
		}
	}
	return v
}

// fetched goes on where the files of this host have no list in force.
func (k *Keeper) fetched(ctx context.Context, so verdict, c, issuer *x509.Certificate) verdict {
	for _, url := range c.CRLDistributionPoints[:min(len(c.CRLDistributionPoints), maxPoints)] {
		l, err := k.lists.get(ctx, url, issuer)
		if err != nil {
			so.cause = err
		}
		if l == nil || !l.speaksOf(c, issuer) {
			continue
		}
		if v := k.verdict([]*list{l}, c); v.code == "" || v.code == codeRevoked {
			return v
		} else if v.code == codeCRLExpired {
			so.code, so.list = v.code, l
		}
	}
	return so
}

// refusal puts a verdict into words.
func (v verdict) refusal(c, issuer *x509.Certificate) error {
	name, by := nameText(c.RawSubject), nameText(issuer.RawSubject)
	switch v.code {
	case codeRevoked:
		return refuse(codeRevoked, "give the peer a new certificate",
			"the certificate %s in the peer's chain was revoked by %s at %s (list: %s)", name, by, day(v.list.revoked[c.SerialNumber.String()]), v.list.source)
	case codeCRLExpired:
		return &auth.Error{Code: codeCRLExpired, Err: v.cause, Hint: "publish a new list, or put one into the directory of lists",
			Reason: fmt.Sprintf("the revocation list of %s for the certificate %s ran out at %s (list: %s)", by, name, day(v.list.crl.NextUpdate), v.list.source)}
	}
	reason := fmt.Sprintf("there is no revocation list of %s for the certificate %s in the peer's chain", by, name)
	if len(c.CRLDistributionPoints) == 0 {
		reason += ", which does not say where one is"
	}
	return &auth.Error{Code: codeCRLUnavailable, Err: v.cause, Reason: reason,
		Hint: "put a list into the directory of lists, or let this host reach the distribution point"}
}

// listsOf returns the lists of this host's files that speak of a certificate.
func (s *Store) listsOf(c, issuer *x509.Certificate) []*list {
	return slices.DeleteFunc(slices.Clone(s.lists), func(l *list) bool { return !l.speaksOf(c, issuer) })
}
