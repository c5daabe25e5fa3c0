package gss

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/rc4"
	"encoding/binary"
	"fmt"
	"slices"
)

// Usages of checksums in the tokens of RFC 4757 §7.2 and §7.3.
const (
	rc4UsageWrap = 13
	rc4UsageMIC  = 15
)

// Octets of an RC4 token behind its framing and identifier: algorithms and
// filler, the encrypted sequence number, the checksum, and the confounder of a
// Wrap token.
const (
	rc4Algs       = 6
	rc4Seq        = 8
	rc4Sum        = 8
	rc4Confounder = 8
)

func hmacMD5(key []byte, parts ...[]byte) []byte {
	h := hmac.New(md5.New, key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

func rc4Crypt(key, b []byte) []byte {
	c, err := rc4.NewCipher(key)
	if err != nil {
		panic(err) // keys of 16 octets always fit
	}
	out := make([]byte, len(b))
	c.XORKeyStream(out, b)
	return out
}

// rc4Header is identifier, algorithms and filler, which the checksum covers.
func rc4Header(id uint16, sealed bool) []byte {
	h := []byte{byte(id >> 8), byte(id), 0x11, 0, 0xff, 0xff, 0xff, 0xff}
	if sealed {
		h[4], h[5] = 0x10, 0
	}
	return h
}

// rc4Checksum is SGN_CKSUM: the first 8 octets of the keyed digest.
func rc4Checksum(key []byte, usage uint32, header, data []byte) []byte {
	sign := hmacMD5(key, []byte("signaturekey\x00"))
	d := md5.New()
	d.Write(binary.LittleEndian.AppendUint32(nil, usage))
	d.Write(header)
	d.Write(data)
	return hmacMD5(sign, d.Sum(nil))[:rc4Sum]
}

// rc4Number encrypts or decrypts SND_SEQ.
func rc4Number(key, sum, seq []byte) []byte {
	return rc4Crypt(hmacMD5(hmacMD5(key, make([]byte, 4)), sum), seq)
}

// rc4Direction is what stands behind the sequence number of tokens of one role.
func rc4Direction(initiator bool) []byte {
	if initiator {
		return make([]byte, 4)
	}
	return []byte{0xff, 0xff, 0xff, 0xff}
}

// rc4SealKey is the key of confounder and data of a sealed token.
func rc4SealKey(key []byte, seq []byte) []byte {
	local := slices.Clone(key)
	for i := range local {
		local[i] ^= 0xf0
	}
	return hmacMD5(hmacMD5(local, make([]byte, 4)), seq)
}

// wrapRC4 builds a Wrap token of RFC 4757 §7.3.
func (c *Context) wrapRC4(msg []byte, seal bool) ([]byte, error) {
	confounder := make([]byte, rc4Confounder)
	if _, err := rand.Read(confounder); err != nil {
		return nil, err
	}
	return c.wrapRC4With(confounder, msg, seal)
}

// wrapRC4With is wrapRC4 with a given confounder. One octet of padding, as all
// implementations have it.
func (c *Context) wrapRC4With(confounder, msg []byte, seal bool) ([]byte, error) {
	key := c.key.value()
	h := rc4Header(tokWrapRC4, seal)
	data := slices.Concat(confounder, msg, []byte{1})
	sum := rc4Checksum(key, rc4UsageWrap, h, data)
	seq := binary.BigEndian.AppendUint32(nil, uint32(c.send))
	if seal {
		data = rc4Crypt(rc4SealKey(key, seq), data)
	}
	number := rc4Number(key, sum, append(seq, rc4Direction(c.initiator)...))
	return frame(tokWrapRC4, slices.Concat(h[2:], number, sum, data))
}

// unwrapRC4 opens a Wrap token of the peer.
func (c *Context) unwrapRC4(tok []byte) (msg []byte, sealed bool, number uint64, err error) {
	p, err := c.parseRC4(tok, tokWrapRC4)
	if err != nil {
		return nil, false, 0, err
	}
	if len(p.data) < rc4Confounder+1 {
		return nil, false, 0, fmt.Errorf("%w: %d bytes of data", ErrMalformed, len(p.data))
	}
	key := c.key.value()
	data := p.data
	if p.sealed {
		data = rc4Crypt(rc4SealKey(key, p.seq[:4]), data)
	}
	if !hmac.Equal(rc4Checksum(key, rc4UsageWrap, rc4Header(tokWrapRC4, p.sealed), data), p.sum) {
		return nil, false, 0, ErrIntegrity
	}
	pad := int(data[len(data)-1])
	if pad < 1 || pad > 8 || rc4Confounder+pad > len(data) {
		return nil, false, 0, fmt.Errorf("%w: padding of %d", ErrMalformed, pad)
	}
	return data[rc4Confounder : len(data)-pad], p.sealed, p.number(), nil
}

// micRC4 builds a MIC token of RFC 4757 §7.2.
func (c *Context) micRC4(msg []byte) ([]byte, error) {
	key := c.key.value()
	h := rc4Header(tokMICRC4, false)
	sum := rc4Checksum(key, rc4UsageMIC, h, msg)
	seq := binary.BigEndian.AppendUint32(nil, uint32(c.send))
	number := rc4Number(key, sum, append(seq, rc4Direction(c.initiator)...))
	return frame(tokMICRC4, slices.Concat(h[2:], number, sum))
}

// verifyRC4 checks a MIC token of the peer.
func (c *Context) verifyRC4(msg, tok []byte) (number uint64, err error) {
	p, err := c.parseRC4(tok, tokMICRC4)
	if err != nil {
		return 0, err
	}
	if len(p.data) != 0 || p.sealed {
		return 0, fmt.Errorf("%w: more than a signature", ErrMalformed)
	}
	if !hmac.Equal(rc4Checksum(c.key.value(), rc4UsageMIC, rc4Header(tokMICRC4, false), msg), p.sum) {
		return 0, ErrIntegrity
	}
	return p.number(), nil
}

// rc4Token is a token taken apart.
type rc4Token struct {
	sealed bool
	seq    []byte // decrypted: number and direction
	sum    []byte
	data   []byte
}

func (t rc4Token) number() uint64 { return uint64(binary.BigEndian.Uint32(t.seq)) }

// parseRC4 takes a token of the peer apart and checks algorithms and
// direction. Nothing of it is verified before the checksum is.
func (c *Context) parseRC4(tok []byte, want uint16) (rc4Token, error) {
	id, b, err := unframe(tok, maxMessage)
	if err != nil {
		return rc4Token{}, err
	}
	const fixed = rc4Algs + rc4Seq + rc4Sum
	if id != want || len(b) < fixed {
		return rc4Token{}, fmt.Errorf("%w: token %04x of %d bytes", ErrMalformed, id, len(b))
	}
	t := rc4Token{sealed: b[2] == 0x10, sum: b[rc4Algs+rc4Seq : fixed], data: b[fixed:]}
	if string(b[:rc4Algs]) != string(rc4Header(id, t.sealed)[2:]) {
		return rc4Token{}, fmt.Errorf("%w: algorithms %x", ErrMalformed, b[:rc4Algs])
	}
	t.seq = rc4Number(c.key.value(), t.sum, b[rc4Algs:rc4Algs+rc4Seq])
	if string(t.seq[4:]) != string(rc4Direction(!c.initiator)) {
		return rc4Token{}, fmt.Errorf("%w: direction", ErrIntegrity)
	}
	return t, nil
}
