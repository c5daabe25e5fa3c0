package esp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"ipsecagent/sadb"
)

// Packets that strongSwan 5.9.8 made, with the keys it had negotiated.
type strongswanPacket struct {
	Name, Suite, Enc, Integ string
	Packet                  string // ESP header to ICV
	Plain                   string // payload, padding, trailer
}

func load(t *testing.T, file string, v any) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

func TestStrongswanPackets(t *testing.T) {
	var packets []strongswanPacket
	load(t, "strongswan.json", &packets)
	if len(packets) < 18 {
		t.Fatalf("%d packets", len(packets))
	}
	for i, p := range packets {
		t.Run(fmt.Sprintf("%s/%d/%s", p.Name, i, p.Suite), func(t *testing.T) {
			wire, plain := unhex(t, p.Packet), unhex(t, p.Plain)
			a := sa(t, p.Suite, sadb.In, sadb.Tunnel, false)
			a.ID.SPI = sadb.SPI(binary.BigEndian.Uint32(wire))
			a.EncKey, a.AuthKey = sadb.NewSecret(unhex(t, p.Enc)), sadb.NewSecret(unhex(t, p.Integ))
			in := inbound(t, a)
			outer := ip(t, alice4, bob4, protoESP, wire)
			inner, info, err := in.Open(outer)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(plain, inner) || len(inner) != 84 || info.Next != protoIPv4 || info.Seq != uint64(binary.BigEndian.Uint32(wire[4:])) {
				t.Errorf("inner %x, info %+v", inner, info)
			}
			if got := resealed(in.t, wire, plain); !bytes.Equal(got, wire) {
				t.Errorf("sealed with the same IV:\n got %x\nwant %x", got, wire)
			}
		})
	}
}

// resealed protects plain with header and IV of wire.
func resealed(tr *transform, wire, plain []byte) []byte {
	buf := append(append([]byte(nil), wire[:headerLen+tr.ivLen]...), plain...)
	n := len(buf)
	buf = append(buf, make([]byte, tr.icvLen)...)
	tr.seal(buf[:n], uint64(binary.BigEndian.Uint32(wire[4:])))
	return buf
}

// RFC 3602 §4 cases 5 to 8 are packets without integrity, which we neither send
// nor accept: they pin layout and cipher up to the ICV.
func TestRFC3602(t *testing.T) {
	var cases map[string]struct{ Key, IV, SPISeq, Plaintext, Ciphertext, IP string }
	b, err := os.ReadFile("testdata/rfc3602.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(bytes.ReplaceAll(b, []byte("spi_seq"), []byte("SPISeq")), &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) != 4 {
		t.Fatalf("%d cases", len(cases))
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			a := sa(t, "esp-aes128-sha256", sadb.In, sadb.Transport, false)
			a.EncKey = sadb.NewSecret(unhex(t, c.Key))
			a.ID.SPI = sadb.SPI(binary.BigEndian.Uint32(unhex(t, c.SPISeq)))
			plain := unhex(t, c.Plaintext)
			if plain[len(plain)-1] == protoIPv4 {
				a.Mode = sadb.Tunnel
			}
			in := inbound(t, a)
			want := unhex(t, c.SPISeq+c.IV+c.Ciphertext)
			wire := resealed(in.t, want, plain)
			if !bytes.Equal(wire[:len(want)], want) {
				t.Fatalf("got %x\nwant %x", wire[:len(want)], want)
			}
			head := unhex(t, c.IP)
			if Checksum(head) != 0 {
				t.Errorf("the RFC's IP header has checksum %04x over it", Checksum(head))
			}
			outer := append(head, wire...)
			setLength(outer, len(outer))
			_, info, err := in.Open(outer)
			if err != nil || !bytes.HasPrefix(plain, wireOf(outer, in, info)) || info.Len != len(plain)-2-int(plain[len(plain)-2]) {
				t.Errorf("opened: %v, %+v", err, info)
			}
		})
	}
}

// wireOf returns the decrypted payload where Open left it.
func wireOf(outer []byte, in *Inbound, info Opened) []byte {
	at := ipv4Min + headerLen + in.t.ivLen
	return outer[at : at+info.Len]
}

