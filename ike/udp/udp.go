// Package udp carries IKE datagrams on UDP ports 500 and 4500, over IPv4 and
// IPv6, for all addresses of this host (RFC 2408 §2.5.1, RFC 3947, RFC 3948).
//
// It owns the sockets, the non-ESP marker and the local address of each
// datagram. It reads nothing of IKE, answers nothing by itself and handles no
// ESP: where ESP in UDP is carried, its driver has port 4500 and lends the
// socket of IKE (Borrow).
package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// The ports of IKE and of IKE behind a NAT.
const (
	DefaultPort    = 500
	DefaultNATPort = 4500
)

// MaxDatagram is the largest IKE message in bytes that is received or sent,
// without the marker. A larger one is dropped.
const MaxDatagram = 10000

// waiting bounds the messages of one port that wait for Recv. When they are as
// many, those of Port stay in the socket, and new ones of NATPort are dropped:
// the peer will send again.
const waiting = 256

// Config is how the sockets are opened. The zero value is right for a host
// without a driver.
type Config struct {
	// Prepare is called for each socket before it is bound, with family
	// AF_INET or AF_INET6: the driver exempts it from the filters. Nil: nothing.
	Prepare func(fd int, family int) error
	// PrepareNAT is called besides for the sockets of NATPort, unless they are
	// Borrowed: where the kernel carries ESP, it takes ESP in UDP from them.
	PrepareNAT func(fd int) error
	// Borrowed: the sockets of NATPort come by Borrow. Else they are opened
	// here, and what is not IKE is dropped.
	Borrowed bool
	// Port and NATPort are the local ports; 0: 500 and 4500.
	Port, NATPort uint16
}

// Transport is the open sockets. Its methods may be used by several
// goroutines at once.
type Transport struct {
	config    Config
	sockets   []*socket
	borrowed  atomic.Pointer[[]*socket]
	plain     chan message // from Port
	marked    chan message // from NATPort, the marker taken off
	failed    chan error
	closed    chan struct{}
	closeOnce sync.Once
	readers   sync.WaitGroup
}

// message is an IKE message with its addresses.
type message struct {
	data          []byte
	local, remote netip.AddrPort
}

// Open binds both ports for IPv4 and, where the kernel has it, for IPv6. The
// error says who holds a port, or which privilege is missing.
func Open(c Config) (*Transport, error) {
	if c.Port == 0 {
		c.Port = DefaultPort
	}
	if c.NATPort == 0 {
		c.NATPort = DefaultNATPort
	}
	if c.Port == c.NATPort {
		return nil, fmt.Errorf("ike/udp: open sockets: port %d cannot serve with and without the non-ESP marker", c.Port)
	}
	t := &Transport{config: c, plain: make(chan message, waiting), marked: make(chan message, waiting),
		failed: make(chan error, 1), closed: make(chan struct{})}
	if err := t.open(); err != nil {
		t.Close()
		return nil, err
	}
	for _, s := range t.sockets {
		t.readers.Go(func() { t.read(s) })
	}
	return t, nil
}

// Borrow takes over the sockets of the port for NAT traversal, one for each
// family, from the driver that has the port; those before are closed. Without
// files the port is given back: so it must be when the driver's process has
// ended. One goroutine calls it; the files are closed.
func (t *Transport) Borrow(files []*os.File) error {
	sockets, err := t.adopt(files)
	if old := t.borrowed.Swap(&sockets); old != nil {
		closeAll(*old)
	}
	for _, s := range sockets {
		t.readers.Go(func() { t.read(s) })
	}
	if err != nil {
		return fmt.Errorf("ike/udp: borrow the sockets of port %d: %w", t.config.NATPort, err)
	}
	return nil
}

func (t *Transport) adopt(files []*os.File) (sockets []*socket, err error) {
	for _, f := range files {
		s, socketErr := adoptSocket(t.config, f)
		err = errors.Join(err, socketErr, f.Close())
		if s != nil {
			sockets = append(sockets, s)
		}
	}
	if err != nil {
		closeAll(sockets)
		return nil, err
	}
	return sockets, nil
}

func closeAll(sockets []*socket) {
	for _, s := range sockets {
		s.conn.Close()
	}
}

// adoptSocket makes a socket of a descriptor. The options are set again: they
// cost nothing.
func adoptSocket(c Config, f *os.File) (*socket, error) {
	domain, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return nil, err
	}
	if err := prepare(c, int(f.Fd()), domain, 0); err != nil {
		return nil, err
	}
	conn, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("%T is no UDP socket", conn)
	}
	return &socket{conn: udp, family: domain, port: c.NATPort, marked: true}, nil
}

// ports returns what is opened here.
func (c Config) ports() []uint16 {
	if c.Borrowed {
		return []uint16{c.Port}
	}
	return []uint16{c.Port, c.NATPort}
}

