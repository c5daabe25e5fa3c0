package esp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"sync"
	"testing"

	"ipsecagent/sadb"
)

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
	for _, name := range allNames() {
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
