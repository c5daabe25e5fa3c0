package nft

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"ipsecagent/sadb"
)

// TestLayers: no two boxes of a layer overlap, and of two that do the earlier
// filter is in the layer above.
func TestLayers(t *testing.T) {
	for seed := range uint64(300) {
		w := world{rand.New(rand.NewPCG(seed, 1))}
		for _, v6 := range []bool{false, true} {
			var all []box
			for i, f := range w.filters() {
				all = append(all, boxes(i, f.Selector, v6)...)
			}
			layer := layers(all)
			for i := range all {
				for j := range i {
					if all[i].filter == all[j].filter || !all[i].overlaps(&all[j]) {
						continue
					}
					if layer[j] >= layer[i] {
						t.Fatalf("seed %d: box %d in layer %d, box %d in layer %d", seed, j, layer[j], i, layer[i])
					}
				}
			}
		}
	}
}

// TestBoxesCover: the boxes of a selector cover what it matches, each packet
// once.
func TestBoxesCover(t *testing.T) {
	w := world{rand.New(rand.NewPCG(1, 1))}
	for range 3000 {
		s := w.selector()
		byFamily := map[bool][]box{false: boxes(0, s, false), true: boxes(0, s, true)}
		for range 20 {
			me := w.IntN(2) == 0
			f := w.flow(func(netip.Addr) bool { return me })
			n := 0
			for _, x := range byFamily[f.Local.Is6()] {
				if x.holds(f) {
					n++
				}
			}
			if want := s.Matches(f); want && n != 1 || !want && n != 0 {
				t.Fatalf("%s is in %d boxes of %s", f.Remote, n, s)
			}
		}
	}
}

// holds is what the kernel does with a box.
func (x *box) holds(f sadb.Flow) bool {
	within := func(s span, v uint16) bool { return s.from <= v && v <= s.to }
	if !x.local.Matches(f.Local, f.LocalMe) || !x.remote.Matches(f.Remote, f.RemoteMe) || !within(x.proto, uint16(f.Proto)) {
		return false
	}
	switch x.kind {
	case portFields:
		return within(x.a, f.LocalPort) && within(x.b, f.RemotePort)
	case icmpFields:
		return within(x.a, uint16(f.ICMPType)) && within(x.b, uint16(f.ICMPCode))
	}
	return true
}
