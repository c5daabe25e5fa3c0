package host

import (
	"fmt"
	"net"
	"net/netip"
)

// Source returns the address of this machine that packets to dst come from, by
// its routes. Nothing is sent.
func Source(dst netip.Addr) (netip.Addr, error) {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, 500)))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("host: look up the way to %s: %w", dst, err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone(""), nil
}
