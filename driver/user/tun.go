package user

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// tunMTU lets whole datagrams through: fragmentation follows ESP, never
// precedes it (RFC 4303 §3.3.4).
const tunMTU = 65535

// tunQueue is how many packets wait in each queue of the TUN for their worker:
// a whole window of TCP that the stack sends at once, which on a TUN nothing
// holds back (the kernel's own 500 lost packets at 5 MB/s).
const tunQueue = 4096

// batch is how many packets move per round of a worker.
const batch = 64

// tun is the TUN device, one queue for each worker. Reads return one IP packet
// each, without any header before it; checksums in it are complete, because
// the device offers the kernel no offload.
type tun struct {
	name   string
	queues []*queue
}

// queue is one file descriptor of the device, non-blocking. The number stays
// the same until close, whatever happens to the device: another goroutine may
// be writing to it.
type queue struct {
	name string
	fd   int
	stop int // eventfd that becomes readable when the data path ends
}

// openTUN makes the device with n queues. stop is an eventfd.
func openTUN(name string, n, stop int) (*tun, error) {
	t := &tun{name: name}
	for range n {
		fd, err := openQueue(name)
		if err != nil {
			t.close()
			return nil, err
		}
		t.queues = append(t.queues, &queue{name: name, fd: fd, stop: stop})
	}
	return t, nil
}

func openQueue(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return -1, fmt.Errorf("open /dev/net/tun: %w: load the module (modprobe tun) or pass the device to this container", err)
	}
	if err != nil {
		return -1, fmt.Errorf("open /dev/net/tun: %w: run as root, with CAP_NET_ADMIN", err)
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("TUN name %q: %w", name, err)
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		unix.Close(fd)
		return -1, tunError(name, err)
	}
	return fd, nil
}

func tunError(name string, err error) error {
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("make TUN %s: %w: a device of that name exists; is another data path running? (ip link show %s)", name, err, name)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("make TUN %s: %w: run as root, with CAP_NET_ADMIN", name, err)
	}
	return fmt.Errorf("make TUN %s: %w", name, err)
}

func (t *tun) close() {
	for _, q := range t.queues {
		unix.Close(q.fd)
	}
	t.queues = nil
}

// Why wait returns without packets.
var (
	errStopped = errors.New("the data path ends")
	errGone    = errors.New("the TUN is gone")
)

// wait blocks until the queue has packets.
func (q *queue) wait() error {
	fds := []unix.PollFd{{Fd: int32(q.fd), Events: unix.POLLIN}, {Fd: int32(q.stop), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case fds[1].Revents != 0:
			return errStopped
		case fds[0].Revents&(unix.POLLERR|unix.POLLNVAL) != 0:
			return errGone
		}
		return nil
	}
}

// reopen makes the device again after something else deleted it, and puts it
// under the old number.
func (q *queue) reopen() error {
	fd, err := openQueue(q.name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Dup3(fd, q.fd, unix.O_CLOEXEC)
}

// read fills bufs, each from headRoom on, with the packets that are there and
// sets sizes; it returns how many.
func (q *queue) read(bufs [][]byte, sizes []int) int {
	for i := range bufs {
		n, err := unix.Read(q.fd, bufs[i][headRoom:headRoom+tunMTU])
		if err != nil || n <= 0 {
			return i
		}
		sizes[i] = n
	}
	return len(bufs)
}

// write gives one packet to the local stack.
func (q *queue) write(packet []byte) error {
	for {
		_, err := unix.Write(q.fd, packet)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// newStop returns the eventfd that ends the workers.
func newStop() (int, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("make eventfd: %w", err)
	}
	return fd, nil
}

// raise makes the eventfd readable, for good.
func raise(fd int) {
	_, _ = unix.Write(fd, binary.NativeEndian.AppendUint64(nil, 1)) // an eventfd at 0 takes it
}
