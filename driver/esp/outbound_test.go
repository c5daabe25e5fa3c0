package esp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"ipsecagent/sadb"
)

// RFC 4303 §3.1.1: where ESP stands among the extension headers.
func TestTransportPlacement(t *testing.T) {
	p := withExtensions(udp(t, alice6, bob6, 8), protoHopByHop, protoDestOpts, protoRouting, protoDestOpts)
	wire := seal(t, outbound(t, sa(t, "esp-null-sha256", sadb.Out, sadb.Transport, true)), p)
	chain := []uint8{wire[6], wire[40], wire[48], wire[56]}
	if !slices.Equal(chain, []uint8{protoHopByHop, protoDestOpts, protoRouting, protoESP}) {
		t.Errorf("headers before ESP: %v", chain)
	}
	if next := wire[len(wire)-16-1]; next != protoDestOpts {
		t.Errorf("ESP protects %d first, want destination options", next)
	}
}

func TestNothingInClear(t *testing.T) {
	marker := []byte("the quick brown fox jumps over the lazy dog")
	p := ip(t, alice4, bob4, 99, marker)
	for _, name := range suiteNames() {
		for _, mode := range []sadb.Mode{sadb.Transport, sadb.Tunnel} {
			wire := seal(t, outbound(t, sa(t, name, sadb.Out, mode, false)), p)
			if visible := bytes.Contains(wire, marker[:8]); visible != strings.HasPrefix(name, "esp-null") {
				t.Errorf("%s %s: plaintext visible: %v", name, mode, visible)
			}
		}
	}
}

