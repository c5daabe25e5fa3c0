package ike

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

func TestRetransmissionMakesOneState(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.flush()
	first := a.sent[0]
	answers := map[string]bool{}
	for range 30 {
		b.m.Handle(w.now, Packet{Local: w.at(b), Remote: w.at(a), Data: first})
		w.now = w.now.Add(4 * time.Second)
		b.m.Tick(w.now)
		w.flush()
	}
	for _, data := range b.sent {
		answers[string(data)] = true
	}
	if len(b.sent) != 30 || len(answers) != 1 {
		t.Errorf("%d answers, %d different", len(b.sent), len(answers))
	}
	if len(b.m.mains) != 1 || b.m.halfOpen.len() != 1 || b.works != 0 {
		t.Errorf("%d exchanges, %d pieces of work", len(b.m.mains), b.works)
	}
	for _, data := range b.sent {
		if len(data) > len(first) {
			t.Errorf("an answer of %d bytes to a question of %d", len(data), len(first))
		}
	}
}

// TestFirstMessageSeenButNotAnswered: nothing is sent, least of all an empty
// datagram.
func TestFirstMessageSeenButNotAnswered(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.flush()
	first := Packet{Local: w.at(b), Remote: w.at(a), Data: a.sent[0]}
	b.m.Handle(w.now, first)
	for _, x := range b.m.mains {
		x.answers.remember(checksum(first.Data), nil)
	}
	w.flush()
	sent := len(b.sent)
	b.m.Handle(w.now, first)
	w.flush()
	if len(b.sent) != sent {
		t.Errorf("%q was sent", b.sent[sent:])
	}
}

// message1From is a first message of some address.
func message1From(t *testing.T, n uint64) (netip.AddrPort, []byte) {
	choices := mainOffer(t).choices()
	h := wire.Header{Version: wire.Version1, Exchange: wire.MainMode}
	copy(h.ICookie[:], fmt.Sprintf("%08d", n))
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 500),
		wire.AppendClear(nil, h, []wire.Payload{{Type: wire.SAPayload, Body: mainSA(choices)}})
}

// TestFloodOfFirstMessages: the table keeps its size, an address its share,
// everything is gone after its life, and an honest peer gets through.
func TestFloodOfFirstMessages(t *testing.T) {
	w, a, b := two(t, 1)
	send := func(from netip.AddrPort, data []byte) {
		b.m.Handle(w.now, Packet{Local: w.at(b), Remote: from, Data: data})
	}
	w.ask(a, b, 1)
	w.run(35 * time.Millisecond) // b works on message 3: a has returned the cookie
	for n := range uint64(3 * defaultHalfOpen) {
		from, data := message1From(t, n)
		send(from, data)
	}
	one := netip.AddrPortFrom(a.addr, 500) // in the honest peer's name
	for n := range uint64(100) {
		_, data := message1From(t, 1<<20+n)
		send(one, data)
	}
	w.flush()
	if n := b.m.halfOpen.len(); n > defaultHalfOpen || len(b.m.mains) != n {
		t.Errorf("%d half-open exchanges, %d in all", n, len(b.m.mains))
	}
	if n := len(b.m.halfOpen.addresses[a.addr]); n != perAddress {
		t.Errorf("%d of one address", n)
	}
	w.run(2 * time.Second)
	w.checkPaired(a, b)
	w.run(130 * time.Second)
	if len(b.m.mains) != 0 || len(b.m.halfOpen.addresses) != 0 || len(b.failed) != 0 {
		t.Errorf("%d exchanges are left, failed %d", len(b.m.mains), len(b.failed))
	}
	if len(b.dropped) > maxDropSources*2 {
		t.Errorf("%d reasons", len(b.dropped))
	}
}

