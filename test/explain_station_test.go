package test

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// station sends and receives packets of any protocol on a host, as its programs
// do: its policy and routing hold for them.
type station struct {
	raw    map[uint8][2]*os.File // by protocol: sockets of IPv4 and of IPv6
	wire   *os.File              // past all that
	device int                   // the wire's index
	mu     sync.Mutex
	seen   map[send]bool // what has arrived
}

// newStation opens the sockets for the protocols of the flows.
func newStation(t *testing.T, h *host, flows []flow) *station {
	t.Helper()
	s := &station{raw: map[uint8][2]*os.File{}, seen: map[send]bool{}}
	inNamespace(t, h, func() {
		for _, f := range flows {
			if _, open := s.raw[f.proto]; !open {
				s.raw[f.proto] = [2]*os.File{rawSocket(t, unix.AF_INET, unix.SOCK_RAW, int(f.proto)), rawSocket(t, unix.AF_INET6, unix.SOCK_RAW, int(f.proto))}
			}
		}
		s.wire = rawSocket(t, unix.AF_PACKET, unix.SOCK_DGRAM, 0)
		wire, err := net.InterfaceByName("wire")
		if err != nil {
			t.Errorf("wire: %v", err)
			return
		}
		s.device = wire.Index
	})
	if t.Failed() {
		t.FailNow()
	}
	var readers sync.WaitGroup
	for _, pair := range s.raw {
		for _, f := range pair {
			readers.Go(func() { s.read(f) })
		}
	}
	t.Cleanup(func() {
		for _, pair := range s.raw {
			pair[0].Close()
			pair[1].Close()
		}
		s.wire.Close()
		readers.Wait()
	})
	return s
}

func rawSocket(t *testing.T, family, kind, proto int) *os.File {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		t.Errorf("socket of protocol %d: %v", proto, err)
		return nil
	}
	return os.NewFile(uintptr(fd), "raw socket")
}

// onSocket calls do with a socket until it is ready.
func onSocket(f *os.File, do func(fd int) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = c.Write(func(fd uintptr) bool {
		failed = do(int(fd))
		return failed != unix.EAGAIN
	})
	return errors.Join(err, failed)
}

// read notes what arrives until the socket is closed.
func (s *station) read(f *os.File) {
	b := make([]byte, 65536)
	for {
		n, err := f.Read(b)
		if errors.Is(err, fs.ErrClosed) {
			return
		}
		if id, ok := findMarker(b[:n]); ok {
			s.mu.Lock()
			s.seen[id] = true
			s.mu.Unlock()
		}
	}
}

func (s *station) arrived(id send) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[id]
}

// arrivals is how many packets have arrived.
func (s *station) arrivals() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seen)
}

// send sends a packet of a flow from this host. A packet that policy drops is
// reported to programs as not permitted, which is no failure here.
func (s *station) send(f flow, id send) error {
	src, dst, _, _ := f.ends()
	to, pair := sockaddr(dst), s.raw[f.proto]
	socket, control := pair[0], []byte(nil)
	if src.Is6() {
		socket, control = pair[1], unix.PktInfo6(&unix.Inet6Pktinfo{Addr: src.As16()})
	} else {
		control = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: src.As4()})
	}
	err := onSocket(socket, func(fd int) error { return unix.Sendmsg(fd, f.datagram(id), control, to, 0) })
	if errors.Is(err, unix.EPERM) {
		return nil
	}
	return err
}

func sockaddr(a netip.Addr) unix.Sockaddr {
	if a.Is6() {
		return &unix.SockaddrInet6{Addr: a.As16()}
	}
	return &unix.SockaddrInet4{Addr: a.As4()}
}

// forge puts a packet on the wire to the device of another host.
func (s *station) forge(f flow, id send, to []byte) error {
	address := unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: s.device, Halen: 6}
	if f.remote.Is6() {
		address.Protocol = htons(unix.ETH_P_IPV6)
	}
	copy(address.Addr[:], to)
	return onSocket(s.wire, func(fd int) error { return unix.Sendto(fd, f.whole(id), 0, &address) })
}
