package udp

import (
	"errors"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// socket is one of the up to four sockets.
type socket struct {
	conn   *net.UDPConn
	family int
	port   uint16
	marked bool // IKE messages stand behind the non-ESP marker (RFC 3948 §2.2)
}

// markerLen is the length in bytes of the non-ESP marker, which is zero.
const markerLen = 4

// keepAlive is the only byte of a NAT keep-alive (RFC 3948 §2.3).
const keepAlive = 0xff

// send adds the marker where the port wants it: before every message, not
// before a keep-alive.
func (s *socket) send(b []byte, local netip.Addr, remote netip.AddrPort) error {
	if s.marked && !isKeepAlive(b) {
		b = append(make([]byte, markerLen, markerLen+len(b)), b...)
	}
	control, err := sourceControl(local.Unmap())
	if err != nil {
		return err
	}
	_, _, err = s.conn.WriteMsgUDPAddrPort(b, control, netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port()))
	return err
}

func isKeepAlive(b []byte) bool { return len(b) == 1 && b[0] == keepAlive }

// readErrors in a row mean that the socket is beyond hope.
const readErrors = 16

// read hands on datagrams until the socket is closed.
func (t *Transport) read(s *socket) {
	buf, oob := make([]byte, 1<<16), make([]byte, 256)
	for failures := 0; ; {
		n, oobn, flags, remote, err := s.conn.ReadMsgUDPAddrPort(buf, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if failures++; failures == readErrors {
				t.fail(err)
				return
			}
			continue
		}
		failures = 0
		local, ok := destination(oob[:oobn], remote.Addr())
		if ok && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) == 0 {
			remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
			t.handle(s, message{buf[:n], netip.AddrPortFrom(local, s.port), remote})
		}
	}
}

// fail lets Recv return err, once.
func (t *Transport) fail(err error) {
	select {
	case t.failed <- err:
	default:
	}
}

// handle tells IKE from ESP, which ends here, and from keep-alives.
func (t *Transport) handle(s *socket, m message) {
	if len(m.data) < markerLen || isKeepAlive(m.data) {
		return // shorter than any message; a keep-alive has done its work at the NAT
	}
	if !s.marked {
		t.wait(m)
		return
	}
	if [markerLen]byte(m.data) == [markerLen]byte{} {
		m.data = m.data[markerLen:]
		hand(t.marked, m)
	}
}

// wait queues a copy of a message of Port for Recv. While there is no room the
// others wait in the socket, which holds more of them.
func (t *Transport) wait(m message) {
	if len(m.data) > MaxDatagram {
		return
	}
	m.data = slices.Clone(m.data)
	select {
	case t.plain <- m:
	case <-t.closed:
	}
}

// hand queues a copy of a message of NATPort for Recv, if there is room. That
// socket gets the peers' ESP too, so that it has to be read in any case.
func hand(queue chan<- message, m message) {
	if len(m.data) > MaxDatagram || len(queue) == cap(queue) {
		return
	}
	m.data = slices.Clone(m.data)
	select {
	case queue <- m:
	default:
	}
}
