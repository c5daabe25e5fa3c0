package cert

import (
	"encoding/asn1"
	"errors"
	"fmt"
)

var (
	oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidData       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
)

// contentInfo and signedData are of RFC 2315 §7 and §9.1, as far as they hold
// certificates.
type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"explicit,optional,tag:0"`
}

type signedData struct {
	Version      int
	Digests      asn1.RawValue `asn1:"set"`
	Content      contentInfo
	Certificates asn1.RawValue `asn1:"optional,tag:0"`
	Lists        asn1.RawValue `asn1:"optional,tag:1"`
	Signers      asn1.RawValue `asn1:"set"`
}

// unwrapPKCS7 returns the certificates of a degenerate signedData in the order
// they stand in; nothing in it is signed, and nothing nested is opened.
func unwrapPKCS7(der []byte) ([][]byte, error) {
	var outer contentInfo
	if rest, err := asn1.Unmarshal(der, &outer); err != nil || len(rest) > 0 {
		return nil, errors.New("a PKCS#7 wrapping that is no ContentInfo")
	}
	if !outer.Type.Equal(oidSignedData) {
		return nil, fmt.Errorf("a PKCS#7 wrapping of type %v instead of signed data", outer.Type)
	}
	var inner signedData
	if rest, err := asn1.Unmarshal(outer.Content.Bytes, &inner); err != nil || len(rest) > 0 {
		return nil, errors.New("a PKCS#7 wrapping whose signed data does not parse")
	}
	return certificatesOf(inner.Certificates.Bytes)
}

func certificatesOf(set []byte) ([][]byte, error) {
	var all [][]byte
	for len(set) > 0 {
		var one asn1.RawValue
		rest, err := asn1.Unmarshal(set, &one)
		if err != nil || one.Class != asn1.ClassUniversal || one.Tag != asn1.TagSequence {
			return nil, errors.New("a PKCS#7 wrapping that holds something else than certificates")
		}
		if len(all) == maxCerts {
			return nil, fmt.Errorf("more than %d certificates", maxCerts)
		}
		all = append(all, one.FullBytes)
		set = rest
	}
	return all, nil
}

// wrapPKCS7 makes a degenerate signedData of certificates.
func wrapPKCS7(certs [][]byte) ([]byte, error) {
	var set []byte
	for _, c := range certs {
		set = append(set, c...)
	}
	emptySet := asn1.RawValue{Tag: asn1.TagSet, IsCompound: true}
	inner, err := asn1.Marshal(signedData{
		Version: 1, Digests: emptySet, Content: contentInfo{Type: oidData},
		Certificates: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: set},
		Signers:      emptySet,
	})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(contentInfo{Type: oidSignedData,
		Content: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: inner}})
}