func (t *Transport) open() error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		for _, port := range t.config.ports() {
			s, err := listen(t.config, family, port)
			if family == unix.AF_INET6 && noIPv6(err) {
				break
			}
			if err != nil {
				return explain(err, port)
			}
			t.sockets = append(t.sockets, s)
		}
	}
	return nil
}

// noIPv6 reports whether err says that this kernel or this network namespace
// has no IPv6.
func noIPv6(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// explain says what to do about a port that cannot be opened.
func explain(err error, port uint16) error {
	what := fmt.Sprintf("ike/udp: open UDP port %d", port)
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("%s: %s holds it; a host has one IKE daemon: stop and disable the other one: %w", what, holder(port), err)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%s: not permitted; run as root or with CAP_NET_BIND_SERVICE: %w", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// listen opens one socket. SO_REUSEADDR stays off: with it, two daemons would
// share a port and each miss half of the messages.
func listen(c Config, family int, port uint16) (*socket, error) {
	network, address := "udp4", netip.IPv4Unspecified()
	if family == unix.AF_INET6 {
		network, address = "udp6", netip.IPv6Unspecified() // and IPV6_V6ONLY (package net)
	}
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		controlErr := raw.Control(func(fd uintptr) { err = prepare(c, int(fd), family, port) })
		return errors.Join(controlErr, err)
	}}
	conn, err := lc.ListenPacket(context.Background(), network, netip.AddrPortFrom(address, port).String())
	if err != nil {
		return nil, err
	}
	return &socket{conn: conn.(*net.UDPConn), family: family, port: port, marked: port == c.NATPort}, nil
}

func prepare(c Config, fd, family int, port uint16) error {
	set := func(level, option, value int) error {
		return unix.SetsockoptInt(fd, level, option, value)
	}
	var err error
	if family == unix.AF_INET {
		// Never "don't fragment": a message larger than the path has to pass.
		err = errors.Join(set(unix.IPPROTO_IP, unix.IP_PKTINFO, 1),
			set(unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT))
	} else {
		err = set(unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}
	if err != nil {
		return fmt.Errorf("set socket options: %w", err)
	}
	enlarge(fd)
	if c.Prepare != nil {
		err = c.Prepare(fd, family)
	}
	if err == nil && c.PrepareNAT != nil && port == c.NATPort {
		err = c.PrepareNAT(fd)
	}
	if err != nil {
		return fmt.Errorf("prepare the socket: %w", err)
	}
	return nil
}

// receiveBuffer is how many bytes may wait in a socket: the first messages of
// about a thousand hosts that come up at once.
const receiveBuffer = 1 << 20

// enlarge gives a socket its receive buffer; where the kernel allows less, less.
func enlarge(fd int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
}

// Recv waits for the next IKE message and copies it into b, without the
// marker; of one larger than b the rest is lost. After Close the error is
// net.ErrClosed.
func (t *Transport) Recv(b []byte) (n int, local, remote netip.AddrPort, err error) {
	var m message
	select {
	case <-t.closed:
		return 0, local, remote, net.ErrClosed
	default:
	}
	select {
	case m = <-t.plain:
	case m = <-t.marked:
	case err := <-t.failed:
		return 0, local, remote, fmt.Errorf("ike/udp: receive: %w", err)
	case <-t.closed:
		return 0, local, remote, net.ErrClosed
	}
	return copy(b, m.data), m.local, m.remote, nil
}

// Send sends an IKE message from local to remote. The port of local decides
// on the marker; an invalid or unspecified address of local leaves the choice
// to the kernel.
func (t *Transport) Send(b []byte, local, remote netip.AddrPort) error {
	if len(b) > MaxDatagram {
		return fmt.Errorf("ike/udp: send to %s: %d bytes are more than %d", remote, len(b), MaxDatagram)
	}
	family := unix.AF_INET6
	if remote.Addr().Unmap().Is4() {
		family = unix.AF_INET
	}
	for _, s := range t.all() {
		if s.family == family && s.port == local.Port() {
			if err := s.send(b, local.Addr(), remote); err != nil {
				return fmt.Errorf("ike/udp: send from %s to %s: %w", local, remote, err)
			}
			return nil
		}
	}
	return fmt.Errorf("ike/udp: send from %s to %s: no such socket is open", local, remote)
}

// all returns the sockets that are open.
func (t *Transport) all() []*socket {
	if b := t.borrowed.Load(); b != nil {
		return append(t.sockets[:len(t.sockets):len(t.sockets)], *b...)
	}
	return t.sockets
}

// Close closes the sockets and ends Recv. Borrow is not called at the same
// time, nor afterwards.
func (t *Transport) Close() error {
	var errs []error
	t.closeOnce.Do(func() {
		close(t.closed)
		for _, s := range t.all() {
			errs = append(errs, s.conn.Close())
		}
	})
	t.readers.Wait()
	return errors.Join(errs...)
}
