package esp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"ipsecagent/sadb"
)

// What routers change is not authenticated, everything else is: RFC 4302
// §3.3.3.1, bit by bit.
func TestAHAuthenticatesWhatDoesNotChange(t *testing.T) {
	for _, c := range []struct {
		name    string
		v6      bool
		packet  []byte
		mutable func(bit int) bool
		skip    func(byteAt int) bool // changed, the packet is another one or none
	}{
		{"IPv4", false, udp(t, alice4, bob4, 5), func(bit int) bool {
			at := bit / 8
			return at == 1 || at == 6 || at == 7 || at == 8 || at == 10 || at == 11
		}, func(at int) bool { return at == 0 || at == 2 || at == 3 || at == 6 || at == 7 || at == 9 }},
		{"IPv6", true, udp(t, alice6, bob6, 5), func(bit int) bool {
			return bit >= 4 && bit < 32 || bit/8 == 7
		}, func(at int) bool { return at == 0 || at == 4 || at == 5 || at == 6 }},
	} {
		for _, name := range ahNames() {
			a := sa(t, name, sadb.Out, sadb.Transport, c.v6)
			o := outbound(t, a)
			o.next.Store(2)
			wire := seal(t, o, c.packet)
			ah := len(wire) - len(c.packet) + ipLen(c.v6) - o.t.ahLen
			for bit := range len(wire) * 8 {
				at := bit / 8
				if c.skip(at) || at == ah+1 || at >= ah+4 && at < ah+8 {
					continue // length of AH, SPI
				}
				forged := bytes.Clone(wire)
				forged[at] ^= 0x80 >> (bit % 8)
				_, _, err := inbound(t, a).Open(forged)
				if c.mutable(bit) && err != nil || !c.mutable(bit) && !errors.Is(err, ErrICV) {
					t.Fatalf("%s %s byte %d bit %d: %v", c.name, name, at, bit%8, err)
				}
			}
		}
	}
}

// Options: RFC 4302 Appendix A.
func TestAHOptions(t *testing.T) {
	p := withOptions(udp(t, alice4, bob4, 9), []byte{0x94, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0}) // router alert, record route
	a := sa(t, "ah-sha256", sadb.Out, sadb.Transport, false)
	wire := seal(t, outbound(t, a), p)
	for at, want := range map[int]error{22: ErrICV, 26: nil, 28: nil} {
		changed := bytes.Clone(wire)
		changed[at] ^= 0x40
		if _, _, err := inbound(t, a).Open(changed); !errors.Is(err, want) {
			t.Errorf("option byte %d changed: %v, want %v", at, err, want)
		}
	}
	v6 := withExtensions(udp(t, alice6, bob6, 9), protoHopByHop)
	v6[42], v6[43], v6[44] = 0x3e, 1, 0xaa // may change on the way
	v6[45], v6[46], v6[47] = 0x1e, 1, 0xbb // may not
	a = sa(t, "ah-sha1", sadb.Out, sadb.Transport, true)
	wire = seal(t, outbound(t, a), v6)
	for at, want := range map[int]error{44: nil, 47: ErrICV} {
		changed := bytes.Clone(wire)
		changed[at] ^= 0x40
		if _, _, err := inbound(t, a).Open(changed); !errors.Is(err, want) {
			t.Errorf("option byte %d changed: %v, want %v", at, err, want)
		}
	}
}

