package directory

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"ipsecagent/policy/gpipsec"
)

// Bounds of one message of LDAP, which the library below takes in whole and
// reads recursively.
const (
	maxMessage = gpipsec.MaxData + 64<<10 // bytes
	maxUnbound = 64 << 10                 // bytes of one before the server has proven itself
	maxDepth   = 8                        // elements within each other; an entry's values are 6 deep
	// The library takes some 300 bytes for an element, however small, and reads
	// the values of controls and of intermediate responses as elements too.
	freeElements = 256      // in any message
	elementSize  = 32       // bytes for each further one, on average
	maxInner     = 16 << 10 // bytes of such values
)

var errBER = errors.New("malformed LDAP message")

// Tags of BER (X.690) and of LDAP (RFC 4511 §4.1.1).
const (
	tagInteger     = 0x02
	tagOctetString = 0x04
	tagEnumerated  = 0x0a
	tagSequence    = 0x30
	tagControls    = 0xa0
	tagPartly      = 0x79 // intermediate response
	tagConstructed = 0x20 // a bit
	tagHigh        = 0x1f // all bits set: the tag goes on; no tag of LDAP does
)

// element is one element of BER.
type element struct {
	tag     byte
	content []byte
}

// next takes the first element of b.
func next(b []byte) (e element, rest []byte, err error) {
	head, n, err := berHeader(b)
	if err != nil {
		return element{}, nil, err
	}
	if len(b)-head < n {
		return element{}, nil, fmt.Errorf("%w: it ends within an element", errBER)
	}
	return element{b[0], b[head : head+n]}, b[head+n:], nil
}

// berHeader reads tag and length: how long they are and how long the content.
// Lengths of the indefinite form are no part of LDAP (RFC 4511 §5.1).
func berHeader(b []byte) (head, n int, err error) {
	if len(b) < 2 {
		return 0, 0, fmt.Errorf("%w: it ends within an element", errBER)
	}
	if b[0]&tagHigh == tagHigh {
		return 0, 0, fmt.Errorf("%w: tag %02x", errBER, b[0])
	}
	if b[1] < 0x80 {
		return 2, int(b[1]), nil
	}
	octets := int(b[1] &^ 0x80)
	if octets == 0 || octets > 4 {
		return 0, 0, fmt.Errorf("%w: a length of form %02x", errBER, b[1])
	}
	head = 2 + octets
	if len(b) < head {
		return 0, 0, fmt.Errorf("%w: it ends within an element", errBER)
	}
	var size [8]byte
	copy(size[8-octets:], b[2:head])
	length := binary.BigEndian.Uint64(size[:])
	if length > maxMessage {
		return 0, 0, fmt.Errorf("%w: an element of %d bytes, more than %d", ErrTooLarge, length, maxMessage)
	}
	return head, int(length), nil
}

// checkMessage refuses a message that is not made of elements, nests them too
// deeply, or has so many that memory for them is out of proportion to its size.
func checkMessage(m []byte) error {
	left := freeElements + len(m)/elementSize
	if err := checkBER(m, 0, &left); err != nil {
		return err
	}
	message, err := enter(m, 0)
	if err != nil {
		return err
	}
	for b := message.content; len(b) > 0; {
		e, rest, err := next(b)
		if err != nil {
			return err
		}
		if (e.tag == tagControls || e.tag == tagPartly) && len(e.content) > maxInner {
			return fmt.Errorf("%w: %d bytes of controls or of a state in between, more than %d", ErrTooLarge, len(e.content), maxInner)
		}
		b = rest
	}
	return nil
}

// checkBER checks the elements of b, of which so many are left to be taken.
func checkBER(b []byte, depth int, left *int) error {
	if depth > maxDepth {
		return fmt.Errorf("%w: elements nested deeper than %d", errBER, maxDepth)
	}
	for len(b) > 0 {
		if *left--; *left < 0 {
			return fmt.Errorf("%w: a message of too many elements", ErrTooLarge)
		}
		e, rest, err := next(b)
		if err == nil && e.tag&tagConstructed != 0 {
			err = checkBER(e.content, depth+1, left)
		}
		if err != nil {
			return err
		}
		b = rest
	}
	return nil
}

// readMessage reads one message, not a byte beyond it, of as many bytes as most
// says when its size is known.
func readMessage(r io.Reader, most func() int) ([]byte, error) {
	b := make([]byte, 2, 64)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	if b[0] != tagSequence {
		return nil, fmt.Errorf("%w: it begins with %02x", errBER, b[0])
	}
	if b[1] > 0x80 && b[1] <= 0x84 {
		b = b[:2+int(b[1]&^0x80)]
		if _, err := io.ReadFull(r, b[2:]); err != nil {
			return nil, whole(err)
		}
	}
	head, n, err := berHeader(b)
	if err != nil {
		return nil, err
	}
	if n > most() {
		return nil, fmt.Errorf("%w: a message of %d bytes, more than %d", ErrTooLarge, n, most())
	}
	m := make([]byte, head+n)
	copy(m, b)
	if _, err := io.ReadFull(r, m[head:]); err != nil {
		return nil, whole(err)
	}
	return m, checkMessage(m)
}

// whole makes the end of a connection within a message an error.
func whole(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// tlv encodes an element from its contents.
func tlv(tag byte, contents ...[]byte) []byte {
	n := 0
	for _, c := range contents {
		n += len(c)
	}
	b := []byte{tag}
	switch {
	case n < 0x80:
		b = append(b, byte(n))
	default:
		b = append(b, 0x82, byte(n>>8), byte(n)) // what is encoded here is short
	}
	for _, c := range contents {
		b = append(b, c...)
	}
	return b
}
