package cert

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"strings"
	"time"

	"ipsecagent/auth"
)

// Usage is which extended key usages a peer's certificate may be limited to.
// One without the extension is for any use.
type Usage uint8

const (
	// UsageWindows: those of IPsec, old and new, and those for clients and
	// servers of TLS, as Windows takes any machine certificate.
	UsageWindows Usage = iota
	// UsageRFC4945: id-kp-ipsecIKE or anyExtendedKeyUsage (RFC 4945 §5.1.3.12).
	UsageRFC4945
	// UsageAny: not looked at.
	UsageAny
)

// The usages in question, as OIDs.
var (
	usageAny   = asn1.ObjectIdentifier{2, 5, 29, 37, 0}
	usageIKE   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 17}
	usagesMore = []asn1.ObjectIdentifier{
		{1, 3, 6, 1, 5, 5, 7, 3, 5}, {1, 3, 6, 1, 5, 5, 7, 3, 6}, {1, 3, 6, 1, 5, 5, 7, 3, 7}, // ipsecEndSystem, Tunnel, User
		{1, 3, 6, 1, 5, 5, 8, 2, 2},                              // iKEIntermediate, Microsoft's IPSec template
		{1, 3, 6, 1, 5, 5, 7, 3, 1}, {1, 3, 6, 1, 5, 5, 7, 3, 2}, // serverAuth, clientAuth
	}
)

// allows reports whether the extended key usages of a certificate admit IKE.
func (u Usage) allows(c *x509.Certificate) bool {
	usages := usagesOf(c)
	if u == UsageAny || len(usages) == 0 {
		return true
	}
	return slices.ContainsFunc(usages, func(oid asn1.ObjectIdentifier) bool {
		if oid.Equal(usageAny) || oid.Equal(usageIKE) {
			return true
		}
		return u == UsageWindows && slices.ContainsFunc(usagesMore, oid.Equal)
	})
}

// usagesOf reads the extension itself: crypto/x509 knows some of the usages by
// number and leaves the others in a second list.
func usagesOf(c *x509.Certificate) []asn1.ObjectIdentifier {
	for _, e := range c.Extensions {
		if !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 37}) {
			continue
		}
		var oids []asn1.ObjectIdentifier
		if _, err := asn1.Unmarshal(e.Value, &oids); err == nil {
			return oids
		}
	}
	return nil
}

// maxChain bounds a chain, leaf and root counted.
const maxChain = 5

// verifier checks chains to the authority of one rule at one time.
type verifier struct {
	rule  *rule
	usage Usage
	least int // shortest RSA modulus
	now   time.Time
}

