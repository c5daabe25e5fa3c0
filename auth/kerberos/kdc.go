package kerberos

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"ipsecagent/auth/gss"
)

// DialFunc opens a connection, as net.Dialer's DialContext does.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// How long KDCs may take: each by itself, and all for one ticket.
const (
	perTCP  = 3 * time.Second
	perUDP  = time.Second // twice
	overall = 10 * time.Second
)

// maxAnswer bounds a KDC's answer in bytes.
const maxAnswer = 256 << 10

// maxDatagram bounds a request that goes by UDP too, in bytes.
const maxDatagram = 1400

var (
	// errUnreachable: no KDC answered.
	errUnreachable = errors.New("no KDC answers")
	// errSilent: one KDC gave no answer that can be used.
	errSilent = errors.New("no answer")
)

// transport carries messages to KDCs. Several workers use it at once.
type transport struct {
	locator locator
	dial    DialFunc

	mu   sync.Mutex
	good map[string]string // by realm, the KDC that last proved to be one
}

func newTransport(conf *krb5Conf, dial DialFunc) *transport {
	return &transport{locator: newLocator(conf, dial), dial: dial, good: map[string]string{}}
}

// inOrder puts the KDC that last proved to be one first: one that is silent
// costs its time once, not with every request.
func (t *transport) inOrder(realm string, kdcs []string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(kdcs, t.good[realm])
	if i < 0 {
		return kdcs
	}
	return slices.Concat(kdcs[i:i+1], kdcs[:i], kdcs[i+1:])
}

// prefer has a KDC asked first from now on.
func (t *transport) prefer(realm, kdc string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.good) >= maxRealms {
		clear(t.good)
	}
	t.good[realm] = kdc
}

// maxRealms bounds the realms of which a KDC is remembered.
const maxRealms = 64

// asker sends a request to one KDC and returns its answer. A KRB-ERROR comes
// back as a *gss.PeerError; that nothing came, as errSilent.
type asker func(request []byte) ([]byte, error)

// try talks to the KDCs of a realm in turn, until one has given what talk takes
// for authentic: an answer by itself, and a KRB-ERROR above all, may come from
// anybody. If none has, the first failure of one that answered is returned.
func (t *transport) try(ctx context.Context, realm string, talk func(asker) error) error {
	kdcs, err := t.locator.kdcs(ctx, realm)
	if err != nil {
		return err
	}
	var answered, silent error
	for _, kdc := range t.inOrder(realm, kdcs) {
		err := talk(t.asker(ctx, kdc))
		switch {
		case err == nil:
			t.prefer(realm, kdc)
			return nil
		case errors.Is(err, errSilent):
			silent = errors.Join(silent, fmt.Errorf("%s: %w", kdc, err))
		case answered == nil:
			answered = fmt.Errorf("%s: %w", kdc, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	if answered != nil {
		return answered
	}
	return fmt.Errorf("%w for realm %s: %w", errUnreachable, realm, silent)
}

func (t *transport) asker(ctx context.Context, kdc string) asker {
	return func(request []byte) ([]byte, error) {
		answer, err := t.askOne(ctx, kdc, request)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errSilent, err)
		}
		return answer, refusal(answer)
	}
}

// askOne asks by TCP, which carries answers of every size, and then by UDP.
func (t *transport) askOne(ctx context.Context, kdc string, request []byte) ([]byte, error) {
	bounded, cancel := context.WithTimeout(ctx, perTCP)
	defer cancel()
	answer, err := t.tcp(bounded, kdc, request)
	if err == nil || len(request) > maxDatagram || ctx.Err() != nil {
		return answer, err
	}
	datagram, udpErr := t.udp(ctx, kdc, request)
	if udpErr != nil {
		return nil, err
	}
	return datagram, nil
}

// open connects and arranges that the context's end interrupts.
func (t *transport) open(ctx context.Context, network, kdc string) (net.Conn, func() bool, error) {
	conn, err := t.dial(ctx, network, kdc)
	if err != nil {
		return nil, nil, err
	}
	return conn, context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) }), nil
}

// tcp exchanges messages with their length in front (RFC 4120 §7.2.2).
func (t *transport) tcp(ctx context.Context, kdc string, request []byte) ([]byte, error) {
	conn, stop, err := t.open(ctx, "tcp", kdc)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer stop()
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(request))), request...)); err != nil {
		return nil, err
	}
	var size [4]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n == 0 || n > maxAnswer {
		return nil, fmt.Errorf("an answer of %d bytes", n)
	}
	answer := make([]byte, n)
	_, err = io.ReadFull(conn, answer)
	return answer, err
}

// udp exchanges datagrams and asks twice.
func (t *transport) udp(ctx context.Context, kdc string, request []byte) ([]byte, error) {
	conn, stop, err := t.open(ctx, "udp", kdc)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer stop()
	answer := make([]byte, 64<<10)
	for range 2 {
		if _, err = conn.Write(request); err != nil {
			return nil, err
		}
		var n int
		conn.SetReadDeadline(time.Now().Add(perUDP))
		if n, err = conn.Read(answer); err == nil && n > 0 {
			return answer[:n], nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return nil, err
}

// refusal returns the KRB-ERROR that an answer is; nil if it is none.
func refusal(answer []byte) error {
	var said *gss.PeerError
	if err := gss.ParsePeerError(answer); errors.As(err, &said) {
		if said.Code == errorcode.KRB_ERR_RESPONSE_TOO_BIG {
			return fmt.Errorf("%w: it fits no datagram and the KDC takes no TCP", errSilent)
		}
		return said
	}
	return nil
}
