package ike

import (
	"time"

	"ipsecagent/ike/wire"
)

// A responder under load, or whose answer would be larger than the question,
// answers the first message of a peer that knows how to go on with a cookie
// alone, and keeps nothing: the peer repeats its message with the cookie in the
// place of the responder's ([MS-IKEE]). The cookie is the one that the exchange
// would have had anyway. Peers that do not know this share the table of
// half-open exchanges, and get no answer larger than the question.

// crowdedAt is how many exchanges of peers that have shown nothing make a load.
const crowdedAt = 500

// crowded reports whether there is a load.
func (h *halfOpen) crowded() bool {
	return h.unshown() > min(crowdedAt, h.size*3/8)
}

// sendDoSCookie answers a first message with a cookie. Who asks in another's
// name has it sent there, and it is smaller than the question.
func (m *Machine) sendDoSCookie(msg message, cookie [8]byte) {
	h := wire.Header{ICookie: msg.ICookie, Version: wire.Version1, Exchange: wire.Informational}
	n := wire.Notify{DOI: wire.DOIIPsec, Protocol: wire.ProtoISAKMP, Type: wire.DoSCookie, Data: cookie[:]}
	datagram := wire.AppendClear(nil, h, []wire.Payload{{Type: wire.NotifyPayload, Body: n.Append(nil)}})
	if len(datagram) <= msg.size {
		m.send(msg.path, datagram)
	}
}

// returnedCookie takes a first message that brings our cookie: its sender is
// where it says it is.
func (m *Machine) returnedCookie(now time.Time, msg message) error {
	chain, err := parseClear(msg, shape{once: []wire.PayloadType{wire.SAPayload}})
	if msg.Encrypted() || err != nil || m.cookies.until.IsZero() {
		return errUnknownCookies
	}
	if err := m.cookies.renew(now, m.cfg.Rand); err != nil {
		return err
	}
	sa, _ := chain.Find(wire.SAPayload)
	cookies := m.cookies.responder(msg.path, msg.ICookie, sa)
	if !equal(cookies[0][:], msg.RCookie[:]) && !equal(cookies[1][:], msg.RCookie[:]) {
		return errUnknownCookies
	}
	if len(sa) > maxSA {
		return errUnknownCookies
	}
	if err := m.acceptMessage1(now, msg, chain, msg.RCookie); err != nil {
		return err
	}
	if x := m.mains[saKey{msg.ICookie, msg.RCookie}]; x != nil {
		m.evict(now, m.halfOpen.prove(x))
	}
	return nil
}

// takeDoSCookie repeats message 1 with the cookie of a responder under load:
// once, since anyone may have sent it. An answer without it is as welcome as
// before.
func (m *Machine) takeDoSCookie(now time.Time, x *mainMode, cookie []byte) {
	if !x.initiator || x.step != awaitMessage2 || x.busy || x.cookied || len(cookie) != len(x.rcookie) {
		return
	}
	x.cookied = true
	data := append([]byte(nil), x.resend.data...)
	copy(data[len(x.icookie):], cookie)
	m.repeatMain(now, x, maxSends, data)
}
