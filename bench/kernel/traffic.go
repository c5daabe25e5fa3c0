package main

import (
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// traffic is packets from alice to every peer in turn, and the peers' answers.
type traffic struct {
	one, many              *net.UDPConn
	peers                  int
	sent, echoed, returned atomic.Int64
	failed                 atomic.Int64 // not taken by the kernel
	quit                   chan struct{}
	ended                  chan struct{} // the sender
}

const (
	// pace is the time between two packets.
	pace       = time.Millisecond
	roomFor    = 16 << 20 // bytes of packets that wait to be read
	lastPacket = 5 * time.Second
)

func startTraffic(alices, bobs string, peers int) (*traffic, error) {
	t := &traffic{peers: peers, quit: make(chan struct{}), ended: make(chan struct{})}
	var err error
	if t.one, err = in(alices, func() (*net.UDPConn, error) { return listen(0) }); err != nil {
		return nil, err
	}
	if t.many, err = in(bobs, func() (*net.UDPConn, error) { return listen(port) }); err != nil {
		return nil, err
	}
	go t.echo()
	go t.count()
	go t.send()
	return t, nil
}

// listen opens a socket that says to which of its addresses a packet went.
func listen(port int) (*net.UDPConn, error) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: port})
	if err != nil {
		return nil, err
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		if failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1); failed == nil {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, roomFor)
		}
	})
	if err == nil {
		err = failed
	}
	return c, err
}

// send sends one packet after the other until it is told to stop.
func (t *traffic) send() {
	defer close(t.ended)
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-t.quit:
			return
		case <-tick.C:
		}
		to := netip.AddrPortFrom(peerAddr(n%t.peers), port)
		if _, err := t.one.WriteToUDPAddrPort([]byte("storm"), to); err != nil {
			t.failed.Add(1)
		}
		t.sent.Add(1)
	}
}

// echo answers every packet from the address to which it went.
func (t *traffic) echo() {
	b, oob := make([]byte, 64), make([]byte, 128)
	for {
		n, oobn, _, from, err := t.many.ReadMsgUDPAddrPort(b, oob)
		if err != nil {
			return // closed
		}
		t.echoed.Add(1)
		_, _, _ = t.many.WriteMsgUDPAddrPort(b[:n], answering(oob[:oobn]), from) // what is lost is counted
	}
}

// answering makes the packet info of a packet that of its answer: the address,
// but any interface.
func answering(oob []byte) []byte {
	if len(oob) >= unix.CmsgLen(0)+4 {
		clear(oob[unix.CmsgLen(0):][:4])
	}
	return oob
}

// count counts the answers.
func (t *traffic) count() {
	b := make([]byte, 64)
	for {
		if _, err := t.one.Read(b); err != nil {
			return // closed
		}
		t.returned.Add(1)
	}
}

// pass waits until so many more answers have come.
func (t *traffic) pass(n int, limit time.Duration) error {
	want, deadline := t.returned.Load()+int64(n), time.Now().Add(limit)
	for t.returned.Load() < want {
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: %d sent (%d refused), %d arrived, %d answered", errSilence, t.sent.Load(), t.failed.Load(), t.echoed.Load(), t.returned.Load())
		}
		time.Sleep(captureWait)
	}
	return nil
}

// stop ends the traffic and returns its counters once the last answer has come
// or lastPacket has passed.
func (t *traffic) stop() (sent, echoed, returned int64) {
	select {
	case <-t.quit:
	default:
		close(t.quit)
	}
	<-t.ended
	deadline := time.Now().Add(lastPacket)
	for t.returned.Load() < t.sent.Load() && time.Now().Before(deadline) {
		time.Sleep(captureWait)
	}
	t.one.Close()
	t.many.Close()
	return t.sent.Load(), t.echoed.Load(), t.returned.Load()
}
