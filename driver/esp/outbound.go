package esp

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math"
	"sync/atomic"

	"ipsecagent/sadb"
)

// Outbound is an outbound association. Several workers may use it at once:
// the sequence number is its only shared state, and it is atomic.
type Outbound struct {
	sa   sadb.SA
	t    *transform
	iv   cipher.Block // makes CBC IVs that nobody can predict
	max  uint64       // the last sequence number
	next atomic.Uint64
}

// NewOutbound makes the keys of sa ready for use. It fails for what this
// package cannot carry: see the package comment.
func NewOutbound(sa sadb.SA) (*Outbound, error) {
	if sa.Dir != sadb.Out {
		return nil, fmt.Errorf("esp: outbound %s: its direction is %s", sa.ID, sa.Dir)
	}
	t, err := newTransform(sa)
	if err != nil {
		return nil, fmt.Errorf("esp: outbound %s: %w", sa.ID, err)
	}
	var key [16]byte
	rand.Read(key[:]) // never fails (crypto/rand)
	iv, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, fmt.Errorf("esp: outbound %s: %w", sa.ID, err)
	}
	sa.EncKey, sa.AuthKey = sadb.Secret{}, sadb.Secret{} // the ciphers have their own copies
	o := &Outbound{sa: sa, t: t, iv: iv, max: math.MaxUint32}
	if sa.ESN {
		o.max = math.MaxUint64 - 1
	}
	return o, nil
}

// Seq returns the highest sequence number handed out; 0: none.
func (o *Outbound) Seq() uint64 { return o.next.Load() }

// Sequence is a run of sequence numbers that one worker holds. A number leaves
// it once, so that none is ever used twice: with AES-GCM that would be the end
// of the key. It must not be copied while in use and belongs to one goroutine.
type Sequence struct {
	o          *Outbound
	next, last uint64 // next > last: used up
}

// Reserve takes n sequence numbers, at least 1. It returns ErrSequence when
// fewer are left: they never cycle, the association must be replaced
// (RFC 4303 §3.3.3).
func (o *Outbound) Reserve(n int) (Sequence, error) {
	for {
		used := o.next.Load()
		if n < 1 || uint64(n) > o.max-used {
			return Sequence{}, ErrSequence
		}
		if o.next.CompareAndSwap(used, used+uint64(n)) {
			return Sequence{o: o, next: used + 1, last: used + uint64(n)}, nil
		}
	}
}

// Left returns how many numbers are left in the run.
func (s *Sequence) Left() int {
	if s.o == nil {
		return 0
	}
	return int(s.last - s.next + 1)
}

// Seal protects the IP packet buf[start:end] with the next sequence number and
// returns the packet to send, a part of buf. It works in place: buf has
// Headroom bytes before start and Tailroom bytes after end. The packet's
// checksums must be complete. Transport mode keeps its IP header, tunnel mode
// puts a new one before it. On an error no number is used.
//
// Errors: ErrMalformed, ErrFragment, ErrAddress (transport mode), ErrRoom,
// ErrTooLong, ErrSequence.
func (s *Sequence) Seal(buf []byte, start, end int) ([]byte, error) {
	if s.o == nil || s.next > s.last {
		return nil, ErrSequence
	}
	if start < Headroom || end < start || len(buf)-end < Tailroom {
		return nil, ErrRoom
	}
	h, err := Parse(buf[start:end])
	if err != nil {
		return nil, err
	}
	end = start + h.Length
	if s.o.sa.Mode == sadb.Tunnel {
		return s.tunnel(buf, start, end, &h)
	}
	return s.transport(buf, start, end, &h)
}

// transport moves the IP header forward and puts ESP behind it.
func (s *Sequence) transport(buf []byte, start, end int, h *Headers) ([]byte, error) {
	o := s.o
	switch {
	case h.Fragment:
		return nil, ErrFragment
	case h.Src != o.sa.Src || h.Dst != o.sa.ID.Dst:
		return nil, ErrAddress
	}
	head := h.split
	from := start - headerLen - o.t.ivLen
	total := head + o.sealedLen(end-start-head)
	if total > maxLength(h.V6) {
		return nil, ErrTooLong
	}
	copy(buf[from:], buf[start:start+head])
	next := buf[from+h.splitNext]
	buf[from+h.splitNext] = protoESP
	s.seal(buf, from+head, end, next)
	setLength(buf[from:], total)
	return buf[from : from+total], nil
}

