package gpipsec

import "encoding/binary"

// Transform is one protocol of an offer, 20 bytes.
type Transform struct {
	Algorithm uint32 // AH: 1 MD5, 2 SHA1. ESP: 0 NULL, 1 DES, 3 3DES
	Integrity uint32 // ESP: 0 none, 1 MD5, 2 SHA1
	Protocol  uint32 // 1 AH, 2 ESP
	KeyLength uint32 // 0x40 or 0
	Rounds    uint32 // 8 or 0
}

// Offer is one security method of a filter action, 80 bytes.
type Offer struct {
	Seconds, Kilobytes uint32 // 0: 3600 and 100000
	Options            uint32
	PFS                uint32 // 1: session key perfect forward secrecy
	// Count is how many of Transforms are meant; beyond it is whatever was in
	// memory. 0: unsecured communication is allowed with computers that are
	// not IPSec-aware.
	Count      uint32
	Transforms [3]Transform
}

// NegotiationData is the ipsecData of an ipsecNegotiationPolicy.
type NegotiationData struct {
	Length uint32  // as found: never believed
	Offers []Offer // none: permit or block
	Tail   []byte
}

// ParseNegotiation takes a value apart. An error is a *DataError.
func ParseNegotiation(data []byte) (*NegotiationData, error) {
	r := &reader{data: data}
	d := &NegotiationData{Length: r.head(classID(ClassNegotiation), ClassNegotiation)}
	d.Offers = make([]Offer, r.count(binary.Size(Offer{}), "security methods"))
	start := r.off
	r.fixed(d.Offers, "security methods")
	for i, o := range d.Offers {
		if max := len(o.Transforms); o.Count > uint32(max) {
			at := start + i*binary.Size(Offer{}) + 16
			r.fail(at, "security method %d has %d algorithms, more than %d", i+1, o.Count, max)
		}
	}
	d.Tail = r.rest()
	return d, r.failure()
}

// Bytes returns the value that ParseNegotiation read.
func (d *NegotiationData) Bytes() []byte {
	return framed(classID(ClassNegotiation), d.Length, append(d.body(), d.Tail...))
}

func (d *NegotiationData) body() []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(d.Offers)))
	return appendFixed(b, d.Offers)
}

// Canonical returns the value with zeros where nothing is meant.
func (d *NegotiationData) Canonical() []byte {
	c := *d
	c.Offers = append([]Offer{}, d.Offers...)
	for i := range c.Offers {
		o := &c.Offers[i]
		clear(o.Transforms[min(o.Count, uint32(len(o.Transforms))):])
	}
	c.Length = uint32(len(c.body()))
	return c.Bytes()
}
