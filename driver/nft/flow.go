package nft

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"ipsecagent/sadb"
)

var errPacket = errors.New("packet is cut short or not IP")

// parseFlow reads the headers of an outbound packet. Ports and ICMP type are
// zero where the packet is too short to have them.
func parseFlow(p []byte) (sadb.Flow, error) {
	if len(p) == 0 {
		return sadb.Flow{}, errPacket
	}
	var f sadb.Flow
	var rest []byte
	var err error
	switch p[0] >> 4 {
	case 4:
		f, rest, err = parse4(p)
	case 6:
		f, rest, err = parse6(p)
	default:
		err = errPacket
	}
	if err != nil {
		return sadb.Flow{}, err
	}
	switch {
	case sadb.HasPorts(f.Proto) && len(rest) >= 4:
		f.LocalPort, f.RemotePort = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:])
	case sadb.HasICMP(f.Proto) && len(rest) >= 2:
		f.ICMPType, f.ICMPCode = rest[0], rest[1]
	}
	return f, nil
}

func parse4(p []byte) (f sadb.Flow, rest []byte, err error) {
	if len(p) < 20 {
		return f, nil, errPacket
	}
	header := int(p[0]&0xf) * 4
	if header < 20 || len(p) < header {
		return f, nil, errPacket
	}
	f.Local, f.Remote = netip.AddrFrom4([4]byte(p[12:])), netip.AddrFrom4([4]byte(p[16:]))
	f.Proto = p[9]
	return f, p[header:], nil
}

func parse6(p []byte) (f sadb.Flow, rest []byte, err error) {
	if len(p) < 40 {
		return f, nil, errPacket
	}
	f.Local, f.Remote = netip.AddrFrom16([16]byte(p[8:])), netip.AddrFrom16([16]byte(p[24:]))
	next, rest := p[6], p[40:]
	for {
		size := 0
		switch next {
		case unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS:
			if len(rest) < 8 {
				return f, nil, errPacket
			}
			size = (int(rest[1]) + 1) * 8
		case unix.IPPROTO_FRAGMENT:
			size = 8
		default:
			f.Proto = next
			return f, rest, nil
		}
		if len(rest) < size {
			return f, nil, errPacket
		}
		next, rest = rest[0], rest[size:]
	}
}
