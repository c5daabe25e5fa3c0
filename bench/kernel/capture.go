package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// capture sees every netlink message of a namespace, with the kernel's time, on
// an interface of type nlmon.
type capture struct {
	fd  int
	buf []byte
}

// message is one netlink message.
type message struct {
	at      time.Time
	family  uint16 // of netlink: unix.NETLINK_XFRM, …
	request bool   // it goes to the kernel
	typ     uint16
	seq     uint32
	pid     uint32 // port of the socket that asked
	body    []byte
}

const (
	captureBuffer = 64 << 20 // bytes; what does not fit is an error
	captureWait   = 100 * time.Millisecond
	monitor       = "nlmon0"
)

// startCapture begins in a namespace.
func startCapture(ns string) (*capture, error) {
	for _, args := range [][]string{{"link", "add", monitor, "type", "nlmon"}, {"link", "set", monitor, "up"}} {
		if err := command("ip", append([]string{"-n", ns}, args...)...); err != nil {
			return nil, fmt.Errorf("the module nlmon is needed to see netlink messages: %w", err)
		}
	}
	fd, err := in(ns, openCapture)
	if err != nil {
		return nil, fmt.Errorf("capture netlink messages: %w", err)
	}
	return &capture{fd: fd, buf: make([]byte, 1<<16)}, nil
}

func openCapture() (fd int, err error) {
	link, err := net.InterfaceByName(monitor)
	if err != nil {
		return -1, err
	}
	everything := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8)
	if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	wait := unix.NsecToTimeval(int64(captureWait))
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: everything, Ifindex: link.Index}))
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (c *capture) close() { unix.Close(c.fd) }

// next returns the messages of the next packet; none when nothing comes for
// captureWait.
func (c *capture) next() ([]message, error) {
	oob := make([]byte, 256)
	n, oobn, _, from, err := unix.Recvmsg(c.fd, c.buf, oob, 0)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return nil, c.lost()
	}
	if err != nil {
		return nil, fmt.Errorf("capture netlink messages: %w", err)
	}
	link, ok := from.(*unix.SockaddrLinklayer)
	if !ok {
		return nil, fmt.Errorf("capture netlink messages: a packet from %T", from)
	}
	at, err := stamp(oob[:oobn])
	if err != nil {
		return nil, err
	}
	return split(c.buf[:n], message{at: at, family: link.Protocol>>8 | link.Protocol<<8}), nil
}

// lost says that the socket had no room for some messages.
func (c *capture) lost() error {
	stats, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err == nil && stats.Drops > 0 {
		return fmt.Errorf("%d packets of netlink messages were not captured", stats.Drops)
	}
	return err
}

// stamp returns the kernel's time of a packet.
func stamp(oob []byte) (time.Time, error) {
	all, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Time{}, err
	}
	for _, m := range all {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:]))), nil
		}
	}
	return time.Time{}, errors.New("a captured packet has no time")
}

// split takes the messages of a packet apart. like has what is common to them.
func split(b []byte, like message) []message {
	var all []message
	for len(b) >= unix.NLMSG_HDRLEN {
		n := int(binary.NativeEndian.Uint32(b))
		if n < unix.NLMSG_HDRLEN || n > len(b) {
			break
		}
		m := like
		m.typ = binary.NativeEndian.Uint16(b[4:])
		m.request = binary.NativeEndian.Uint16(b[6:])&unix.NLM_F_REQUEST != 0
		m.seq, m.pid = binary.NativeEndian.Uint32(b[8:]), binary.NativeEndian.Uint32(b[12:])
		m.body = append([]byte(nil), b[unix.NLMSG_HDRLEN:n]...)
		all = append(all, m)
		b = b[min(len(b), (n+3)&^3):]
	}
	return all
}

// during counts, by family, the messages that the kernel gets while f runs.
func (c *capture) during(f func() error) (map[uint16]int, error) {
	done := make(chan error, 1)
	go func() { done <- f() }()
	count := map[uint16]int{}
	var failed error
	for over := false; ; {
		all, err := c.next()
		if err != nil {
			return nil, err
		}
		for _, m := range all {
			if m.request {
				count[m.family]++
			}
		}
		if len(all) > 0 {
			continue
		}
		if over {
			return count, failed
		}
		select {
		case failed = <-done:
			over = true
		default:
		}
	}
}
