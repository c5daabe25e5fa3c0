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
	ipv4Header  = 20
	ipv6Header  = 40
	controlRoom = 128 // control messages of one datagram
	// readPause follows an error of a raw socket (no memory), so that one
	// that stays does not take a processor.
	readPause = 10 * time.Millisecond
)

// opener takes ESP, ESP in UDP or AH of one family from the wire to the TUN.
// One goroutine each.
type opener struct {
	sh     *shared
	tun    *tun
	conn   batcher
	proto  uint8 // what the socket delivers
	header bool  // behind its IP header
	msgs   []ipv4.Message
	bufs   [][]byte // with room for an IP header in front
}

// openOpener opens the socket that receives a protocol. An IPv4 one delivers
// the IP header, an IPv6 one the payload, and the header's fields as control
// messages; both tell the interface.
func openOpener(cfg Config, sh *shared, tun *tun, family, proto int) (*opener, error) {
	v6 := family == unix.AF_INET6
	conn, err := cfg.openRaw(family, proto, func(fd int) error {
		err := option(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
		if v6 {
			return errors.Join(err, tellHeader6(fd))
		}
		return errors.Join(err, option(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1))
	})
	if err != nil {
		return nil, err
	}
	return newOpener(sh, tun, conn, uint8(proto), !v6), nil
}

// tellHeader6 asks for control messages about the IPv6 header.
func tellHeader6(fd int) error {
	return errors.Join(
		option(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1),
		option(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1),
		option(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1))
}

func newOpener(sh *shared, tun *tun, conn batcher, proto uint8, header bool) *opener {
	o := &opener{sh: sh, tun: tun, conn: conn, proto: proto, header: header}
	o.msgs = make([]ipv4.Message, batch)
	for i := range o.msgs {
		buf := make([]byte, ipv6Header+tunMTU)
		o.bufs = append(o.bufs, buf)
		o.msgs[i].Buffers = [][]byte{buf[ipv6Header:]}
		o.msgs[i].OOB = make([]byte, controlRoom)
	}
	return o
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
			if packet, from := o.packet(i); packet != nil {
				o.open(packet, from, now)
			}
		}
	}
}

// origin is where a packet came from: the interface by its index and, for ESP in
// UDP, the endpoint; its zero value: directly over IP.
type origin struct {
	netip.AddrPort
	device int
}

// packet returns the i-th datagram as an IP packet, and where it came from; nil
// where it cannot be.
func (o *opener) packet(i int) (packet []byte, from origin) {
	m := &o.msgs[i]
	if m.Flags&unix.MSG_TRUNC != 0 {
		o.sh.count.malformed.Add(1)
		return nil, from
	}
	c := parseControl(m.OOB[:m.NN])
	from.device = c.device
	if o.header {
		return o.bufs[i][ipv6Header : ipv6Header+m.N], from
	}
	src, port := source(m.Addr)
	if src.BitLen() != c.dst.BitLen() || m.N < 4 {
		if m.N != 1 { // a keep-alive has done its work at the translator
			o.sh.count.malformed.Add(1)
		}
		return nil, from
	}
	if port != 0 {
		from.AddrPort = netip.AddrPortFrom(src, port)
	}
	head := ipv6Header
	if src.Is4() {
		head = ipv4Header
	}
	packet = o.bufs[i][ipv6Header-head : ipv6Header+m.N]
	esp.OuterHeader{Src: src, Dst: c.dst, TOS: c.class, Proto: o.proto, Hops: c.hops}.Put(packet, len(packet))
	return packet, from
}

// source returns who sent a datagram; port 0: not by UDP.
func source(a net.Addr) (netip.Addr, uint16) {
	switch a := a.(type) {
	case *net.IPAddr:
		ip, _ := netip.AddrFromSlice(a.IP)
		return ip.Unmap(), 0
	case *net.UDPAddr:
		ip, _ := netip.AddrFromSlice(a.IP)
		return ip.Unmap(), uint16(a.Port)
	}
	return netip.Addr{}, 0
}

// control is what control messages say of a datagram's IP header.
type control struct {
	dst         netip.Addr
	class, hops uint8
	device      int // index of the interface
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
			c.set6(kind, data)
		}
		if level == unix.IPPROTO_IP {
			c.set4(kind, data)
		}
		oob = oob[min(len(oob), (n+7)&^7):]
	}
	return c
}

// set4 reads what is told of an IPv4 header: of in_pktinfo, the address that
// the datagram was sent to (ip(7)).
func (c *control) set4(kind uint32, data []byte) {
	switch {
	case kind == unix.IP_PKTINFO && len(data) >= 12:
		c.dst = netip.AddrFrom4([4]byte(data[8:]))
		c.device = int(binary.NativeEndian.Uint32(data))
	case kind == unix.IP_TOS && len(data) >= 1:
		c.class = data[0]
	case kind == unix.IP_TTL && len(data) >= 4:
		c.hops = uint8(binary.NativeEndian.Uint32(data))
	}
}

