package user

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"time"

	"ipsecagent/driver/esp"
	"ipsecagent/sadb"
)

const (
	headRoom = esp.Headroom
	bufSize  = headRoom + tunMTU + esp.Tailroom

	// arenaSize holds the fragments of a few datagrams of 64 KiB.
	arenaSize = 256 << 10

	// No host has to accept, and Linux does not believe, a path narrower
	// than this: packets up to it are fragmented instead of refused
	// (RFC 8200 §5; net.ipv4.route.min_pmtu).
	narrow4, narrow6 = 552, 1280
)

// sealer takes packets from the TUN to the wire. Each belongs to one goroutine.
type sealer struct {
	sh     *shared
	tun    *queue // where "too big" is answered
	v4, v6 *outbox
	socks  *sockets
	arena  []byte // fragments until they are sent
	used   int    // of arena
	tooBig [esp.TooBigRoom]byte
}

func newSealer(cfg Config, sh *shared, tun *queue) (*sealer, error) {
	socks, err := cfg.openSenders()
	if err != nil {
		return nil, err
	}
	s := &sealer{sh: sh, tun: tun, socks: socks, arena: make([]byte, arenaSize)}
	s.v4 = newOutbox(socks.v4, 2*batch)
	if socks.v6 != nil {
		s.v6 = newOutbox(socks.v6, 2*batch)
	}
	return s, nil
}

// run reads the TUN until the data path ends, and returns an error if the TUN
// is lost for good.
func (s *sealer) run() error {
	runtime.LockOSThread()
	bufs, sizes := make([][]byte, batch), make([]int, batch)
	for i := range bufs {
		bufs[i] = make([]byte, bufSize)
	}
	for {
		err := s.tun.wait()
		if errors.Is(err, errStopped) {
			return nil
		}
		if errors.Is(err, errGone) {
			err = s.tun.reopen()
		}
		if err != nil {
			return fmt.Errorf("TUN %s: %w", s.tun.name, err)
		}
		n := s.tun.read(bufs, sizes)
		now := time.Now()
		for i := range n {
			s.one(bufs[i], sizes[i], now)
		}
		s.flush()
	}
}

// one sends a packet on its way or to the engine.
func (s *sealer) one(buf []byte, size int, now time.Time) {
	h, err := esp.Parse(buf[headRoom : headRoom+size])
	if err != nil {
		s.sh.count.malformed.Add(1)
		return
	}
	if !s.secure(buf, size, &h, now) {
		s.sh.miss(buf[headRoom : headRoom+size])
	}
}

// flow returns the headers as filters see them. What comes through the TUN was
// sent by this host, or is forwarded into a tunnel. known is false where the
// connection that it would leave by matters and was not asked yet.
func (s *snapshot) flow(h *esp.Headers) (f sadb.Flow, known bool) {
	f = h.Flow(sadb.Out)
	f.LocalMe = s.local[h.Src]
	f.Connection, known = s.leaves(h.Dst)
	return f, known
}

// secure seals the packet under the association that its filter asks for, and
// queues it to be sent. false: there is none, or no filter asks for one; the
// packet is untouched.
func (s *sealer) secure(buf []byte, size int, h *esp.Headers, now time.Time) bool {
	snap := s.sh.snap.Load()
	flow, known := snap.flow(h)
	i := snap.spd.decide(flow, sadb.Out)
	if !known || i < 0 || snap.spd.filters[i].Action.Kind != sadb.Negotiate {
		return false
	}
	a := s.sh.outbound(snap, snap.spd.roots[i], flow)
	if a == nil {
		return false
	}
	mtu := int(a.path.mtu.Load())
	if s.refused(buf[headRoom:headRoom+size], h, a, mtu) {
		return true
	}
	sealed, err := s.seal(a, buf, headRoom, headRoom+size)
	if errors.Is(err, esp.ErrSequence) {
		return false
	}
	if err != nil {
		s.sh.count.malformed.Add(1)
		return true
	}
	s.sh.count.out.Add(1)
	s.sh.reached(a, a.count(size, now))
	if a.outer != nil { // AH has covered more; counted less than by the peer, it would outlive the peer's
		s.sh.reached(a.outer, a.outer.count(len(sealed), now))
	}
	if !a.sa.Encap.IsZero() && sealed[0]>>4 == 4 {
		prepareFragments(sealed) // behind a translator no router is heard: all may cut it
	}
	s.send(sealed, a.out.Peer().Addr(), mtu)
	return true
}

