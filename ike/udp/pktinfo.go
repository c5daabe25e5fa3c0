package udp

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// Lengths in bytes of struct in_pktinfo and struct in6_pktinfo (ip(7),
// ipv6(7)).
const (
	pktinfo4Len = 12
	pktinfo6Len = 20
)

// destination returns the address of this host that a datagram from remote was
// sent to, from the control messages that came with it; false for one sent to
// a multicast or broadcast address, where IKE has no business.
func destination(control []byte, remote netip.Addr) (netip.Addr, bool) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return netip.Addr{}, false
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= pktinfo4Len:
			local, sentTo := netip.AddrFrom4([4]byte(m.Data[4:])), netip.AddrFrom4([4]byte(m.Data[8:]))
			return local, local == sentTo
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= pktinfo6Len:
			local := netip.AddrFrom16([16]byte(m.Data))
			return scoped(local, remote, binary.NativeEndian.Uint32(m.Data[16:])), !local.IsMulticast()
		}
	}
	return netip.Addr{}, false
}

// scoped gives a link-local address its zone: that of the peer's address,
// which is on the same link and whose name package net has looked up, else the
// number of the interface.
func scoped(local, remote netip.Addr, index uint32) netip.Addr {
	if !local.IsLinkLocalUnicast() {
		return local
	}
	if zone := remote.Zone(); zone != "" {
		return local.WithZone(zone)
	}
	return local.WithZone(strconv.FormatUint(uint64(index), 10))
}

// sourceControl returns the control message that makes local the source
// address; nil for an invalid or unspecified one.
func sourceControl(local netip.Addr) ([]byte, error) {
	if !local.IsValid() || local.IsUnspecified() {
		return nil, nil
	}
	if local.Is4() {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: local.As4()}), nil
	}
	index, err := zoneIndex(local.Zone())
	if err != nil {
		return nil, err
	}
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: local.As16(), Ifindex: index}), nil
}

// zoneIndex returns the number of the interface a zone names; 0 for none.
func zoneIndex(zone string) (uint32, error) {
	if zone == "" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), nil
	}
	i, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, fmt.Errorf("interface %s: %w", zone, err)
	}
	return uint32(i.Index), nil
}
