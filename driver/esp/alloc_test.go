//go:build !race

// The race detector makes sync.Pool forget at random: nothing to measure then.

package esp

import (
	"testing"

	"ipsecagent/sadb"
)

func TestNoAllocation(t *testing.T) {
	for _, name := range allNames() {
		for _, mode := range []sadb.Mode{sadb.Transport, sadb.Tunnel} {
			a := sa(t, name, sadb.Out, mode, false)
			o, in := outbound(t, a), inbound(t, a)
			p := udp(t, alice4, bob4, 1000)
			buf := make([]byte, 4096)
			allocs := testing.AllocsPerRun(100, func() {
				n := copy(buf[Headroom:], p)
				s, err := o.Reserve(1)
				if err != nil {
					t.Fatal(err)
				}
				wire, err := s.Seal(buf, Headroom, Headroom+n)
				if err != nil {
					t.Fatal(err)
				}
				if _, _, err := in.Open(wire); err != nil {
					t.Fatal(err)
				}
			})
			if allocs != 0 {
				t.Errorf("%s %s: %v allocations per packet", name, mode, allocs)
			}
		}
	}
}

func TestHelpersDoNotAllocate(t *testing.T) {
	p, buf := udp(t, alice6, bob6, 4000), make([]byte, 1500)
	allocs := testing.AllocsPerRun(100, func() {
		f, err := NewFragments(p, 1500, 1)
		if err != nil {
			t.Fatal(err)
		}
		for f.Next(buf) != nil {
		}
		if PutTooBig(buf, p, 1400, dave6) == nil {
			t.Fatal("no message")
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}