func TestCookieDependsOnAllItStandsFor(t *testing.T) {
	var c cookies
	if err := c.renew(epoch, randomFrom(1)); err != nil {
		t.Fatal(err)
	}
	p := path{netip.MustParseAddrPort("192.0.2.2:500"), netip.MustParseAddrPort("192.0.2.1:500")}
	base := c.responder(p, [8]byte{1}, []byte("SA"))[0]
	others := map[string][8]byte{
		"port":     c.responder(path{p.local, netip.MustParseAddrPort("192.0.2.1:501")}, [8]byte{1}, []byte("SA"))[0],
		"address":  c.responder(path{p.local, netip.MustParseAddrPort("192.0.2.3:500")}, [8]byte{1}, []byte("SA"))[0],
		"local":    c.responder(path{p.remote, p.remote}, [8]byte{1}, []byte("SA"))[0],
		"cookie":   c.responder(p, [8]byte{2}, []byte("SA"))[0],
		"SA":       c.responder(p, [8]byte{1}, []byte("SB"))[0],
		"same one": base,
	}
	for name, o := range others {
		if (o == base) != (name == "same one") {
			t.Errorf("%s", name)
		}
	}
	if err := c.renew(epoch.Add(cookieEpoch), randomFrom(2)); err != nil {
		t.Fatal(err)
	}
	if got := c.responder(p, [8]byte{1}, []byte("SA")); got[0] == base || got[1] != base {
		t.Error("the cookie of the epoch before is not known")
	}
	if err := c.renew(epoch.Add(10*cookieEpoch), badReader{}); !errors.Is(err, errNoEntropy) {
		t.Error("no randomness, no error")
	}
}

type badReader struct{}

var errNoEntropy = errors.New("no entropy")

func (badReader) Read([]byte) (int, error) { return 0, errNoEntropy }

func TestWithoutRandomnessNothingIsSent(t *testing.T) {
	w, a, b := two(t, 1)
	a.m.cfg.Rand = badReader{}
	w.ask(a, b, 1)
	w.run(time.Second)
	if len(a.failed) != 1 || a.failed[0].Code != FailLocal || len(a.sent) != 0 {
		t.Errorf("%+v", a.failed)
	}
	w2, a2, b2 := two(t, 1)
	b2.m.cfg.Rand = badReader{}
	w2.ask(a2, b2, 1)
	w2.run(time.Second)
	if len(b2.sent) != 0 {
		t.Error("a responder without randomness answers")
	}
}

// TestOnePeerMayNotHaveEverything: quick modes at once, pairs and ISAKMP SAs of
// one peer are bounded.
func TestOnePeerMayNotHaveEverything(t *testing.T) {
	w, a, b := two(t, 1)
	for r := range uint64(peerPairs + 5) {
		w.ask2(a, b, r+1, mainOffer(t), uint16(r+1))
	}
	w.run(60 * time.Second)
	if len(b.m.pairs) != peerPairs || len(a.failed) != 5 || a.failed[0].Code != FailNoProposal {
		t.Errorf("%d pairs, failed %d", len(b.m.pairs), len(a.failed))
	}
	a.m.Handle(w.now, Rekey{a.established[0].Pair.ID})
	w.run(2 * time.Second)
	if len(a.established) != peerPairs+1 {
		t.Error("a peer with all its pairs cannot renew one")
	}
	for range peerSAs + 4 {
		a.m.startMain(w.now, path{w.at(a), w.at(b)}, mainOffer(t))
		w.run(time.Second)
	}
	if len(b.m.SAs()) != peerSAs || len(a.m.SAs()) != peerSAs {
		t.Errorf("%d and %d ISAKMP SAs", len(a.m.SAs()), len(b.m.SAs()))
	}
}

func TestQuickModesAtOnceAreBounded(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Second)
	b.hold = true
	s := a.m.established()[0]
	for r := range uint64(6) { // past a's own bound
		in := Initiate{Request: r + 2, Local: a.addr, Remote: b.addr, Main: mainOffer(t), Quick: quickOffer(t, a.addr, b.addr)}
		q := &quickMode{sa: s, initiator: true, request: &request{Initiate: in}, offer: in.Quick, selector: in.Quick.Selector,
			spis: map[sadb.Proto]sadb.SPI{sadb.ESP: sadb.SPI(0x9000 + r)}}
		if err := a.m.prepare(w.now, q); err != nil {
			t.Fatal(err)
		}
		a.m.sendQuick1(w.now, q)
	}
	w.run(100 * time.Millisecond)
	if n := b.m.established()[0].running(false); n != peerQuicks {
		t.Errorf("%d at once", n)
	}
	b.release(w)
	w.run(20 * time.Second)
	if len(a.established) != 7 {
		t.Errorf("%d established: the rest should follow", len(a.established))
	}
}

