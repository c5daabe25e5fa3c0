package test

import (
	"crypto/ecdh"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"ipsecagent/ike"
)

// noise is n bytes.
func noise(random *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

// somePoint is a valid public value of group 19.
func somePoint(random *rand.Rand) []byte {
	for {
		key, err := ecdh.P256().NewPrivateKey(noise(random, 32))
		if err == nil {
			return key.PublicKey().Bytes()[1:]
		}
	}
}

// forgery is a message by somebody who sees what passes and knows no key.
type forgery struct {
	name string
	make func(i, r uint64) []byte
}

// notifyBody is a notify or, with no kind, a delete of the ISAKMP SA.
func notifyBody(kind uint16, i, r uint64) []byte {
	b := []byte{0, 0, 0, 1, 1, 16}
	if kind == 0 {
		b = append(b, 0, 1)
	} else {
		b = binary.BigEndian.AppendUint16(b, kind)
	}
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, i), r)
}

// forgeries are the fourteen that a half-open exchange survives.
func forgeries() []forgery {
	random := rand.New(rand.NewPCG(5, 1))
	notify := func(name string, kind uint16) forgery {
		return forgery{name, func(i, r uint64) []byte {
			next, body := chain(pNotify, notifyBody(kind, i, r))
			return ikeMessage(i, r, next, 5, 0, 7, body)
		}}
	}
	third := func(name string, ke, nonce int) forgery {
		return forgery{name, func(i, r uint64) []byte { return keyMessage(i, r, make([]byte, ke), noise(random, nonce)) }}
	}
	plain := func(name string, exchange, flags byte, id uint32, payloads ...any) forgery {
		return forgery{name, func(i, r uint64) []byte {
			next, body := chain(payloads...)
			return ikeMessage(i, r, next, exchange, flags, id, body)
		}}
	}
	return []forgery{
		notify("notify INVALID-COOKIE", 4),
		notify("notify NO-PROPOSAL-CHOSEN", 14),
		notify("notify AUTHENTICATION-FAILED", 24),
		notify("notify INITIAL-CONTACT", 24578),
		{"delete of the ISAKMP SA", func(i, r uint64) []byte {
			next, body := chain(pDelete, notifyBody(0, i, r))
			return ikeMessage(i, r, next, 5, 0, 7, body)
		}},
		plain("transaction", 6, 0, 9, pHash, noise(random, 32), byte(14), []byte{1, 0, 0, 1}),
		plain("message 3 without a key", 2, 0, 0, pNonce, noise(random, 32)),
		third("message 3 with the key 0", 64, 32),
		third("message 3 with a short key", 63, 32),
		{"message 3 with a nonce of a byte", func(i, r uint64) []byte { return keyMessage(i, r, somePoint(random), noise(random, 1)) }},
		{"message 3 that seems encrypted", func(i, r uint64) []byte { return ikeMessage(i, r, pID, 2, 1, 0, noise(random, 64)) }},
		{"quick mode", func(i, r uint64) []byte { return ikeMessage(i, r, pHash, 32, 1, 77, noise(random, 96)) }},
		{"message 1 once more, with another offer", func(i, _ uint64) []byte {
			next, body := chain(pSA, offerBody(), pVendor, noise(random, 16))
			return ikeMessage(i, 0, next, 2, 0, 0, body)
		}},
		{"message 3 whose payloads overrun", func(i, r uint64) []byte {
			return ikeMessage(i, r, pKE, 2, 0, 0, append([]byte{pNonce, 0, 0xff, 0xff}, noise(random, 90)...))
		}},
	}
}

// TestForgedMessagesDoNotEndAHalfOpenExchange: each forgery comes from the
// peer's own address and from another one, with the right cookies, before the
// peer's third message. The negotiation ends as if it had not.
func TestForgedMessagesDoNotEndAHalfOpenExchange(t *testing.T) {
	us, c := besiege(t, "forged")
	pid, survived := us.agentPID(), 0
	for n, f := range forgeries() {
		t.Run(f.name, func(t *testing.T) {
			var third ike.Send
			c.hold = func(o ike.Send) bool {
				if third.Data == nil && binary.BigEndian.Uint64(o.Data[8:]) != 0 {
					third = o
					return true
				}
				return false
			}
			s := c.join(outsider(65, 1+n))
			if !c.run(5*time.Second, func() bool { return third.Data != nil }) {
				t.Fatal("no third message")
			}
			forged := f.make(binary.BigEndian.Uint64(third.Data), binary.BigEndian.Uint64(third.Data[8:]))
			c.wire.send(third.Local, 500, forged)
			c.wire.send(netip.AddrPortFrom(outsider(80, n), 500), 500, forged)
			c.run(100*time.Millisecond, func() bool { return false })
			c.wire.send(third.Local, 500, third.Data)
			// Within less than the time after which it would have begun anew.
			if !c.run(3*time.Second, func() bool { return len(s.pairs) == 1 }) {
				t.Fatalf("the exchange did not survive: %+v", s.failed)
			}
			survived++
		})
	}
	us.unharmed(pid)
	t.Logf("figure: half-open exchanges survive %d of %d forged messages", survived, len(forgeries()))
}

// TestForgedMessagesDoNotEndAnAssociation: without the keys nobody ends what is
// established.
func TestForgedMessagesDoNotEndAnAssociation(t *testing.T) {
	us, c := besiege(t, "forgest")
	pid := us.agentPID()
	s := c.join(outsider(65, 1))
	if !c.run(5*time.Second, func() bool { return len(s.pairs) == 1 }) {
		t.Fatalf("no association: %+v", s.failed)
	}
	sa := s.m.SAs()[0]
	i, r := binary.BigEndian.Uint64(sa.ICookie[:]), binary.BigEndian.Uint64(sa.RCookie[:])
	for n, f := range forgeries() {
		c.wire.send(netip.AddrPortFrom(s.addr, 500), 500, f.make(i, r))
		c.wire.send(netip.AddrPortFrom(outsider(80, n), 500), 500, f.make(i, r))
	}
	c.run(time.Second, func() bool { return false })
	l := us.associations()
	if len(l.MainMode) != 1 || len(l.Pairs) != 1 {
		t.Errorf("left over: %d main modes, %d pairs", len(l.MainMode), len(l.Pairs))
	}
	c.quickModes(t, s, 3, func(int) {})
	us.unharmed(pid)
}
