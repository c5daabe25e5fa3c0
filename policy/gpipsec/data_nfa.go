package gpipsec

import (
	"bytes"
	"encoding/binary"
)

// Kinds of authentication data.
const (
	authPreshared   = 1
	authCertificate = 3
	authKerberos    = 5
)

// Interface types: the connection type of a rule.
const (
	interfaceAll    = 0xFFFFFFFD
	interfaceLAN    = 0xFFFFFFFE
	interfaceRemote = 0xFFFFFFFF
)

// Flags of an authentication method (Vista and later).
const (
	flagMapToAccount = 1
	flagExcludeCA    = 2
)

// NFAAuth is one authentication method of a rule.
type NFAAuth struct {
	Kind uint32 // 1 preshared key, 3 certificate, 5 Kerberos
	Text Wide   // the key itself, the name of the authority, empty
}

// NFAAuth2 is the same in the form of Vista, whose meaning for certificates no
// public sample shows.
type NFAAuth2 struct {
	Kind uint32
	Data []byte
}

// NFAData is the ipsecData of an ipsecNFA.
type NFAData struct {
	Length        uint32 // as found: never believed
	Auth          []NFAAuth
	Interface     uint32 // the connection type
	InterfaceName Wide
	Tunnel        [4]byte // in network order
	IsTunnel      uint32
	Active        uint32
	TunnelName    Wide

	// The records of Vista and later; nil: not there.
	Auth2   []NFAAuth2
	Flags   []uint32 // one for each method
	Tunnel6 *[16]byte

	Tail []byte // what follows: unknown records, the trailer, extensions
}

// ParseNFA takes a value apart. An error is a *DataError.
func ParseNFA(data []byte) (*NFAData, error) {
	r := &reader{data: data}
	d := &NFAData{Length: r.head(classID(ClassNFA), ClassNFA)}
	for range r.count(8, "authentication methods") {
		a := NFAAuth{Kind: r.u32("kind of authentication"), Text: r.wide("authentication data")}
		d.Auth = append(d.Auth, a)
		if r.err != nil {
			return d, r.err
		}
	}
	d.Interface = r.u32("interface type")
	d.InterfaceName = r.wide("interface name")
	r.fixed(&d.Tunnel, "tunnel address")
	d.IsTunnel = r.u32("tunnel flag")
	d.Active = r.u32("active flag")
	d.TunnelName = r.wide("tunnel endpoint name")
	d.records(r)
	d.Tail = r.rest()
	return d, r.failure()
}

// records reads those that Vista adds, in its order.
func (d *NFAData) records(r *reader) {
	if r.record(recordAuth()) {
		d.Auth2 = []NFAAuth2{}
		for range r.count(8, "authentication methods of Vista") {
			a := NFAAuth2{Kind: r.u32("kind of authentication")}
			a.Data = append(a.Data, r.take(r.count(1, "bytes of authentication data"), "authentication data")...)
			if d.Auth2 = append(d.Auth2, a); r.err != nil {
				return
			}
		}
	}
	if r.record(recordAuthFlags()) {
		d.Flags = make([]uint32, r.count(4, "authentication flags"))
		r.fixed(d.Flags, "authentication flags")
	}
	if r.record(recordTunnel6()) {
		d.Tunnel6 = new([16]byte)
		r.fixed(d.Tunnel6, "IPv6 tunnel address")
	}
}

// record takes the GUID of a record if it is the next.
func (r *reader) record(id GUID) bool {
	if r.err != nil || !bytes.HasPrefix(r.data[r.off:], id[:]) {
		return false
	}
	r.off += len(id)
	return true
}

// Bytes returns the value that ParseNFA read.
func (d *NFAData) Bytes() []byte {
	b := append(d.body(), d.recordBytes()...)
	return framed(classID(ClassNFA), d.Length, append(b, d.Tail...))
}

func (d *NFAData) body() []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(d.Auth)))
	for _, a := range d.Auth {
		b = binary.LittleEndian.AppendUint32(b, a.Kind)
		b = appendWide(b, a.Text)
	}
	b = binary.LittleEndian.AppendUint32(b, d.Interface)
	b = appendWide(b, d.InterfaceName)
	b = append(b, d.Tunnel[:]...)
	b = binary.LittleEndian.AppendUint32(b, d.IsTunnel)
	b = binary.LittleEndian.AppendUint32(b, d.Active)
	return appendWide(b, d.TunnelName)
}

func (d *NFAData) recordBytes() []byte {
	var b []byte
	if d.Auth2 != nil {
		b = appendFixed(b, recordAuth())
		b = binary.LittleEndian.AppendUint32(b, uint32(len(d.Auth2)))
		for _, a := range d.Auth2 {
			b = binary.LittleEndian.AppendUint32(b, a.Kind)
			b = binary.LittleEndian.AppendUint32(b, uint32(len(a.Data)))
			b = append(b, a.Data...)
		}
	}
	if d.Flags != nil {
		b = appendFixed(b, recordAuthFlags())
		b = binary.LittleEndian.AppendUint32(b, uint32(len(d.Flags)))
		b = appendFixed(b, d.Flags)
	}
	if d.Tunnel6 != nil {
		b = appendFixed(b, recordTunnel6())
		b = append(b, d.Tunnel6[:]...)
	}
	return b
}

// Canonical returns the value with nothing left to chance.
func (d *NFAData) Canonical() []byte {
	c := *d
	c.Length = uint32(len(d.body()))
	return c.Bytes()
}
