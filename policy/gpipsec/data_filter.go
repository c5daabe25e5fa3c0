package gpipsec

import (
	"bytes"
	"encoding/binary"
)

// Dynamic sets of a filter (2003 and later); with setDestination the
// destination, else the source.
const (
	setDNS         = 1
	setWINS        = 2
	setDHCP        = 3
	setGateway     = 4
	setDestination = 0x80
)

// FilterTail is the part of fixed size that ends a filter, 52 bytes.
type FilterTail struct {
	ID               GUID
	Mirrored         uint32
	From, FromMask   [4]byte // network order. 0/0 any, 0/255.255.255.255 me
	To, ToMask       [4]byte
	Tunnel           [4]byte // zero: rules carry the tunnel
	Protocol         uint32  // 0 any
	FromPort, ToPort uint16  // 0 any
	IsTunnel         uint8
	Set              uint8 // a dynamic set as one side
	Options          uint16
}

// FilterSpec is one filter of the first version.
type FilterSpec struct {
	FromName, ToName Wide // DNS names, of which the addresses are those of once
	Description      Wide
	FilterTail
}

// FilterData is the ipsecData of an ipsecFilter.
type FilterData struct {
	Length  uint32 // as found: never believed
	Filters []FilterSpec
	// Trailer: the byte that 2000 to 2003 end the filters with is there.
	Trailer bool
	V2      *FilterData2 // the record of Vista and later; nil: not there
	Tail    []byte       // what follows: unknown records, extensions
}

// minFilter is three empty strings without a NUL and the rest.
const minFilter = 3*4 + 52

// ParseFilter takes a value apart. An error is a *DataError.
func ParseFilter(data []byte) (*FilterData, error) {
	r := &reader{data: data}
	d := &FilterData{Length: r.head(classID(ClassFilter), ClassFilter)}
	for range r.count(minFilter, "filters") {
		d.Filters = append(d.Filters, r.filter())
		if r.err != nil {
			return d, r.err
		}
	}
	d.Trailer = r.trailer()
	if r.record(recordFilters2()) {
		d.V2 = r.filters2()
	}
	d.Tail = r.rest()
	return d, r.failure()
}

func (r *reader) filter() FilterSpec {
	f := FilterSpec{FromName: r.wide("source name"), ToName: r.wide("destination name"), Description: r.wide("description")}
	r.fixed(&f.FilterTail, "filter")
	return f
}

// trailer takes the trailing byte. Where a record's GUID stands instead, there
// is none, as Vista writes it.
func (r *reader) trailer() bool {
	if r.err != nil || r.left() == 0 || r.data[r.off] != 0 || r.hasRecord() {
		return false
	}
	r.off++
	return true
}

func (r *reader) hasRecord() bool {
	v2, ours := recordFilters2(), recordOurs()
	rest := r.data[r.off:]
	return bytes.HasPrefix(rest, v2[:]) || bytes.HasPrefix(rest, ours[:])
}

// Bytes returns the value that ParseFilter read.
func (d *FilterData) Bytes() []byte {
	b := d.body()
	if d.Trailer {
		b = append(b, trailer()...)
	}
	if d.V2 != nil {
		b = append(b, d.V2.bytes()...)
	}
	return framed(classID(ClassFilter), d.Length, append(b, d.Tail...))
}

func (d *FilterData) body() []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(d.Filters)))
	for _, f := range d.Filters {
		b = appendWide(b, f.FromName)
		b = appendWide(b, f.ToName)
		b = appendWide(b, f.Description)
		b = appendFixed(b, f.FilterTail)
	}
	return b
}

// Canonical returns the value framed as Windows 2000 to 2003 do it, or with the
// second version as Vista does: without the trailer, the count not part of the
// data length.
func (d *FilterData) Canonical() []byte {
	c := *d
	c.Trailer, c.Length = true, uint32(len(d.body()))
	if d.V2 != nil {
		v2 := *d.V2
		v2.Length = uint32(len(v2.body()))
		c.V2, c.Trailer, c.Length = &v2, false, c.Length-4
	}
	return c.Bytes()
}