func TestAHRefuses(t *testing.T) {
	route := withOptions(udp(t, alice4, bob4, 9), []byte{131, 7, 4, 192, 0, 2, 9, 1})
	routing := withExtensions(udp(t, alice6, bob6, 9), protoRouting)
	routing[43] = 1
	long := rawIP(alice6, bob6, protoHopByHop, append([]byte{99, 199}, make([]byte, 1598)...)) // Pad1 and nothing else
	for name, p := range map[string][]byte{
		"a source route ahead":     route,
		"segments left":            routing,
		"an atomic fragment":       withExtensions(udp(t, alice6, bob6, 9), protoFragment),
		"headers without end":      long,
		"an option that is cut":    withOptions(udp(t, alice4, bob4, 9), []byte{7, 9, 4, 0}),
		"an option without length": withOptions(udp(t, alice4, bob4, 9), []byte{1, 1, 1, 7}),
	} {
		a := sa(t, "ah-sha256", sadb.Out, sadb.Transport, p[0]>>4 == 6)
		o := outbound(t, a)
		s, _ := o.Reserve(1)
		buf := make([]byte, Headroom+len(p)+Tailroom)
		copy(buf[Headroom:], p)
		if _, err := s.Seal(buf, Headroom, Headroom+len(p)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
		if s.Left() != 1 {
			t.Errorf("%s: a number was used", name)
		}
	}
}

// Linux aligns AH over IPv4 to 8 bytes unless told otherwise.
func TestAHOfLinux(t *testing.T) {
	for _, name := range ahNames() {
		a := sa(t, name, sadb.In, sadb.Transport, false)
		in := inbound(t, a)
		want := udp(t, alice4, bob4, 21)
		n := ahLen(in.t.icvLen, true)
		wire := append(bytes.Clone(want[:ipv4Min]), make([]byte, n)...)
		wire = append(wire, want[ipv4Min:]...)
		wire[9] = protoAH
		setLength(wire, len(wire))
		ah := wire[ipv4Min : ipv4Min+n]
		ah[0], ah[1] = sadb.UDP, byte(n/4-2)
		binary.BigEndian.PutUint32(ah[4:], uint32(a.ID.SPI))
		binary.BigEndian.PutUint32(ah[8:], 1)
		if !in.t.sign(ah[ahFixed:ahFixed+in.t.icvLen], wire, ipv4Min, 1) {
			t.Fatal("not signed")
		}
		if n > ahFixed+in.t.icvLen {
			padded := bytes.Clone(wire)
			padded[ipv4Min+n-1] ^= 1
			if _, _, err := in.Open(padded); !errors.Is(err, ErrICV) {
				t.Errorf("%s: padding changed: %v", name, err)
			}
		}
		got, _, err := in.Open(bytes.Clone(wire))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v\n got %x\nwant %x", name, err, got, want)
		}
		for _, wrong := range []byte{0, ah[1] - 1, ah[1] + 3, 255} {
			forged := bytes.Clone(wire)
			forged[ipv4Min+1] = wrong
			if _, _, err := inbound(t, a).Open(forged); !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrICV) {
				t.Errorf("%s: AH length %d: %v", name, wrong, err)
			}
		}
	}
}

// The kernel fills in an IPv4 identification of 0: so do we, before it is
// authenticated.
func TestAHHasIdentification(t *testing.T) {
	p := udp(t, alice4, bob4, 9)
	p[4], p[5] = 0, 0
	setIPv4Checksum(p)
	for _, mode := range []sadb.Mode{sadb.Transport, sadb.Tunnel} {
		o := outbound(t, sa(t, "ah-sha1", sadb.Out, mode, false))
		for _, used := range []uint64{0, 0xfffe, 0xffff, 0x10000} {
			o.next.Store(used)
			if wire := seal(t, o, p); wire[4]|wire[5] == 0 {
				t.Errorf("%s: packet %d has identification 0", mode, used+1)
			}
		}
	}
}

// A bundle: ESP first, AH outside, in either mode one outer header
// (RFC 2401 §4.3).
func TestBundle(t *testing.T) {
	for _, mode := range []sadb.Mode{sadb.Transport, sadb.Tunnel} {
		for _, v6 := range []bool{false, true} {
			for _, name := range suiteNames() {
				for _, ahName := range ahNames() {
					e, a := sa(t, name, sadb.Out, mode, v6), sa(t, ahName, sadb.Out, mode, v6)
					e.Bundle, a.Bundle = a.ID, e.ID
					p := udp(t, e.Src, e.ID.Dst, 100)
					if mode == sadb.Tunnel {
						p = udp(t, carol4, dave4, 100)
					}
					checkBundle(t, e, a, p)
				}
			}
		}
	}
}

