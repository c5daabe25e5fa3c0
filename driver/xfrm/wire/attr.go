package wire

import (
	"fmt"
)

const (
	attrHeader = 4
	attrAlign  = 4
	attrTypeOf = 0x3fff // the two upper bits are flags
)

// appendAttr appends an attribute, padded.
func appendAttr(b []byte, typ uint16, payload []byte) []byte {
	b = native.AppendUint16(b, uint16(attrHeader+len(payload)))
	b = native.AppendUint16(b, typ)
	b = append(b, payload...)
	for len(b)%attrAlign != 0 {
		b = append(b, 0)
	}
	return b
}

func appendAttr32(b []byte, typ uint16, v uint32) []byte {
	return appendAttr(b, typ, native.AppendUint32(nil, v))
}

// eachAttr calls f with every attribute of b.
func eachAttr(b []byte, f func(typ uint16, payload []byte) error) error {
	for len(b) > 0 {
		if len(b) < attrHeader {
			return fmt.Errorf("%w: %d bytes where an attribute begins", ErrShort, len(b))
		}
		n := int(native.Uint16(b))
		if n < attrHeader || n > len(b) {
			return fmt.Errorf("%w: an attribute of %d bytes, %d are left", ErrShort, n, len(b))
		}
		typ := native.Uint16(b[2:]) & attrTypeOf
		if err := f(typ, b[attrHeader:n]); err != nil {
			return fmt.Errorf("wire: attribute %d: %w", typ, err)
		}
		b = b[min(len(b), (n+attrAlign-1)/attrAlign*attrAlign):]
	}
	return nil
}

// Mark selects by the packet's mark, or sets it: Value after Mask.
type Mark struct {
	Value, Mask uint32
}

const sizeMark = 8

func appendMark(b []byte, m Mark) []byte {
	if m == (Mark{}) {
		return b
	}
	return appendAttr(b, attrMark, native.AppendUint32(native.AppendUint32(nil, m.Value), m.Mask))
}

func parseMark(b []byte) (Mark, error) {
	if err := need(b, sizeMark, "mark"); err != nil {
		return Mark{}, err
	}
	return Mark{Value: native.Uint32(b), Mask: native.Uint32(b[4:])}, nil
}

func parse32(b []byte) (uint32, error) {
	if err := need(b, 4, "number"); err != nil {
		return 0, err
	}
	return native.Uint32(b), nil
}
