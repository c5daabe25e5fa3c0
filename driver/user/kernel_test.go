package user

import (
	"encoding/binary"
	"ipsecagent/sadb"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// controlMessage builds one as the kernel does.
func controlMessage(level, kind uint32, data []byte) []byte {
	b := binary.NativeEndian.AppendUint64(nil, uint64(unix.SizeofCmsghdr+len(data)))
	b = binary.NativeEndian.AppendUint32(b, level)
	b = binary.NativeEndian.AppendUint32(b, kind)
	b = append(b, data...)
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	return b
}

func sampleControl() []byte {
	dst := netip.MustParseAddr("2001:db8::7").As16()
	b := controlMessage(unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT, binary.NativeEndian.AppendUint32(nil, 61))
	b = append(b, controlMessage(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, binary.NativeEndian.AppendUint32(nil, 0xb8))...)
	return append(b, controlMessage(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, append(dst[:], 1, 0, 0, 0))...)
}

func TestControlMessagesGiveTheIPv6Header(t *testing.T) {
	want := control{dst: netip.MustParseAddr("2001:db8::7"), class: 0xb8, hops: 61, device: 1}
	if got := parseControl(sampleControl()); got != want {
		t.Errorf("got %+v", got)
	}
	whole := sampleControl()
	for n := range len(whole) - 4 { // the last 4 are padding
		if got := parseControl(whole[:n]); got.dst.IsValid() {
			t.Errorf("%d of %d bytes give an address", n, len(whole))
		}
	}
}

func FuzzControl(f *testing.F) {
	f.Add(sampleControl())
	f.Fuzz(func(_ *testing.T, b []byte) {
		parseControl(b)
		parseTooBig(ipv4.Message{Buffers: [][]byte{make([]byte, 8)}, OOB: b, NN: len(b), N: 8, Addr: &net.IPAddr{}}, sadb.AH)
	})
}

// queued builds an entry of the error queue.
func queued(level uint32, kind uint32, addr string, origin, icmpType, icmpCode byte, mtu uint32) ipv4.Message {
	e := make([]byte, 16)
	e[4], e[5], e[6] = origin, icmpType, icmpCode
	binary.NativeEndian.PutUint32(e[8:], mtu)
	oob := controlMessage(level, kind, e)
	return ipv4.Message{Buffers: [][]byte{{0, 0, 0x10, 0, 0, 0, 0, 1}}, N: 8, OOB: oob, NN: len(oob), Addr: &net.IPAddr{IP: net.ParseIP(addr)}}
}

func TestOnlyTooBigIsReadFromTheErrorQueue(t *testing.T) {
	four := queued(unix.IPPROTO_IP, unix.IP_RECVERR, "192.0.2.1", unix.SO_EE_ORIGIN_ICMP, 3, 4, 1400)
	six := queued(unix.IPPROTO_IPV6, unix.IPV6_RECVERR, "2001:db8::1", unix.SO_EE_ORIGIN_ICMP6, 2, 0, 1400)
	for _, m := range []ipv4.Message{four, six} {
		got, ok := parseTooBig(m, sadb.ESP)
		want := tooBig{sadb.SAID{Dst: netip.MustParseAddr(m.Addr.String()), Proto: sadb.ESP, SPI: 0x1000}, 1400}
		if !ok || got != want {
			t.Errorf("%v: got %+v %v", m.Addr, got, ok)
		}
		for n := range m.NN {
			short := m
			short.NN = n
			if _, ok := parseTooBig(short, sadb.ESP); ok {
				t.Errorf("%v: %d of %d bytes pass", m.Addr, n, m.NN)
			}
		}
	}
	for name, m := range map[string]ipv4.Message{
		"protocol unreachable": queued(unix.IPPROTO_IP, unix.IP_RECVERR, "192.0.2.1", unix.SO_EE_ORIGIN_ICMP, 3, 2, 0),
		"local error":          queued(unix.IPPROTO_IP, unix.IP_RECVERR, "192.0.2.1", unix.SO_EE_ORIGIN_LOCAL, 3, 4, 1400),
		"ICMPv6 unreachable":   queued(unix.IPPROTO_IPV6, unix.IPV6_RECVERR, "2001:db8::1", unix.SO_EE_ORIGIN_ICMP6, 1, 4, 0),
	} {
		if got, ok := parseTooBig(m, sadb.ESP); ok {
			t.Errorf("%s passes as %+v", name, got)
		}
	}
}
