package user

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"ipsecagent/driver"
	"ipsecagent/driver/drivertest"
	"ipsecagent/sadb"
)

func TestConformance(t *testing.T) { drivertest.Run(t, harness("")) }

// TestConformanceOverRemoteAccess: the same link, of remote access by its name.
func TestConformanceOverRemoteAccess(t *testing.T) {
	h := harness("nothing0,eth*")
	h.Connection = sadb.RemoteAccess
	drivertest.RunConnections(t, h)
}

// harness starts data paths that take interfaces for remote access.
func harness(remoteAccess string) drivertest.Harness {
	return drivertest.Harness{
		Hosts: func(t *testing.T) (alice, bob *drivertest.Host) {
			l := newLab(t)
			l.alice.remoteAccess, l.bob.remoteAccess = remoteAccess, remoteAccess
			return l.conforming(l.alice), l.conforming(l.bob)
		},
		Now:      time.Now,
		Pass:     time.Sleep,
		Patience: patience,
		Silence:  200 * time.Millisecond,
		Packets:  true,
	}
}

// conforming starts h for the conformance test.
func (l *lab) conforming(h *host) *drivertest.Host {
	h.launch()
	c := h.dial()
	return &drivertest.Host{
		Driver: c, V4: h.v4, V6: h.v6,
		Send:   h.send,
		Listen: h.listen,
		Reopen: func(*testing.T) driver.Driver {
			c.Close()
			if h.proc == nil { // it has crashed
				h.launch()
			}
			c = h.dial()
			return c
		},
		Wire: func(*testing.T) (esp, clear int) {
			return l.wireCounter("secured", h), l.wireCounter("clear", h)
		},
		NS: h.ns, Shown: l.shown, Agent: h.agent, Crash: h.kill,
	}
}

func (h *host) send(src, dst netip.AddrPort, payload []byte) {
	c := in(h, func() (*net.UDPConn, error) { return net.ListenUDP("udp", net.UDPAddrFromAddrPort(src)) })
	defer c.Close()
	_, _ = c.WriteToUDPAddrPort(payload, dst) // a refusal is of no interest
}

func (h *host) listen(t *testing.T, at netip.AddrPort) <-chan []byte {
	c := in(h, func() (*net.UDPConn, error) { return net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)) })
	t.Cleanup(func() { c.Close() })
	got := make(chan []byte, 100)
	go func() {
		buf := make([]byte, 65536)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			got <- append([]byte(nil), buf[:n]...)
		}
	}()
	return got
}
