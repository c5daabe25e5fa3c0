package ike

import (
	"crypto/hmac"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ipsecagent/ike/crypt"
	"ipsecagent/ike/wire"
)

// message is a datagram whose header was read, and nothing else yet.
type message struct {
	path
	wire.Header
	body []byte // as it came, encrypted or not
	sum  [32]byte
	size int
}

// packet takes a datagram to the exchange it belongs to.
func (m *Machine) packet(now time.Time, in Packet) {
	if len(in.Data) > wire.MaxMessage {
		m.drop(now, in.Remote, "larger than any message")
		return
	}
	h, body, err := wire.ParseHeader(in.Data)
	if err != nil {
		m.drop(now, in.Remote, err.Error())
		return
	}
	msg := message{path: path{unmap(in.Local), unmap(in.Remote)}, Header: h, body: body, sum: checksum(in.Data), size: len(in.Data)}
	m.traceDatagram(msg.path, false, in.Data, 0)
	take := m.dispatch
	if h.Next == wire.FragmentPayload {
		take = m.fragment
	}
	if err := take(now, msg); err != nil {
		m.drop(now, in.Remote, err.Error())
	}
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

var (
	errUnknownCookies = errors.New("no exchange has these cookies")
	errElsewhere      = errors.New("the cookies belong to other addresses")
	errNotEncrypted   = errors.New("not encrypted under an established ISAKMP SA")
	errExchange       = errors.New("exchange type not supported")
	errBusy           = errors.New("the message before is still being worked on")
	errDuplicate      = errors.New("duplicate")
	errHash           = errors.New("the hash does not match")
	errGarbage        = errors.New("decrypts to nothing that can be read")
)

// dispatch is the only way in: quick modes and authenticated notifies are
// reached through an established ISAKMP SA and not otherwise.
func (m *Machine) dispatch(now time.Time, msg message) error {
	key := saKey{msg.ICookie, msg.RCookie}
	if s := m.sas[key]; s != nil {
		if !s.sameHosts(msg.path) {
			return errElsewhere
		}
		return m.underSA(now, s, msg)
	}
	switch msg.Exchange {
	case wire.MainMode:
		return m.mainPacket(now, msg)
	case wire.Informational:
		return m.clearNotify(now, msg)
	case wire.QuickMode:
		return errUnknownCookies
	}
	return errExchange
}

// underSA takes a message that claims to be of an established ISAKMP SA.
func (m *Machine) underSA(now time.Time, s *isakmp, msg message) error {
	if msg.Exchange == wire.MainMode {
		return m.lateMain(s, msg)
	}
	if !msg.Encrypted() || msg.MessageID == 0 {
		return errNotEncrypted
	}
	switch msg.Exchange {
	case wire.QuickMode:
		return m.quickPacket(now, s, msg)
	case wire.Informational:
		return m.informational(now, s, msg)
	}
	return errExchange
}

// sameHosts reports whether a message comes from the same address to the same
// address. Ports may change.
func (p path) sameHosts(q path) bool {
	return p.local.Addr() == q.local.Addr() && p.remote.Addr() == q.remote.Addr()
}

// seal encrypts payloads into a message and returns the exchange's next IV.
func seal(keys *crypt.Keys, h wire.Header, iv []byte, payloads []wire.Payload) (datagram, next []byte, err error) {
	h.Next, h.Version = wire.First(payloads), wire.Version1
	h.Flags |= wire.FlagEncrypted
	ciphertext, next, err := keys.Encrypt(iv, keys.Pad(wire.AppendChain(nil, payloads)))
	if err != nil {
		return nil, nil, err
	}
	datagram = append(h.Append(make([]byte, 0, wire.HeaderLen+len(ciphertext)), len(ciphertext)), ciphertext...)
	if len(datagram) > wire.MaxAssembled {
		return nil, nil, fmt.Errorf("message of %d bytes is too long", len(datagram))
	}
	return datagram, next, nil
}

// open decrypts a message. Nothing of it may be kept, the IV included, before
// a hash in it has been verified.
func open(keys *crypt.Keys, msg message, iv []byte) (wire.Chain, []byte, error) {
	plain, next, err := keys.Decrypt(iv, msg.body)
	if err != nil {
		return wire.Chain{}, nil, err
	}
	chain, err := wire.ParsePadded(msg.Next, plain)
	if err != nil {
		return wire.Chain{}, nil, errGarbage
	}
	return chain, next, nil
}

// shape says which payloads a message has: some exactly once, some in any
// number. The first of once has to come first.
type shape struct {
	once, any []wire.PayloadType
}

// check refuses what is missing, twice, out of place or not known here.
func (s shape) check(c wire.Chain) error {
	var counts [256]int
	for _, p := range c.Payloads {
		counts[p.Type]++
		if !slices.Contains(s.once, p.Type) && !slices.Contains(s.any, p.Type) && !ignorable(p.Type) {
			return fmt.Errorf("%s payload has no place in this message", p.Type)
		}
	}
	for _, t := range s.once {
		if counts[t] != 1 {
			return fmt.Errorf("%d %s payloads, there must be one", counts[t], t)
		}
	}
	return nil
}

// ignorable reports whether a payload may come anywhere: vendor IDs, and what
// private extensions that this host did not ask for bring along.
func ignorable(t wire.PayloadType) bool {
	return t == wire.VendorPayload || t == wire.NATDPayload || t == wire.NATOAPayload || t >= 128 && t != wire.FragmentPayload
}

const (
	minNonce = 8 // RFC 2409 §5
	maxNonce = 256
	ourNonce = 32
)

func checkNonce(b []byte) error {
	if len(b) < minNonce || len(b) > maxNonce {
		return fmt.Errorf("nonce of %d bytes", len(b))
	}
	return nil
}

// notifyInClear says something that proves nothing: rate-limited, and never
// larger than the question.
func (m *Machine) notifyInClear(now time.Time, msg message, rcookie [8]byte, t wire.NotifyType) {
	h := wire.Header{ICookie: msg.ICookie, RCookie: rcookie, Version: wire.Version1, Exchange: wire.Informational}
	n := wire.Notify{DOI: wire.DOIIPsec, Protocol: wire.ProtoISAKMP, Type: t}
	datagram := wire.AppendClear(nil, h, []wire.Payload{{Type: wire.NotifyPayload, Body: n.Append(nil)}})
	if len(datagram) > msg.size || !m.hints.allow(now, msg.remote.Addr()) {
		return
	}
	m.send(msg.path, datagram)
}

// equal compares in constant time.
func equal(a, b []byte) bool { return hmac.Equal(a, b) }
