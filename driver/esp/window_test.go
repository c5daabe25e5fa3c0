package esp

import (
	"encoding/binary"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// slowWindow is the replay window as RFC 4303 §3.4.3 puts it, without bounds:
// every number ever accepted, and the extended number by trying all.
type slowWindow struct {
	size uint64
	top  uint64
	esn  bool
	seen map[uint64]bool
}

// check tries the low half in the subspace of the top and in its neighbours:
// a number stands for the only one of them that lies in the window or in the
// 2^32 - size numbers ahead of it.
func (w *slowWindow) check(low uint32) (uint64, bool) {
	if !w.esn {
		return uint64(low), w.fresh(uint64(low))
	}
	limit := new(big.Int).SetUint64(math.MaxUint64)
	top := new(big.Int).SetUint64(w.top)
	bottom := new(big.Int).Sub(top, new(big.Int).SetUint64(w.size-1))
	beyond := new(big.Int).Add(bottom, big.NewInt(1<<32))
	for d := int64(-1); d <= 1; d++ {
		n := new(big.Int).Rsh(top, 32)
		n.Add(n, big.NewInt(d)).Lsh(n, 32).Add(n, big.NewInt(int64(low)))
		if n.Cmp(bottom) >= 0 && n.Cmp(beyond) < 0 {
			return n.Uint64(), n.Sign() >= 0 && n.Cmp(limit) <= 0 && w.fresh(n.Uint64())
		}
	}
	return 0, false
}

func (w *slowWindow) fresh(seq uint64) bool {
	old := w.top >= w.size && seq <= w.top-w.size
	return seq != 0 && !old && !w.seen[seq]
}

func (w *slowWindow) accept(seq uint64) {
	w.seen[seq] = true
	w.top = max(w.top, seq)
}

// agree runs numbers through both windows. forged says which are not
// authentic: they are checked, never accepted.
func agree(t *testing.T, size uint32, esn bool, top uint64, lows []uint32, forged func(i int) bool) {
	t.Helper()
	fast := newWindow(size, esn)
	slow := &slowWindow{size: uint64(size), esn: esn, seen: map[uint64]bool{}}
	if top != 0 {
		fast.accept(top)
		slow.accept(top)
	}
	for i, low := range lows {
		seq, ok := fast.check(low)
		want, wantOK := slow.check(low)
		if ok != wantOK || ok && seq != want {
			t.Fatalf("size %d, top %#x, low %#x: %#x %v, the model says %#x %v", size, slow.top, low, seq, ok, want, wantOK)
		}
		if !ok || forged(i) {
			continue
		}
		if !fast.accept(seq) || fast.accept(seq) {
			t.Fatalf("size %d, top %#x: accept(%#x)", size, slow.top, seq)
		}
		slow.accept(seq)
		if fast.highest() != slow.top {
			t.Fatalf("top %#x, the model says %#x", fast.highest(), slow.top)
		}
	}
}

func TestWindowAgreesWithModel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	tops := []uint64{0, 1, 63, 64, 1023, 1024, math.MaxUint32 - 500, math.MaxUint32, 1 << 32, 1<<32 + 700, math.MaxUint64 - 900, math.MaxUint64 - 1}
	for _, size := range []uint32{1, 2, 32, 63, 64, 65, 1000, 1024, MaxWindow} {
		for _, top := range tops {
			for _, esn := range []bool{false, true} {
				if !esn && top > math.MaxUint32 {
					continue
				}
				agree(t, size, esn, top, walk(r, uint32(top), size), func(int) bool { return r.IntN(4) == 0 })
			}
		}
	}
}

// walk returns numbers around a moving top: duplicates, the old, jumps.
func walk(r *rand.Rand, top, size uint32) []uint32 {
	var lows []uint32
	for range 600 {
		switch r.IntN(8) {
		case 0:
			lows = append(lows, r.Uint32())
		case 1:
			top += r.Uint32N(3 * size)
			lows = append(lows, top)
		case 2:
			lows = append(lows, top-size, top-size+1, top)
		default:
			top += r.Uint32N(3)
			lows = append(lows, top-r.Uint32N(size+2))
		}
	}
	return lows
}

// The edges by name: what a model could get wrong together with the code.
func TestWindowEdges(t *testing.T) {
	w := newWindow(1024, false)
	for _, c := range []struct {
		seq uint64
		ok  bool
	}{
		{0, false}, {1, true}, {1, false}, {1024, true}, {2, true}, {1025, true}, {1, false}, {2, false}, {3, true},
		{5000, true}, {3976, false}, {3977, true}, {3977, false}, {math.MaxUint32, true}, {5001, false},
		{math.MaxUint32 - 1023, true}, {math.MaxUint32 - 1024, false}, {math.MaxUint32, false},
	} {
		if got := w.accept(c.seq); got != c.ok {
			t.Errorf("accept(%d) = %v at top %d", c.seq, got, w.highest())
		}
	}
}

func FuzzWindow(f *testing.F) {
	f.Add(uint16(64), true, uint64(1<<32), []byte{0, 0, 0, 1, 255, 255, 255, 255, 0, 0, 0, 1})
	f.Add(uint16(1024), false, uint64(0), []byte{0, 0, 4, 0, 0, 0, 0, 1, 0, 0, 8, 0})
	f.Fuzz(func(t *testing.T, size uint16, esn bool, top uint64, b []byte) {
		if !esn {
			top &= math.MaxUint32
		}
		var lows []uint32
		for ; len(b) >= 4; b = b[4:] {
			lows = append(lows, binary.BigEndian.Uint32(b))
		}
		agree(t, uint32(size)%MaxWindow+1, esn, top, lows, func(i int) bool { return i%5 == 4 })
	})
}