// tunnel puts ESP and an outer IP header before the packet.
func (s *Sequence) tunnel(buf []byte, start, end int, h *Headers) ([]byte, error) {
	o := s.o
	v6 := o.sa.ID.Dst.Is6()
	head, next := ipv4Min, uint8(protoIPv4)
	if v6 {
		head = ipv6Len
	}
	if h.V6 {
		next = protoIPv6
	}
	total := head + o.sealedLen(end-start)
	if total > maxLength(v6) {
		return nil, ErrTooLong
	}
	from := start - headerLen - o.t.ivLen - head
	seq := s.next
	s.seal(buf, from+head, end, next)
	o.outer(buf[from:], h, seq, total)
	return buf[from : from+total], nil
}

// outer writes the tunnel's IP header: DSCP, ECN and DF are the inner ones
// (RFC 4301 §5.1.2, RFC 6040 §4.1), the rest is our own.
func (o *Outbound) outer(b []byte, h *Headers, seq uint64, total int) {
	OuterHeader{Src: o.sa.Src, Dst: o.sa.ID.Dst, TOS: h.TOS, Proto: protoESP, Hops: defaultHops}.Put(b, total)
	if o.sa.ID.Dst.Is6() {
		return
	}
	binary.BigEndian.PutUint16(b[4:], uint16(seq)) // tells fragments apart
	if h.DF && !h.V6 {
		b[6] = 0x40
	}
	setIPv4Checksum(b)
}

// seal takes the next number and protects buf: the ESP header goes to at, the
// payload, already in its place behind header and IV, ends at end.
func (s *Sequence) seal(buf []byte, at, end int, next uint8) {
	o, seq := s.o, s.next
	s.next++
	binary.BigEndian.PutUint32(buf[at:], uint32(o.sa.ID.SPI))
	binary.BigEndian.PutUint32(buf[at+4:], uint32(seq))
	o.putIV(buf[at+headerLen:], seq)
	pad := o.t.padding(end - at - headerLen - o.t.ivLen)
	for i := range pad {
		buf[end+i] = byte(i + 1) // RFC 4303 §2.4
	}
	buf[end+pad], buf[end+pad+1] = byte(pad), next
	o.t.seal(buf[at:end+pad+trailerLen], seq)
}

// putIV writes the IV of a packet. AES-GCM needs one that never repeats: the
// sequence number (RFC 4106 §3.1). CBC needs one that cannot be predicted: the
// sequence number under a key that is used for nothing else.
func (o *Outbound) putIV(b []byte, seq uint64) {
	if o.t.aead != nil {
		binary.BigEndian.PutUint64(b, seq)
		return
	}
	if o.t.block == nil {
		return
	}
	s := o.t.work.Get().(*scratch)
	clear(s.iv[:])
	binary.BigEndian.PutUint64(s.iv[:], seq)
	o.iv.Encrypt(s.iv[:], s.iv[:])
	copy(b[:o.t.ivLen], s.iv[:])
	o.t.work.Put(s)
}

// sealedLen returns the length of ESP header to ICV for a payload of n bytes.
func (o *Outbound) sealedLen(n int) int {
	return headerLen + o.t.ivLen + n + o.t.padding(n) + trailerLen + o.t.icvLen
}

// InnerMTU returns the length of the longest packet that, sealed, is not
// longer than mtu bytes, assuming an IP header without options or extension
// headers. 0: nothing fits.
func (o *Outbound) InnerMTU(mtu int) int {
	head := ipv4Min
	if o.sa.ID.Dst.Is6() {
		head = ipv6Len
	}
	room := mtu - head - headerLen - o.t.ivLen - o.t.icvLen
	n := room - room%o.t.align - trailerLen
	if n < 0 {
		return 0
	}
	if o.sa.Mode == sadb.Transport {
		n += head
	}
	return n
}
