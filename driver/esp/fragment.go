package esp

import "encoding/binary"

// Fragments cuts a sealed packet into fragments: ESP goes first, fragmentation
// after it (RFC 4303 §3.3.4). It reads the packet while it is used and keeps
// nothing else.
type Fragments struct {
	packet []byte
	head   int // bytes of header that every fragment repeats
	next   int // IPv6: offset of the byte that names what follows them
	at     int // offset of the next payload byte
	room   int // payload bytes of a fragment, a multiple of 8
	id     uint32
	v6     bool
	whole  bool // it fits and has not come out yet
}

// NewFragments prepares to cut packet to fragments of at most mtu bytes. One
// that fits comes out once, as it is. id tells the IPv6 fragments of one
// packet from those of another (RFC 8200 §4.5); IPv4 has its own in the header.
// ErrTooBig: the IPv4 header forbids it, or the MTU leaves no room; ErrFragment:
// it is a fragment already.
func NewFragments(packet []byte, mtu int, id uint32) (Fragments, error) {
	h, err := Parse(packet)
	if err != nil {
		return Fragments{}, err
	}
	f := Fragments{packet: packet[:h.Length], head: h.split, next: h.splitNext, at: h.split, id: id, v6: h.V6}
	if h.Length <= mtu {
		f.whole = true
		return f, nil
	}
	overhead := f.head
	if f.v6 {
		overhead += fragmentLen
	}
	f.room = (mtu - overhead) &^ 7
	switch {
	case h.Fragment:
		return Fragments{}, ErrFragment
	case f.room < 8 || !f.v6 && h.DF:
		return Fragments{}, ErrTooBig
	}
	return f, nil
}

// fragmentLen is the length of the IPv6 fragment header.
const fragmentLen = 8

// Next writes the next fragment into dst, which holds at least mtu bytes, and
// returns it, a part of dst; nil after the last.
func (f *Fragments) Next(dst []byte) []byte {
	if f.whole {
		f.whole, f.at = false, len(f.packet)
		return dst[:copy(dst, f.packet)]
	}
	if f.at >= len(f.packet) {
		return nil
	}
	from := f.at
	to := min(from+f.room, len(f.packet))
	f.at = to
	if f.v6 {
		return f.put6(dst, from, to)
	}
	return f.put4(dst, from, to)
}

func (f *Fragments) put6(dst []byte, from, to int) []byte {
	copy(dst, f.packet[:f.head])
	field := dst[f.head : f.head+fragmentLen]
	field[0], field[1] = dst[f.next], 0
	dst[f.next] = protoFragment
	offset := uint16(from - f.head)
	if to < len(f.packet) {
		offset |= 1
	}
	binary.BigEndian.PutUint16(field[2:], offset)
	binary.BigEndian.PutUint32(field[4:], f.id)
	n := f.head + fragmentLen
	n += copy(dst[n:], f.packet[from:to])
	setLength(dst, n)
	return dst[:n]
}

func (f *Fragments) put4(dst []byte, from, to int) []byte {
	head := copy(dst, f.packet[:f.head])
	if from > f.head {
		head = ipv4Min + copyOptions(dst[ipv4Min:], f.packet[ipv4Min:f.head])
		dst[0] = 0x40 | byte(head/4)
	}
	offset := uint16((from - f.head) / 8)
	if to < len(f.packet) {
		offset |= 0x2000
	}
	binary.BigEndian.PutUint16(dst[6:], offset)
	n := head + copy(dst[head:], f.packet[from:to])
	setLength(dst, n)
	return dst[:n]
}

// copyOptions copies the IPv4 options that every fragment carries (their
// copied flag is set, RFC 791 §3.1) and pads them to whole words. It returns
// the number of bytes.
func copyOptions(dst, options []byte) int {
	n := 0
	for len(options) > 0 && options[0] != 0 {
		size := 1
		if options[0] != 1 {
			if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
				break
			}
			size = int(options[1])
		}
		if options[0]&0x80 != 0 {
			n += copy(dst[n:], options[:size])
		}
		options = options[size:]
	}
	for n%4 != 0 {
		dst[n] = 0
		n++
	}
	return n
}
