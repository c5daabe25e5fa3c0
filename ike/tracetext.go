package ike

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"ipsecagent/auth"
	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// The text of a trace: a line for the header, and for each payload one or a
// few, indented. Of keys, nonces, hashes and proofs only the length is shown.
// What a peer has written is quoted.

// headline names a message.
func headline(h wire.Header) string {
	s := fmt.Sprintf("%s, cookies %x:%x", exchangeName(h.Exchange), h.ICookie, h.RCookie)
	if h.MessageID != 0 {
		s += fmt.Sprintf(", message ID %08x", h.MessageID)
	}
	if h.Flags&wire.FlagCommit != 0 {
		s += ", commit"
	}
	return s
}

func exchangeName(e wire.Exchange) string {
	switch e {
	case wire.MainMode:
		return "main mode"
	case wire.Aggressive:
		return "aggressive mode"
	case wire.Informational:
		return "informational"
	case wire.Transaction:
		return "transaction"
	case wire.QuickMode:
		return "quick mode"
	case wire.NewGroup:
		return "new group mode"
	}
	return fmt.Sprintf("exchange %d", e)
}

// describe writes what a payload says.
func describe(b *strings.Builder, e wire.Exchange, p wire.Payload) {
	fmt.Fprintf(b, "\n  %s: ", p.Type)
	var err error
	switch p.Type {
	case wire.SAPayload:
		err = describeSA(b, e, p.Body)
	case wire.IDPayload:
		err = describeID(b, p.Body)
	case wire.NotifyPayload:
		err = describeNotify(b, p.Body)
	case wire.DeletePayload:
		err = describeDelete(b, p.Body)
	case wire.CertPayload:
		err = describeCert(b, p.Body)
	case wire.CertRequestPayload:
		err = describeRequest(b, p.Body)
	case wire.VendorPayload:
		b.WriteString(vendorWords(p.Body))
	case wire.NATOAPayload, wire.NATOADraftPayload:
		err = describeID(b, p.Body)
	case wire.HashPayload, wire.SignaturePayload, wire.NoncePayload, wire.GSSPayload:
		fmt.Fprintf(b, "%d bytes, not shown", len(p.Body))
	default:
		fmt.Fprintf(b, "%d bytes", len(p.Body))
	}
	if err != nil {
		fmt.Fprintf(b, "%d bytes that cannot be read: %v", len(p.Body), err)
	}
}

func describeSA(b *strings.Builder, e wire.Exchange, body []byte) error {
	sa, err := wire.ParseSA(body)
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "domain of interpretation %d, situation %d", sa.DOI, sa.Situation)
	for _, p := range sa.Proposals {
		fmt.Fprintf(b, "\n    proposal %d, %s", p.Number, protocolName(p.Protocol))
		if len(p.SPI) > 0 {
			fmt.Fprintf(b, ", SPI %x", p.SPI)
		}
		for _, t := range p.Transforms {
			fmt.Fprintf(b, "\n      transform %d, %s", t.Number, transformName(p.Protocol, t.ID))
			describeAttributes(b, e, t.Attributes)
		}
	}
	return nil
}

func describeAttributes(b *strings.Builder, e wire.Exchange, attrs []wire.Attribute) {
	word := quickAttribute
	if e == wire.MainMode {
		word = mainAttribute
	}
	for _, a := range attrs {
		v, number := a.Uint()
		if !number {
			fmt.Fprintf(b, ", attribute %d of %d bytes", a.Type, len(a.Value))
			continue
		}
		fmt.Fprintf(b, ", %s", word(a.Type, v))
	}
}

func protocolName(p wire.ProtocolID) string {
	names := [...]string{"no protocol", "ISAKMP", "AH", "ESP", "IPComp"}
	if int(p) < len(names) {
		return names[p]
	}
	return fmt.Sprintf("protocol %d", p)
}

func transformName(p wire.ProtocolID, id uint8) string {
	if p == wire.ProtoISAKMP && id == keyIKE {
		return "KEY_IKE"
	}
	if c, ok := espTransforms()[uint64(id)]; ok && p == wire.ProtoESP {
		return c.String()
	}
	if i, ok := ahTransforms()[uint64(id)]; ok && p == wire.ProtoAH {
		return integrityName(i)
	}
	return fmt.Sprintf("number %d", id)
}

