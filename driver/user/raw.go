package user

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// receiveBuffer is the kernel's buffer of a raw socket: it holds a burst that
// arrives while the reader is at work.
const receiveBuffer = 8 << 20

// batcher is what ipv4.PacketConn and ipv6.PacketConn have in common: many
// datagrams in one system call (sendmmsg, recvmmsg).
type batcher interface {
	ReadBatch(ms []ipv4.Message, flags int) (int, error)
	WriteBatch(ms []ipv4.Message, flags int) (int, error)
	Close() error
}

// openRaw returns a raw socket of one family for protocol proto, with the
// exempt mark, after set has had its way with it.
func (c Config) openRaw(family, proto int, set func(fd int) error) (batcher, error) {
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, fmt.Errorf("open raw socket, protocol %d: %w (needs CAP_NET_RAW)", proto, err)
	}
	if err := errors.Join(c.PrepareSocket(fd), set(fd)); err != nil {
		unix.Close(fd)
		return nil, err
	}
	conn, err := batcherOf(fd, family)
	if err != nil {
		return nil, fmt.Errorf("open raw socket, protocol %d: %w", proto, err)
	}
	return conn, nil
}

// sockets are the raw sockets that send: whole IP packets, the header ours.
type sockets struct {
	v4, v6 batcher // v6 is nil on a host without IPv6
}

// openSenders opens the sending sockets of one worker.
func (c Config) openSenders() (*sockets, error) {
	v4, err := c.openRaw(unix.AF_INET, unix.IPPROTO_RAW, func(fd int) error {
		return errors.Join(
			// The MTU of the device counts; what is learned of the path is kept here.
			option(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE),
			// Our fragments leave as they are, whatever conntrack would put together.
			option(fd, unix.IPPROTO_IP, unix.IP_NODEFRAG, 1),
		)
	})
	if err != nil {
		return nil, err
	}
	v6, err := c.openRaw(unix.AF_INET6, unix.IPPROTO_RAW, func(fd int) error {
		return option(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
	})
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return &sockets{v4: v4}, nil
	}
	if err != nil {
		v4.Close()
		return nil, err
	}
	return &sockets{v4: v4, v6: v6}, nil
}

func option(fd, level, name, value int) error {
	if err := unix.SetsockoptInt(fd, level, name, value); err != nil {
		return fmt.Errorf("set option %d/%d of a socket: %w", level, name, err)
	}
	return nil
}

func (s *sockets) close() {
	s.v4.Close()
	if s.v6 != nil {
		s.v6.Close()
	}
}

// outbox collects sealed packets of one family and sends them together.
type outbox struct {
	conn  batcher
	msgs  []ipv4.Message
	addrs []net.IPAddr
	bufs  [][1][]byte
	n     int

	refused uint64 // packets the kernel did not take
	tooBig  bool   // one of them was too big for its device
}

func newOutbox(conn batcher, size int) *outbox {
	o := &outbox{
		conn: conn, msgs: make([]ipv4.Message, size),
		addrs: make([]net.IPAddr, size), bufs: make([][1][]byte, size),
	}
	for i := range o.msgs {
		o.addrs[i].IP = make(net.IP, 0, 16)
		o.msgs[i].Buffers = o.bufs[i][:]
		o.msgs[i].Addr = &o.addrs[i]
	}
	return o
}

// add takes a packet that stays untouched until flush. It flushes when full.
func (o *outbox) add(packet []byte, dst netip.Addr) {
	if o.n == len(o.msgs) {
		o.flush()
	}
	o.bufs[o.n][0] = packet
	o.addrs[o.n].IP = appendAddr(o.addrs[o.n].IP[:0], dst)
	o.n++
}

func appendAddr(b []byte, a netip.Addr) []byte {
	if a.Is4() {
		v := a.As4()
		return append(b, v[:]...)
	}
	v := a.As16()
	return append(b, v[:]...)
}

// flush sends what is there. A packet that the kernel refuses (no route, too
// big for the device) is skipped and counted: its sender repeats it or not.
func (o *outbox) flush() {
	for sent := 0; sent < o.n; {
		n, err := o.conn.WriteBatch(o.msgs[sent:o.n], 0)
		sent += max(n, 0)
		if err != nil {
			o.refused++
			sent++ // the one after those that went
			o.tooBig = o.tooBig || errors.Is(err, syscall.EMSGSIZE)
		}
	}
	o.n = 0
}
