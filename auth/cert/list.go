package cert

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// list is a certificate revocation list (RFC 5280 §5).
type list struct {
	source  string               // file or URL
	crl     *x509.RevocationList // without its entries
	revoked map[string]time.Time // since when, by the bytes of the serial number
	scope   issuingPoint

	// signedBy is an issuer whose signature was found good: hashing ten
	// megabytes once is enough.
	signedBy atomic.Pointer[x509.Certificate]
}

// issuingPoint is the extension that limits what a list speaks of (RFC 5280
// §5.2.5).
type issuingPoint struct {
	Point       pointName      `asn1:"optional,tag:0"`
	OnlyUser    bool           `asn1:"optional,tag:1"`
	OnlyCA      bool           `asn1:"optional,tag:2"`
	SomeReasons asn1.BitString `asn1:"optional,tag:3"`
	Indirect    bool           `asn1:"optional,tag:4"`
	OnlyOther   bool           `asn1:"optional,tag:5"`
}

type pointName struct {
	Full     []asn1.RawValue `asn1:"optional,tag:0"`
	Relative asn1.RawValue   `asn1:"optional,tag:1"`
}

var (
	oidIssuingPoint = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidDelta        = asn1.ObjectIdentifier{2, 5, 29, 27}
)

// Bounds of revocation lists.
const (
	maxList  = 10 << 20 // bytes
	listSkew = 5 * time.Minute
)

// parseList reads a list in DER. Delta and indirect lists are refused: they do
// not say by themselves which certificates of an issuer are revoked.
func parseList(source string, der []byte) (*list, error) {
	if len(der) > maxList {
		return nil, fmt.Errorf("a revocation list of more than %d bytes", maxList)
	}
	crl, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, err
	}
	if len(crl.Raw) != len(der) {
		return nil, errors.New("bytes behind a revocation list")
	}
	if crl.NextUpdate.IsZero() || !crl.NextUpdate.After(crl.ThisUpdate) {
		return nil, errors.New("a revocation list that does not say when the next one comes")
	}
	// The table has the entries; parsed ones are many times as large.
	l := &list{source: source, revoked: map[string]time.Time{}, crl: &x509.RevocationList{
		Raw: crl.Raw, RawTBSRevocationList: crl.RawTBSRevocationList, RawIssuer: crl.RawIssuer, SignatureAlgorithm: crl.SignatureAlgorithm,
		Signature: crl.Signature, ThisUpdate: crl.ThisUpdate, NextUpdate: crl.NextUpdate, Extensions: crl.Extensions}}
	if err := l.limits(); err != nil {
		return nil, err
	}
	for _, e := range crl.RevokedCertificateEntries {
		for _, x := range e.Extensions {
			if x.Critical {
				return nil, fmt.Errorf("a revocation list with the critical extension %v of an entry", x.Id)
			}
		}
		l.revoked[e.SerialNumber.String()] = e.RevocationTime
	}
	return l, nil
}

// limits reads what the extensions say of the list's scope.
func (l *list) limits() error {
	for _, x := range l.crl.Extensions {
		switch {
		case x.Id.Equal(oidDelta):
			return errors.New("a delta revocation list")
		case x.Id.Equal(oidIssuingPoint):
			if rest, err := asn1.Unmarshal(x.Value, &l.scope); err != nil || len(rest) > 0 {
				return errors.New("a revocation list whose issuing distribution point does not parse")
			}
			if l.scope.Indirect || l.scope.OnlyOther || l.scope.SomeReasons.BitLength > 0 || len(l.scope.Point.Relative.FullBytes) > 0 {
				return errors.New("an indirect or partial revocation list")
			}
		case x.Critical:
			return fmt.Errorf("a revocation list with the critical extension %v", x.Id)
		}
	}
	return nil
}

// speaksOf reports whether the list is the issuer's, signed, and tells of this
// certificate.
func (l *list) speaksOf(c, issuer *x509.Certificate) bool {
	if !bytes.Equal(l.crl.RawIssuer, issuer.RawSubject) || l.scope.OnlyUser && c.IsCA || l.scope.OnlyCA && !c.IsCA {
		return false
	}
	return l.pointsTo(c) && l.signed(issuer) == nil
}

// pointsTo reports whether the list is for the distribution point that the
// certificate names, if it is for one alone.
func (l *list) pointsTo(c *x509.Certificate) bool {
	const uri = 6 // of GeneralName
	if len(l.scope.Point.Full) == 0 {
		return true
	}
	return slices.ContainsFunc(l.scope.Point.Full, func(n asn1.RawValue) bool {
		return n.Class == asn1.ClassContextSpecific && n.Tag == uri && slices.Contains(c.CRLDistributionPoints, string(n.Bytes))
	})
}

// signed checks the issuer's signature, once.
func (l *list) signed(issuer *x509.Certificate) error {
	if known := l.signedBy.Load(); known != nil && known.Equal(issuer) {
		return nil
	}
	if err := l.crl.CheckSignatureFrom(issuer); err != nil {
		return err
	}
	l.signedBy.Store(issuer)
	return nil
}

// fresh reports whether the list is of force at this time.
func (l *list) fresh(now time.Time) bool {
	return !now.After(l.crl.NextUpdate) && !now.Before(l.crl.ThisUpdate.Add(-listSkew))
}

// refreshAt is when a new list is to be fetched: in the last quarter of this
// one's life.
func (l *list) refreshAt() time.Time {
	return l.crl.NextUpdate.Add(-l.crl.NextUpdate.Sub(l.crl.ThisUpdate) / 4)
}
