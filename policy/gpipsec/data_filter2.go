package gpipsec

import "encoding/binary"

// Kinds of Address2.
const (
	kindAny     = 0
	kindSingle  = 1
	kindRange   = 2
	kindSubnet  = 4
	kindMe      = 8
	kindDNS     = 0x10
	kindWINS    = 0x20
	kindDHCP    = 0x40
	kindGateway = 0x80
)

// Versions of Address2.
const (
	versionIPv4 = 1
	versionIPv6 = 2
	versionBoth = 3
)

// Address2 is one side of a filter of the second version, 40 bytes.
type Address2 struct {
	Kind    uint32
	Version uint32   // 1 IPv4, 2 IPv6, 3 both
	First   [16]byte // network order; IPv4 in the first four
	Second  [16]byte // the last address, the IPv4 mask, or the length of an IPv6 prefix in one byte
}

// Port2 is the ports of one side, 8 bytes.
type Port2 struct {
	Kind        uint32 // 0 any, 1 single, 2 range
	First, Last uint16
}

// FilterTail2 is the part of fixed size that ends a filter of the second
// version, 124 bytes.
type FilterTail2 struct {
	ID               GUID
	Mirrored         uint32
	From, To         Address2
	FromPort, ToPort Port2
	Protocol         uint32
	Flags            uint32 // 8: filters of the first version with this ID are its expansion
}

// flagExpanded tells readers of both versions to take this one.
const flagExpanded = 8

// FilterSpec2 is one filter of the second version.
type FilterSpec2 struct {
	FromName, ToName, Description Wide
	FilterTail2
}

// FilterData2 is the record of Vista and later.
type FilterData2 struct {
	Length    uint32 // as found: never believed
	Overrides uint32 // filters of the first version that this record replaces
	Filters   []FilterSpec2
}

// minFilter2 is three empty strings without a NUL and the rest.
const minFilter2 = 3*4 + 124

func (r *reader) filters2() *FilterData2 {
	d := &FilterData2{Length: r.u32("length of the second version"), Overrides: r.u32("number of replaced filters")}
	for range r.count(minFilter2, "filters of the second version") {
		f := FilterSpec2{FromName: r.wide("source name"), ToName: r.wide("destination name"), Description: r.wide("description")}
		r.fixed(&f.FilterTail2, "filter of the second version")
		if d.Filters = append(d.Filters, f); r.err != nil {
			break
		}
	}
	return d
}

func (d *FilterData2) bytes() []byte {
	b := appendFixed(nil, recordFilters2())
	b = binary.LittleEndian.AppendUint32(b, d.Length)
	return append(b, d.body()...)
}

func (d *FilterData2) body() []byte {
	b := binary.LittleEndian.AppendUint32(nil, d.Overrides)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(d.Filters)))
	for _, f := range d.Filters {
		b = appendWide(b, f.FromName)
		b = appendWide(b, f.ToName)
		b = appendWide(b, f.Description)
		b = appendFixed(b, f.FilterTail2)
	}
	return b
}
