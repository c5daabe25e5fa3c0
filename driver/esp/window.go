package esp

import (
	"math"
	"sync"
)

// MaxWindow is the widest replay window in packets.
const MaxWindow = 4096

// window is a replay window after RFC 6479: a ring of 64-bit blocks in which
// the window slides by whole blocks, so that nothing is ever shifted. The lock
// is held for a few instructions, never across cryptography: several workers
// may open packets of one association.
type window struct {
	mu     sync.Mutex
	size   uint64   // packets
	top    uint64   // highest authenticated sequence number
	blocks []uint64 // a power of two of them, at least one more than size needs
	esn    bool
}

func newWindow(size uint32, esn bool) *window {
	n := 2
	for n*64 < int(size)+64 {
		n *= 2
	}
	return &window{size: uint64(size), blocks: make([]uint64, n), esn: esn}
}

// check returns the full sequence number that low stands for and whether a
// packet with it may be new. It changes nothing: the packet is not yet
// authenticated.
func (w *window) check(low uint32) (seq uint64, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	seq, ok = w.extend(low)
	return seq, ok && w.fresh(seq)
}

// accept enters the number of an authenticated packet. It reports false if
// another packet with the number was entered since check.
func (w *window) accept(seq uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.fresh(seq) {
		return false
	}
	w.advance(seq)
	*w.block(seq) |= 1 << (seq % 64)
	return true
}

// highest returns the highest authenticated number; 0: none.
func (w *window) highest() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.top
}

func (w *window) fresh(seq uint64) bool {
	switch {
	case seq == 0:
		return false
	case seq > w.top:
		return true
	case w.top-seq >= w.size:
		return false
	}
	return *w.block(seq)&(1<<(seq%64)) == 0
}

// advance makes seq the top if it is higher and clears the blocks that come
// into use.
func (w *window) advance(seq uint64) {
	if seq <= w.top {
		return
	}
	steps := min(seq/64-w.top/64, uint64(len(w.blocks)))
	for i := range steps {
		w.blocks[(w.top/64+1+i)%uint64(len(w.blocks))] = 0
	}
	w.top = seq
}

func (w *window) block(seq uint64) *uint64 {
	return &w.blocks[seq/64%uint64(len(w.blocks))]
}

// extend infers the high half of an extended sequence number (RFC 4303
// Appendix A2.2): the one nearest to the window. ok is false where it would lie
// before the first or behind the last number.
func (w *window) extend(low uint32) (seq uint64, ok bool) {
	if !w.esn {
		return uint64(low), true
	}
	high := w.top >> 32
	bottom := uint32(w.top) - uint32(w.size-1)
	if uint64(uint32(w.top)) >= w.size-1 {
		if low < bottom { // the window is within one subspace, low has wrapped
			high++
		}
	} else if low >= bottom { // the window spans two, low is in the lower
		if high == 0 {
			return 0, false
		}
		high--
	}
	return high<<32 | uint64(low), high <= math.MaxUint32
}
