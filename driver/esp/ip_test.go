package esp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"ipsecagent/sadb"
)

func TestParse(t *testing.T) {
	tcp := append([]byte{0x1f, 0x90, 0, 80}, make([]byte, 16)...)
	echo := []byte{8, 0, 0, 0, 0, 1, 0, 1}
	later := ip(t, alice4, bob4, sadb.UDP, make([]byte, 8))
	later[6], later[7] = 0x20, 5
	first6 := withExtensions(udp(t, alice6, bob6, 8), protoHopByHop, protoFragment)
	first6[ipv6Len+8+3] = 1
	later6 := withExtensions(udp(t, alice6, bob6, 8), protoFragment)
	later6[ipv6Len+3] = 8
	df := udp(t, alice4, bob4, 4)
	df[6] = 0x40
	for name, c := range map[string]struct {
		packet []byte
		want   Headers
	}{
		"udp4": {udp(t, alice4, bob4, 4), Headers{Src: alice4, Dst: bob4, Proto: 17, Upper: 20, Length: 32, SrcPort: 4321, DstPort: 7}},
		"df":   {df, Headers{Src: alice4, Dst: bob4, Proto: 17, Upper: 20, Length: 32, DF: true, SrcPort: 4321, DstPort: 7}},
		"bytes behind the packet": {append(udp(t, alice4, bob4, 4), 1, 2, 3),
			Headers{Src: alice4, Dst: bob4, Proto: 17, Upper: 20, Length: 32, SrcPort: 4321, DstPort: 7}},
		"options": {withOptions(ip(t, alice4, bob4, sadb.TCP, tcp), []byte{1, 1, 1, 0}),
			Headers{Src: alice4, Dst: bob4, Proto: 6, Upper: 24, Length: 44, SrcPort: 8080, DstPort: 80}},
		"icmp":           {ip(t, alice4, bob4, sadb.ICMP, echo), Headers{Src: alice4, Dst: bob4, Proto: 1, Upper: 20, Length: 28, ICMPType: 8}},
		"later fragment": {later, Headers{Src: alice4, Dst: bob4, Proto: 17, Upper: 20, Length: 28, Fragment: true, Later: true}},
		"udp6":           {udp(t, alice6, bob6, 4), Headers{Src: alice6, Dst: bob6, V6: true, DF: true, Proto: 17, Upper: 40, Length: 52, SrcPort: 4321, DstPort: 7}},
		"extensions": {withExtensions(udp(t, alice6, bob6, 4), protoHopByHop, protoDestOpts, protoRouting, protoDestOpts),
			Headers{Src: alice6, Dst: bob6, V6: true, DF: true, Proto: 17, Upper: 72, Length: 84, SrcPort: 4321, DstPort: 7}},
		"first fragment6": {first6, Headers{Src: alice6, Dst: bob6, V6: true, DF: true, Proto: 17, Upper: 56, Length: 72, Fragment: true, SrcPort: 4321, DstPort: 7}},
		"later fragment6": {later6, Headers{Src: alice6, Dst: bob6, V6: true, DF: true, Proto: 17, Upper: 48, Length: 64, Fragment: true, Later: true}},
		"no next header":  {ip(t, alice6, bob6, protoNone, nil), Headers{Src: alice6, Dst: bob6, V6: true, DF: true, Proto: 59, Upper: 40, Length: 40}},
		"esp": {ip(t, alice4, bob4, protoESP, []byte{1, 2, 3, 4, 0, 0, 0, 9}),
			Headers{Src: alice4, Dst: bob4, Proto: 50, Upper: 20, Length: 28, SPI: 0x01020304, Seq: 9}},
	} {
		got, err := Parse(c.packet)
		got.upperNext, got.split, got.splitNext = 0, 0, 0
		if err != nil || got != c.want {
			t.Errorf("%s: %v\n got %+v\nwant %+v", name, err, got, c.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	cut := func(p []byte, n int) []byte { return p[:n] }
	change := func(p []byte, at int, v byte) []byte {
		p = bytes.Clone(p)
		p[at] = v
		return p
	}
	u4, u6 := udp(t, alice4, bob4, 4), udp(t, alice6, bob6, 4)
	many := make([]uint8, maxExtensions+1)
	for i := range many {
		many[i] = protoDestOpts
	}
	for name, p := range map[string][]byte{
		"nothing":                      nil,
		"version 5":                    change(u4, 0, 0x55),
		"IPv4 header of 16 bytes":      change(u4, 0, 0x44),
		"IPv4 header cut off":          cut(u4, 19),
		"IPv4 options cut off":         change(cut(u4, 32), 0, 0x4f),
		"IPv4 longer than the buffer":  cut(u4, 31),
		"IPv4 total below header":      change(u4, 3, 19),
		"IPv6 header cut off":          cut(u6, 39),
		"IPv6 longer than the buffer":  cut(u6, 51),
		"ports cut off":                rawIP(alice4, bob4, sadb.SCTP, []byte{0, 1, 0}),
		"ICMP type without code":       rawIP(alice4, bob4, sadb.ICMP, []byte{8}),
		"ESP header cut off":           rawIP(alice4, bob4, protoESP, make([]byte, 7)),
		"hop-by-hop not first":         withExtensions(u6, protoDestOpts, protoHopByHop),
		"too many extension headers":   withExtensions(u6, many...),
		"extension longer than packet": change(withExtensions(u6, protoRouting), ipv6Len+1, 200),
		"extension cut off":            change(rawIP(alice6, bob6, protoNone, make([]byte, 7)), 6, protoDestOpts),
	} {
		if h, err := Parse(p); !errors.Is(err, ErrMalformed) || h != (Headers{}) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}

func TestFlow(t *testing.T) {
	h, err := Parse(udp(t, alice4, bob4, 4))
	if err != nil {
		t.Fatal(err)
	}
	want := sadb.Flow{Local: alice4, Remote: bob4, Proto: 17, LocalPort: 4321, RemotePort: 7}
	if got := h.Flow(sadb.Out); got != want {
		t.Errorf("out: %+v", got)
	}
	want = sadb.Flow{Local: bob4, Remote: alice4, Proto: 17, LocalPort: 7, RemotePort: 4321}
	if got := h.Flow(sadb.In); got != want {
		t.Errorf("in: %+v", got)
	}
}

func TestChecksum(t *testing.T) {
	// RFC 1071 §3.
	if got := Checksum([]byte{0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7}); got != ^uint16(0xddf2) {
		t.Errorf("RFC 1071: %04x", got)
	}
	if got := Checksum([]byte{0x80}); got != ^uint16(0x8000) {
		t.Errorf("odd length: %04x", got)
	}
}

// A partial checksum that is completed equals one computed as a whole.
func TestCompleteChecksum(t *testing.T) {
	for _, want := range [][]byte{udp(t, alice4, bob4, 11), udp(t, alice6, bob6, 11)} {
		h, err := Parse(want)
		if err != nil {
			t.Fatal(err)
		}
		p := bytes.Clone(want)
		field := p[h.Upper+6:]
		field[0], field[1] = 0, 0
		binary.BigEndian.PutUint16(field, fold(pseudo(p, &h, h.Length-h.Upper)))
		if err := CompleteChecksum(p, h.Upper, 6); err != nil || !bytes.Equal(p, want) {
			t.Errorf("%v\n got %x\nwant %x", err, p, want)
		}
	}
	for _, c := range [][2]int{{-1, 0}, {0, -1}, {9, 0}, {4, 3}, {8, 0}, {0, 7}, {1 << 62, 1 << 62}} {
		if err := CompleteChecksum(make([]byte, 8), c[0], c[1]); !errors.Is(err, ErrMalformed) {
			t.Errorf("start %d offset %d: %v", c[0], c[1], err)
		}
	}
}

func TestRepairChecksum(t *testing.T) {
	for name, p := range map[string][]byte{
		"udp4": udp(t, alice4, bob4, 5), "udp6": udp(t, alice6, bob6, 5),
		"tcp4":   ip(t, alice4, bob4, sadb.TCP, key(3, 33)),
		"icmpv6": ip(t, alice6, bob6, sadb.ICMPv6, key(128, 20)),
	} {
		h, err := Parse(p)
		if err != nil {
			t.Fatal(err)
		}
		if s := fold(sum(pseudo(p, &h, h.Length-h.Upper), p[h.Upper:])); s != 0xffff {
			t.Errorf("%s: sum over the whole is %04x", name, s)
		}
	}
	none := udp(t, alice4, bob4, 5)
	none[26], none[27] = 0, 0
	other := ip(t, alice4, bob4, 99, key(1, 30))
	for name, p := range map[string][]byte{"UDP without checksum": none, "another protocol": other} {
		before := bytes.Clone(p)
		if err := RepairChecksum(p); err != nil || !bytes.Equal(p, before) {
			t.Errorf("%s: changed, %v", name, err)
		}
	}
	short := ip(t, alice4, bob4, 99, make([]byte, 8))
	short[9] = sadb.TCP
	if err := RepairChecksum(short); !errors.Is(err, ErrMalformed) {
		t.Errorf("short TCP: %v", err)
	}
	if err := RepairChecksum(nil); !errors.Is(err, ErrMalformed) {
		t.Errorf("nothing: %v", err)
	}
}

// joined puts fragments together as a receiver does.
func joined(t *testing.T, fragments [][]byte) []byte {
	t.Helper()
	if len(fragments) == 1 {
		return fragments[0]
	}
	var payload, head []byte
	for i, p := range fragments {
		h, err := Parse(p)
		if err != nil {
			t.Fatal(err)
		}
		field := binary.BigEndian.Uint16(p[6:])
		offset, more, end := int(field&0x1fff)*8, field&0x2000 != 0, h.Upper
		if h.V6 {
			f := p[h.split-fragmentLen:]
			offset, more = int(binary.BigEndian.Uint16(f[2:])&^7), f[3]&1 == 1
			end = h.split
		} else if Checksum(p[:h.Upper]) != 0 {
			t.Fatalf("fragment %d: header checksum", i)
		}
		if offset != len(payload) || more != (i < len(fragments)-1) || more && (len(p)-end)%8 != 0 {
			t.Fatalf("fragment %d: offset %d of %d, more %v, %d bytes", i, offset, len(payload), more, len(p)-end)
		}
		if i == 0 {
			head = bytes.Clone(p[:end])
		}
		payload = append(payload, p[end:]...)
	}
	if head[0]>>4 == 6 {
		h, _ := Parse(fragments[0])
		at := h.split - fragmentLen
		head[lastNext(head)] = head[at]
		head = head[:at]
	} else {
		head[6], head[7] = 0, 0
	}
	p := append(head, payload...)
	setLength(p, len(p))
	return p
}

// lastNext returns the offset of the byte that announces the fragment header.
func lastNext(p []byte) int {
	at, next := ipv6Len, 6
	for p[next] != protoFragment {
		next, at = at, at+8
	}
	return next
}

func cutUp(t *testing.T, p []byte, mtu int) [][]byte {
	t.Helper()
	f, err := NewFragments(p, mtu, 0xfeedbeef)
	if err != nil {
		t.Fatal(err)
	}
	var all [][]byte
	for {
		buf := bytes.Repeat([]byte{0xaa}, mtu)
		frag := f.Next(buf)
		if frag == nil {
			return all
		}
		if len(frag) > mtu {
			t.Fatalf("fragment of %d bytes, MTU %d", len(frag), mtu)
		}
		all = append(all, frag)
	}
}

func TestFragments(t *testing.T) {
	o4 := outbound(t, sa(t, "esp-aes128gcm", sadb.Out, sadb.Transport, false))
	o6 := outbound(t, sa(t, "esp-aes128gcm", sadb.Out, sadb.Transport, true))
	for _, p := range [][]byte{
		seal(t, o4, udp(t, alice4, bob4, 4000)), seal(t, o6, udp(t, alice6, bob6, 4000)), seal(t, o4, udp(t, alice4, bob4, 60000)),
		seal(t, o6, withExtensions(udp(t, alice6, bob6, 3000), protoHopByHop, protoRouting)),
	} {
		for _, mtu := range []int{1500, 1281, 1280, 577, 65535} {
			all := cutUp(t, p, mtu)
			if whole := len(p) <= mtu; whole != (len(all) == 1) {
				t.Errorf("%d bytes, MTU %d: %d fragments", len(p), mtu, len(all))
			}
			if got := joined(t, all); !bytes.Equal(got, p) {
				t.Errorf("%d bytes, MTU %d: joined differs", len(p), mtu)
			}
		}
	}
}

// RFC 791 §3.1: the router alert (copied) stands in every fragment, the record
// route only in the first.
func TestFragmentOptions(t *testing.T) {
	p := withOptions(udp(t, alice4, bob4, 3000), []byte{7, 7, 4, 0, 0, 0, 0, 1, 0x94, 4, 0, 0})
	all := cutUp(t, p, 1500)
	if got := joined(t, all); !bytes.Equal(got, p) {
		t.Error("joined differs")
	}
	if head := all[1][ipv4Min:24]; all[1][0] != 0x46 || !bytes.Equal(head, []byte{0x94, 4, 0, 0}) {
		t.Errorf("second fragment: header %x", all[1][:24])
	}
	broken := withOptions(udp(t, alice4, bob4, 3000), []byte{0x94, 200, 1, 1})
	if all := cutUp(t, broken, 1500); all[1][0] != 0x45 {
		t.Errorf("a broken option was copied: %x", all[1][:24])
	}
}

func TestFragmentsRefuse(t *testing.T) {
	df := udp(t, alice4, bob4, 3000)
	df[6] = 0x40
	fragment := udp(t, alice4, bob4, 3000)
	fragment[6] = 0x20
	for name, c := range map[string]struct {
		packet []byte
		mtu    int
		want   error
	}{
		"DF":       {df, 1500, ErrTooBig},
		"fragment": {fragment, 1500, ErrFragment},
		"MTU 27":   {udp(t, alice4, bob4, 3000), 27, ErrTooBig},
		"MTU -1":   {udp(t, alice6, bob6, 3000), -1, ErrTooBig},
		"garbage":  {[]byte{0x45}, 1500, ErrMalformed},
	} {
		if _, err := NewFragments(c.packet, c.mtu, 1); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if all := cutUp(t, df, len(df)); len(all) != 1 || !bytes.Equal(all[0], df) {
		t.Error("a packet of exactly the MTU comes out as it is")
	}
	if all := cutUp(t, udp(t, alice4, bob4, 92), 28); len(all) != 13 || len(all[0]) != 28 {
		t.Errorf("the smallest fragments: %d", len(all))
	}
	for _, options := range [][]byte{{0x94, 2, 0, 0}, {1, 1, 0x94, 2}, {1, 1, 1, 0x94}} {
		p := withOptions(udp(t, alice4, bob4, 3000), options)
		want := byte(0x46)
		if options[3] == 0x94 {
			want = 0x45 // cut off: not copied
		}
		if all := cutUp(t, p, 1500); all[1][0] != want {
			t.Errorf("options %x: second header %x", options, all[1][:24])
		}
	}
	if all := cutUp(t, df, 4000); len(all) != 1 || !bytes.Equal(all[0], df) {
		t.Error("a packet that fits comes out as it is")
	}
}

func TestPutTooBig(t *testing.T) {
	buf := make([]byte, TooBigRoom)
	for _, n := range []int{4, 200, 3000} {
		p := udp(t, carol4, bob4, n)
		m := PutTooBig(buf, p, 1400, dave4)
		h, err := Parse(m)
		if err != nil || h.Src != dave4 || h.Dst != carol4 || h.ICMPType != 3 || h.ICMPCode != 4 || len(m) > 576 {
			t.Fatalf("%d: %+v, %v", n, h, err)
		}
		if Checksum(m[:20]) != 0 || Checksum(m[20:]) != 0 || binary.BigEndian.Uint16(m[26:]) != 1400 || !bytes.HasPrefix(p, m[28:]) {
			t.Errorf("%d: %x", n, m)
		}
		p = udp(t, carol6, bob6, n)
		m = PutTooBig(buf, p, 1400, dave6)
		h, err = Parse(m)
		if err != nil || h.Src != dave6 || h.Dst != carol6 || h.ICMPType != 2 || h.ICMPCode != 0 || len(m) > 1280 {
			t.Fatalf("%d: %+v, %v", n, h, err)
		}
		if s := fold(sum(pseudo(m, &h, len(m)-40), m[40:])); s != 0xffff || binary.BigEndian.Uint32(m[44:]) != 1400 || !bytes.HasPrefix(p, m[48:]) {
			t.Errorf("%d: %x", n, m)
		}
	}
}

func TestNoTooBig(t *testing.T) {
	later := udp(t, alice4, bob4, 64)
	later[7] = 1
	unreachable := ip(t, alice4, bob4, sadb.ICMP, append([]byte{3, 1}, make([]byte, 30)...))
	for name, c := range map[string]struct {
		packet []byte
		from   netip.Addr
	}{
		"later fragment":   {later, dave4},
		"ICMP error":       {unreachable, dave4},
		"ICMPv6 error":     {ip(t, alice6, bob6, sadb.ICMPv6, make([]byte, 30)), dave6},
		"multicast source": {udp(t, netip.MustParseAddr("224.0.0.1"), bob4, 9), dave4},
		"no source":        {udp(t, netip.IPv6Unspecified(), bob6, 9), dave6},
		"broadcast source": {udp(t, netip.MustParseAddr("255.255.255.255"), bob4, 9), dave4},
		"other family":     {udp(t, alice4, bob4, 9), dave6},
		"garbage":          {[]byte{1}, dave4},
	} {
		if m := PutTooBig(make([]byte, TooBigRoom), c.packet, 1400, c.from); m != nil {
			t.Errorf("%s: answered with %x", name, m)
		}
	}
}

// RFC 1122 §3.2.2, RFC 4443 §2.4: which ICMP messages are never answered.
func TestNoTooBigForErrors(t *testing.T) {
	errors4 := map[int]bool{3: true, 4: true, 5: true, 11: true, 12: true}
	for kind := range 256 {
		body := append([]byte{byte(kind), 0}, make([]byte, 30)...)
		m := PutTooBig(make([]byte, TooBigRoom), ip(t, alice4, bob4, sadb.ICMP, body), 600, dave4)
		if (m == nil) != errors4[kind] {
			t.Errorf("ICMP type %d: answered %v", kind, m != nil)
		}
		m = PutTooBig(make([]byte, TooBigRoom), ip(t, alice6, bob6, sadb.ICMPv6, body), 1280, dave6)
		if (m == nil) != (kind < 128 || kind == 137) {
			t.Errorf("ICMPv6 type %d: answered %v", kind, m != nil)
		}
	}
}

// What is exactly as long as it must be is not too short.
func TestParseAtTheEdge(t *testing.T) {
	for name, p := range map[string][]byte{
		"IPv4 header alone":     rawIP(alice4, bob4, 99, nil),
		"IPv6 header alone":     rawIP(alice6, bob6, protoNone, nil),
		"ports alone":           rawIP(alice4, bob4, sadb.UDP, make([]byte, 4)),
		"type and code alone":   rawIP(alice4, bob4, sadb.ICMP, make([]byte, 2)),
		"ESP header alone":      rawIP(alice4, bob4, protoESP, make([]byte, 8)),
		"extension header last": withExtensions(rawIP(alice6, bob6, protoNone, nil), protoDestOpts),
	} {
		if h, err := Parse(p); err != nil || h.Length != len(p) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
	for n, want := range map[int]error{maxExtensions - 1: nil, maxExtensions: ErrMalformed} {
		protos := make([]uint8, n)
		for i := range protos {
			protos[i] = protoDestOpts
		}
		if _, err := Parse(withExtensions(udp(t, alice6, bob6, 1), protos...)); !errors.Is(err, want) {
			t.Errorf("%d extension headers: %v", n, err)
		}
	}
}

// RFC 768: a checksum that comes out as 0 is sent as all ones; 0 says none.
func TestChecksumThatComesOutAsZero(t *testing.T) {
	for proto, want := range map[uint8]uint16{sadb.UDP: 0xffff, sadb.TCP: 0} {
		offset, _ := checksumOffset(proto)
		p := ip(t, alice4, bob4, proto, append(make([]byte, 20), 0, 0))
		if proto == sadb.UDP {
			p[ipv4Min+offset] = 1
			if err := RepairChecksum(p); err != nil {
				t.Fatal(err)
			}
		}
		field := p[ipv4Min+offset : ipv4Min+offset+2]
		copy(p[len(p)-2:], field) // now the sum is 0xffff
		if err := RepairChecksum(p); err != nil || binary.BigEndian.Uint16(field) != want {
			t.Errorf("protocol %d: %x, %v; want %04x", proto, field, err, want)
		}
	}
	if err := CompleteChecksum(make([]byte, 8), 0, 6); err != nil {
		t.Errorf("a field at the very end: %v", err)
	}
	if err := CompleteChecksum(make([]byte, 8), 0, 0); err != nil {
		t.Errorf("a field at the very start: %v", err)
	}
	if err := CompleteChecksum(make([]byte, 8), 8, 0); !errors.Is(err, ErrMalformed) {
		t.Errorf("a start at the very end: %v", err)
	}
}
