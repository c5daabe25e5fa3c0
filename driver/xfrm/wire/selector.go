package wire

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Family is an address family: IPv4, IPv6, or 0 where a selector selects
// nothing at all.
type Family uint16

// The families.
const (
	IPv4 Family = unix.AF_INET
	IPv6 Family = unix.AF_INET6
)

// FamilyOf returns the family of an address, 0 of none.
func FamilyOf(a netip.Addr) Family {
	switch {
	case a.Is4():
		return IPv4
	case a.IsValid():
		return IPv6
	}
	return 0
}

// Any returns the prefix of every address of the family.
func (f Family) Any() netip.Prefix {
	if f == IPv4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// PortMask matches the ports p with p&Mask == Port. The zero value matches
// every port. With ICMP the source port is the type, the destination port the
// code.
type PortMask struct {
	Port, Mask uint16
}

// Selector is struct xfrm_selector: which packets a policy or a state is for.
// Src and Dst are of one family; both invalid: the selector of family 0, which
// states have that carry whatever their policy gives them.
type Selector struct {
	Src, Dst         netip.Prefix
	SrcPort, DstPort PortMask
	Proto            uint8 // 0: any
	IfIndex          int32 // 0: any
	User             uint32
}

// Family returns the selector's family.
func (s Selector) Family() Family {
	if !s.Dst.IsValid() {
		return 0
	}
	return FamilyOf(s.Dst.Addr())
}

func putSelector(b []byte, s Selector) {
	putAddr(b[0:16], s.Dst.Addr())
	putAddr(b[16:32], s.Src.Addr())
	binary.BigEndian.PutUint16(b[32:], s.DstPort.Port)
	binary.BigEndian.PutUint16(b[34:], s.DstPort.Mask)
	binary.BigEndian.PutUint16(b[36:], s.SrcPort.Port)
	binary.BigEndian.PutUint16(b[38:], s.SrcPort.Mask)
	native.PutUint16(b[40:], uint16(s.Family()))
	if s.Family() != 0 {
		b[42], b[43] = byte(s.Dst.Bits()), byte(s.Src.Bits())
	}
	b[44] = s.Proto
	native.PutUint32(b[48:], uint32(s.IfIndex))
	native.PutUint32(b[52:], s.User)
}

// parseSelector reads a selector out of sizeSelector bytes. The family alone
// says how addresses are to be read: an IPv6 prefix may look like IPv4.
func parseSelector(b []byte) (s Selector, err error) {
	family := Family(native.Uint16(b[40:]))
	if family != 0 {
		if s.Dst, err = parsePrefix(b[0:16], family, b[42]); err != nil {
			return s, err
		}
		if s.Src, err = parsePrefix(b[16:32], family, b[43]); err != nil {
			return s, err
		}
	}
	s.DstPort = PortMask{binary.BigEndian.Uint16(b[32:]), binary.BigEndian.Uint16(b[34:])}
	s.SrcPort = PortMask{binary.BigEndian.Uint16(b[36:]), binary.BigEndian.Uint16(b[38:])}
	s.Proto = b[44]
	s.IfIndex, s.User = int32(native.Uint32(b[48:])), native.Uint32(b[52:])
	return s, nil
}

func parsePrefix(b []byte, family Family, bits byte) (netip.Prefix, error) {
	a, err := parseAddr(b, family)
	if err != nil {
		return netip.Prefix{}, err
	}
	if int(bits) > a.BitLen() {
		return netip.Prefix{}, fmt.Errorf("wire: a prefix of %d bits of %s", bits, a)
	}
	return netip.PrefixFrom(a, int(bits)), nil
}

const sizeAddr = 16

// putAddr writes an address into 16 bytes; none: zeros.
func putAddr(b []byte, a netip.Addr) {
	clear(b[:sizeAddr])
	if a.IsValid() {
		copy(b, a.AsSlice())
	}
}

func parseAddr(b []byte, family Family) (netip.Addr, error) {
	switch family {
	case IPv4:
		return netip.AddrFrom4([4]byte(b[:4])), nil
	case IPv6:
		return netip.AddrFrom16([16]byte(b[:16])), nil
	}
	return netip.Addr{}, fmt.Errorf("wire: address family %d", family)
}
