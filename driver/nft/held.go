package nft

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// claimHeld makes the table ours where the kernel does not know the flag
// persist: its owner is the socket that somebody else keeps open for us.
func (e *engine) claimHeld() error {
	fd, err := e.cfg.Socket()
	if err != nil {
		return fmt.Errorf("this kernel removes a table with the socket that owns it (Linux before 6.9), and the socket that outlives the data path is not to be had: %w", err)
	}
	held, err := adopt(fd)
	if err != nil {
		return fmt.Errorf("take over the socket that owns the table: %w", err)
	}
	var b batch
	e.flags = tableOwner
	e.addTable(&b)
	if err := held.commit(&b); err != nil {
		held.nl.Close()
		if errors.Is(err, unix.EPERM) {
			err = fmt.Errorf("another process owns a table of this name: end it or configure another name (%w)", err)
		}
		return err
	}
	e.conn.nl.Close()
	e.conn = held
	return nil
}

// persists asks whether the kernel knows the flag persist, by a table that is
// gone within its own transaction.
func (e *engine) persists() (bool, error) {
	probe := *e
	probe.cfg.Table = newEpoch()
	var b batch
	probe.addTable(&b)
	probe.deleteTable(&b)
	err := e.conn.commit(&b)
	if refused(err) {
		return false, nil
	}
	return true, err
}

// refused reports whether err is a kernel's that does not know a flag.
func refused(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)
}

// adopt prepares a socket that another process has opened, and closes it on an
// error. What an earlier user has left unread in it is thrown away.
func adopt(fd int) (*conn, error) {
	port, err := prepare(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &conn{nl: netlink.NewConn(&held{fd}, port)}, nil
}

// prepare sets the options that dial sets and returns the socket's port.
func prepare(fd int) (port uint32, err error) {
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return 0, os.NewSyscallError("getsockopt", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return 0, os.NewSyscallError("getsockname", err)
	}
	address, ok := name.(*unix.SockaddrNetlink)
	if !ok || protocol != unix.NETLINK_NETFILTER || address.Pid == 0 {
		return 0, errors.New("it is no bound netfilter netlink socket")
	}
	if err := sameNamespace(fd); err != nil {
		return 0, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1))
	if err != nil {
		return 0, fmt.Errorf("prepare netfilter netlink: %w", err)
	}
	return address.Pid, drain(fd)
}

// sameNamespace refuses a socket that would make the table somewhere else.
func sameNamespace(fd int) error {
	own, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(own)
	here, err := unix.GetsockoptUint64(own, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	there, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if here != there {
		return errors.New("it is of another network namespace")
	}
	return nil
}

// drain reads what answers an earlier user of the socket, who may have died
// while a listing came in: such a listing goes on as it is read.
func drain(fd int) error {
	const most = 1 << 20 // datagrams; more is no listing of one table
	for range most {
		_, _, err := unix.Recvfrom(fd, nil, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		switch err {
		case nil, unix.EINTR, unix.ENOBUFS:
		case unix.EAGAIN:
			return nil
		default:
			return os.NewSyscallError("recvfrom", err)
		}
	}
	return errors.New("its input does not end")
}

// held is a netlink socket that another process has opened. Only the goroutine
// that owns the table uses it. The kernel's answer is there when a question has
// been sent, so that nothing waits long.
type held struct{ fd int }

// Close implements netlink.Socket. It leaves the others' descriptors open.
func (h *held) Close() error {
	err := unix.Close(h.fd)
	h.fd = -1
	return err
}

// Send implements netlink.Socket.
func (h *held) Send(m netlink.Message) error { return h.SendMessages([]netlink.Message{m}) }

// SendMessages implements netlink.Socket: all in one datagram.
func (h *held) SendMessages(msgs []netlink.Message) error {
	var all []byte
	for _, m := range msgs {
		b, err := m.MarshalBinary()
		if err != nil {
			return err
		}
		all = append(all, b...)
	}
	for {
		err := unix.Sendto(h.fd, all, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err != unix.EINTR {
			return os.NewSyscallError("sendto", err)
		}
	}
}

// answerTimeout is how long the kernel may take for an answer, in milliseconds.
const answerTimeout = 30_000

// Receive implements netlink.Socket: one datagram of messages.
func (h *held) Receive() ([]netlink.Message, error) {
	fds := []unix.PollFd{{Fd: int32(h.fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, answerTimeout); err == nil && n == 0 {
		return nil, errors.New("the kernel did not answer")
	}
	size, err := h.recv(nil, unix.MSG_PEEK|unix.MSG_TRUNC)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, size)
	if size, err = h.recv(buf, 0); err != nil {
		return nil, err
	}
	return parse(buf[:size])
}

// ReceiveIter implements netlink.Socket.
func (h *held) ReceiveIter() iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		msgs, err := h.Receive()
		if err != nil {
			yield(netlink.Message{}, err)
			return
		}
		for _, m := range msgs {
			if !yield(m, nil) {
				return
			}
		}
	}
}

func (h *held) recv(buf []byte, flags int) (int, error) {
	for {
		n, _, err := unix.Recvfrom(h.fd, buf, flags)
		if err != unix.EINTR {
			return n, os.NewSyscallError("recvfrom", err)
		}
	}
}

// parse divides a datagram of the kernel into messages.
func parse(buf []byte) ([]netlink.Message, error) {
	list, err := syscall.ParseNetlinkMessage(buf)
	if err != nil {
		return nil, err
	}
	var msgs []netlink.Message
	for _, m := range list {
		msgs = append(msgs, netlink.Message{
			Header: netlink.Header{
				Length: m.Header.Len, Type: netlink.HeaderType(m.Header.Type), Flags: netlink.HeaderFlags(m.Header.Flags),
				Sequence: m.Header.Seq, PID: m.Header.Pid,
			},
			Data: m.Data,
		})
	}
	return msgs, nil
}
