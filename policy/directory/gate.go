package directory

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"ipsecagent/auth/gss"
)

// writeTimeout bounds one write to a server that does not read.
const writeTimeout = 20 * time.Second

// gate is the connection below the LDAP library: it hands up whole messages
// that were checked, and begins the SASL layer where that begins. One goroutine
// reads and one writes.
type gate struct {
	net.Conn
	raw  net.Conn // below TLS, or the same
	from io.Reader
	to   io.Writer
	rest []byte // of the message that is being handed up

	// layer is set when the last message of the bind is about to be sent.
	layer atomic.Pointer[layer]
	last  bool // that message was sent
	// bound is set when the server has proven itself: more of it is taken then.
	bound atomic.Bool
	// What went over the connection, as the layers above see it.
	sent, received atomic.Uint64
	// refused is why a message was not taken; nil: all were. The library above
	// keeps no more than the words of it.
	refused atomic.Pointer[error]
	ended   chan struct{} // closed when nothing more can come
	once    sync.Once
}

func newGate(c, raw net.Conn) *gate {
	g := &gate{Conn: c, raw: raw, ended: make(chan struct{})}
	g.from, g.to = io.Reader(g.Conn), io.Writer(g.Conn)
	return g
}

// Close ends the connection without a farewell, which a peer that does not read
// would hold up.
func (g *gate) Close() error { return g.raw.Close() }

// Read hands up what was read as one message. The answer to the last message of
// a bind is the first that comes after the layer was set, and the last in clear.
func (g *gate) Read(p []byte) (int, error) {
	if len(g.rest) == 0 {
		m, err := readMessage(g.from, g.most)
		if err != nil {
			if errors.Is(err, ErrTooLarge) || errors.Is(err, errBER) {
				g.refused.Store(&err)
			}
			g.once.Do(func() { close(g.ended) })
			return 0, err
		}
		if l := g.layer.Load(); l != nil {
			g.from = l
		}
		g.received.Add(uint64(len(m)))
		g.rest = m
	}
	n := copy(p, g.rest)
	g.rest = g.rest[n:]
	return n, nil
}

// most is the size of a message that is taken now.
func (g *gate) most() int {
	if g.bound.Load() {
		return maxMessage
	}
	return maxUnbound
}

// Write sends one message.
func (g *gate) Write(m []byte) (int, error) {
	l := g.layer.Load()
	if l != nil && g.last {
		g.to = l
	}
	g.last = l != nil
	g.sent.Add(uint64(len(m)))
	if err := g.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return g.to.Write(m)
}

// Sizes of what a SASL layer sends at once (RFC 4752 §3.3).
const (
	maxFrame = maxMessage // of a frame that comes; what we say we take
	// frameRoom is what sealing adds at most.
	frameRoom = 256
)

// layer is the SASL layer of the mechanism GSSAPI: frames of sealed messages
// with their length in front.
type layer struct {
	conn io.ReadWriter
	max  int    // what the peer takes in a frame
	rest []byte // opened and not yet read

	mu      sync.Mutex // a context is for one goroutine at a time
	context *gss.Context
}

// Read returns what the next frame holds.
func (l *layer) Read(p []byte) (int, error) {
	for len(l.rest) == 0 {
		var err error
		if l.rest, err = l.frame(); err != nil {
			return 0, err
		}
	}
	n := copy(p, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

// frame reads and opens one frame.
func (l *layer) frame() ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(l.conn, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n == 0 || n > maxFrame {
		return nil, fmt.Errorf("%w: a sealed frame of %d bytes", ErrTooLarge, n)
	}
	token, err := readAtMost(l.conn, int(n))
	if err != nil {
		return nil, whole(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.context.Unseal(token)
}

// readAtMost reads n bytes and takes memory for them as they come.
func readAtMost(r io.Reader, n int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err == nil && len(b) < n {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

// Write seals and sends.
func (l *layer) Write(m []byte) (int, error) {
	for done := 0; done < len(m); {
		n := min(len(m)-done, l.max-frameRoom)
		l.mu.Lock()
		token, err := l.context.Wrap(m[done:done+n], true)
		l.mu.Unlock()
		if err != nil {
			return done, err
		}
		if _, err := l.conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(token))), token...)); err != nil {
			return done, err
		}
		done += n
	}
	return len(m), nil
}
