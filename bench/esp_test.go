// Package bench measures what costs time in the data path: see README.md.
package bench

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"ipsecagent/driver/esp"
	"ipsecagent/sadb"
)

// suites is every ESP suite worth comparing: what the predefined policies
// offer, and what integrity alone costs.
func suites() []string {
	return []string{"esp-aes256gcm", "esp-aes128gcm", "esp-aes256-sha256", "esp-aes128-sha256", "esp-aes128-sha1",
		"esp-3des-sha1", "esp-null-sha256"}
}

// The lengths of the IP packets: an acknowledgement, a full Ethernet frame, a
// segment as the TUN device hands it over.
const (
	short = 64
	full  = 1400
	large = 60000
)

func association(b *testing.B, name string, d sadb.Directions) sadb.SA {
	b.Helper()
	s, err := sadb.ParseSuite(name)
	if err != nil {
		b.Fatal(err)
	}
	key := make([]byte, 64)
	for i := range key {
		key[i] = byte(i)
	}
	return sadb.SA{ID: sadb.SAID{Dst: netip.MustParseAddr("192.0.2.2"), Proto: sadb.ESP, SPI: 4096},
		Src: netip.MustParseAddr("192.0.2.1"), Dir: d, Suite: s, Replay: 1024,
		EncKey: sadb.NewSecret(key[:s.EncKeyLen()]), AuthKey: sadb.NewSecret(key[:s.Integrity.KeyLen()])}
}

// packet returns an IPv4 packet of n bytes between the association's hosts.
func packet(n int) []byte {
	p := make([]byte, n)
	p[0], p[8], p[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(p[2:], uint16(n))
	copy(p[12:], []byte{192, 0, 2, 1, 192, 0, 2, 2})
	return p
}

// each runs f for every suite and size; f handles one packet.
func each(b *testing.B, sizes []int, f func(b *testing.B, name string, size int)) {
	for _, name := range suites() {
		for _, n := range sizes {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.SetBytes(int64(n))
				b.ReportAllocs()
				f(b, name, n)
			})
		}
	}
}

// sealer seals a packet again and again in one buffer.
type sealer struct {
	out  *esp.Outbound
	buf  []byte
	from []byte
}

func newSealer(b *testing.B, name string, n int) *sealer {
	out, err := esp.NewOutbound(association(b, name, sadb.Out))
	if err != nil {
		b.Fatal(err)
	}
	return &sealer{out: out, from: packet(n), buf: make([]byte, esp.Headroom+n+esp.Tailroom)}
}

func (s *sealer) seal(b *testing.B) []byte {
	n := copy(s.buf[esp.Headroom:], s.from)
	seq, err := s.out.Reserve(1)
	if err != nil {
		b.Fatal(err)
	}
	wire, err := seq.Seal(s.buf, esp.Headroom, esp.Headroom+n)
	if err != nil {
		b.Fatal(err)
	}
	return wire
}

func BenchmarkSeal(b *testing.B) {
	each(b, []int{short, full, large}, func(b *testing.B, name string, n int) {
		s := newSealer(b, name, n)
		for b.Loop() {
			s.seal(b)
		}
	})
}

// BenchmarkSealOpen is a packet's whole way, because a packet opens only once:
// the cost of Open is the difference to BenchmarkSeal.
func BenchmarkSealOpen(b *testing.B) {
	each(b, []int{short, full, large}, func(b *testing.B, name string, n int) {
		s := newSealer(b, name, n)
		in, err := esp.NewInbound(association(b, name, sadb.In))
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if _, _, err := in.Open(s.seal(b)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkSealParallel is several workers on one association.
func BenchmarkSealParallel(b *testing.B) {
	each(b, []int{full}, func(b *testing.B, name string, n int) {
		shared := newSealer(b, name, n)
		b.RunParallel(func(pb *testing.PB) {
			s := &sealer{out: shared.out, from: shared.from, buf: make([]byte, len(shared.buf))}
			for pb.Next() {
				s.seal(b)
			}
		})
	})
}

// BenchmarkRefuse is what a forged packet costs us, which costs its sender
// nothing but the sending.
func BenchmarkRefuse(b *testing.B) {
	each(b, []int{full}, func(b *testing.B, name string, n int) {
		wire := newSealer(b, name, n).seal(b)
		wire[len(wire)-1] ^= 1
		forged := make([]byte, len(wire))
		in, err := esp.NewInbound(association(b, name, sadb.In))
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			copy(forged, wire)
			if _, _, err := in.Open(forged); err == nil {
				b.Fatal("a forged packet was accepted")
			}
		}
	})
}

// BenchmarkParse is the walk over the headers that every packet pays.
func BenchmarkParse(b *testing.B) {
	p := packet(full)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := esp.Parse(p); err != nil {
			b.Fatal(err)
		}
	}
}
