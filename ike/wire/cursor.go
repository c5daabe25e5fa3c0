package wire

import "encoding/binary"

// cursor reads forward through a slice. The first failure sticks: what follows
// reads zeroes, and the caller asks once, at the end.
type cursor struct {
	b   []byte
	err error
}

// take returns the next n bytes, not copied; nil after a failure.
func (c *cursor) take(n int, what string) []byte {
	if c.err != nil {
		return nil
	}
	if n < 0 || n > len(c.b) {
		c.err = malformed("%s needs %d bytes, %d left", what, n, len(c.b))
		return nil
	}
	taken := c.b[:n:n]
	c.b = c.b[n:]
	return taken
}

func (c *cursor) uint8(what string) uint8 {
	if b := c.take(1, what); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) uint16(what string) uint16 {
	if b := c.take(2, what); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) uint32(what string) uint32 {
	if b := c.take(4, what); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// copied returns a copy of the next n bytes.
func (c *cursor) copied(n int, what string) []byte {
	return append([]byte(nil), c.take(n, what)...)
}

// rest returns a copy of all that is left.
func (c *cursor) rest() []byte {
	return c.copied(len(c.b), "rest")
}

// zero reads n reserved bytes, which must be zero.
func (c *cursor) zero(n int, what string) {
	for _, v := range c.take(n, what) {
		if v != 0 {
			c.fail("%s: reserved field is not zero", what)
		}
	}
}

// fail records a failure of the content.
func (c *cursor) fail(format string, args ...any) {
	if c.err == nil {
		c.err = malformed(format, args...)
	}
}

// end returns the error, or that bytes are left over.
func (c *cursor) end(what string) error {
	if c.err == nil && len(c.b) > 0 {
		c.fail("%s: %d bytes left over", what, len(c.b))
	}
	return c.err
}

// section reads a chained structure of "next, reserved, length, body": the
// generic header of RFC 2408 §3.2, which proposals and transforms share.
func (c *cursor) section(what string) (next uint8, body []byte) {
	next = c.uint8(what)
	c.zero(1, what)
	n := int(c.uint16(what))
	if c.err == nil && n < genericLen {
		c.fail("%s: length %d", what, n)
	}
	return next, c.take(n-genericLen, what)
}