// seal protects buf[start:end], of a bundle by ESP and then by AH. With
// ErrSequence the packet is untouched.
func (s *sealer) seal(a *assoc, buf []byte, start, end int) ([]byte, error) {
	run, err := s.reserve(a)
	if err != nil {
		return nil, err
	}
	if a.outer == nil {
		return run.Seal(buf, start, end)
	}
	outer, err := s.reserve(a.outer)
	if err != nil {
		return nil, err
	}
	sealed, err := run.Seal(buf, start, end)
	if err != nil {
		return nil, err
	}
	start = cap(buf) - cap(sealed)
	return outer.Seal(buf, start, start+len(sealed))
}

func (s *sealer) reserve(a *assoc) (esp.Sequence, error) {
	run, err := a.out.Reserve(1)
	if err != nil {
		s.sh.exhausted(a)
	}
	return run, err
}

// refused answers "too big" to a packet that would not fit when sealed and says
// so (IPv4) or adapts (TCP). TCP sends it again in smaller parts, so this one
// goes no further. Linux marks most datagrams "don't fragment" without the
// application's wish: those that came before it learned are not lost for that,
// but sent in fragments. IPv6 has no mark, and we are the source.
func (s *sealer) refused(packet []byte, h *esp.Headers, a *assoc, mtu int) bool {
	narrow, tcp := narrow4, h.Proto == sadb.TCP
	if h.V6 {
		narrow = narrow6
	}
	inner := max(a.innerMTU(mtu), narrow)
	if len(packet) <= inner || !tcp && (h.V6 || !h.DF) {
		return false
	}
	if answer := esp.PutTooBig(s.tooBig[:], packet, inner, h.Dst); answer != nil {
		_ = s.tun.write(answer) // one that is lost is asked for again
	}
	return tcp
}

// send queues a sealed packet, in fragments where it is longer than mtu.
func (s *sealer) send(sealed []byte, dst netip.Addr, mtu int) {
	box := s.v4
	if dst.Is6() {
		box = s.v6
	}
	if len(sealed) <= mtu {
		box.add(sealed, dst)
		return
	}
	if dst.Is4() {
		prepareFragments(sealed)
	}
	f, err := esp.NewFragments(sealed, mtu, rand.Uint32())
	if err != nil {
		s.sh.count.malformed.Add(1)
		return
	}
	for {
		if len(s.arena)-s.used < mtu {
			s.flush()
		}
		part := f.Next(s.arena[s.used : s.used+mtu])
		if part == nil {
			return
		}
		s.used += len(part)
		box.add(part, dst)
	}
}

// prepareFragments lets an IPv4 packet be cut: without "don't fragment" (what
// must not be cut was refused before) and with an identification.
func prepareFragments(packet []byte) {
	packet[6] &^= 0x40
	if packet[4]|packet[5] == 0 {
		binary.BigEndian.PutUint16(packet[4:], uint16(1+rand.Uint32N(0xffff)))
	}
}

// flush sends what is queued.
func (s *sealer) flush() {
	for _, box := range []*outbox{s.v4, s.v6} {
		if box == nil {
			continue
		}
		box.flush()
		if box.tooBig {
			box.tooBig = false
			s.sh.lookAtPaths()
		}
	}
	s.used = 0
}

// resend handles a packet that waited: the same way, from a buffer of its own.
func (s *sealer) resend(buf, packet []byte, now time.Time) (sent bool, err error) {
	h, err := esp.Parse(packet)
	if err != nil {
		return false, err
	}
	if len(packet) > tunMTU {
		return false, errors.New("packet is longer than the TUN's MTU")
	}
	n := copy(buf[headRoom:headRoom+tunMTU], packet)
	sent = s.secure(buf, n, &h, now)
	s.flush()
	return sent, nil
}