// Several workers never get the same number, and no IV repeats.
func TestSequenceNumbersAreUnique(t *testing.T) {
	o := outbound(t, sa(t, "esp-aes128gcm", sadb.Out, sadb.Transport, false))
	var mu sync.Mutex
	seen := map[uint64]bool{}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for range 100 {
				s, err := o.Reserve(1 + w)
				if err != nil {
					t.Error(err)
					return
				}
				buf := make([]byte, 2048)
				n := copy(buf[Headroom:], udp(t, alice4, bob4, 8))
				for s.Left() > 0 {
					copy(buf[Headroom:], udp(t, alice4, bob4, 8))
					wire, err := s.Seal(buf, Headroom, Headroom+n)
					if err != nil {
						t.Error(err)
						return
					}
					iv := binary.BigEndian.Uint64(wire[ipv4Min+8:])
					mu.Lock()
					if seen[iv] {
						t.Errorf("IV %d twice", iv)
					}
					seen[iv] = true
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if want := uint64(100 * (1 + 2 + 3 + 4)); o.Seq() != want || uint64(len(seen)) != want {
		t.Errorf("%d numbers, %d IVs, want %d", o.Seq(), len(seen), want)
	}
}

func TestCBCIVsDoNotRepeat(t *testing.T) {
	o := outbound(t, sa(t, "esp-3des-sha1", sadb.Out, sadb.Transport, false))
	other := outbound(t, sa(t, "esp-3des-sha1", sadb.Out, sadb.Transport, false))
	seen := map[string]bool{}
	for range 1000 {
		for _, o := range []*Outbound{o, other} {
			iv := string(seal(t, o, udp(t, alice4, bob4, 1))[ipv4Min+8 : ipv4Min+16])
			if seen[iv] {
				t.Fatalf("IV %x twice", iv)
			}
			seen[iv] = true
		}
	}
}

func TestSequenceNumbersDoNotCycle(t *testing.T) {
	a := sa(t, "esp-aes128gcm", sadb.Out, sadb.Transport, false)
	o := outbound(t, a)
	o.next.Store(math.MaxUint32 - 2)
	if _, err := o.Reserve(3); !errors.Is(err, ErrSequence) {
		t.Errorf("three of two: %v", err)
	}
	s, err := o.Reserve(2)
	if err != nil || s.Left() != 2 {
		t.Fatalf("the last two: %v", err)
	}
	if _, err := o.Reserve(1); !errors.Is(err, ErrSequence) {
		t.Errorf("one of none: %v", err)
	}
	for _, n := range []int{0, -1, math.MaxInt} {
		if _, err := o.Reserve(n); !errors.Is(err, ErrSequence) {
			t.Errorf("Reserve(%d): %v", n, err)
		}
	}
	a.ESN = true
	o = outbound(t, a)
	o.next.Store(math.MaxUint32 - 2)
	if _, err := o.Reserve(3); err != nil {
		t.Errorf("extended: %v", err)
	}
	o.next.Store(math.MaxUint64 - 2)
	if _, err := o.Reserve(2); !errors.Is(err, ErrSequence) {
		t.Errorf("extended, two of one: %v", err)
	}
	var zero Sequence
	if _, err := zero.Seal(nil, 0, 0); !errors.Is(err, ErrSequence) || zero.Left() != 0 {
		t.Errorf("zero Sequence: %v", err)
	}
}

func TestSealRefuses(t *testing.T) {
	a := sa(t, "esp-aes128gcm", sadb.Out, sadb.Transport, false)
	fragment := udp(t, alice4, bob4, 64)
	fragment[6] = 0x20
	for name, c := range map[string]struct {
		packet []byte
		want   error
	}{
		"another destination": {udp(t, alice4, dave4, 8), ErrAddress},
		"another source":      {udp(t, carol4, bob4, 8), ErrAddress},
		"another family":      {udp(t, alice6, bob6, 8), ErrAddress},
		"a fragment":          {fragment, ErrFragment},
		"nothing":             {nil, ErrMalformed},
		"garbage":             {[]byte{0x45, 1, 2, 3}, ErrMalformed},
		"too long":            {udp(t, alice4, bob4, 65500), ErrTooLong},
	} {
		o := outbound(t, a)
		s, _ := o.Reserve(1)
		buf := make([]byte, Headroom+len(c.packet)+Tailroom)
		copy(buf[Headroom:], c.packet)
		if _, err := s.Seal(buf, Headroom, Headroom+len(c.packet)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if s.Left() != 1 {
			t.Errorf("%s: a number was used", name)
		}
	}
	a.Mode = sadb.Tunnel
	if _, err := trySeal(outbound(t, a), udp(t, carol4, dave4, 65500)); !errors.Is(err, ErrTooLong) {
		t.Errorf("tunnel, too long: %v", err)
	}
	s, _ := outbound(t, a).Reserve(1)
	buf := make([]byte, 200)
	p := udp(t, alice4, bob4, 8)
	for _, c := range [][2]int{{15, 15 + len(p)}, {200 - len(p) - 17, 200 - 17}, {Headroom, Headroom - 1}, {-1, 10}, {Headroom, 300}} {
		if c[0] > 0 && c[1] < 200 && c[0] < c[1] {
			copy(buf[c[0]:], p)
		}
		if _, err := s.Seal(buf, c[0], c[1]); !errors.Is(err, ErrRoom) {
			t.Errorf("room %v: %v", c, err)
		}
	}
}

// What is exactly at the limit passes.
func TestAtTheEdge(t *testing.T) {
	a := sa(t, "esp-null-sha256", sadb.In, sadb.Transport, false)
	for _, plain := range [][]byte{{0, 99}, {1, 1, 99}, {1, 2, 2, 99}} {
		got, info, err := inbound(t, a).Open(plainPacket(t, a, 1, plain))
		if err != nil || len(got) != ipv4Min || info.Next != 99 || info.Len != 0 {
			t.Errorf("protected part %v: %x, %+v, %v", plain, got, info, err)
		}
	}
	a.Replay, a.ID.SPI = MaxWindow, 256
	inbound(t, a)
	for _, mode := range []sadb.Mode{sadb.Transport, sadb.Tunnel} {
		a.Mode = mode
		o := outbound(t, a)
		n := o.InnerMTU(math.MaxUint16)
		if wire := seal(t, o, padded(t, false, n)); len(wire) < math.MaxUint16-3 {
			t.Errorf("%s: the longest packet has %d bytes", mode, len(wire))
		}
		if _, err := trySeal(o, padded(t, false, n+1)); !errors.Is(err, ErrTooLong) {
			t.Errorf("%s: one byte more: %v", mode, err)
		}
	}
}

func TestTunnelKeepsDF(t *testing.T) {
	for _, df := range []byte{0, 0x40} {
		p := udp(t, carol4, dave4, 10)
		p[6] = df
		setIPv4Checksum(p)
		wire := seal(t, outbound(t, sa(t, "esp-aes128gcm", sadb.Out, sadb.Tunnel, false)), p)
		if wire[6] != df {
			t.Errorf("inner flags %02x, outer %02x", df, wire[6])
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for name, change := range map[string]func(*sadb.SA){
		"AH in UDP": func(a *sadb.SA) {
			a.ID.Proto, a.EncKey = sadb.AH, sadb.Secret{}
			a.Suite, _ = sadb.ParseSuite("ah-sha256")
			a.Encap = sadb.Encap{Local: addrPort(alice4), Remote: addrPort(bob4)}
		},
		"another protocol in the name": func(a *sadb.SA) { a.ID.Proto = sadb.AH },
		"no integrity":                 func(a *sadb.SA) { a.Suite.Integrity = sadb.IntegrityNone },
		"zero suite":                   func(a *sadb.SA) { a.Suite = sadb.Suite{} },
		"short key":                    func(a *sadb.SA) { a.EncKey = sadb.NewSecret(make([]byte, 15)) },
		"no key":                       func(a *sadb.SA) { a.EncKey = sadb.Secret{} },
		"long integrity key":           func(a *sadb.SA) { a.AuthKey = sadb.NewSecret(make([]byte, 64)) },
		"reserved SPI":                 func(a *sadb.SA) { a.ID.SPI = 255 },
		"mixed families":               func(a *sadb.SA) { a.Src = alice6 },
		"no source":                    func(a *sadb.SA) { a.Src = carol4; a.Src = sadb.SA{}.Src },
		"zone": func(a *sadb.SA) {
			a.Src, a.ID.Dst = alice6.WithZone("eth0"), bob6
		},
		"UDP without a local port": func(a *sadb.SA) { a.Encap.Remote = addrPort(bob4) },
		"UDP of another family": func(a *sadb.SA) {
			a.Encap = sadb.Encap{Local: addrPort(alice6), Remote: addrPort(bob6)}
		},
		"no direction": func(a *sadb.SA) { a.Dir = sadb.Both },
	} {
		a := sa(t, "esp-aes128-sha256", sadb.Out, sadb.Transport, false)
		change(&a)
		if _, err := NewOutbound(a); err == nil {
			t.Errorf("outbound: %s was accepted", name)
		}
		if a.Dir == sadb.Out {
			a.Dir = sadb.In
		}
		if _, err := NewInbound(a); err == nil {
			t.Errorf("inbound: %s was accepted", name)
		}
	}
	for _, n := range []uint32{0, MaxWindow + 1} {
		a := sa(t, "esp-aes128gcm", sadb.In, sadb.Transport, false)
		a.Replay = n
		if _, err := NewInbound(a); err == nil {
			t.Errorf("a replay window of %d was accepted", n)
		}
	}
}

func TestErrorsNameNoKey(t *testing.T) {
	a := sa(t, "esp-aes128-sha256", sadb.Out, sadb.Transport, false)
	canary := []byte("canary-canary-canary")
	a.EncKey = sadb.NewSecret(canary)
	_, err := NewOutbound(a)
	if err == nil || strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), hex.EncodeToString(canary)) {
		t.Errorf("error %v", err)
	}
	if !strings.Contains(err.Error(), a.ID.String()) {
		t.Errorf("error %q does not name the association", err)
	}
}

// InnerMTU is exact: a packet of that length fits, one byte more does not.
func TestInnerMTU(t *testing.T) {
	for _, name := range allNames() {
		for _, mode := range []sadb.Mode{sadb.Transport, sadb.Tunnel} {
			for _, v6 := range []bool{false, true} {
				for _, mtu := range []int{1500, 1499, 1280, 576} {
					a := sa(t, name, sadb.Out, mode, v6)
					o := outbound(t, a)
					n := o.InnerMTU(mtu)
					if got := len(seal(t, o, padded(t, v6, n))); got > mtu {
						t.Errorf("%s %s: InnerMTU(%d) = %d, sealed %d", name, mode, mtu, n, got)
					}
					if got := len(seal(t, o, padded(t, v6, n+1))); got <= mtu {
						t.Errorf("%s %s: InnerMTU(%d) = %d, but %d still gives %d", name, mode, mtu, n, n+1, got)
					}
				}
			}
		}
	}
	if n := outbound(t, sa(t, "esp-aes128gcm", sadb.Out, sadb.Tunnel, false)).InnerMTU(40); n != 0 {
		t.Errorf("InnerMTU(40) = %d", n)
	}
}

// padded returns a UDP packet of n bytes in all.
func padded(t *testing.T, v6 bool, n int) []byte {
	if v6 {
		return udp(t, alice6, bob6, n-ipv6Len-8)
	}
	return udp(t, alice4, bob4, n-ipv4Min-8)
}
