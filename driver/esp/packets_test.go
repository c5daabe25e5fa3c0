package esp

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"testing"

	"ipsecagent/sadb"
)

// The two hosts of the tests, and the hosts behind them in tunnel mode.
var (
	alice4, bob4  = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	alice6, bob6  = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	carol4, dave4 = netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("203.0.113.9")
	carol6, dave6 = netip.MustParseAddr("2001:db8:c::7"), netip.MustParseAddr("2001:db8:d::9")
)

// suiteNames is every ESP suite of sadb.
func suiteNames() []string {
	return []string{"esp-aes256gcm", "esp-aes192gcm", "esp-aes128gcm",
		"esp-aes256-sha512", "esp-aes256-sha384", "esp-aes256-sha256", "esp-aes256-sha1",
		"esp-aes192-sha256", "esp-aes192-sha1", "esp-aes128-sha256", "esp-aes128-sha1",
		"esp-3des-sha1", "esp-3des-md5", "esp-des-sha1", "esp-des-md5",
		"esp-null-sha512", "esp-null-sha384", "esp-null-sha256", "esp-null-sha1", "esp-null-md5"}
}

// ahNames is every AH suite of sadb.
func ahNames() []string {
	return []string{"ah-sha512", "ah-sha384", "ah-sha256", "ah-sha1", "ah-md5"}
}

func allNames() []string { return append(suiteNames(), ahNames()...) }

func suite(t testing.TB, name string) sadb.Suite {
	t.Helper()
	s, err := sadb.ParseSuite(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// key returns n bytes that depend on seed.
func key(seed byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i)*7
	}
	return b
}

// sa returns an association of alice towards bob, for either end.
func sa(t testing.TB, name string, d sadb.Directions, mode sadb.Mode, v6 bool) sadb.SA {
	t.Helper()
	s := suite(t, name)
	src, dst := alice4, bob4
	if v6 {
		src, dst = alice6, bob6
	}
	return sadb.SA{ID: sadb.SAID{Dst: dst, Proto: s.Proto, SPI: 0x1234abcd}, Src: src, Dir: d, Mode: mode, Suite: s,
		EncKey: sadb.NewSecret(key(1, s.EncKeyLen())), AuthKey: sadb.NewSecret(key(99, s.Integrity.KeyLen())), Replay: 1024}
}

func outbound(t testing.TB, a sadb.SA) *Outbound {
	t.Helper()
	a.Dir = sadb.Out
	o, err := NewOutbound(a)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func inbound(t testing.TB, a sadb.SA) *Inbound {
	t.Helper()
	a.Dir = sadb.In
	in, err := NewInbound(a)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// seal protects a copy of packet with the next number of o.
func seal(t testing.TB, o *Outbound, packet []byte) []byte {
	t.Helper()
	out, err := trySeal(o, packet)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func trySeal(o *Outbound, packet []byte) ([]byte, error) {
	buf := make([]byte, Headroom+len(packet)+Tailroom)
	copy(buf[Headroom:], packet)
	s, err := o.Reserve(1)
	if err != nil {
		return nil, err
	}
	return s.Seal(buf, Headroom, Headroom+len(packet))
}

// udp returns a UDP datagram with complete checksums between two addresses.
func udp(t testing.TB, src, dst netip.Addr, n int) []byte {
	t.Helper()
	u := make([]byte, 8+n)
	binary.BigEndian.PutUint16(u, 4321)
	binary.BigEndian.PutUint16(u[2:], 7)
	binary.BigEndian.PutUint16(u[4:], uint16(len(u)))
	u[6] = 1 // a checksum is wanted
	copy(u[8:], key(byte(n), n))
	return ip(t, src, dst, sadb.UDP, u)
}

// ip puts an IP header before an upper layer and completes its checksum.
func ip(t testing.TB, src, dst netip.Addr, proto uint8, upper []byte) []byte {
	t.Helper()
	p := rawIP(src, dst, proto, upper)
	if err := RepairChecksum(p); err != nil {
		t.Fatal(err)
	}
	return p
}

// rawIP puts an IP header before anything.
func rawIP(src, dst netip.Addr, proto uint8, upper []byte) []byte {
	p := make([]byte, ipv4Min, ipv4Min+len(upper))
	if src.Is6() {
		p = make([]byte, ipv6Len, ipv6Len+len(upper))
	}
	OuterHeader{Src: src, Dst: dst, Proto: proto, Hops: 61}.Put(p, len(p)+len(upper))
	if src.Is4() {
		p[4], p[5] = 0xbe, 0xef
		setIPv4Checksum(p)
	}
	return append(p, upper...)
}

// withOptions puts IPv4 options behind the header.
func withOptions(p, options []byte) []byte {
	out := append([]byte(nil), p[:ipv4Min]...)
	out = append(out, options...)
	out = append(out, p[ipv4Min:]...)
	out[0] = 0x40 | byte((ipv4Min+len(options))/4)
	setLength(out, len(out))
	return out
}

// withExtensions puts IPv6 extension headers, given by number, before the
// upper layer: each is 8 bytes of pad.
func withExtensions(p []byte, protos ...uint8) []byte {
	out := append([]byte(nil), p[:ipv6Len]...)
	upper, at := p[6], 6
	for _, proto := range protos {
		out[at] = proto
		at = len(out)
		out = append(out, 0, 0, 1, 4, 0, 0, 0, 0) // PadN
		if proto == protoRouting {
			out[at+2], out[at+3] = 253, 0 // type for experiments, no segments left
		}
		if proto == protoFragment {
			clear(out[at+1:])
		}
	}
	out[at] = upper
	out = append(out, p[ipv6Len:]...)
	setLength(out, len(out))
	return out
}

// withoutUDP takes the UDP header of ESP in UDP out, as the socket does that
// receives it.
func withoutUDP(t testing.TB, p []byte) []byte {
	t.Helper()
	h, err := Parse(p)
	if err != nil || h.Proto != sadb.UDP {
		t.Fatalf("%+v: %v", h, err)
	}
	out := append(append([]byte(nil), p[:h.Upper]...), p[h.Upper+udpLen:]...)
	out[h.upperNext] = protoESP
	setLength(out, len(out))
	return out
}

func addrPort(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 4500) }