func (c *control) set6(kind uint32, data []byte) {
	switch {
	case kind == unix.IPV6_PKTINFO && len(data) >= 20:
		c.dst = netip.AddrFrom16([16]byte(data))
		c.device = int(binary.NativeEndian.Uint32(data[16:]))
	case kind == unix.IPV6_TCLASS && len(data) >= 4:
		c.class = uint8(binary.NativeEndian.Uint32(data))
	case kind == unix.IPV6_HOPLIMIT && len(data) >= 4:
		c.hops = uint8(binary.NativeEndian.Uint32(data))
	}
}

// open verifies one packet and gives what is inside to the local stack, if the
// association may carry it (RFC 4301 §5.2). Nothing is remembered of a packet
// that is not authentic.
func (o *opener) open(packet []byte, from origin, now time.Time) {
	snap := o.sh.snap.Load()
	a, inner := o.unseal(snap, packet, sadb.SAID{}, from.AddrPort, now)
	if a != nil && a.bundled() { // AH: ESP of the same bundle stands behind it
		a, inner = o.unseal(snap, inner, a.sa.ID, from.AddrPort, now)
	}
	if a == nil {
		return
	}
	in, err := esp.Parse(inner)
	if err != nil || !o.allowed(snap, a, &in, from.device) {
		o.sh.count.badSelector.Add(1)
		return
	}
	if from.IsValid() && a.sa.Mode == sadb.Transport && !o.translated(a, inner, &in, from.AddrPort) {
		o.sh.count.badSelector.Add(1)
		return
	}
	o.sh.count.in.Add(1)
	_ = o.queue(&in, a.sa.ID.SPI).write(inner) // a full queue drops, as every queue of the stack
}

// translated mends what a translator has changed, and notes which of the hosts
// behind it the packet came from; false: not the one that it belongs to.
func (o *opener) translated(a *assoc, inner []byte, h *esp.Headers, from netip.AddrPort) bool {
	if !o.sh.flows.claim(h.Flow(sadb.In), owner{from, a.order}) {
		return false
	}
	// The checksum was computed for other addresses (RFC 3948 §3.1.2).
	return esp.RepairChecksum(inner) == nil
}

// unseal takes one layer of protection off. through is the AH that the packet
// came out of: what belongs to a bundle passes by both or not at all. No
// association: the packet ends here.
func (o *opener) unseal(snap *snapshot, packet []byte, through sadb.SAID, from netip.AddrPort, now time.Time) (*assoc, []byte) {
	h, err := esp.Parse(packet)
	if err != nil {
		o.sh.count.malformed.Add(1)
		return nil, nil
	}
	a := snap.in[sadb.SAID{Dst: h.Dst, Proto: sadb.Proto(h.Proto), SPI: h.SPI}]
	if a == nil || a.use.dead.Load() || from.IsValid() == a.sa.Encap.IsZero() {
		o.sh.count.noSA.Add(1)
		return nil, nil
	}
	if a.sa.ID.Proto == sadb.ESP && a.sa.Bundle != through {
		o.sh.count.badSelector.Add(1)
		return nil, nil
	}
	inner, opened, err := a.in.Open(packet)
	if err != nil && !errors.Is(err, esp.ErrDummy) {
		o.reject(a, err)
		return nil, nil
	}
	o.sh.reached(a, a.count(opened.Len, now))
	o.firstUse(a)
	if from.IsValid() && opened.Seq == a.in.Seq() {
		o.sh.follow(a, from)
	}
	if err != nil {
		return nil, nil // a dummy: authentic, and nothing to deliver
	}
	return a, inner
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
// decides about them now, on the connection it came by, is the one the
// association was made for, or an overlay of it.
func (o *opener) allowed(snap *snapshot, a *assoc, h *esp.Headers, device int) bool {
	flow, known := h.Flow(sadb.In), false
	if flow.Connection, known = snap.arrived(device); !known {
		o.sh.lookAtPaths() // by an interface that has just appeared
		return false
	}
	// In transport mode it is the outer destination.
	flow.LocalMe = a.sa.Mode == sadb.Transport || snap.local[h.Dst]
	if !a.sa.Selector.Matches(flow) {
		return false
	}
	s := snap.spd
	i := s.decide(flow, sadb.In)
	return i >= 0 && s.filters[i].Action.Kind == sadb.Negotiate && s.roots[i] == a.root && s.filters[i].Mode == a.sa.Mode
}
