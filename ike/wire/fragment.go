package wire

import "encoding/binary"

// The limits of messages in fragments.
const (
	MaxFragments = 32       // of one message
	MaxAssembled = 64 << 10 // bytes of a message that came in fragments
)

// Fragment is the fragment payload of [MS-IKEE], which other implementations
// share: a piece of a whole message, header included.
type Fragment struct {
	ID     uint16 // of the message it is a piece of
	Number uint8  // from 1
	Last   bool
	Data   []byte
}

const (
	fragmentHeader = 4
	lastFragment   = 1
	// FragmentOverhead is what a fragment takes beside its data, in bytes.
	FragmentOverhead = HeaderLen + genericLen + fragmentHeader
)

// ParseFragment reads the payloads of a message that is a fragment: one payload
// and nothing beside.
func ParseFragment(payloads []byte) (Fragment, error) {
	chain, err := ParseChain(FragmentPayload, payloads)
	if err != nil {
		return Fragment{}, err
	}
	if len(chain.Payloads) != 1 {
		return Fragment{}, malformed("fragment: %d payloads", len(chain.Payloads))
	}
	c := cursor{b: chain.Payloads[0].Body}
	f := Fragment{ID: c.uint16("fragment"), Number: c.uint8("fragment"), Last: c.uint8("fragment")&lastFragment != 0}
	f.Data = c.rest()
	if c.err == nil && (f.Number == 0 || f.Number > MaxFragments || len(f.Data) == 0) {
		c.fail("fragment: number %d of %d bytes", f.Number, len(f.Data))
	}
	if err := c.end("fragment"); err != nil {
		return Fragment{}, err
	}
	return f, nil
}

// Append appends the body of the fragment payload.
func (f Fragment) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, f.ID)
	flags := byte(0)
	if f.Last {
		flags = lastFragment
	}
	return append(append(b, f.Number, flags), f.Data...)
}

// Split cuts a message into the datagrams of its fragments, of size bytes at
// most unless that makes too many.
func Split(message []byte, id uint16, size int) [][]byte {
	n := max(size-FragmentOverhead, (len(message)+MaxFragments-1)/MaxFragments)
	h, _, err := ParseHeader(message)
	if err != nil {
		return [][]byte{message}
	}
	h.Flags = 0
	var all [][]byte
	for number := uint8(1); len(message) > 0; number++ {
		piece := message[:min(n, len(message))]
		message = message[len(piece):]
		f := Fragment{ID: id, Number: number, Last: len(message) == 0, Data: piece}
		all = append(all, AppendClear(nil, h, []Payload{{Type: FragmentPayload, Body: f.Append(nil)}}))
	}
	return all
}