func TestMessageIDsAreBounded(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Second)
	s := a.m.established()[0]
	n := wire.Notify{DOI: 1, Protocol: wire.ProtoISAKMP, Type: wire.RUThere}
	for range 2*maxMessageIDs + 10 {
		a.m.sendInformational(w.now, s, 1, wire.Payload{Type: wire.NotifyPayload, Body: n.Append(nil)})
		w.run(11 * time.Millisecond)
		if len(b.m.sas) == 0 {
			break
		}
	}
	for _, s := range b.m.sas {
		if len(s.seen) > 2*maxMessageIDs {
			t.Errorf("%d message IDs", len(s.seen))
		}
	}
	w.run(130 * time.Second)
	if len(b.m.SAs()) != 0 || len(b.ended) != 0 {
		t.Errorf("%d ISAKMP SAs, ended %v", len(b.m.SAs()), b.ended)
	}
}

// TestEditedOfferFails: whoever removes the better choices from message 1 on
// the way is found out: the proof covers what was sent.
func TestEditedOfferFails(t *testing.T) {
	w, a, b := two(t, 1)
	weak := MainOffer{Suites: mainSuite(t, "aes128-sha1-modp1024"), Auth: []auth.Requirement{{Method: auth.PSK}}}
	for n := 1; n < 20; n++ {
		w.net.OnNth(w.at(a), w.at(b), n, func(data []byte) []byte {
			if h, _, _ := wire.ParseHeader(data); h.RCookie != [8]byte{} {
				return data
			}
			return rewrite(t, data, func([]wire.Payload) []wire.Payload {
				return []wire.Payload{{Type: wire.SAPayload, Body: mainSA(weak.choices())}}
			})
		})
	}
	w.ask(a, b, 1)
	w.run(130 * time.Second)
	if len(a.mains)+len(b.mains)+len(a.established) != 0 || len(a.failed) != 1 {
		t.Errorf("a %+v %+v, b %+v", a.mains, a.failed, b.mains)
	}
}

// TestWorkForStrangersIsBounded: an address that has proven nothing has only
// so much computed for it at once; what is refused is repeated and welcome.
func TestWorkForStrangersIsBounded(t *testing.T) {
	w, a, b := two(t, 1)
	b.hold = true
	for range maxOfStranger + 5 {
		a.m.startMain(w.now, path{w.at(a), w.at(b)}, mainOffer(t))
	}
	w.run(100 * time.Millisecond)
	if b.works != maxOfStranger || b.m.strangers.total != maxOfStranger {
		t.Errorf("%d pieces of work", b.works)
	}
	b.release(w)
	w.run(20 * time.Second)
	if len(b.m.SAs()) != maxOfStranger+5 || b.m.strangers.total != 0 || len(b.m.strangers.waiting) != 0 {
		t.Errorf("%d ISAKMP SAs, %d pieces of work are out", len(b.m.SAs()), b.m.strangers.total)
	}
}

// TestWorkOverProofsIsBounded: so does an address whose proofs are being looked
// at; and they wait behind what is done for peers that are known.
func TestWorkOverProofsIsBounded(t *testing.T) {
	w, a, b := two(t, 1)
	var orders []Work
	w.watch = func(h *host, o Output) {
		if k, ok := o.(Work); ok && h == b {
			orders = append(orders, k)
			b.hold = !k.Low
		}
	}
	for range maxOfStranger + 5 {
		a.m.startMain(w.now, path{w.at(a), w.at(b)}, mainOffer(t))
	}
	w.run(200 * time.Millisecond)
	proofs := 0
	for _, k := range orders {
		if k.Near || k.Low == k.Unproven {
			t.Errorf("work for a stranger is taken as %+v", k)
		}
		if k.Unproven {
			proofs++
		}
	}
	if proofs != maxOfStranger || b.m.provers.total != maxOfStranger {
		t.Errorf("%d proofs are looked at", proofs)
	}
	w.watch = nil
	b.release(w)
	w.run(20 * time.Second)
	if len(b.m.SAs()) != maxOfStranger+5 || b.m.provers.total != 0 || len(b.m.provers.waiting) != 0 {
		t.Errorf("%d ISAKMP SAs, %d pieces of work are out", len(b.m.SAs()), b.m.provers.total)
	}
}
