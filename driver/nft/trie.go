package nft

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"ipsecagent/sadb"
)

// key is the first bits of a field of a packet: an address of either family or
// a port. The zero key stands for all values.
type key struct {
	hi, lo uint64
	bits   int
}

// addrKey is the longest prefix that holds all of a.
func addrKey(a sadb.Addrs) key {
	from, to, ok := a.Bounds()
	if !ok {
		return key{}
	}
	f, t := wholeKey(from), wholeKey(to)
	return f.cut(f.common(t))
}

func wholeKey(a netip.Addr) key {
	b := a.As16()
	k := key{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:]), 128}
	if a.Is4() {
		k = key{k.lo << 32, 0, 32}
	}
	return k
}

// portKey is the longest prefix that holds all of a range of ports.
func portKey(s span) key {
	f, t := key{uint64(s.from) << 48, 0, 16}, key{uint64(s.to) << 48, 0, 16}
	return f.cut(f.common(t))
}

// common returns how many bits two keys have in common.
func (k key) common(l key) int {
	n := bits.LeadingZeros64(k.hi ^ l.hi)
	if n == 64 {
		n += bits.LeadingZeros64(k.lo ^ l.lo)
	}
	return min(n, k.bits, l.bits)
}

// cut returns the first n bits.
func (k key) cut(n int) key {
	hi, lo := ^uint64(0), ^uint64(0)<<(128-max(n, 64))
	if n < 64 {
		hi, lo = ^(^uint64(0) >> n), 0
	}
	return key{k.hi & hi, k.lo & lo, n}
}

func (k key) bit(i int) int {
	if i < 64 {
		return int(k.hi >> (63 - i) & 1)
	}
	return int(k.lo >> (127 - i) & 1)
}

// trie finds the boxes that may share a value of one field, without looking at
// all of them: a binary tree over the bits, without nodes of one branch.
type trie struct{ root *node }

type node struct {
	key   key
	child [2]*node
	boxes []*placed
	// low and high bound the layers of all boxes from here down. They may be
	// too wide after boxes have gone.
	low, high layer
}

func (n *node) widen(l layer) { n.low, n.high = min(n.low, l), max(n.high, l) }

func newNode(k key) *node { return &node{key: k, low: bottom, high: top} }

// add puts a box under a key; its layer is known.
func (t *trie) add(k key, x *placed) {
	p := &t.root
	for {
		n := *p
		if n == nil {
			n = newNode(k)
			*p = n
		}
		if c := n.key.common(k); c < n.key.bits {
			above := newNode(k.cut(c))
			above.low, above.high = n.low, n.high
			above.child[n.key.bit(c)] = n
			*p, n = above, above
		}
		n.widen(x.slot.layer)
		if n.key.bits == k.bits {
			n.boxes = append(n.boxes, x)
			return
		}
		p = &n.child[k.bit(n.key.bits)]
	}
}

// remove takes a box out that was put under that key.
func (t *trie) remove(k key, x *placed) {
	n := t.root
	for n.key.bits < k.bits {
		n = n.child[k.bit(n.key.bits)]
	}
	for i, y := range n.boxes {
		if y == x {
			last := len(n.boxes) - 1
			n.boxes[i], n.boxes[last] = n.boxes[last], nil
			n.boxes = n.boxes[:last]
			return
		}
	}
}

// search calls f for the boxes whose keys share values with k, below nodes for
// which enter holds.
func (n *node) search(k key, enter func(*node) bool, f func(*placed)) {
	if n == nil || n.key.common(k) < min(n.key.bits, k.bits) || !enter(n) {
		return
	}
	for _, x := range n.boxes {
		f(x)
	}
	if k.bits > n.key.bits {
		n.child[k.bit(n.key.bits)].search(k, enter, f)
		return
	}
	n.child[0].search(k, enter, f)
	n.child[1].search(k, enter, f)
}
