package xfrm

import (
	"fmt"

	"golang.org/x/sys/unix"

	"ipsecagent/driver/xfrm/wire"
)

// PrepareSocket exempts a socket of IKE from every policy: its packets bear the
// exempt mark, and policies of its own let pass what comes to it and what it
// sends. family is AF_INET or AF_INET6. Needs CAP_NET_ADMIN, and XFRM to be
// there: open the driver first.
func (c Config) PrepareSocket(fd, family int) error {
	c = c.withDefaults()
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(c.Exempt)); err != nil {
		return fmt.Errorf("xfrm: mark socket as exempt (needs CAP_NET_ADMIN): %w", err)
	}
	level, option := unix.IPPROTO_IP, unix.IP_XFRM_POLICY
	f := wire.IPv4
	if family == unix.AF_INET6 {
		level, option, f = unix.IPPROTO_IPV6, unix.IPV6_XFRM_POLICY, wire.IPv6
	}
	for _, d := range []wire.Direction{wire.In, wire.Out} {
		p := wire.Policy{Selector: wire.Selector{Src: f.Any(), Dst: f.Any()}, Dir: d}
		if err := unix.SetsockoptString(fd, level, option, string(p.Append(nil))); err != nil {
			return fmt.Errorf("xfrm: let the socket pass the policies (%s, needs CAP_NET_ADMIN and the module xfrm_user): %w", d, err)
		}
	}
	return nil
}

const encapInUDP = 2 // UDP_ENCAP_ESPINUDP

// TakeESP makes the kernel take ESP in UDP (RFC 3948) from a socket bound to
// port 4500; IKE behind the non-ESP marker still comes to its reader.
func TakeESP(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_ENCAP, encapInUDP); err != nil {
		return fmt.Errorf("xfrm: let the kernel take ESP in UDP: %w", err)
	}
	return nil
}
