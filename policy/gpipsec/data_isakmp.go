package gpipsec

import "encoding/binary"

// ISAKMPHeader is what precedes the methods of key exchange settings, 60 bytes.
type ISAKMPHeader struct {
	Identity  GUID // the settings' own, not that of the object; may be zero
	Unused    [4]byte
	MasterPFS uint32 // 1: one quick mode for each main mode
	// Options: 1 a certificate must map to an account, 2 no certificate
	// request is sent (2003 and later).
	Options uint32
	// NewDH are methods with group 14 that precede the list (2003 and later):
	// 1 DES-MD5, 2 DES-SHA1, 3 3DES-MD5, 4 3DES-SHA1; 0 none.
	NewDH      [4]uint8
	QuickModes uint32 // under one main mode; 0: no limit
	Seconds    uint32 // of a main mode; 0: what the methods say, else 28800
	Unused2    [20]byte
}

// ISAKMPMethod is one main-mode method, 64 bytes. What is called Unused holds
// whatever was in memory in values that Windows 2000 wrote.
type ISAKMPMethod struct {
	Major, Minor                     uint8
	Unused                           [2]byte
	Encryption, EncLength, EncRounds uint32 // 1 DES, 2 or 3 3DES; 0x40, 8 or zeros
	Hash, HashLength, HashRounds     uint32 // 1 MD5, 2 SHA1; 0x40, 0 or zeros
	PRF, PRFLength                   uint32
	Group14                          uint8 // as NewDH: replaces the method for readers that know it
	Unused2                          [3]byte
	Random                           uint8
	Unused3                          [3]byte
	Group                            uint32 // 1, 2, 0x10000001: group 14
	QuickModes, Kilobytes, Seconds   uint32
	PFSIdentity                      uint32 // unused too
}

// ISAKMPData is the ipsecData of an ipsecISAKMPPolicy.
type ISAKMPData struct {
	Length  uint32 // as found: never believed
	Header  ISAKMPHeader
	Methods []ISAKMPMethod
	Tail    []byte
}

// ParseISAKMP takes a value apart. An error is a *DataError.
func ParseISAKMP(data []byte) (*ISAKMPData, error) {
	r := &reader{data: data}
	d := &ISAKMPData{Length: r.head(classID(ClassISAKMP), ClassISAKMP)}
	r.fixed(&d.Header, "key exchange settings")
	d.Methods = make([]ISAKMPMethod, r.count(binary.Size(ISAKMPMethod{}), "main-mode methods"))
	r.fixed(d.Methods, "main-mode methods")
	d.Tail = r.rest()
	return d, r.failure()
}

// Bytes returns the value that ParseISAKMP read.
func (d *ISAKMPData) Bytes() []byte {
	return framed(classID(ClassISAKMP), d.Length, append(d.body(), d.Tail...))
}

func (d *ISAKMPData) body() []byte {
	b := appendFixed(nil, d.Header)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(d.Methods)))
	return appendFixed(b, d.Methods)
}

// Canonical returns the value with zeros where nothing is meant.
func (d *ISAKMPData) Canonical() []byte {
	c := *d
	c.Header.Unused, c.Header.Unused2 = [4]byte{}, [20]byte{}
	c.Methods = append([]ISAKMPMethod{}, d.Methods...)
	for i := range c.Methods {
		m := &c.Methods[i]
		m.Unused, m.Unused2, m.Unused3, m.PFSIdentity = [2]byte{}, [3]byte{}, [3]byte{}, 0
	}
	c.Length = uint32(len(c.body()))
	return c.Bytes()
}