// Every packet that goes in comes out, byte for byte.
func TestRoundTrip(t *testing.T) {
	type flow struct {
		name   string
		mode   sadb.Mode
		v6     bool // outer
		packet []byte
	}
	options := []byte{0x94, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0} // router alert, record route
	v6 := udp(t, alice6, bob6, 60)
	flows := []flow{
		{"options", sadb.Transport, false, withOptions(udp(t, alice4, bob4, 50), options)},
		{"hop-by-hop", sadb.Transport, true, withExtensions(v6, protoHopByHop)},
		{"routing", sadb.Transport, true, withExtensions(v6, protoHopByHop, protoDestOpts, protoRouting, protoDestOpts)},
		{"atomic fragment", sadb.Transport, true, withExtensions(v6, protoFragment)},
		{"destination options", sadb.Transport, true, withExtensions(v6, protoDestOpts)},
		{"4 in 6", sadb.Tunnel, true, udp(t, carol4, dave4, 100)},
		{"6 in 4", sadb.Tunnel, false, udp(t, carol6, dave6, 100)},
	}
	for _, n := range []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 1400, 60000} {
		flows = append(flows,
			flow{fmt.Sprintf("transport4 %d", n), sadb.Transport, false, udp(t, alice4, bob4, n)},
			flow{fmt.Sprintf("transport6 %d", n), sadb.Transport, true, udp(t, alice6, bob6, n)},
			flow{fmt.Sprintf("tunnel4 %d", n), sadb.Tunnel, false, udp(t, carol4, dave4, n)},
			flow{fmt.Sprintf("tunnel6 %d", n), sadb.Tunnel, true, udp(t, carol6, dave6, n)})
	}
	for _, name := range suiteNames() {
		for _, esn := range []bool{false, true} {
			for _, f := range flows {
				a := sa(t, name, sadb.Out, f.mode, f.v6)
				a.ESN = esn
				o, in := outbound(t, a), inbound(t, a)
				wire := seal(t, o, f.packet)
				checkOuter(t, wire, o, f.v6)
				got, info, err := in.Open(wire)
				if err != nil || !bytes.Equal(got, f.packet) || info.Seq != 1 {
					t.Fatalf("%s esn=%v %s: %v\n got %x\nwant %x", name, esn, f.name, err, got, f.packet)
				}
			}
		}
	}
}

// checkOuter judges a sealed packet as the network sees it.
func checkOuter(t *testing.T, wire []byte, o *Outbound, v6 bool) {
	t.Helper()
	h, err := Parse(wire)
	if err != nil || h.Proto != protoESP || h.Length != len(wire) || h.V6 != v6 || h.SPI != o.sa.ID.SPI ||
		h.Src != o.sa.Src || h.Dst != o.sa.ID.Dst {
		t.Fatalf("outer packet %x: %+v, %v", wire[:min(len(wire), 80)], h, err)
	}
	if !v6 && Checksum(wire[:h.Upper]) != 0 {
		t.Fatal("outer IPv4 header checksum is wrong")
	}
	if n := len(wire) - h.Upper - headerLen - o.t.ivLen - o.t.icvLen; n%o.t.align != 0 {
		t.Fatalf("payload and trailer are %d bytes, not a multiple of %d", n, o.t.align)
	}
}

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

// Every bit of what is protected matters, and a packet that fails changes
// nothing: the true one is accepted afterwards.
func TestEveryBitIsAuthenticated(t *testing.T) {
	for _, name := range []string{"esp-aes128gcm", "esp-aes128-sha1", "esp-3des-sha1", "esp-null-sha256"} {
		a := sa(t, name, sadb.Out, sadb.Transport, false)
		in := inbound(t, a)
		o := outbound(t, a)
		o.next.Store(2) // the next is 3: no single bit makes it 0
		wire := seal(t, o, udp(t, alice4, bob4, 3))
		for bit := (ipv4Min + 4) * 8; bit < len(wire)*8; bit++ {
			forged := bytes.Clone(wire)
			forged[bit/8] ^= 1 << (bit % 8)
			if got, _, err := in.Open(forged); !errors.Is(err, ErrICV) || got != nil {
				t.Fatalf("%s bit %d: %v", name, bit, err)
			}
		}
		if in.Seq() != 0 {
			t.Fatalf("%s: forged packets moved the window to %d", name, in.Seq())
		}
		if _, _, err := in.Open(wire); err != nil {
			t.Errorf("%s: the true packet: %v", name, err)
		}
	}
}

