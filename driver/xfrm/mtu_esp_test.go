//go:build esp

package xfrm

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/sadb"
)

// A router's word that a packet of ESP is too big for a link comes in clear and is
// acted on, though a filter wants everything secured.
func TestKernelLinksOfASmallerMTU(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		l := newLab(t)
		a, b := l.alice.v4, l.bob.v4
		if v6 {
			a, b = l.alice.v6, l.bob.v6
		}
		alice, bob := l.alice.open(), l.bob.open()
		all := sadb.Filter{ID: "all", Selector: sadb.Selector{Local: sadb.Me()}, Dir: sadb.Both, Action: sadb.Action{Kind: sadb.Negotiate}}
		setAll(t, alice, between("f", b), all)
		setAll(t, bob, between("f", a))
		sa := connect(t, alice, bob, a, b)
		route := func() string { return run(t, l.alice.ns, "ip", "route", "get", b.String()) }
		l.bob.tooBig(a, b, sa.ID.SPI)
		for end := time.Now().Add(patience); !strings.Contains(route(), "mtu 1300"); time.Sleep(tick) {
			if time.Now().After(end) {
				t.Fatalf("IPv6 %t: the path's MTU is not known: %s\n%s", v6, route(), run(t, l.alice.ns, "cat", StatFile))
			}
		}
	}
}

// A word about an association that there is not changes nothing.
func TestKernelLinksOfASmallerMTUForged(t *testing.T) {
	l := newLab(t)
	alice, bob := l.alice.open(), l.bob.open()
	setAll(t, alice, between("f", l.bob.v4))
	setAll(t, bob, between("f", l.alice.v4))
	sa := connect(t, alice, bob, l.alice.v4, l.bob.v4)
	before := run(t, l.alice.ns, "nstat", "-asz", "IcmpInDestUnreachs")
	l.bob.tooBig(l.alice.v4, l.bob.v4, sa.ID.SPI+1)
	for end := time.Now().Add(patience); run(t, l.alice.ns, "nstat", "-asz", "IcmpInDestUnreachs") == before; time.Sleep(tick) {
		if time.Now().After(end) {
			t.Fatal("the message has not come")
		}
	}
	if route := run(t, l.alice.ns, "ip", "route", "get", l.bob.v4.String()); strings.Contains(route, "mtu") {
		t.Errorf("acted on: %s", route)
	}
}

// tooBig says as a router that a packet of ESP from a to b with that SPI is too
// big for a link of 1300 bytes.
func (h *host) tooBig(a, b netip.Addr, spi sadb.SPI) {
	h.t.Helper()
	network, message := "ip4:icmp", []byte{3, 4, 0, 0, 0, 0, 5, 0x14}
	header := append([]byte{0x45, 0, 5, 0x78, 0, 1, 0x40, 0, 64, unix.IPPROTO_ESP, 0, 0}, append(a.AsSlice(), b.AsSlice()...)...)
	if a.Is6() {
		network, message = "ip6:ipv6-icmp", []byte{2, 0, 0, 0, 0, 0, 5, 0x14}
		header = append([]byte{0x60, 0, 0, 0, 5, 0x50, unix.IPPROTO_ESP, 64}, append(a.AsSlice(), b.AsSlice()...)...)
	}
	message = append(message, header...)
	message = binary.BigEndian.AppendUint32(message, uint32(spi))
	message = binary.BigEndian.AppendUint32(message, 1)
	if a.Is4() { // the kernel fills in that of ICMPv6
		binary.BigEndian.PutUint16(message[2:], checksum(message))
	}
	c := in(h, func() (net.PacketConn, error) { return net.ListenPacket(network, b.String()) })
	defer c.Close()
	if _, err := c.WriteTo(message, &net.IPAddr{IP: a.AsSlice()}); err != nil {
		h.t.Fatal(err)
	}
}

// checksum is that of RFC 1071 of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 0; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum + sum>>16)
}
