package gss

import (
	"fmt"
	"time"
)

// Context is a finished security context: both ends have proven themselves to
// each other. It protects messages both ways, in order; it is used by one
// goroutine at a time.
type Context struct {
	key            Key
	initiator      bool
	acceptorSubkey bool
	send, recv     uint64 // next sequence numbers
	self, peer     Principal
	flags          uint32
	ends           time.Time
}

// Peer returns the proven name of the other end: the client on an acceptor,
// the service on an initiator.
func (c *Context) Peer() Principal { return c.peer }

// Self returns the name under which this end took part.
func (c *Context) Self() Principal { return c.self }

// Etype returns the encryption type of the context's key.
func (c *Context) Etype() int32 { return c.key.Etype() }

// Flags returns what the initiator asked for.
func (c *Context) Flags() uint32 { return c.flags }

// Expires returns when the ticket behind the context ends.
func (c *Context) Expires() time.Time { return c.ends }

// Wrap protects a message: with seal also against reading.
func (c *Context) Wrap(msg []byte, seal bool) (tok []byte, err error) {
	if c.key.Etype() == RC4 {
		tok, err = c.wrapRC4(msg, seal)
	} else {
		tok, err = c.wrapCFX(msg, seal)
	}
	if err != nil {
		return nil, fmt.Errorf("gss: wrap for %s: %w", c.peer, err)
	}
	c.send++
	return tok, nil
}

// Unwrap verifies a token of the peer and returns the message, and whether it
// was sealed. It must be the next one in sequence; after an error the context
// is as before.
func (c *Context) Unwrap(tok []byte) (msg []byte, sealed bool, err error) {
	defer guard(&err)
	var seq uint64
	if c.key.Etype() == RC4 {
		msg, sealed, seq, err = c.unwrapRC4(tok)
	} else {
		msg, sealed, seq, err = c.unwrapCFX(tok)
	}
	if err == nil {
		err = c.advance(seq)
	}
	if err != nil {
		return nil, false, fmt.Errorf("gss: unwrap from %s: %w", c.peer, err)
	}
	return msg, sealed, nil
}

// Unseal is Unwrap that refuses what was not sealed.
func (c *Context) Unseal(tok []byte) ([]byte, error) {
	msg, sealed, err := c.Unwrap(tok)
	if err == nil && !sealed {
		return nil, fmt.Errorf("gss: unwrap from %s: %w", c.peer, ErrNotSealed)
	}
	return msg, err
}

// MIC returns a token that proves a message without carrying it.
func (c *Context) MIC(msg []byte) (tok []byte, err error) {
	if c.key.Etype() == RC4 {
		tok, err = c.micRC4(msg)
	} else {
		tok, err = c.micCFX(msg)
	}
	if err != nil {
		return nil, fmt.Errorf("gss: sign for %s: %w", c.peer, err)
	}
	c.send++
	return tok, nil
}

// VerifyMIC checks such a token of the peer. It must be the next one in
// sequence.
func (c *Context) VerifyMIC(msg, tok []byte) (err error) {
	defer guard(&err)
	var seq uint64
	if c.key.Etype() == RC4 {
		seq, err = c.verifyRC4(msg, tok)
	} else {
		seq, err = c.verifyCFX(msg, tok)
	}
	if err == nil {
		err = c.advance(seq)
	}
	if err != nil {
		return fmt.Errorf("gss: verify signature of %s: %w", c.peer, err)
	}
	return nil
}

// advance admits the next token in sequence alone: what is out of order here
// was replayed, dropped or changed on the way. Tokens of RC4 number with 32
// bits.
func (c *Context) advance(seq uint64) error {
	want := c.recv
	if c.key.Etype() == RC4 {
		want = uint64(uint32(want))
	}
	if seq != want {
		return fmt.Errorf("%w: number %d instead of %d", ErrSequence, seq, want)
	}
	c.recv++
	return nil
}