// mainAttribute says an attribute of phase 1.
func mainAttribute(class uint16, v uint64) string {
	switch class {
	case attrEncryption:
		return "encryption " + nameOf(encryptionValues(), v)
	case attrHash:
		return "hash " + nameOf(hashValues(), v)
	case attrAuth:
		return "authentication " + auth.Method(v).String()
	case attrGroup:
		return "group " + sadb.Group(v).String()
	case attrKeyLength:
		return fmt.Sprintf("key of %d bits", v)
	case attrLifeType:
		return "life " + lifeUnit(v)
	case attrLifeDuration:
		return fmt.Sprint(v)
	}
	return fmt.Sprintf("attribute %d = %d", class, v)
}

// quickAttribute says an attribute of phase 2.
func quickAttribute(class uint16, v uint64) string {
	switch class {
	case attr2LifeType:
		return "life " + lifeUnit(v)
	case attr2LifeDuration:
		return fmt.Sprint(v)
	case attr2Group:
		return "PFS group " + sadb.Group(v).String()
	case attr2Mode:
		var s quickShape
		if s.readMode(v) {
			return s.modeName() + " mode"
		}
	case attr2Auth:
		if i, ok := authAlgorithms()[v]; ok {
			return "integrity " + integrityName(i)
		}
	case attr2KeyLength:
		return fmt.Sprintf("key of %d bits", v)
	case attr2ESN:
		return fmt.Sprintf("ESN %d", v)
	}
	return fmt.Sprintf("attribute %d = %d", class, v)
}

func nameOf[T fmt.Stringer](table map[uint64]T, v uint64) string {
	if a, ok := table[v]; ok {
		return a.String()
	}
	return fmt.Sprintf("number %d", v)
}

func lifeUnit(v uint64) string {
	switch v {
	case lifeSeconds:
		return "in seconds"
	case lifeKilobytes:
		return "in kilobytes"
	}
	return fmt.Sprintf("in unit %d", v)
}

func describeID(b *strings.Builder, body []byte) error {
	id, err := wire.ParseID(body)
	if err != nil {
		return err
	}
	from, to, err := id.Bounds()
	switch {
	case err == nil:
		b.WriteString(sadb.Range(from, to).String())
	case id.Type == wire.IDFQDN || id.Type == wire.IDUserFQDN:
		fmt.Fprintf(b, "name %q", id.Data)
	case id.Type == wire.IDDN:
		b.WriteString("subject " + nameWords(id.Data))
	default:
		fmt.Fprintf(b, "of type %d, %x", id.Type, id.Data)
	}
	if id.Proto != 0 || id.Port != 0 {
		fmt.Fprintf(b, ", protocol %s, port %d", sadb.ProtoName(id.Proto), id.Port)
	}
	return nil
}

func describeNotify(b *strings.Builder, body []byte) error {
	n, err := wire.ParseNotify(body)
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "%s, %s", notifyName(n.Type), protocolName(n.Protocol))
	if len(n.SPI) > 0 {
		fmt.Fprintf(b, ", SPI %x", n.SPI)
	}
	switch {
	case len(n.Data) == 4 && (n.Type == wire.PairRound || n.Type == wire.RUThere || n.Type == wire.RUThereAck):
		fmt.Fprintf(b, ", number %d", binary.BigEndian.Uint32(n.Data))
	case n.Type == wire.ResponderLifetime:
		attrs, err := wire.ParseAttributes(n.Data)
		describeAttributes(b, wire.QuickMode, attrs)
		return err
	case len(n.Data) > 0:
		fmt.Fprintf(b, ", %d bytes of data", len(n.Data))
	}
	return nil
}

