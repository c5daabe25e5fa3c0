package user

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// natPort is where IKE and ESP in UDP arrive (RFC 3948 §2).
const natPort = 4500

// natPatience is how long the port may be held: by an agent that has the
// sockets of a data path before this one, and lets go when it notices.
const natPatience = 5 * time.Second

// natSocket is UDP port 4500 of one family. It is two sockets: the kernel gives
// IKE messages, which stand behind four bytes of zero, to one and everything
// else to the other. The agent borrows the first; the second is the data
// path's own, so that ESP goes on while no agent runs. The data path keeps
// both: no other program can take the port, and nothing answers "port
// unreachable".
type natSocket struct {
	family int
	esp    batcher
	ike    int
}

// Indexes of the two sockets in their group: the order in which they are bound.
const (
	natESP = iota
	natIKE
)

// openNAT opens the port.
func (c Config) openNAT(ctx context.Context, family int) (natSocket, error) {
	s := natSocket{family: family, ike: -1}
	if err := awaitPort(ctx, family); err != nil {
		return s, fmt.Errorf("open UDP port %d: %w", natPort, err)
	}
	esp, err := c.natSocket(family, tellHeader(family))
	if err != nil {
		return s, fmt.Errorf("open UDP port %d: %w", natPort, err)
	}
	if err := steerNAT(esp); err != nil {
		unix.Close(esp)
		return s, fmt.Errorf("open UDP port %d: tell IKE from ESP: %w", natPort, err)
	}
	if s.esp, err = batcherOf(esp, family); err != nil {
		return s, fmt.Errorf("open UDP port %d: %w", natPort, err)
	}
	if s.ike, err = c.natSocket(family, func(int) error { return nil }); err != nil {
		s.close()
		return s, fmt.Errorf("open UDP port %d: %w", natPort, err)
	}
	return s, nil
}

func (s natSocket) close() {
	if s.esp != nil {
		s.esp.Close()
	}
	if s.ike >= 0 {
		unix.Close(s.ike)
	}
}

// awaitPort waits until nobody holds the port: a socket that does not share it
// can be bound.
func awaitPort(ctx context.Context, family int) error {
	ctx, cancel := context.WithTimeout(ctx, natPatience)
	defer cancel()
	for {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		err = errors.Join(only6(fd, family), unix.Bind(fd, natAddress(family)))
		unix.Close(fd)
		if !errors.Is(err, unix.EADDRINUSE) {
			return err
		}
		pause(ctx, 50*time.Millisecond)
		if ctx.Err() != nil {
			return fmt.Errorf("%w: a host has one IKE daemon: stop and disable the other one (ss -lunp 'sport = :%d')", err, natPort)
		}
	}
}

// natSocket opens one of the sockets that share the port.
func (c Config) natSocket(family int, set func(fd int) error) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	err = errors.Join(
		c.PrepareSocket(fd), only6(fd, family), set(fd),
		option(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer),
		option(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
		unix.Bind(fd, natAddress(family)))
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func natAddress(family int) unix.Sockaddr {
	if family == unix.AF_INET6 {
		return &unix.SockaddrInet6{Port: natPort}
	}
	return &unix.SockaddrInet4{Port: natPort}
}

func only6(fd, family int) error {
	if family != unix.AF_INET6 {
		return nil
	}
	return option(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
}

// noCheck6 is UDP_NO_CHECK6_RX: ESP in UDP may come without a checksum, which
// RFC 3948 §2.1 wants and RFC 8200 forbids.
const noCheck6 = 102

// tellHeader asks for control messages about the IP header.
func tellHeader(family int) func(fd int) error {
	if family == unix.AF_INET6 {
		return func(fd int) error {
			return errors.Join(tellHeader6(fd), option(fd, unix.IPPROTO_UDP, noCheck6, 1))
		}
	}
	return func(fd int) error {
		return errors.Join(
			option(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1),
			option(fd, unix.IPPROTO_IP, unix.IP_RECVTOS, 1),
			option(fd, unix.IPPROTO_IP, unix.IP_RECVTTL, 1))
	}
}

// steerNAT has the kernel choose the socket by the first four bytes of each
// datagram; a shorter one goes to the first socket.
func steerNAT(fd int) error {
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: natIKE},
		{Code: unix.BPF_RET | unix.BPF_K, K: natESP},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}

// batcherOf takes a socket over; its descriptor is closed.
func batcherOf(fd, family int) (batcher, error) {
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close() // FilePacketConn makes its own descriptor
	conn, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	if family == unix.AF_INET6 {
		return ipv6.NewPacketConn(conn), nil
	}
	return ipv4.NewPacketConn(conn), nil
}

// lend gives the sockets of IKE to a client and ends the session: the reply
// says how many, they come with it.
func (s *session) lend(fds []int) error {
	conn, ok := s.conn.(*net.UnixConn)
	if !ok {
		return errors.New("not a unix socket")
	}
	_, _, err := conn.WriteMsgUnix([]byte{byte(len(fds))}, unix.UnixRights(fds...), nil)
	return err
}

// NATSockets borrows the sockets of UDP port 4500 that receive IKE messages,
// behind their non-ESP marker, from the data path that listens on the socket:
// one for IPv4 and, where the host has it, one for IPv6. They bear the exempt
// mark. The caller closes them: all of them when the data path has ended,
// because the next one needs the port.
func NATSockets(ctx context.Context, socket string) ([]*os.File, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("user: reach the data path on %s: %w: is 'ipsecagent datapath' running?", socket, err)
	}
	defer conn.Close()
	deadline := time.Now().Add(callTimeout)
	if t, ok := ctx.Deadline(); ok {
		deadline = t
	}
	err = errors.Join(conn.SetDeadline(deadline), writeFrame(conn, request{Verb: verbSockets}))
	if err != nil {
		return nil, fmt.Errorf("user: ask for UDP port %d: %w", natPort, err)
	}
	files, err := receiveFiles(conn.(*net.UnixConn))
	if err != nil {
		return nil, fmt.Errorf("user: ask for UDP port %d: %w", natPort, err)
	}
	return files, nil
}

// receiveFiles reads the answer of lend.
func receiveFiles(conn *net.UnixConn) ([]*os.File, error) {
	data, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4*4))
	n, oobn, _, _, err := conn.ReadMsgUnix(data, oob)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "udp4500"))
		}
	}
	if n != 1 || len(files) == 0 || len(files) != int(data[0]) {
		closeFiles(files)
		return nil, fmt.Errorf("%d sockets came, not %d", len(files), data[0])
	}
	return files, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
