package wire

import (
	"encoding/binary"
	"net/netip"
)

// IDType is a type of identification (RFC 2407 §4.6.2.1).
type IDType uint8

// The types of identification.
const (
	IDIPv4       IDType = 1
	IDFQDN       IDType = 2
	IDUserFQDN   IDType = 3
	IDIPv4Subnet IDType = 4
	IDIPv6       IDType = 5
	IDIPv6Subnet IDType = 6
	IDIPv4Range  IDType = 7
	IDIPv6Range  IDType = 8
	IDDN         IDType = 9
	IDKey        IDType = 11
)

// ID is the identification payload (RFC 2407 §4.6.2).
type ID struct {
	Type  IDType
	Proto uint8  // IP protocol, 0: any
	Port  uint16 // 0: any
	Data  []byte
}

// ParseID reads the body of an ID payload. Of the address types the length is
// checked; names are as they came.
func ParseID(body []byte) (ID, error) {
	c := cursor{b: body}
	id := ID{Type: IDType(c.uint8("ID")), Proto: c.uint8("ID"), Port: c.uint16("ID")}
	id.Data = c.rest()
	if want := id.Type.dataLen(); c.err == nil && want != 0 && len(id.Data) != want {
		c.fail("ID of type %d has %d bytes", id.Type, len(id.Data))
	}
	if err := c.end("ID"); err != nil {
		return ID{}, err
	}
	return id, nil
}

// dataLen returns the length of an address type, 0 for all other types.
func (t IDType) dataLen() int {
	switch t {
	case IDIPv4:
		return 4
	case IDIPv4Subnet, IDIPv4Range:
		return 8
	case IDIPv6:
		return 16
	case IDIPv6Subnet, IDIPv6Range:
		return 32
	}
	return 0
}

// Append appends the body of the ID payload.
func (id ID) Append(b []byte) []byte {
	b = append(b, byte(id.Type), id.Proto)
	b = binary.BigEndian.AppendUint16(b, id.Port)
	return append(b, id.Data...)
}

// Bounds returns the first and last address that an ID of an address type
// names. A mask with holes, a descending range and mapped addresses are errors.
func (id ID) Bounds() (from, to netip.Addr, err error) {
	n := id.Type.dataLen()
	if n == 0 || len(id.Data) != n {
		return from, to, malformed("ID of type %d names no address", id.Type)
	}
	switch id.Type {
	case IDIPv4, IDIPv6:
		from, _ = netip.AddrFromSlice(id.Data)
		to = from
	case IDIPv4Range, IDIPv6Range:
		from, _ = netip.AddrFromSlice(id.Data[:n/2])
		to, _ = netip.AddrFromSlice(id.Data[n/2:])
	default:
		from, to, err = subnet(id.Data[:n/2], id.Data[n/2:])
	}
	if err == nil && to.Less(from) {
		err = malformed("ID range %s-%s descends", from, to)
	}
	// ::ffff:192.0.2.1 on the wire is not the IPv4 address it looks like.
	if err == nil && (from.Is4In6() || to.Is4In6()) {
		err = malformed("ID %s-%s is an IPv4 address written as IPv6", from, to)
	}
	return from, to, err
}

func subnet(addr, mask []byte) (from, to netip.Addr, err error) {
	first, last := make([]byte, len(addr)), make([]byte, len(addr))
	hole := false
	for i, m := range mask {
		if hole && m != 0 || ^m&(^m+1) != 0 {
			return from, to, malformed("ID mask %x has holes", mask)
		}
		hole = m != 0xff
		first[i], last[i] = addr[i]&m, addr[i]|^m
	}
	from, _ = netip.AddrFromSlice(first)
	to, _ = netip.AddrFromSlice(last)
	return from, to, nil
}

// NotifyType is a type of notification (RFC 2408 §3.14.1, RFC 2407 §4.6.3).
type NotifyType uint16

