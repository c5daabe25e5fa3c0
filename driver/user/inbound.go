package user

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"ipsecagent/driver/esp"
	"ipsecagent/sadb"
)

const (
	ipv6Header  = 40
	controlRoom = 128 // control messages of one datagram
	// readPause follows an error of a raw socket (no memory), so that one
	// that stays does not take a processor.
	readPause = 10 * time.Millisecond
)

// opener takes ESP of one family from the wire to the TUN. One goroutine each.
type opener struct {
	sh   *shared
	tun  *tun
	conn batcher
	v6   bool
	msgs []ipv4.Message
	bufs [][]byte // with room for the IPv6 header in front
}

// openOpener opens the receiving socket. An IPv4 one delivers the IP header,
// an IPv6 one the payload, and the header's fields as control messages.
func openOpener(cfg Config, sh *shared, tun *tun, family int) (*opener, error) {
	v6 := family == unix.AF_INET6
	conn, err := cfg.openRaw(family, unix.IPPROTO_ESP, func(fd int) error {
		err := option(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
		if !v6 {
			return err
		}
		return errors.Join(err,
			option(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1),
			option(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1),
			option(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1))
	})
	if err != nil {
		return nil, err
	}
	o := &opener{sh: sh, tun: tun, conn: conn, v6: v6}
	o.msgs = make([]ipv4.Message, batch)
	for i := range o.msgs {
		buf := make([]byte, ipv6Header+tunMTU)
		o.bufs = append(o.bufs, buf)
		o.msgs[i].Buffers = [][]byte{buf[ipv6Header:]}
		o.msgs[i].OOB = make([]byte, controlRoom)
	}
	return o, nil
}

// run receives until the socket is closed.
func (o *opener) run() {
	runtime.LockOSThread()
	for {
		n, err := o.conn.ReadBatch(o.msgs, 0)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(readPause)
			continue
		}
		now := time.Now()
		for i := range n {
			if packet := o.packet(i); packet != nil {
				o.open(packet, now)
			}
		}
	}
}

// packet returns the i-th datagram as an IP packet; nil where it cannot be.
func (o *opener) packet(i int) []byte {
	m := &o.msgs[i]
	if m.Flags&unix.MSG_TRUNC != 0 {
		o.sh.count.malformed.Add(1)
		return nil
	}
	if !o.v6 {
		return o.bufs[i][ipv6Header : ipv6Header+m.N]
	}
	src, ok := netip.AddrFromSlice(m.Addr.(*net.IPAddr).IP)
	c := parseControl(m.OOB[:m.NN])
	if !ok || !c.dst.IsValid() {
		o.sh.count.malformed.Add(1)
		return nil
	}
	packet := o.bufs[i][:ipv6Header+m.N]
	esp.OuterHeader{Src: src, Dst: c.dst, TOS: c.class, Proto: unix.IPPROTO_ESP, Hops: c.hops}.Put(packet, ipv6Header+m.N)
	return packet
}

// control is what control messages say of a datagram's IPv6 header.
type control struct {
	dst         netip.Addr
	class, hops uint8
}

// parseControl reads the control messages of the kernel.
func parseControl(oob []byte) control {
	var c control
	for len(oob) >= unix.SizeofCmsghdr {
		n := int(binary.NativeEndian.Uint64(oob))
		level, kind := binary.NativeEndian.Uint32(oob[8:]), binary.NativeEndian.Uint32(oob[12:])
		if n < unix.SizeofCmsghdr || n > len(oob) {
			return c
		}
		data := oob[unix.SizeofCmsghdr:n]
		if level == unix.IPPROTO_IPV6 {
			c.set(kind, data)
		}
		oob = oob[min(len(oob), (n+7)&^7):]
	}
	return c
}

func (c *control) set(kind uint32, data []byte) {
	switch {
	case kind == unix.IPV6_PKTINFO && len(data) >= 16:
		c.dst = netip.AddrFrom16([16]byte(data))
	case kind == unix.IPV6_TCLASS && len(data) >= 4:
		c.class = uint8(binary.NativeEndian.Uint32(data))
	case kind == unix.IPV6_HOPLIMIT && len(data) >= 4:
		c.hops = uint8(binary.NativeEndian.Uint32(data))
	}
}

// open verifies one packet and gives what is inside to the local stack, if the
// association may carry it (RFC 4301 §5.2). Nothing is remembered of a packet
// that is not authentic.
func (o *opener) open(packet []byte, now time.Time) {
	snap, count := o.sh.snap.Load(), &o.sh.count
	h, err := esp.Parse(packet)
	if err != nil {
		count.malformed.Add(1)
		return
	}
	a := snap.in[inKey{h.Dst, h.SPI}]
	if a == nil || a.use.dead.Load() {
		count.noSA.Add(1)
		return
	}
	inner, opened, err := a.in.Open(packet)
	if err != nil && !errors.Is(err, esp.ErrDummy) {
		o.reject(a, err)
		return
	}
	o.sh.reached(a, a.count(opened.Len, now))
	o.firstUse(a)
	if err != nil {
		return // a dummy: authentic, and nothing to deliver
	}
	in, err := esp.Parse(inner)
	if err != nil || !allowed(snap.spd, a, &in) {
		count.badSelector.Add(1)
		return
	}
	count.in.Add(1)
	_ = o.queue(&in, h.SPI).write(inner) // a full queue drops, as every queue of the stack
}

// queue returns the queue for a packet: always the same for one flow. The
// kernel reads packets the other way from the queue it saw the flow on, so that
// flows spread over the workers.
func (o *opener) queue(h *esp.Headers, spi sadb.SPI) *queue {
	n := uint32(spi) ^ uint32(h.SrcPort) ^ uint32(h.DstPort)
	return o.tun.queues[n%uint32(len(o.tun.queues))]
}

func (o *opener) firstUse(a *assoc) {
	if !a.use.used.Load() && !a.use.used.Swap(true) {
		o.sh.notify(a, firstUse)
	}
}

func (o *opener) reject(a *assoc, err error) {
	switch {
	case errors.Is(err, esp.ErrReplay):
		a.use.replayed.Add(1)
		o.sh.count.replayed.Add(1)
	case errors.Is(err, esp.ErrICV):
		a.use.badICV.Add(1)
		o.sh.count.badICV.Add(1)
	default:
		o.sh.count.malformed.Add(1)
	}
}

// allowed reports whether an authentic packet is what its association may
// carry: its headers lie in the association's selector, and the filter that
// decides about them now is the one the association was made for, or an
// overlay of it.
func allowed(s *spd, a *assoc, h *esp.Headers) bool {
	flow := h.Flow(sadb.In)
	flow.LocalMe = true // the outer destination, which transport mode keeps
	if !a.sa.Selector.Matches(flow) {
		return false
	}
	i := s.decide(flow, sadb.In)
	return i >= 0 && s.filters[i].Action.Kind == sadb.Negotiate && s.roots[i] == a.root
}
