package esp

import (
	"encoding/binary"

	"ipsecagent/sadb"
)

// putUDP writes the UDP header of ESP in UDP (RFC 3948 §2.1) at offset at. Its
// checksum is zero over IPv4; IPv6 wants one (RFC 8200 §8.1).
func (o *Outbound) putUDP(packet []byte, at int) {
	u := packet[at:]
	binary.BigEndian.PutUint16(u, o.sa.Encap.Local.Port())
	binary.BigEndian.PutUint16(u[2:], o.Peer().Port())
	binary.BigEndian.PutUint16(u[4:], uint16(len(u)))
	u[6], u[7] = 0, 0
	if !o.sa.ID.Dst.Is6() {
		return
	}
	c := ^fold(sum(sum(uint64(sadb.UDP)+uint64(len(u)), packet[8:ipv6Len]), u))
	if c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(u[6:], c)
}