// The notifications this project sends or acts on.
const (
	DOINotSupported        NotifyType = 2
	SituationNotSupported  NotifyType = 3
	InvalidExchangeType    NotifyType = 7
	AttributesNotSupported NotifyType = 13
	NoProposalChosen       NotifyType = 14
	PayloadMalformed       NotifyType = 16
	InvalidKeyInformation  NotifyType = 17
	InvalidIDInformation   NotifyType = 18
	InvalidHashInformation NotifyType = 23
	AuthenticationFailed   NotifyType = 24
	Connected              NotifyType = 16384
	ResponderLifetime      NotifyType = 24576
	ReplayStatus           NotifyType = 24577
	InitialContact         NotifyType = 24578
	// PairRound is this project's own, of the private range: four bytes, the
	// round of the pair that a quick mode makes (sadb.Pair).
	PairRound  NotifyType = 33216
	RUThere    NotifyType = 36136
	RUThereAck NotifyType = 36137
	DoSCookie  NotifyType = 0x9c44 // [MS-IKEE]: of the private range
)

// IsError reports whether the type is one of the error types.
func (t NotifyType) IsError() bool { return t < 16384 }

// Notify is the notification payload (RFC 2408 §3.14).
type Notify struct {
	DOI      uint32
	Protocol ProtocolID
	Type     NotifyType
	SPI      []byte
	Data     []byte
}

// ParseNotify reads the body of a notification payload.
func ParseNotify(body []byte) (Notify, error) {
	c := cursor{b: body}
	n := Notify{DOI: c.uint32("N"), Protocol: ProtocolID(c.uint8("N"))}
	spi := int(c.uint8("N"))
	n.Type = NotifyType(c.uint16("N"))
	n.SPI = c.copied(spi, "N SPI")
	n.Data = c.rest()
	if err := c.end("N"); err != nil {
		return Notify{}, err
	}
	return n, nil
}

// Append appends the body of the notification payload.
func (n Notify) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, n.DOI)
	b = append(b, byte(n.Protocol), byte(len(n.SPI)))
	b = binary.BigEndian.AppendUint16(b, uint16(n.Type))
	b = append(b, n.SPI...)
	return append(b, n.Data...)
}

// Delete is the delete payload (RFC 2408 §3.15). The SPIs are the sender's
// inbound ones; of protocol ISAKMP they are the two cookies.
type Delete struct {
	DOI      uint32
	Protocol ProtocolID
	SPIs     [][]byte // of one length
}

// ParseDelete reads the body of a delete payload.
func ParseDelete(body []byte) (Delete, error) {
	c := cursor{b: body}
	d := Delete{DOI: c.uint32("D"), Protocol: ProtocolID(c.uint8("D"))}
	size, count := int(c.uint8("D")), int(c.uint16("D"))
	if count == 0 || count > MaxSPIs || size == 0 {
		c.fail("D: %d SPIs of %d bytes", count, size)
	}
	for i := 0; i < count && c.err == nil; i++ {
		d.SPIs = append(d.SPIs, c.copied(size, "D SPI"))
	}
	if err := c.end("D"); err != nil {
		return Delete{}, err
	}
	return d, nil
}

// Append appends the body of the delete payload.
func (d Delete) Append(b []byte) []byte {
	size := 0
	if len(d.SPIs) > 0 {
		size = len(d.SPIs[0])
	}
	b = binary.BigEndian.AppendUint32(b, d.DOI)
	b = append(b, byte(d.Protocol), byte(size))
	b = binary.BigEndian.AppendUint16(b, uint16(len(d.SPIs)))
	for _, spi := range d.SPIs {
		b = append(b, spi...)
	}
	return b
}

// CertEncoding is a type of certificate (RFC 2408 §3.9).
type CertEncoding uint8

// The encodings of certificates in use.
const (
	CertPKCS7         CertEncoding = 1
	CertX509Signature CertEncoding = 4
)

// Cert is the certificate payload and, with the same layout, the certificate
// request payload (RFC 2408 §3.9 and §3.10).
type Cert struct {
	Encoding CertEncoding
	Data     []byte
}

// ParseCert reads the body of a certificate or certificate request payload.
func ParseCert(body []byte) (Cert, error) {
	c := cursor{b: body}
	cert := Cert{Encoding: CertEncoding(c.uint8("CERT"))}
	cert.Data = c.rest()
	if err := c.end("CERT"); err != nil {
		return Cert{}, err
	}
	return cert, nil
}

// Append appends the body of the certificate payload.
func (c Cert) Append(b []byte) []byte {
	return append(append(b, byte(c.Encoding)), c.Data...)
}
