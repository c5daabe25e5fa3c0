package policy

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"ipsecagent/sadb"
)

// has reports whether a packet lies in a region.
func (r *region) has(f sadb.Flow) bool {
	me, remoteAccess := uint64(0), uint64(0)
	if f.LocalMe {
		me = 1
	}
	if f.Connection == sadb.RemoteAccess {
		remoteAccess = 1
	}
	ok := r[axisRemote].has(numberOf(f.Remote)) && r[axisLocal].has(numberOf(f.Local)) && r[axisMe].has(small(me)) &&
		r[axisProtocol].has(small(uint64(f.Proto))) && r[axisConnection].has(small(remoteAccess))
	if sadb.HasPorts(f.Proto) {
		ok = ok && r[axisRemotePort].has(small(uint64(f.RemotePort))) && r[axisLocalPort].has(small(uint64(f.LocalPort)))
	}
	if sadb.HasICMP(f.Proto) {
		ok = ok && r[axisType].has(small(uint64(f.ICMPType))) && r[axisCode].has(small(uint64(f.ICMPCode)))
	}
	return ok
}

func someFilter(rng *rand.Rand, v6 bool) sadb.Filter {
	addrs := func(me bool) sadb.Addrs {
		base := netip.MustParseAddr("10.0.0.0")
		if v6 {
			base = netip.MustParseAddr("2001:db8::")
		}
		switch n := rng.IntN(4); {
		case n == 0:
			return sadb.AnyAddrs()
		case n == 1 && me:
			return sadb.Me()
		case n == 2:
			return sadb.Prefix(netip.PrefixFrom(base, base.BitLen()-rng.IntN(4)))
		}
		return sadb.Range(someAddr(rng, v6, 0, 4), someAddr(rng, v6, 4, 8))
	}
	f := sadb.Filter{Dir: sadb.Both, Connections: sadb.ConnectionType(rng.IntN(3)),
		Selector: sadb.Selector{Local: addrs(true), Remote: addrs(false), Proto: []uint8{0, sadb.TCP, sadb.UDP, sadb.ICMP}[rng.IntN(4)]}}
	if sadb.HasPorts(f.Selector.Proto) && rng.IntN(2) == 0 {
		f.Selector.LocalPorts = sadb.Ports{From: 2, To: uint16(2 + rng.IntN(3))}
		f.Selector.RemotePorts = sadb.Ports{From: uint16(1 + rng.IntN(3)), To: 4}
	}
	if f.Selector.Proto == sadb.ICMP && rng.IntN(2) == 0 {
		f.Selector.ICMPType = sadb.Octets{From: 1, To: uint8(1 + rng.IntN(3)), Set: true}
	}
	return f
}

func someAddr(rng *rand.Rand, v6 bool, from, to int) netip.Addr {
	last := byte(from + rng.IntN(to-from))
	if v6 {
		return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: last})
	}
	return netip.AddrFrom4([4]byte{10, 0, 0, last})
}

func someFlow(rng *rand.Rand, v6 bool) sadb.Flow {
	return sadb.Flow{Local: someAddr(rng, v6, 0, 9), Remote: someAddr(rng, v6, 0, 9), LocalMe: rng.IntN(2) == 0,
		Proto: []uint8{sadb.TCP, sadb.UDP, sadb.ICMP, 47}[rng.IntN(4)], Connection: []sadb.ConnectionType{sadb.LAN, sadb.RemoteAccess}[rng.IntN(2)],
		LocalPort: uint16(1 + rng.IntN(6)), RemotePort: uint16(1 + rng.IntN(6)), ICMPType: uint8(rng.IntN(5))}
}

// A region has the packets that its filter matches, and what is taken out of it
// is neither lost nor doubled.
func TestRegionsAreWhatFiltersMatch(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	hits := 0
	for range 2000 {
		v6 := rng.IntN(2) == 0
		f, g := someFilter(rng, v6), someFilter(rng, v6)
		r, okR := regionOf(&f, v6)
		s, okS := regionOf(&g, v6)
		if !okR || !okS {
			t.Fatalf("no region: %v %v", f.Selector, g.Selector)
		}
		if _, ok := regionOf(&f, !v6); ok && f.Selector.Local != sadb.AnyAddrs() && !f.Selector.Local.IsMe() {
			t.Fatalf("%v has a region of the other family", f.Selector)
		}
		if p := r.packet(sadb.Out, v6); !f.Matches(p.Flow, sadb.Out) {
			t.Fatalf("%v does not match its own packet %v", f.Selector, p)
		}
		left := without([]region{r}, &s)
		for range 50 {
			p := someFlow(rng, v6)
			inR, inS := f.Matches(p, sadb.Out), g.Matches(p, sadb.Out)
			if r.has(p) != inR {
				t.Fatalf("%v has %+v: %v, the filter %v", f.Selector, p, r.has(p), inR)
			}
			n := 0
			for i := range left {
				if left[i].has(p) {
					n++
				}
			}
			want := 0
			if inR && !inS {
				want = 1
			}
			if n != want {
				t.Fatalf("%v without %v: %+v is in %d pieces, want %d", f.Selector, g.Selector, p, n, want)
			}
			if inR && inS {
				hits++
				if !r.meets(&s) {
					t.Fatalf("%v and %v have %+v in common", f.Selector, g.Selector, p)
				}
			}
		}
		if (len(left) == 0) != s.contains(&r) {
			t.Fatalf("%v without %v leaves %d pieces", f.Selector, g.Selector, len(left))
		}
	}
	if hits < 1000 {
		t.Errorf("only %d packets in both", hits)
	}
}