func TestExtendedNumberIsAuthenticated(t *testing.T) {
	for _, name := range []string{"esp-aes128gcm", "esp-aes128-sha256"} {
		a := sa(t, name, sadb.Out, sadb.Transport, false)
		a.ESN = true
		o, in := outbound(t, a), inbound(t, a)
		o.next.Store(1<<32 + 4)
		if _, _, err := in.Open(seal(t, o, udp(t, alice4, bob4, 3))); !errors.Is(err, ErrICV) {
			t.Errorf("%s: a receiver one subspace behind: %v", name, err)
		}
		in.w.top = 1<<32 - 3
		_, info, err := in.Open(seal(t, o, udp(t, alice4, bob4, 3)))
		if err != nil || info.Seq != 1<<32+6 {
			t.Errorf("%s: over the subspace boundary: %v, %+v", name, err, info)
		}
	}
}

func TestReplay(t *testing.T) {
	a := sa(t, "esp-aes256gcm", sadb.Out, sadb.Transport, false)
	o, in := outbound(t, a), inbound(t, a)
	var wires [][]byte
	for range 1100 {
		wires = append(wires, seal(t, o, udp(t, alice4, bob4, 8)))
	}
	accept := func(i int, want error) {
		t.Helper()
		if _, _, err := in.Open(bytes.Clone(wires[i])); !errors.Is(err, want) {
			t.Fatalf("packet %d: %v, want %v", i+1, err, want)
		}
	}
	accept(0, nil)
	accept(0, ErrReplay)
	accept(1050, nil)
	accept(1050, ErrReplay)
	accept(1051-1024, nil) // the oldest in the window
	accept(1051-1024-1, ErrReplay)
	accept(500, nil)
	accept(500, ErrReplay)
}

