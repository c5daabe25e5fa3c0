package gss

import (
	"crypto/hmac"
	"encoding/binary"
	"fmt"
	"slices"
)

// Header of the per-message tokens of RFC 4121 §4.2.6.
const (
	cfxHeader = 16

	cfxAcceptor = 1 // sent by the acceptor
	cfxSealed   = 2
	cfxSubkey   = 4 // under the acceptor's subkey
)

// Key usages (RFC 4121 §2).
const (
	usageAcceptorSeal  = 22
	usageAcceptorSign  = 23
	usageInitiatorSeal = 24
	usageInitiatorSign = 25
)

// usages returns the key usages of what one role sends.
func usages(initiator bool) (seal, sign uint32) {
	if initiator {
		return usageInitiatorSeal, usageInitiatorSign
	}
	return usageAcceptorSeal, usageAcceptorSign
}

// cfxFlags returns the flags of tokens that one role sends.
func (c *Context) cfxFlags(initiator bool) byte {
	var f byte
	if !initiator {
		f |= cfxAcceptor
	}
	if c.acceptorSubkey {
		f |= cfxSubkey
	}
	return f
}

// header returns the first 16 octets of a token; ec and rrc are 0 where they
// are checksummed.
func header(id uint16, flags byte, seq uint64) []byte {
	h := make([]byte, cfxHeader)
	binary.BigEndian.PutUint16(h, id)
	h[2] = flags
	h[3] = 0xff
	if id == tokMIC {
		copy(h[4:], "\xff\xff\xff\xff")
	}
	binary.BigEndian.PutUint64(h[8:], seq)
	return h
}

// wrapCFX builds a Wrap token (RFC 4121 §4.2.4): EC and RRC are 0 when it is
// sealed, EC is the length of the checksum when it is not.
func (c *Context) wrapCFX(msg []byte, seal bool) ([]byte, error) {
	usage, _ := usages(c.initiator)
	flags := c.cfxFlags(c.initiator)
	if seal {
		h := header(tokWrap, flags|cfxSealed, c.send)
		body, err := c.key.Encrypt(slices.Concat(msg, h), usage)
		return append(h, body...), err
	}
	h := header(tokWrap, flags, c.send)
	sum, err := c.key.Checksum(slices.Concat(msg, h), usage)
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint16(h[4:], uint16(len(sum)))
	return slices.Concat(h, msg, sum), nil
}

// unwrapCFX opens a Wrap token of the peer with any rotation and filler.
func (c *Context) unwrapCFX(tok []byte) (msg []byte, sealed bool, seq uint64, err error) {
	flags, seq, err := c.cfxStart(tok, tokWrap)
	if err != nil {
		return nil, false, 0, err
	}
	ec := int(binary.BigEndian.Uint16(tok[4:]))
	rrc := int(binary.BigEndian.Uint16(tok[6:]))
	body := rotateLeft(tok[cfxHeader:], rrc)
	h := slices.Clone(tok[:cfxHeader])
	if flags&cfxSealed != 0 {
		h[6], h[7] = 0, 0
		msg, err = c.openSealed(body, h, ec)
		return msg, true, seq, err
	}
	clear(h[4:8])
	msg, err = c.openSigned(body, h, ec)
	return msg, false, seq, err
}

// cfxStart checks the header of a token of the peer.
func (c *Context) cfxStart(tok []byte, id uint16) (flags byte, seq uint64, err error) {
	if len(tok) < cfxHeader || binary.BigEndian.Uint16(tok) != id || tok[3] != 0xff {
		return 0, 0, fmt.Errorf("%w: not a token %04x", ErrMalformed, id)
	}
	if id == tokMIC && string(tok[4:8]) != "\xff\xff\xff\xff" {
		return 0, 0, fmt.Errorf("%w: filler", ErrMalformed)
	}
	flags = tok[2]
	// Its direction and key: a token of ours must not come back as the peer's.
	if flags&^cfxSealed != c.cfxFlags(!c.initiator) {
		return 0, 0, fmt.Errorf("%w: flags %02x", ErrMalformed, flags)
	}
	return flags, binary.BigEndian.Uint64(tok[8:]), nil
}

// openSealed decrypts message, filler and the copy of the header.
func (c *Context) openSealed(body, h []byte, ec int) ([]byte, error) {
	usage, _ := usages(!c.initiator)
	plain, err := c.key.Decrypt(body, usage)
	if err != nil {
		return nil, err
	}
	n := len(plain) - cfxHeader - ec
	if n < 0 {
		return nil, fmt.Errorf("%w: shorter than its header", ErrMalformed)
	}
	if !hmac.Equal(plain[n+ec:], h) {
		return nil, fmt.Errorf("%w: header", ErrIntegrity)
	}
	return plain[:n], nil
}

// openSigned verifies the checksum of ec octets behind the message.
func (c *Context) openSigned(body, h []byte, ec int) ([]byte, error) {
	usage, _ := usages(!c.initiator)
	n := len(body) - ec
	if n < 0 {
		return nil, fmt.Errorf("%w: shorter than its checksum", ErrMalformed)
	}
	sum, err := c.key.Checksum(slices.Concat(body[:n], h), usage)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(sum, body[n:]) {
		return nil, ErrIntegrity
	}
	return slices.Clone(body[:n]), nil
}

// micCFX builds a MIC token (RFC 4121 §4.2.6.1).
func (c *Context) micCFX(msg []byte) ([]byte, error) {
	_, usage := usages(c.initiator)
	h := header(tokMIC, c.cfxFlags(c.initiator), c.send)
	sum, err := c.key.Checksum(slices.Concat(msg, h), usage)
	return append(h, sum...), err
}

// verifyCFX checks a MIC token of the peer.
func (c *Context) verifyCFX(msg, tok []byte) (seq uint64, err error) {
	flags, seq, err := c.cfxStart(tok, tokMIC)
	if err != nil {
		return 0, err
	}
	if flags&cfxSealed != 0 {
		return 0, fmt.Errorf("%w: flags %02x", ErrMalformed, flags)
	}
	_, usage := usages(!c.initiator)
	sum, err := c.key.Checksum(slices.Concat(msg, tok[:cfxHeader]), usage)
	if err != nil {
		return 0, err
	}
	if !hmac.Equal(sum, tok[cfxHeader:]) {
		return 0, ErrIntegrity
	}
	return seq, nil
}

// rotateLeft undoes the right rotation by n octets of RFC 4121 §4.2.5.
func rotateLeft(b []byte, n int) []byte {
	if len(b) == 0 {
		return b
	}
	n %= len(b)
	return slices.Concat(b[n:], b[:n])
}
