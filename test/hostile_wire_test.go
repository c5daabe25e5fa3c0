package test

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// tap is a raw socket on the wire of a host, which can send from any address.
// The host itself stays silent: it forwards nothing and has none of them.
type tap struct {
	t        *testing.T
	fd       int
	us       netip.Addr
	toUs     []byte       // Ethernet header
	sent     atomic.Int64 // bytes of UDP payload
	received int
	answers  int // datagrams
	buffer   []byte
}

// datagram is what somebody sent to somebody in UDP.
type datagram struct {
	from, to netip.AddrPort
	data     []byte
}

// openTap opens a tap at far, the other end of us's wire. Everybody in
// 10.64.0.0/10 and fd64::/16 is behind it.
func openTap(t *testing.T, us, far *host) *tap {
	t.Helper()
	us.must("ip", "route", "add", "10.64.0.0/10", "via", far.v4)
	us.must("ip", "route", "add", "fd64::/16", "via", far.v6)
	w := &tap{t: t, us: netip.MustParseAddr(us.v4), buffer: make([]byte, 1<<16)}
	w.toUs = append(append(mac(us), mac(far)...), 0x08, 0)
	inNamespace(t, far, func() {
		var err error
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, int(htons(unix.ETH_P_ALL))); err != nil {
			t.Fatal(err)
		}
		// A veth inside a namespace of ours has a number that counts there.
		iface := strings.TrimSpace(far.must("cat", "/sys/class/net/wire/ifindex"))
		index := 0
		for _, c := range iface {
			index = index*10 + int(c-'0')
		}
		if err := unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: index}); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { unix.Close(w.fd) })
	if err := unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
		t.Fatal(err)
	}
	us.must("ping", "-n", "-c", "1", "-W", "5", far.v4) // each knows the other's hardware address
	return w
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// mac returns the hardware address of a host's wire.
func mac(h *host) []byte {
	h.t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(h.must("cat", "/sys/class/net/wire/address")), ":", ""))
	if err != nil {
		h.t.Fatal(err)
	}
	return b
}

// inNamespace calls f in a host's network namespace. What f opens stays there.
func inNamespace(t *testing.T, h *host, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	there, err := netns.GetFromName(h.ns)
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	if err := netns.Set(there); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := netns.Set(home); err != nil {
			panic(err) // the thread must not go on in another namespace
		}
	}()
	f()
}

// packet puts part of an IP datagram to us into a frame; offset counts bytes.
func (w *tap) packet(from netip.Addr, id uint16, offset int, more bool, data []byte) []byte {
	b := slices.Concat(w.toUs, []byte{0x45, 0})
	b = binary.BigEndian.AppendUint16(b, uint16(20+len(data)))
	fragment := uint16(offset / 8)
	if more {
		fragment |= 0x2000
	}
	b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, id), fragment)
	b = append(append(append(b, 64, 17, 0, 0), from.AsSlice()...), w.us.AsSlice()...)
	sum := uint32(0)
	for i := 14; i < 34; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(b[24:], ^uint16(sum+sum>>16))
	return append(b, data...)
}

// send sends a datagram to a port of ours, in fragments if it is large.
func (w *tap) send(from netip.AddrPort, port uint16, data []byte) {
	var udp []byte
	for _, v := range []uint16{from.Port(), port, uint16(8 + len(data)), 0} {
		udp = binary.BigEndian.AppendUint16(udp, v)
	}
	udp = append(udp, data...)
	id := uint16(w.sent.Add(int64(len(data))))
	for at := 0; at < len(udp); at += fragmentLen {
		end := min(len(udp), at+fragmentLen)
		w.write(w.packet(from.Addr(), id, at, end < len(udp), udp[at:end]))
	}
}

// fragmentLen is how much of an IP datagram fits a frame.
const fragmentLen = 1480

func (w *tap) write(frame []byte) {
	for {
		_, err := unix.Write(w.fd, frame)
		if err == nil {
			return
		}
		if err != unix.ENOBUFS && err != unix.EAGAIN {
			w.t.Errorf("send: %v", err)
			return
		}
	}
}

// receive returns the next UDP datagram from us within d; false: none came.
func (w *tap) receive(d time.Duration) (datagram, bool) {
	for deadline := time.Now().Add(d); ; {
		left := max(0, time.Until(deadline))
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, int((left+time.Millisecond-1)/time.Millisecond))
		if err != nil && err != unix.EINTR {
			w.t.Fatalf("poll: %v", err)
		}
		if n == 0 && left == 0 {
			return datagram{}, false
		}
		if n <= 0 {
			continue
		}
		n, from, err := unix.Recvfrom(w.fd, w.buffer, 0)
		if err != nil {
			continue
		}
		if l, ok := from.(*unix.SockaddrLinklayer); ok && l.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if p, ok := parseDatagram(w.buffer[:n]); ok {
			w.received += len(p.data)
			w.answers++
			return p, true
		}
	}
}

// parseDatagram reads a whole UDP datagram in IPv4 out of a frame.
func parseDatagram(f []byte) (datagram, bool) {
	if len(f) < 42 || f[12] != 0x08 || f[13] != 0 || f[14] != 0x45 || f[23] != 17 {
		return datagram{}, false
	}
	at := func(ip, port int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(f[ip:ip+4])), binary.BigEndian.Uint16(f[port:]))
	}
	length := int(binary.BigEndian.Uint16(f[38:]))
	if length < 8 || 34+length > len(f) {
		return datagram{}, false
	}
	return datagram{from: at(26, 34), to: at(30, 36), data: append([]byte(nil), f[42:34+length]...)}, true
}