// Two workers that open the same packet at once: one of them gets it.
func TestReplayConcurrent(t *testing.T) {
	a := sa(t, "esp-aes128gcm", sadb.Out, sadb.Transport, false)
	o, in := outbound(t, a), inbound(t, a)
	const packets, workers = 200, 4
	var wires [][]byte
	for range packets {
		wires = append(wires, seal(t, o, udp(t, alice4, bob4, 100)))
	}
	var mu sync.Mutex
	opened := map[uint64]int{}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for _, w := range wires {
				if _, info, err := in.Open(bytes.Clone(w)); err == nil {
					mu.Lock()
					opened[info.Seq]++
					mu.Unlock()
				} else if !errors.Is(err, ErrReplay) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for seq := uint64(1); seq <= packets; seq++ {
		if opened[seq] != 1 {
			t.Errorf("number %d was accepted %d times", seq, opened[seq])
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
	for _, c := range [][2]int{{Headroom - 1, 100}, {Headroom, 200 - Tailroom + 1}, {Headroom, Headroom - 1}, {-1, 10}, {Headroom, 300}} {
		if _, err := s.Seal(buf, c[0], c[1]); !errors.Is(err, ErrRoom) {
			t.Errorf("room %v: %v", c, err)
		}
	}
}

// plainPacket returns an authentic packet whose protected part is exactly
// plain.
func plainPacket(t *testing.T, a sadb.SA, seq uint32, plain []byte) []byte {
	t.Helper()
	tr, err := newTransform(a)
	if err != nil {
		t.Fatal(err)
	}
	head := make([]byte, headerLen+tr.ivLen)
	binary.BigEndian.PutUint32(head, uint32(a.ID.SPI))
	binary.BigEndian.PutUint32(head[4:], seq)
	return ip(t, a.Src, a.ID.Dst, protoESP, resealed(tr, head, plain))
}

func TestOpenRefusesWhatNoCorrectPeerSends(t *testing.T) {
	u4 := udp(t, carol4, dave4, 4)
	for name, c := range map[string]struct {
		mode  sadb.Mode
		v6    bool
		plain []byte
		want  error
	}{
		"pad length beyond the payload":   {sadb.Transport, false, []byte{1, 2, 3, 17}, ErrMalformed},
		"pad bytes that are not 1, 2, 3":  {sadb.Transport, false, []byte{9, 9, 0, 1, 2, 4, 3, 17}, ErrMalformed},
		"dummy":                           {sadb.Transport, false, []byte{5, 5, 0, protoNone}, ErrDummy},
		"dummy in a tunnel":               {sadb.Tunnel, false, []byte{5, 5, 0, protoNone}, ErrDummy},
		"fragment behind ESP":             {sadb.Transport, true, append(make([]byte, 10), 0, protoFragment), ErrMalformed},
		"hop-by-hop behind ESP":           {sadb.Transport, true, append(make([]byte, 10), 0, protoHopByHop), ErrMalformed},
		"upper layer in a tunnel":         {sadb.Tunnel, false, append(make([]byte, 10), 0, 17), ErrMalformed},
		"IPv4 announced as IPv6":          {sadb.Tunnel, false, append(bytes.Clone(u4), 1, 2, 2, protoIPv6), ErrMalformed},
		"an inner packet that is cut off": {sadb.Tunnel, false, append(bytes.Clone(u4[:24]), 1, 2, 2, protoIPv4), ErrMalformed},
	} {
		a := sa(t, "esp-null-sha256", sadb.In, c.mode, c.v6)
		in := inbound(t, a)
		got, info, err := in.Open(plainPacket(t, a, 7, c.plain))
		if !errors.Is(err, c.want) || got != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if want := uint64(7); c.want == ErrDummy && info.Seq != want || in.Seq() != want {
			t.Errorf("%s: an authentic packet uses its number up (%+v, top %d)", name, info, in.Seq())
		}
	}
}

func TestOpenRefusesOtherPackets(t *testing.T) {
	a := sa(t, "esp-aes128-sha256", sadb.Out, sadb.Transport, false)
	wire := seal(t, outbound(t, a), udp(t, alice4, bob4, 30))
	other := bytes.Clone(wire)
	other[ipv4Min] ^= 1
	fragment := bytes.Clone(wire)
	fragment[6] = 0x20
	in := inbound(t, a)
	for name, c := range map[string]struct {
		packet []byte
		want   error
	}{
		"another SPI": {other, ErrMalformed},
		"not ESP":     {udp(t, alice4, bob4, 30), ErrMalformed},
		"fragment":    {fragment, ErrFragment},
		"nothing":     {nil, ErrMalformed},
	} {
		if _, _, err := in.Open(c.packet); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	zero := plainPacket(t, a, 0, append(make([]byte, 14), 0, 17))
	if _, _, err := in.Open(zero); !errors.Is(err, ErrReplay) {
		t.Errorf("sequence number 0: %v", err)
	}
}

// No prefix of a packet opens, whether or not its header admits to be one.
func TestEveryPrefixIsRefused(t *testing.T) {
	for _, name := range suiteNames() {
		for _, v6 := range []bool{false, true} {
			a := sa(t, name, sadb.Out, sadb.Tunnel, v6)
			in := inbound(t, a)
			wire := seal(t, outbound(t, a), udp(t, carol4, dave4, 20))
			head := ipv4Min
			if v6 {
				head = ipv6Len
			}
			for n := range wire {
				if _, _, err := in.Open(bytes.Clone(wire[:n])); !errors.Is(err, ErrMalformed) {
					t.Fatalf("%s: %d of %d bytes: %v", name, n, len(wire), err)
				}
				short := bytes.Clone(wire[:n])
				if n < head {
					continue
				}
				setLength(short, n)
				if _, _, err := in.Open(short); !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrICV) {
					t.Fatalf("%s: packet of %d of %d bytes: %v", name, n, len(wire), err)
				}
			}
			if in.Seq() != 0 {
				t.Fatalf("%s: a prefix moved the window", name)
			}
		}
	}
}

// A peer with the key may send what is authentic and too short all the same.
func TestAuthenticButTooShort(t *testing.T) {
	for _, name := range suiteNames() {
		a := sa(t, name, sadb.In, sadb.Transport, false)
		in := inbound(t, a)
		if in.t.mac == nil {
			continue // a combined mode opens nothing shorter than IV and ICV
		}
		for n := headerLen; n < headerLen+in.t.ivLen+trailerLen; n++ {
			p := make([]byte, n, n+in.t.icvLen)
			binary.BigEndian.PutUint32(p, uint32(a.ID.SPI))
			binary.BigEndian.PutUint32(p[4:], 1)
			s := in.t.newScratch()
			wire := append(p, in.t.tag(s, p, 1)...)
			if _, _, err := in.Open(ip(t, alice4, bob4, protoESP, wire)); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: ESP of %d bytes: %v", name, n, err)
			}
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

// RFC 4303 §2.7: what follows the inner packet in a tunnel is padding.
func TestTrafficFlowPaddingIsCutOff(t *testing.T) {
	a := sa(t, "esp-aes256gcm", sadb.In, sadb.Tunnel, false)
	inner := udp(t, carol4, dave4, 6)
	plain := append(bytes.Clone(inner), make([]byte, 100)...)
	plain = append(plain, 1, 2, 2, protoIPv4)
	got, info, err := inbound(t, a).Open(plainPacket(t, a, 1, plain))
	if err != nil || !bytes.Equal(got, inner) || info.Len != len(inner)+100 {
		t.Errorf("%x, %+v, %v", got, info, err)
	}
}

// RFC 6040 §4: congestion marks cross the tunnel.
func TestTunnelKeepsTOSAndCongestion(t *testing.T) {
	for _, c := range []struct {
		inner6, outer6 bool
		tos            byte
		congested      bool
		want           byte
		err            error
	}{
		{false, false, 0xb8, false, 0xb8, nil},
		{false, true, 0xb9, true, 0xbb, nil},
		{true, false, 0x02, true, 0x03, nil},
		{true, true, 0x03, true, 0x03, nil},
		{false, false, 0xb8, true, 0, ErrECN},
	} {
		p := udp(t, carol4, dave4, 10)
		if c.inner6 {
			p = udp(t, carol6, dave6, 10)
			p[1] |= 9 // part of the flow label
		}
		setTOS(p, c.tos)
		a := sa(t, "esp-aes128gcm", sadb.Out, sadb.Tunnel, c.outer6)
		wire := seal(t, outbound(t, a), p)
		if h, err := Parse(wire); err != nil || h.TOS != c.tos {
			t.Errorf("%+v: outer TOS %02x, %v", c, h.TOS, err)
		}
		if c.congested {
			setTOS(wire, c.tos|3)
			wire[1] |= 5 * (wire[0] >> 5 & 1) // IPv6: a flow label of its own
		}
		got, _, err := inbound(t, a).Open(wire)
		if !errors.Is(err, c.err) {
			t.Errorf("%+v: %v", c, err)
		}
		if err != nil {
			continue
		}
		setTOS(p, c.want)
		if !bytes.Equal(got, p) {
			t.Errorf("%+v:\n got %x\nwant %x", c, got, p)
		}
	}
}

func setTOS(p []byte, tos byte) {
	if p[0]>>4 == 6 {
		p[0], p[1] = 0x60|tos>>4, tos<<4|p[1]&15
		return
	}
	p[1] = tos
	setIPv4Checksum(p)
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
		"AH": func(a *sadb.SA) {
			a.ID.Proto = sadb.AH
			a.Suite, _ = sadb.ParseSuite("ah-sha1")
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
		"UDP encapsulation": func(a *sadb.SA) { a.Encap.Remote = addrPort(bob4) },
		"no direction":      func(a *sadb.SA) { a.Dir = sadb.Both },
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
	for _, name := range suiteNames() {
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

func TestNoAllocation(t *testing.T) {
	for _, name := range suiteNames() {
		for _, mode := range []sadb.Mode{sadb.Transport, sadb.Tunnel} {
			a := sa(t, name, sadb.Out, mode, false)
			o, in := outbound(t, a), inbound(t, a)
			p := udp(t, alice4, bob4, 1000)
			buf := make([]byte, 4096)
			allocs := testing.AllocsPerRun(100, func() {
				n := copy(buf[Headroom:], p)
				s, err := o.Reserve(1)
				if err != nil {
					t.Fatal(err)
				}
				wire, err := s.Seal(buf, Headroom, Headroom+n)
				if err != nil {
					t.Fatal(err)
				}
				if _, _, err := in.Open(wire); err != nil {
					t.Fatal(err)
				}
			})
			if allocs != 0 {
				t.Errorf("%s %s: %v allocations per packet", name, mode, allocs)
			}
		}
	}
}
