package user

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"ipsecagent/sadb"
)

// tooBig is what a router said about a packet of ours, not yet believed.
type tooBig struct {
	id  sadb.SAID
	mtu uint32
}

// errorSocket receives nothing but the ICMP errors about one protocol: a filter
// drops every packet, the errors come by the error queue.
type errorSocket struct {
	batcher
	proto sadb.Proto
}

func openErrors(cfg Config, family int, proto sadb.Proto) (errorSocket, error) {
	level, name := unix.IPPROTO_IP, unix.IP_RECVERR
	if family == unix.AF_INET6 {
		level, name = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	}
	conn, err := cfg.openRaw(family, int(proto), func(fd int) error {
		drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
		err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: 1, Filter: &drop[0]})
		return errors.Join(err, option(fd, level, name, 1))
	})
	return errorSocket{conn, proto}, err
}

// readErrors passes on what routers say until the socket is closed. Only "too
// big" counts; a peer's "protocol unreachable" and the like are never acted on.
func readErrors(conn errorSocket, out chan<- tooBig) {
	msgs := make([]ipv4.Message, 8)
	for i := range msgs {
		msgs[i].Buffers = [][]byte{make([]byte, 128)}
		msgs[i].OOB = make([]byte, 256)
	}
	for {
		n, err := conn.ReadBatch(msgs, unix.MSG_ERRQUEUE)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(readPause)
			continue
		}
		for _, m := range msgs[:n] {
			t, ok := parseTooBig(m, conn.proto)
			if !ok {
				continue
			}
			select {
			case out <- t:
			default: // they are repeated with the next packet
			}
		}
	}
}

// parseTooBig reads one entry of the error queue: the quoted ESP or AH header as
// data, the original destination as address, a sock_extended_err as control
// message.
func parseTooBig(m ipv4.Message, proto sadb.Proto) (tooBig, bool) {
	addr, ok := m.Addr.(*net.IPAddr)
	if !ok || m.N < 8 {
		return tooBig{}, false
	}
	at := 0
	if proto == sadb.AH {
		at = 4
	}
	dst, _ := netip.AddrFromSlice(addr.IP)
	for oob := m.OOB[:m.NN]; len(oob) >= unix.SizeofCmsghdr; {
		n := int(binary.NativeEndian.Uint64(oob))
		if n < unix.SizeofCmsghdr || n > len(oob) {
			break
		}
		if mtu, ok := extendedError(binary.NativeEndian.Uint32(oob[12:]), oob[unix.SizeofCmsghdr:n]); ok {
			spi := binary.BigEndian.Uint32(m.Buffers[0][at:])
			return tooBig{sadb.SAID{Dst: dst.Unmap(), Proto: proto, SPI: sadb.SPI(spi)}, mtu}, true
		}
		oob = oob[min(len(oob), (n+7)&^7):]
	}
	return tooBig{}, false
}

// extendedError returns the MTU that a struct sock_extended_err reports.
func extendedError(kind uint32, b []byte) (mtu uint32, ok bool) {
	if len(b) < 16 || kind != unix.IP_RECVERR && kind != unix.IPV6_RECVERR {
		return 0, false
	}
	origin, icmpType, icmpCode := b[4], b[5], b[6]
	four := origin == unix.SO_EE_ORIGIN_ICMP && icmpType == 3 && icmpCode == 4
	six := origin == unix.SO_EE_ORIGIN_ICMP6 && icmpType == 2
	return binary.NativeEndian.Uint32(b[8:]), four || six
}
