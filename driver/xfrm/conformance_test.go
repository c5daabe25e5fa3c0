//go:build esp

package xfrm

import (
	"testing"
	"time"

	"ipsecagent/driver"
	"ipsecagent/driver/drivertest"
)

func TestConformance(t *testing.T) { drivertest.Run(t, harness()) }

func harness() drivertest.Harness {
	return drivertest.Harness{
		Hosts: func(t *testing.T) (alice, bob *drivertest.Host) {
			l := newLab(t)
			return l.conforming(l.alice), l.conforming(l.bob)
		},
		Now:      time.Now,
		Pass:     time.Sleep,
		Patience: patience,
		Silence:  500 * time.Millisecond,
		Packets:  true,
	}
}

// conforming starts h for the conformance test.
func (l *lab) conforming(h *host) *drivertest.Host {
	d := h.open()
	h.ike()
	return &drivertest.Host{
		Driver: d, V4: h.v4, V6: h.v6,
		Send:   h.send,
		Listen: h.listen,
		Reopen: func(*testing.T) driver.Driver {
			d.Close()
			d = h.open()
			return d
		},
		Wire: func(*testing.T) (esp, clear int) {
			return l.wireCounter("secured", h), l.wireCounter("clear", h)
		},
		NS: h.ns, Shown: l.shown, Agent: h.agent,
	}
}
