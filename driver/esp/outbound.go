package esp

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
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
	udp  bool // encapsulated in UDP
	peer atomic.Pointer[netip.AddrPort]
}

// NewOutbound makes the keys of sa ready for use. It fails for what this
// package cannot carry: see the package comment.
func NewOutbound(sa sadb.SA) (*Outbound, error) {
	if sa.Dir != sadb.Out {
		return nil, fmt.Errorf("esp: outbound %s: its direction is %s", sa.ID, sa.Dir)
	}
	sa = unbundled(sa)
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
	o := &Outbound{sa: sa, t: t, iv: iv, max: math.MaxUint32, udp: !sa.Encap.IsZero()}
	peer := netip.AddrPortFrom(sa.ID.Dst, 0)
	if o.udp {
		peer = sa.Encap.Remote
	}
	o.peer.Store(&peer)
	if sa.ESN {
		o.max = math.MaxUint64 - 1
	}
	return o, nil
}

// Seq returns the highest sequence number handed out; 0: none.
func (o *Outbound) Seq() uint64 { return o.next.Load() }

// Peer returns where packets go: the peer's address, and its port where they
// are encapsulated in UDP (else 0).
func (o *Outbound) Peer() netip.AddrPort { return *o.peer.Load() }

// Move sends what follows to another port of the peer: the NAT before it has
// changed its mapping. In either mode another address is another peer, to which
// nothing moves; nor does anything without UDP encapsulation.
func (o *Outbound) Move(to netip.AddrPort) {
	if !o.udp || to.Port() == 0 || to.Addr() != o.sa.ID.Dst {
		return
	}
	o.peer.Store(&to)
}

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
// returns the packet to send, a part of buf that ends where buf's own array
// does: its place is at cap(buf)-cap(packet). It works in place: Headroom bytes
// before start and Tailroom bytes after end are always enough. The packet's
// checksums must be complete. Transport mode keeps its IP header, tunnel mode
// puts a new one before it. On an error no number is used.
//
// A bundle of either mode has one outer header: NewOutbound and NewInbound take
// its AH as one of transport mode (RFC 2401 §4.3).
//
// Errors: ErrMalformed, ErrFragment, ErrAddress (transport mode), ErrRoom,
// ErrTooLong, ErrSequence.
func (s *Sequence) Seal(buf []byte, start, end int) ([]byte, error) {
	if s.o == nil || s.next > s.last {
		return nil, ErrSequence
	}
	if start < 0 || end < start || end > len(buf) {
		return nil, ErrRoom
	}
	h, err := Parse(buf[start:end])
	if err != nil {
		return nil, err
	}
	if err := s.o.mayCarry(&h); err != nil {
		return nil, err
	}
	return s.put(buf, start, start+h.Length, &h)
}

// mayCarry refuses what transport mode cannot carry.
func (o *Outbound) mayCarry(h *Headers) error {
	switch {
	case o.sa.Mode == sadb.Tunnel:
		return nil
	case h.Fragment:
		return ErrFragment
	case h.Src != o.sa.Src || h.Dst != o.sa.ID.Dst:
		return ErrAddress
	case o.t.ahLen > 0 && h.split > maxAuthenticated:
		return ErrMalformed
	}
	return nil
}

// put writes IP header and protection around what is protected: in transport
// mode what follows the IP header, in tunnel mode the whole packet.
func (s *Sequence) put(buf []byte, start, end int, h *Headers) ([]byte, error) {
	o := s.o
	tunnel := o.sa.Mode == sadb.Tunnel
	v6 := o.sa.ID.Dst.Is6()
	head, body := h.split, start+h.split
	if tunnel {
		head, body = ipLen(v6), start
	}
	from := body - o.before() - head
	total := head + o.sealedLen(end-body)
	switch {
	case total > maxLength(v6):
		return nil, ErrTooLong
	case from < 0 || from+total > len(buf):
		return nil, ErrRoom
	}
	packet := buf[from : from+total]
	var next uint8
	if tunnel {
		next = o.newHeader(packet, h, s.next)
	} else {
		next = o.keepHeader(packet, buf[start:body], h)
	}
	if o.t.ahLen > 0 {
		return packet, s.authenticate(packet, head, next)
	}
	s.seal(buf, body-headerLen-o.t.ivLen, end, next)
	if o.udp {
		o.putUDP(packet, head)
	}
	return packet, nil
}

// proto is what stands behind the IP header.
func (o *Outbound) proto() uint8 {
	if o.udp {
		return sadb.UDP
	}
	return uint8(o.sa.ID.Proto)
}

// keepHeader writes the packet's own IP header in its new place and returns
// what it named next.
func (o *Outbound) keepHeader(packet, header []byte, h *Headers) (next uint8) {
	copy(packet, header)
	next = packet[h.splitNext]
	packet[h.splitNext] = o.proto()
	if o.t.ahLen > 0 && !h.V6 && packet[4]|packet[5] == 0 {
		binary.BigEndian.PutUint16(packet[4:], uint16(1+o.next.Load()%0xffff)) // the kernel would, after we have signed 0
	}
	setLength(packet, len(packet))
	return next
}

// newHeader writes the tunnel's IP header: DSCP, ECN and DF are the inner ones
// (RFC 4301 §5.1.2, RFC 6040 §4.1), the rest is our own.
func (o *Outbound) newHeader(packet []byte, h *Headers, seq uint64) (next uint8) {
	next = protoIPv4
	if h.V6 {
		next = protoIPv6
	}
	OuterHeader{Src: o.sa.Src, Dst: o.Peer().Addr(), TOS: h.TOS, Proto: o.proto(), Hops: defaultHops}.Put(packet, len(packet))
	if o.sa.ID.Dst.Is6() {
		return next
	}
	binary.BigEndian.PutUint16(packet[4:], uint16(1+seq%0xffff)) // tells fragments apart
	if h.DF && !h.V6 {
		packet[6] = 0x40
	}
	setIPv4Checksum(packet)
	return next
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

// before is the length of what stands between IP header and payload.
func (o *Outbound) before() int {
	n := o.t.ahLen
	if n == 0 {
		n = headerLen + o.t.ivLen
	}
	if o.udp {
		n += udpLen
	}
	return n
}

// sealedLen returns the length of all behind the IP header for a payload of n
// bytes.
func (o *Outbound) sealedLen(n int) int {
	if o.t.ahLen > 0 {
		return o.t.ahLen + n
	}
	return o.before() + n + o.t.padding(n) + trailerLen + o.t.icvLen
}

// InnerMTU returns the length of the longest packet that, sealed, is not
// longer than mtu bytes, assuming an IP header without options or extension
// headers. 0: nothing fits.
func (o *Outbound) InnerMTU(mtu int) int {
	head := ipLen(o.sa.ID.Dst.Is6())
	n := mtu - head - o.before()
	if o.t.ahLen == 0 {
		n -= o.t.icvLen
		n -= n%o.t.align + trailerLen
	}
	if n < 0 {
		return 0
	}
	if o.sa.Mode == sadb.Transport {
		n += head
	}
	return n
}
