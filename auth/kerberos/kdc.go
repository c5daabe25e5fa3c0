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

// errUnreachable: no KDC answered.
var errUnreachable = errors.New("no KDC answers")

// transport carries messages to KDCs. Several workers use it at once.
type transport struct {
	locator locator
	dial    DialFunc

	mu   sync.Mutex
	good map[string]string // by realm, the KDC that answered last
}

func newTransport(conf *krb5Conf, dial DialFunc) *transport {
	return &transport{locator: newLocator(conf, dial), dial: dial, good: map[string]string{}}
}

// inOrder puts the KDC that answered last first: one that is silent costs its
// time once, not with every request.
func (t *transport) inOrder(realm string, kdcs []string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(kdcs, t.good[realm])
	if i < 0 {
		return kdcs
	}
	return slices.Concat(kdcs[i:i+1], kdcs[:i], kdcs[i+1:])
}

func (t *transport) answered(realm, kdc string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.good) >= maxRealms {
		clear(t.good)
	}
	t.good[realm] = kdc
}

// maxRealms bounds the realms of which a KDC is remembered.
const maxRealms = 64

// ask sends a request to the KDCs of a realm in turn, until one answers. A
// KRB-ERROR is an answer: it comes back as a *gss.PeerError.
func (t *transport) ask(ctx context.Context, realm string, request []byte) ([]byte, error) {
	kdcs, err := t.locator.kdcs(ctx, realm)
	if err != nil {
		return nil, err
	}
	var failed error
	for _, kdc := range t.inOrder(realm, kdcs) {
		answer, err := t.askOne(ctx, kdc, request)
		if err == nil {
			t.answered(realm, kdc)
			return answer, refusal(answer)
		}
		failed = errors.Join(failed, fmt.Errorf("%s: %w", kdc, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("%w for realm %s: %w", errUnreachable, realm, failed)
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
			return fmt.Errorf("%w: its answer fits no datagram and it takes no TCP", errUnreachable)
		}
		return said
	}
	return nil
}
