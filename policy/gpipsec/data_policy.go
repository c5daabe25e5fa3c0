package gpipsec

import "encoding/binary"

// PolicyData is the ipsecData of an ipsecPolicy.
type PolicyData struct {
	Length  uint32 // as found: never believed
	Polling uint32 // seconds; 0: 10800
	Tail    []byte // what follows: the trailer, then extension records
}

// ParsePolicy takes a value apart. An error is a *DataError.
func ParsePolicy(data []byte) (*PolicyData, error) {
	r := &reader{data: data}
	d := &PolicyData{Length: r.head(classID(ClassPolicy), ClassPolicy)}
	d.Polling = r.u32("polling interval")
	d.Tail = r.rest()
	return d, r.failure()
}

// Bytes returns the value that ParsePolicy read.
func (d *PolicyData) Bytes() []byte {
	body := binary.LittleEndian.AppendUint32(nil, d.Polling)
	return framed(classID(ClassPolicy), d.Length, append(body, d.Tail...))
}

// Canonical returns the value with nothing left to chance: the data length as
// Windows 2000 writes it.
func (d *PolicyData) Canonical() []byte {
	c := *d
	c.Length = 4
	return c.Bytes()
}

// trailer is the byte that ends the first version of a value.
func trailer() []byte { return []byte{0} }