// chain returns the first chain from a peer's certificate to the authority of
// the rule that stands all checks but revocation and identity. Above it are the
// certificates to build with; sent is all that came along, to explain a failure.
func (v verifier) chain(leaf *x509.Certificate, above, sent []*x509.Certificate) ([]*x509.Certificate, error) {
	if err := checkNames(leaf); err != nil {
		return nil, refuse(codeMalformed, "issue the peer a new certificate", "the peer's certificate is malformed: %v", err)
	}
	chains, err := v.chains(leaf, above)
	if err != nil {
		return nil, v.explain(leaf, sent, err)
	}
	var first error
	for _, chain := range chains {
		err := v.check(chain)
		if err == nil {
			return chain, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// vouched returns the authorities among a peer's certificates that those of this
// host stand behind. Nothing else may be built with: signatures are checked with
// keys of this host's store and of what it vouches for, never with a stranger's,
// so that certificates made for the purpose cost no more than one check each.
func (v verifier) vouched(sent []*x509.Certificate) []*x509.Certificate {
	known := slices.Concat(v.rule.authorities, v.rule.intermediates)
	own := len(known)
	rest := filter(sent, func(c *x509.Certificate) bool { return c.IsCA })
	for i := 0; i < len(known); i++ { // known grows
		under := filter(rest, func(c *x509.Certificate) bool {
			return bytes.Equal(c.RawIssuer, known[i].RawSubject) && c.CheckSignatureFrom(known[i]) == nil
		})
		rest = filter(rest, func(c *x509.Certificate) bool { return !slices.Contains(under, c) })
		known = append(known, under...)
	}
	return known[own:]
}

// chains builds paths. The extended usages are left to check, which knows what
// IKE takes.
func (v verifier) chains(leaf *x509.Certificate, above []*x509.Certificate) ([][]*x509.Certificate, error) {
	between := x509.NewCertPool()
	for _, c := range slices.Concat(above, v.rule.intermediates) {
		between.AddCert(c)
	}
	return leaf.Verify(x509.VerifyOptions{Roots: v.rule.roots, Intermediates: between, CurrentTime: v.now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
}

// check is what crypto/x509 leaves open.
func (v verifier) check(chain []*x509.Certificate) error {
	if len(chain) > maxChain {
		return refuse(codeUntrusted, "issue certificates nearer to the authority of the rule",
			"the peer's certificate is %d certificates away from the authority, more than %d", len(chain), maxChain)
	}
	for _, c := range chain {
		if err := checkKey(c.PublicKey, v.least); err != nil {
			return refuse(codeWeak, "issue a certificate with a stronger key",
				"the certificate %s in the peer's chain has %v", nameText(c.RawSubject), err)
		}
	}
	const signs = x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment
	if leaf := chain[0]; leaf.KeyUsage != 0 && leaf.KeyUsage&signs == 0 {
		return refuse(codeUsage, "issue a certificate with the key usage digitalSignature",
			"the peer's certificate %s is not for signatures", nameText(leaf.RawSubject))
	}
	for _, c := range chain[:max(1, len(chain)-1)] { // an authority's usages bind what is below it
		if !v.usage.allows(c) {
			return refuse(codeUsage, "issue a certificate with the extended key usage ipsecIKE, or allow more by the setting of usages",
				"the certificate %s in the peer's chain is not for IPsec: its extended key usages are %s", nameText(c.RawSubject), usageWords(c))
		}
	}
	return nil
}

func usageWords(c *x509.Certificate) string {
	var words []string
	for _, oid := range usagesOf(c) {
		words = append(words, oid.String())
	}
	return strings.Join(words, ", ")
}

// explain says why there is no chain: it goes up from the leaf by names and
// stops at the first certificate that cannot stand.
func (v verifier) explain(leaf *x509.Certificate, pool []*x509.Certificate, cause error) error {
	above := slices.Concat(v.rule.authorities, v.rule.intermediates, pool)
	at := leaf
	for range maxCerts {
		if err := v.standing(at); err != nil {
			return err
		}
		i := slices.IndexFunc(above, func(c *x509.Certificate) bool {
			return bytes.Equal(c.RawSubject, at.RawIssuer) && !c.Equal(at)
		})
		if i < 0 {
			break
		}
		at = above[i]
	}
	return &auth.Error{Code: codeUntrusted, Err: cause,
		Reason: "the peer's certificate " + nameText(leaf.RawSubject) + " leads to the authority " + nameText(at.RawIssuer) + ", not to " + v.rule.name + " of the rule",
		Hint:   "give the peer a certificate of the rule's authority with all certificates between, or name its authority in the rule"}
}

// standing checks one certificate by itself.
func (v verifier) standing(c *x509.Certificate) error {
	name := nameText(c.RawSubject)
	switch {
	case v.now.After(c.NotAfter):
		return refuse(codeExpired, "renew that certificate; is this host's clock right?", "the certificate %s in the peer's chain expired at %s", name, day(c.NotAfter))
	case v.now.Before(c.NotBefore):
		return refuse(codeNotYetValid, "is this host's clock right?", "the certificate %s in the peer's chain is valid from %s on", name, day(c.NotBefore))
	case len(c.UnhandledCriticalExtensions) > 0:
		return refuse(codeUsage, "issue a certificate without that extension", "the certificate %s in the peer's chain has the critical extension %v, which this host does not know", name, c.UnhandledCriticalExtensions[0])
	case weakSignature(c):
		return refuse(codeWeak, "issue a certificate signed with SHA-256 or better", "the certificate %s in the peer's chain is signed with %v", name, c.SignatureAlgorithm)
	}
	return nil
}

// weakSignature tells the algorithms that crypto/x509 refuses, except on a
// root, whose signature nobody checks.
func weakSignature(c *x509.Certificate) bool {
	switch c.SignatureAlgorithm {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		return !bytes.Equal(c.RawSubject, c.RawIssuer)
	}
	return false
}