func checkBundle(t *testing.T, e, a sadb.SA, p []byte) {
	t.Helper()
	buf := make([]byte, Headroom+len(p)+Tailroom)
	copy(buf[Headroom:], p)
	seal := func(o *Outbound, start, end int) []byte {
		s, err := o.Reserve(1)
		if err != nil {
			t.Fatal(err)
		}
		wire, err := s.Seal(buf, start, end)
		if err != nil {
			t.Fatal(err)
		}
		return wire
	}
	wire := seal(outbound(t, e), Headroom, Headroom+len(p))
	start := cap(buf) - cap(wire)
	wire = seal(outbound(t, a), start, start+len(wire))
	h, err := Parse(wire)
	if err != nil || h.Proto != protoAH || wire[h.Upper] != protoESP {
		t.Fatalf("%s over %s: %+v, %v", a.Suite, e.Suite, h, err)
	}
	outer, _, err := inbound(t, a).Open(wire)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := inbound(t, e).Open(outer)
	if err != nil || !bytes.Equal(got, p) {
		t.Fatalf("%s over %s: %v\n got %x\nwant %x", a.Suite, e.Suite, err, got, p)
	}
}

// RFC 3948: UDP header, its ports, and the peer's new port after a move. What
// comes from another address moves nothing, not even the port.
func TestMove(t *testing.T) {
	for _, mode := range []sadb.Mode{sadb.Transport, sadb.Tunnel} {
		a := sa(t, "esp-aes128gcm", sadb.Out, mode, false)
		a.Encap = sadb.Encap{Local: addrPort(alice4), Remote: netip.AddrPortFrom(bob4, 1024)}
		o := outbound(t, a)
		check := func(to netip.AddrPort) {
			t.Helper()
			wire := seal(t, o, udp(t, alice4, bob4, 9))
			h, err := Parse(wire)
			if err != nil || h.Proto != sadb.UDP || h.SrcPort != 4500 || netip.AddrPortFrom(h.Dst, h.DstPort) != to || o.Peer() != to {
				t.Errorf("%s: %+v, %v, want %s", mode, h, err, to)
			}
			if _, _, err := inbound(t, a).Open(withoutUDP(t, wire)); err != nil {
				t.Error(err)
			}
		}
		check(netip.AddrPortFrom(bob4, 1024))
		o.Move(netip.AddrPortFrom(bob4, 2048))
		check(netip.AddrPortFrom(bob4, 2048))
		o.Move(netip.AddrPortFrom(bob6, 2049))
		o.Move(netip.AddrPortFrom(bob4, 0))
		check(netip.AddrPortFrom(bob4, 2048))
		o.Move(netip.AddrPortFrom(dave4, 7))
		check(netip.AddrPortFrom(bob4, 2048))
	}
	o := outbound(t, sa(t, "esp-aes128gcm", sadb.Out, sadb.Tunnel, false))
	o.Move(netip.AddrPortFrom(dave4, 7))
	if o.Peer() != netip.AddrPortFrom(bob4, 0) {
		t.Errorf("without UDP it moved to %s", o.Peer())
	}
}

// FuzzAH: no input makes Open panic or moves the window.
func FuzzAH(f *testing.F) {
	f.Add(seal(f, outbound(f, sa(f, "ah-sha256", sadb.Out, sadb.Transport, false)), udp(f, alice4, bob4, 30)), uint8(2), uint8(0))
	f.Add(seal(f, outbound(f, sa(f, "ah-sha1", sadb.Out, sadb.Tunnel, true)), udp(f, carol6, dave6, 30)), uint8(3), uint8(3))
	f.Add(seal(f, outbound(f, sa(f, "ah-md5", sadb.Out, sadb.Transport, false)),
		withOptions(udp(f, alice4, bob4, 30), []byte{0x94, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0})), uint8(4), uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, name, shape uint8) {
		a := sa(t, ahNames()[int(name)%len(ahNames())], sadb.In, sadb.Mode(shape&1), shape&2 != 0)
		stranger := a
		stranger.AuthKey = sadb.NewSecret(key(5, a.AuthKey.Len()))
		in := inbound(t, stranger)
		if _, _, err := in.Open(bytes.Clone(b)); err == nil || in.Seq() != 0 {
			t.Fatalf("opened %x", b)
		}
		if h, err := Parse(b); err == nil {
			a.Mode, a.Src, a.ID.Dst = sadb.Transport, h.Src, h.Dst
			if wire, err := trySeal(outbound(t, a), b[:h.Length]); err == nil {
				if got, _, err := inbound(t, a).Open(wire); err == nil && len(got) != h.Length {
					t.Fatalf("got %x, sealed %x", got, b)
				}
			}
		}
	})
}
