package kerberos

import (
	"net/netip"
	"strings"

	"ipsecagent/auth"
)

// maxQuirks bounds the peers whose ways are remembered.
const maxQuirks = 1024

// form is which octets of the sender's name the proof covers. The draft can be
// read in several ways; each is bound to the same exchange, so that taking any
// of them weakens nothing.
type form uint8

// The forms, in the order in which an initiator tries them.
const (
	formLatin1 form = iota // as racoon
	formWire               // the octets of the attribute
	formNone               // no name
	forms
)

// quirk is what one peer does its own way: learnt from messages that proved
// right, so that no stranger can teach it.
type quirk struct {
	form   form
	prefix string // octets before its GSS tokens
}

// quirks are by address.
type quirks map[netip.Addr]quirk

// quirkOf returns what is known of a peer. An initiator has to prove first; so
// it takes another form after each attempt that failed.
func (a *Authenticator) quirkOf(r auth.Request) quirk {
	a.mu.Lock()
	defer a.mu.Unlock()
	q, known := a.quirks[r.Remote]
	if !known || r.Attempt > 0 {
		q.form = (q.form + form(r.Attempt%int(forms))) % forms
	}
	return q
}

// learn remembers what a proof has shown. One peer gives way if there are too
// many; it is learnt again.
func (a *Authenticator) learn(peer netip.Addr, q quirk) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.quirks == nil {
		a.quirks = quirks{}
	}
	if _, known := a.quirks[peer]; !known && len(a.quirks) >= maxQuirks {
		for other := range a.quirks {
			delete(a.quirks, other)
			break
		}
	}
	a.quirks[peer] = q
}

// mechanism is how a GSS token goes on after its length: the Kerberos object
// identifier in DER.
const mechanism = "\x06\x09\x2a\x86\x48\x86\xf7\x12\x01\x02\x02"

// splitToken parts a GSS payload into what may stand before the token and the
// token. The draft seems to have a field there that its implementations fill
// in differently or leave out; a token is known by its DER framing.
func splitToken(body []byte) (prefix string, token []byte) {
	for _, n := range []int{0, 4, 1, 2, 8} {
		if len(body) > n && isToken(body[n:]) {
			return string(body[:n]), body[n:]
		}
	}
	return "", body
}

// isToken reports whether b is one whole framed token of Kerberos.
func isToken(b []byte) bool {
	if len(b) < 2 || b[0] != 0x60 {
		return false
	}
	n, rest := int(b[1]), b[2:]
	if n >= 0x80 {
		octets := n & 0x7f
		if octets == 0 || octets > 3 || len(rest) < octets {
			return false
		}
		n = 0
		for _, c := range rest[:octets] {
			n = n<<8 | int(c)
		}
		rest = rest[octets:]
	}
	return n == len(rest) && strings.HasPrefix(string(rest), mechanism)
}
