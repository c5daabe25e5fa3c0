package ike

import (
	"encoding/binary"
	"fmt"
	"time"

	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// infoShape is that of an authenticated informational message.
func infoShape() shape {
	return shape{once: []wire.PayloadType{wire.HashPayload},
		any: []wire.PayloadType{wire.NotifyPayload, wire.DeletePayload, wire.NoncePayload}}
}

// informational takes a notify or delete under an established SA. Nothing in
// it counts before its hash is verified.
func (m *Machine) informational(now time.Time, s *isakmp, msg message) error {
	if x := s.deletions[msg.MessageID]; x != nil {
		return m.acknowledged(now, s, x, msg)
	}
	if reply, ok := s.acks.seen(msg.sum); ok {
		m.send(s.path, reply)
		return nil
	}
	if s.seen[msg.MessageID] || s.full() {
		return nil // a repeated one, or one too many
	}
	chain, iv, err := open(s.keys, msg, s.keys.ExchangeIV(s.last, msg.MessageID))
	if err != nil {
		return err
	}
	if err := verified(chain, s.keys.Hash1(msg.MessageID, chain.AfterFirst())); err != nil {
		return err
	}
	m.heard(now, s, msg)
	m.tracePayloads(s.path, false, msg.Header, chain.Payloads)
	if err := infoShape().check(chain); err != nil {
		return err
	}
	m.acknowledge(s, msg, chain, iv)
	for _, body := range chain.All(wire.DeletePayload) {
		if d, err := wire.ParseDelete(body); err == nil {
			m.deleted(now, s, d)
		}
	}
	for _, body := range chain.All(wire.NotifyPayload) {
		if n, err := wire.ParseNotify(body); err == nil {
			m.notified(now, s, n)
		}
	}
	return nil
}

// deleted ends what the authenticated peer says it has deleted. What is not
// its own or not there is passed over.
func (m *Machine) deleted(now time.Time, s *isakmp, d wire.Delete) {
	proto, ipsec := sadbProto(d.Protocol)
	for _, raw := range d.SPIs {
		switch {
		case d.Protocol == wire.ProtoISAKMP && len(raw) == 16:
			m.deletedSA(now, s, saKey{[8]byte(raw[:8]), [8]byte(raw[8:])})
		case ipsec && len(raw) == 4:
			m.deletedPair(now, s, sadb.SAID{Dst: s.remote.Addr(), Proto: proto, SPI: sadb.SPI(binary.BigEndian.Uint32(raw))})
		}
	}
}

// deletedSA ends an ISAKMP SA of the same peer. Its pairs live on: peers of
// the Windows kind do not end them with it, and those that do say so.
//
// A delete of pairs that the network has let this one overtake comes too late:
// its hash can no longer be verified, nor that of its repetitions, and what
// cannot be verified ends nothing. Such a pair stays until its lifetime ends,
// or until the peer's INITIAL-CONTACT when it comes again. What is sent on it
// until then is lost, never in clear. To keep the keys for a while, only to
// believe late deletes, would have an ISAKMP SA outlive its own end.
func (m *Machine) deletedSA(now time.Time, s *isakmp, key saKey) {
	if old := m.sas[key]; old != nil && old.sameHosts(s.path) && old.proof.Principal == s.proof.Principal {
		m.endSA(now, old, "deleted by the peer")
	}
}

// deletedPair ends the pair that has the peer's inbound association as one of
// its outbound ones.
func (m *Machine) deletedPair(now time.Time, s *isakmp, out sadb.SAID) {
	for _, p := range m.pairsAt(s.ends(), s.owns) {
		if contains(p.pair.Out, out) {
			m.endedByPeer(now, p, "deleted by the peer")
			return
		}
	}
	for _, q := range m.peers.at(s.ends()).quicks {
		if !q.installed || !s.owns(q.pair) || !contains(q.pair.Out, out) {
			continue
		}
		if q.request == nil && m.outranked(q.pair) {
			m.dropQuick(now, q)
		} else {
			m.failQuick(now, q, Failed{Code: FailProtocol, Reason: "the peer deleted the associations before they were whole"})
		}
		return
	}
}

func contains(ids []sadb.SAID, id sadb.SAID) bool {
	for _, i := range ids {
		if i == id {
			return true
		}
	}
	return false
}

// notified acts on an authenticated notify.
func (m *Machine) notified(now time.Time, s *isakmp, n wire.Notify) {
	switch {
	case n.Type == wire.InitialContact:
		m.forgetOlder(now, s, s.since)
	case n.Type == wire.RUThere || n.Type == wire.RUThereAck:
		m.probed(now, s, n)
	case n.Type.IsError():
		m.refused(now, s, n)
	}
}

// refused ends the quick mode that the peer refuses: the one it names, or the
// only one there is.
func (m *Machine) refused(now time.Time, s *isakmp, n wire.Notify) {
	var waiting []*quickMode
	for _, q := range s.quicksInOrder() {
		if q.step != awaitQuick2 {
			continue
		}
		waiting = append(waiting, q)
		if q.named(n) {
			waiting = []*quickMode{q}
			break
		}
	}
	if len(waiting) != 1 {
		return
	}
	q := waiting[0]
	f := Failed{Code: FailRefused, Offered: quickWords(q.offer.Proposals, q.shape)}
	switch n.Type {
	case wire.NoProposalChosen:
		f.Code = FailNoProposal
		f.Reason = fmt.Sprintf("%s accepts none of the security methods offered; give both ends one in common", s.remote.Addr())
	case wire.InvalidIDInformation:
		f.Code = FailFilters
		f.Reason = fmt.Sprintf("%s has no filter for %s; give both ends filters that mirror each other", s.remote.Addr(), q.selector)
	case wire.InvalidKeyInformation:
		f.Reason = fmt.Sprintf("%s does not take our key exchange value (%s)", s.remote.Addr(), notifyName(n.Type))
		f.Differs = "PFS group: here " + q.shape.PFS.String()
	case wire.AuthenticationFailed:
		f.Code = FailPrincipal
		f.Reason = fmt.Sprintf("%s does not accept for %s the identity that this host has proven in main mode, by %s", s.remote.Addr(), q.selector, s.proof.Method)
		f.Hint = hintRefusedThere
	default:
		f.Reason = fmt.Sprintf("%s refused with %s and says no more", s.remote.Addr(), notifyName(n.Type))
		f.Hint = "the log of the peer says why"
	}
	m.failQuick(now, q, f)
}

// hintRefusedThere is what to do about a peer that does not want this host.
const hintRefusedThere = "compare the authentication of the rule on both hosts: method, authority and acceptPrincipals; 'ipsecctl why' on the peer names what it did not accept"

// named reports whether a notify names q: by an SPI of ours or by its message
// ID.
func (q *quickMode) named(n wire.Notify) bool {
	if len(n.Data) >= 4 && binary.BigEndian.Uint32(n.Data) == q.id {
		return true
	}
	for _, spi := range q.spis {
		if string(n.SPI) == string(spiBytes(spi)) {
			return true
		}
	}
	return false
}

// initialContact acts on the notify in message 5 or 6 of main mode, once the
// peer has proven itself.
func (m *Machine) initialContact(now time.Time, s *isakmp, chain wire.Chain, began time.Time) {
	for _, body := range chain.All(wire.NotifyPayload) {
		if n, err := wire.ParseNotify(body); err == nil && n.Type == wire.InitialContact {
			m.forgetOlder(now, s, began)
		}
	}
}

// forgetOlder ends what the peer says it no longer has: what was there before
// the time given, of the same addresses and the same proven identity. Behind one
// translator there may be several such peers, told apart by their ports.
func (m *Machine) forgetOlder(now time.Time, s *isakmp, before time.Time) {
	for _, p := range m.pairsAt(s.ends(), s.owns) {
		if p.pair.Since.Before(before) && p.pair.Encap.Remote == s.encap().Remote {
			m.endedByPeer(now, p, "the peer has started anew")
		}
	}
	for _, old := range m.peers.at(s.ends()).sas {
		same := old.proof.Principal == s.proof.Principal && (old.remote == s.remote || !s.nat.remote && !old.nat.remote)
		if old != s && same && old.since.Before(before) {
			m.endSA(now, old, "the peer has started anew")
		}
	}
}

// clearNotify takes an error notify that nothing vouches for. It ends nothing:
// it shortens how long a main mode of ours goes on asking, and explains why it
// failed if it does.
func (m *Machine) clearNotify(now time.Time, msg message) error {
	if msg.Encrypted() {
		return m.refusedProof(msg)
	}
	chain, err := parseClear(msg, shape{any: []wire.PayloadType{wire.NotifyPayload, wire.DeletePayload}})
	if err != nil {
		return err
	}
	x := m.mains[saKey{msg.ICookie, msg.RCookie}]
	if x == nil {
		x = m.mains[saKey{i: msg.ICookie}]
	}
	if x == nil || !x.sameHosts(msg.path) {
		return errUnknownCookies
	}
	for _, body := range chain.All(wire.NotifyPayload) {
		n, err := wire.ParseNotify(body)
		if err == nil && n.Type == wire.DoSCookie {
			m.takeDoSCookie(now, x, n.Data)
			continue
		}
		if err == nil && n.Type.IsError() && n.Type != 0 && x.initiator && !x.busy && x.hint == 0 {
			x.hint = n.Type
			x.resend.shorten()
		}
	}
	return nil
}

// refusedProof takes the notify, under the keys of a main mode that waits for
// message 6, that the peer does not want us. Who holds the keys has proven
// nothing yet: it is what the exchange will have failed of, unless the peer's
// proof comes soon.
func (m *Machine) refusedProof(msg message) error {
	x := m.mains[saKey{msg.ICookie, msg.RCookie}]
	if x == nil || !x.sameHosts(msg.path) || !x.initiator || x.step != awaitMessage6 || msg.MessageID == 0 || x.busy || x.suspect != nil {
		return errUnknownCookies
	}
	chain, _, err := open(x.keys, msg, x.keys.ExchangeIV(x.iv, msg.MessageID))
	if err != nil {
		return err
	}
	if err := verified(chain, x.keys.Hash1(msg.MessageID, chain.AfterFirst())); err != nil {
		return err
	}
	m.tracePayloads(x.path, false, msg.Header, chain.Payloads)
	for _, body := range chain.All(wire.NotifyPayload) {
		if n, err := wire.ParseNotify(body); err == nil && n.Type == wire.AuthenticationFailed {
			x.suspect = func() Failed {
				return Failed{Code: FailPrincipal, Hint: hintRefusedThere,
					Reason: fmt.Sprintf("%s does not accept the identity that this host has proven", x.remote.Addr())}
			}
			x.resend.shorten()
			return nil
		}
	}
	return infoShape().check(chain)
}

// deletesFirst is how long an ISAKMP SA that is to end waits for the deletes
// under it.
const deletesFirst = 15 * time.Second

// sendInformational sends an authenticated informational message, repeated
// without an answer to wait for. Under an ISAKMP SA that is over, by a payload
// before in the same message perhaps, there are no keys to send it with.
func (m *Machine) sendInformational(now time.Time, s *isakmp, times int, p wire.Payload) {
	if m.sas[s.key()] != s {
		return
	}
	id, err := m.freshID(s)
	if err != nil {
		return
	}
	payloads := withHash(func(raw []byte) []byte { return s.keys.Hash1(id, raw) }, []wire.Payload{p})
	h := s.header(wire.Informational, id)
	data, _, err := seal(s.keys, h, s.keys.ExchangeIV(s.last, id), payloads)
	if err != nil {
		return
	}
	m.tracePayloads(s.path, true, h, payloads)
	m.repeat(now, &repeater{path: s.path, data: data, limit: times, until: now.Add(giveUp), over: func(time.Time) {}})
}

// sendDelete tells the peer of inbound associations that are no more.
func (m *Machine) sendDelete(now time.Time, s *isakmp, in []sadb.SAID) {
	if m.sas[s.key()] != s {
		return
	}
	for _, id := range in {
		d := wire.Delete{DOI: wire.DOIIPsec, Protocol: wireProto(id.Proto), SPIs: [][]byte{spiBytes(id.SPI)}}
		payload := wire.Payload{Type: wire.DeletePayload, Body: d.Append(nil)}
		if s.acknowledges() {
			m.deleteReliably(now, s, payload)
		} else {
			m.sendInformational(now, s, deleteSends, payload)
		}
	}
}

// closeSA ends an ISAKMP SA and tells the peer. Deletes that are under way under
// it go first, while the peer can still verify them.
func (m *Machine) closeSA(now time.Time, s *isakmp, reason string) {
	if m.sas[s.key()] != s || s.ending != "" && len(s.deletions) > 0 {
		return
	}
	if len(s.deletions) > 0 {
		s.ending = reason
		m.timers.set(nil, now.Add(deletesFirst), func(now time.Time) {
			m.giveUpDeletes(s)
			m.closeSA(now, s, reason)
		})
		return
	}
	d := wire.Delete{DOI: wire.DOIIPsec, Protocol: wire.ProtoISAKMP, SPIs: [][]byte{append(s.icookie[:], s.rcookie[:]...)}}
	m.sendInformational(now, s, deleteSends, wire.Payload{Type: wire.DeletePayload, Body: d.Append(nil)})
	m.endSA(now, s, reason)
}