// notifyName returns the name of a notify as RFC 2408 and RFC 2407 have it.
func notifyName(t wire.NotifyType) string {
	errors := [...]string{"", "INVALID-PAYLOAD-TYPE", "DOI-NOT-SUPPORTED", "SITUATION-NOT-SUPPORTED", "INVALID-COOKIE",
		"INVALID-MAJOR-VERSION", "INVALID-MINOR-VERSION", "INVALID-EXCHANGE-TYPE", "INVALID-FLAGS", "INVALID-MESSAGE-ID",
		"INVALID-PROTOCOL-ID", "INVALID-SPI", "INVALID-TRANSFORM-ID", "ATTRIBUTES-NOT-SUPPORTED", "NO-PROPOSAL-CHOSEN",
		"BAD-PROPOSAL-SYNTAX", "PAYLOAD-MALFORMED", "INVALID-KEY-INFORMATION", "INVALID-ID-INFORMATION", "INVALID-CERT-ENCODING",
		"INVALID-CERTIFICATE", "CERT-TYPE-UNSUPPORTED", "INVALID-CERT-AUTHORITY", "INVALID-HASH-INFORMATION",
		"AUTHENTICATION-FAILED", "INVALID-SIGNATURE", "ADDRESS-NOTIFICATION", "NOTIFY-SA-LIFETIME", "CERTIFICATE-UNAVAILABLE",
		"UNSUPPORTED-EXCHANGE-TYPE", "UNEQUAL-PAYLOAD-LENGTHS"}
	if t != 0 && int(t) < len(errors) {
		return errors[t]
	}
	switch t {
	case wire.Connected:
		return "CONNECTED"
	case wire.ResponderLifetime:
		return "RESPONDER-LIFETIME"
	case wire.ReplayStatus:
		return "REPLAY-STATUS"
	case wire.InitialContact:
		return "INITIAL-CONTACT"
	case wire.RUThere:
		return "R-U-THERE"
	case wire.RUThereAck:
		return "R-U-THERE-ACK"
	case wire.PairRound:
		return "round of the pair"
	}
	return fmt.Sprintf("notify %d", t)
}

func describeDelete(b *strings.Builder, body []byte) error {
	d, err := wire.ParseDelete(body)
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "%s", protocolName(d.Protocol))
	for _, spi := range d.SPIs {
		fmt.Fprintf(b, ", SPI %x", spi)
	}
	return nil
}

func describeCert(b *strings.Builder, body []byte) error {
	c, err := wire.ParseCert(body)
	if err != nil {
		return err
	}
	kind := fmt.Sprintf("encoding %d", c.Encoding)
	switch c.Encoding {
	case wire.CertPKCS7:
		kind = "PKCS #7"
	case wire.CertX509Signature:
		kind = "X.509"
	}
	fmt.Fprintf(b, "%s, %d bytes", kind, len(c.Data))
	if cert, err := x509.ParseCertificate(c.Data); err == nil && c.Encoding == wire.CertX509Signature {
		fmt.Fprintf(b, ", subject %s, issued by %s", nameWords(cert.RawSubject), nameWords(cert.RawIssuer))
	}
	return nil
}

func describeRequest(b *strings.Builder, body []byte) error {
	c, err := wire.ParseCert(body)
	if err != nil {
		return err
	}
	if len(c.Data) == 0 {
		b.WriteString("of any authority")
		return nil
	}
	b.WriteString("of authority " + nameWords(c.Data))
	return nil
}

// maxNameWords is how many bytes of a name are shown.
const maxNameWords = 256

// nameWords returns a distinguished name in words, quoted; what is none in
// hexadecimal.
func nameWords(der []byte) string {
	var name pkix.RDNSequence
	if rest, err := asn1.Unmarshal(der, &name); err != nil || len(rest) > 0 {
		return fmt.Sprintf("%x", der[:min(len(der), maxNameWords/2)])
	}
	words := name.String()
	return strconv.Quote(words[:min(len(words), maxNameWords)])
}

// vendorWords names a vendor ID.
func vendorWords(body []byte) string {
	names := []struct{ id, name string }{
		{vidAgent, "ipsecagent"}, {vidRFC3947, "RFC 3947"}, {vidNATDraft3, "NAT traversal draft 3"},
		{vidNATDraft2n, "NAT traversal draft 2"}, {vidNATDraft2, "NAT traversal draft 2 (other form)"},
		{vidFragments, "FRAGMENTATION"}, {vidDPD, "dead peer detection"}, {vidGSSAPI, "GSSAPI"},
		{vidGSSLong, "GSSAPI (long form)"}, {vidGSSLongN, "GSSAPI (long form)"},
		{vidWindows, "MS NT5 ISAKMPOAKLEY"}, {vidRacoon, "racoon"}, {vidStrongSwan, "strongSwan"}, {vidLibreswan, "libreswan"},
	}
	for _, n := range names {
		if rest, ok := strings.CutPrefix(string(body), n.id); ok {
			if rest == "" {
				return n.name
			}
			return fmt.Sprintf("%s, and %x", n.name, rest)
		}
	}
	return fmt.Sprintf("%x", body)
}
