package ike

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// rewrite parses a message in clear, changes its payloads and encodes it.
func rewrite(t *testing.T, data []byte, change func([]wire.Payload) []wire.Payload) []byte {
	t.Helper()
	h, body, err := wire.ParseHeader(data)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := wire.ParseChain(h.Next, body)
	if err != nil {
		t.Fatal(err)
	}
	return wire.AppendClear(nil, h, change(chain.Payloads))
}

// damages are changes that no step may accept.
func damages(n int) map[string]func([]wire.Payload) []wire.Payload {
	all := map[string]func([]wire.Payload) []wire.Payload{
		"nothing left":       func([]wire.Payload) []wire.Payload { return []wire.Payload{{Type: wire.VendorPayload}} },
		"unexpected payload": func(p []wire.Payload) []wire.Payload { return append(p, wire.Payload{Type: wire.AttributesPayload}) },
		"IKEv2 payload":      func(p []wire.Payload) []wire.Payload { return append(p, wire.Payload{Type: 33, Body: []byte{0}}) },
		"fragment":           func(p []wire.Payload) []wire.Payload { return append(p, wire.Payload{Type: wire.FragmentPayload}) },
	}
	for i := range n {
		all[fmt.Sprintf("without payload %d", i)] = func(p []wire.Payload) []wire.Payload {
			return slices.Delete(slices.Clone(p), i, i+1)
		}
		all[fmt.Sprintf("payload %d twice", i)] = func(p []wire.Payload) []wire.Payload {
			return append(slices.Clone(p), p[i])
		}
		all[fmt.Sprintf("payload %d empty", i)] = func(p []wire.Payload) []wire.Payload {
			p = slices.Clone(p)
			p[i].Body = nil
			return p
		}
		all[fmt.Sprintf("payload %d huge", i)] = func(p []wire.Payload) []wire.Payload {
			p = slices.Clone(p)
			p[i].Body = append(slices.Clone(p[i].Body), make([]byte, 600)...)
			return p
		}
		all[fmt.Sprintf("payload %d zero", i)] = func(p []wire.Payload) []wire.Payload {
			p = slices.Clone(p)
			if p[i].Type != wire.NoncePayload { // a nonce of zeroes is one
				p[i].Body = make([]byte, len(p[i].Body))
			} else {
				p[i].Body = []byte{1}
			}
			return p
		}
	}
	return all
}

// TestMalformedMessageOfEachStep: before the genuine message arrives a damaged
// one does. It is dropped and counted, and the exchange goes on as if it had
// not been.
func TestMalformedMessageOfEachStep(t *testing.T) {
	for message := 1; message <= 4; message++ {
		payloads := 1 + (message-1)/2
		for name, change := range damages(payloads) {
			w, a, b := two(t, 1)
			from, to := a, b
			if message%2 == 0 {
				from, to = b, a
			}
			w.net.OnNth(w.at(from), w.at(to), (message+1)/2, func(data []byte) []byte {
				to.m.Handle(w.now, Packet{Local: w.at(to), Remote: w.at(from), Data: rewrite(t, data, change)})
				return data
			})
			w.ask(a, b, 1)
			w.run(5 * time.Second)
			if err := paired(a, b); err != nil || len(a.failed)+len(b.failed) != 0 {
				t.Errorf("message %d, %s: %v %+v %+v", message, name, err, a.failed, b.failed)
			}
			if len(to.dropped) == 0 && (message != 3 || name != "payload 0 zero") {
				t.Errorf("message %d, %s: nothing was counted", message, name)
			}
		}
	}
}

// forgeries are messages that anyone who sees the cookies can send.
func forgeries(h wire.Header) map[string][]byte {
	clear := func(e wire.Exchange, p ...wire.Payload) []byte {
		return wire.AppendClear(nil, wire.Header{ICookie: h.ICookie, RCookie: h.RCookie, Version: wire.Version1, Exchange: e}, p)
	}
	encrypted := func(e wire.Exchange, id uint32, n int) []byte {
		g := wire.Header{ICookie: h.ICookie, RCookie: h.RCookie, Version: wire.Version1, Exchange: e,
			Flags: wire.FlagEncrypted, MessageID: id, Next: wire.HashPayload}
		return append(g.Append(nil, n), make([]byte, n)...)
	}
	notify := func(t wire.NotifyType) wire.Payload {
		return wire.Payload{Type: wire.NotifyPayload, Body: wire.Notify{DOI: 1, Protocol: wire.ProtoISAKMP, Type: t,
			SPI: append(slices.Clone(h.ICookie[:]), h.RCookie[:]...)}.Append(nil)}
	}
	del := wire.Delete{DOI: 1, Protocol: wire.ProtoISAKMP, SPIs: [][]byte{append(slices.Clone(h.ICookie[:]), h.RCookie[:]...)}}
	nonce := wire.Payload{Type: wire.NoncePayload, Body: make([]byte, 16)}
	return map[string][]byte{
		"error notify":          clear(wire.Informational, notify(wire.PayloadMalformed)),
		"authentication failed": clear(wire.Informational, notify(wire.AuthenticationFailed)),
		"initial contact":       clear(wire.Informational, notify(wire.InitialContact)),
		"delete":                clear(wire.Informational, wire.Payload{Type: wire.DeletePayload, Body: del.Append(nil)}),
		"encrypted notify":      encrypted(wire.Informational, 7, 48),
		"transaction":           encrypted(wire.Transaction, 7, 48),
		"quick mode":            encrypted(wire.QuickMode, 7, 160),
		"quick mode in clear":   clear(wire.QuickMode, nonce),
		"new group":             encrypted(wire.NewGroup, 7, 48),
		"aggressive mode":       clear(wire.Aggressive, nonce),
		"main mode encrypted":   encrypted(wire.MainMode, 0, 64),
		"main mode odd length":  encrypted(wire.MainMode, 0, 63),
		"main mode empty":       encrypted(wire.MainMode, 0, 0),
		"message ID":            encrypted(wire.MainMode, 9, 64),
		"without key exchange":  clear(wire.MainMode, nonce),
		"key exchange zero":     clear(wire.MainMode, wire.Payload{Type: wire.KEPayload, Body: make([]byte, 64)}, nonce),
		"key exchange short":    clear(wire.MainMode, wire.Payload{Type: wire.KEPayload, Body: make([]byte, 3)}, nonce),
		"SA again":              clear(wire.MainMode, wire.Payload{Type: wire.SAPayload, Body: []byte{0, 0, 0, 1}}),
	}
}

// TestForgedMessagesEndNothing: at every moment of the negotiation, and once
// it is over, both ends get every forgery, from the right address.
func TestForgedMessagesEndNothing(t *testing.T) {
	for message := 1; message <= 9; message++ {
		for name := range forgeries(wire.Header{}) {
			w, a, b := two(t, 1)
			from, to := a, b
			if message%2 == 0 {
				from, to = b, a
			}
			w.net.OnNth(w.at(from), w.at(to), (message+1)/2, func(data []byte) []byte {
				h, _, _ := wire.ParseHeader(data)
				forged := forgeries(h)[name]
				a.m.Handle(w.now, Packet{Local: w.at(a), Remote: w.at(b), Data: forged})
				b.m.Handle(w.now, Packet{Local: w.at(b), Remote: w.at(a), Data: forged})
				return data
			})
			w.ask(a, b, 1)
			w.run(30 * time.Second)
			if err := paired(a, b); err != nil || len(a.failed)+len(b.failed)+len(a.ended)+len(b.ended) != 0 {
				t.Errorf("before message %d, %s: %v, failed %+v %+v", message, name, err, a.failed, b.failed)
			}
		}
	}
}

// TestAuthenticatedNonsense: a peer that has proven itself sends quick modes
// that no peer should. They are refused and leave nothing behind.
func TestAuthenticatedNonsense(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Second)
	s := a.m.established()[0]
	good := []wire.Payload{
		{Type: wire.SAPayload, Body: quickSA(proposals(t, "esp-aes256gcm"), map[sadb.Proto]sadb.SPI{sadb.ESP: 0x5000}, quickShape{})},
		{Type: wire.NoncePayload, Body: make([]byte, 16)},
	}
	send := func(exchange wire.Exchange, payloads []wire.Payload) {
		id, err := a.m.freshID(s)
		if err != nil {
			t.Fatal(err)
		}
		all := withHash(func(raw []byte) []byte { return s.keys.Hash1(id, raw) }, payloads)
		data, _, err := seal(s.keys, s.header(exchange, id), s.keys.ExchangeIV(s.last, id), all)
		if err != nil {
			t.Fatal(err)
		}
		b.m.Handle(w.now, Packet{Local: w.at(b), Remote: w.at(a), Data: data})
		w.flush()
	}
	id := func(body string) wire.Payload { return wire.Payload{Type: wire.IDPayload, Body: []byte(body)} }
	cases := map[string][]wire.Payload{
		"no nonce":            good[:1],
		"no SA":               good[1:],
		"SA twice":            append(slices.Clone(good), good[0]),
		"short nonce":         {good[0], {Type: wire.NoncePayload, Body: make([]byte, 7)}},
		"long nonce":          {good[0], {Type: wire.NoncePayload, Body: make([]byte, 257)}},
		"one ID":              append(slices.Clone(good), id("\x01\x00\x00\x00\xc0\x00\x02\x01")),
		"IDs of others":       append(slices.Clone(good), id("\x01\x00\x00\x00\xc0\x00\x02\x09"), id("\x01\x00\x00\x00\xc0\x00\x02\x02")),
		"IDs are names":       append(slices.Clone(good), id("\x02\x00\x00\x00abcd"), id("\x02\x00\x00\x00abcd")),
		"IDs of two ports":    append(slices.Clone(good), id("\x01\x06\x00\x50\xc0\x00\x02\x01"), id("\x01\x11\x00\x50\xc0\x00\x02\x02")),
		"IDs mapped":          append(slices.Clone(good), id("\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x01"), id("\x01\x00\x00\x00\xc0\x00\x02\x02")),
		"port of no protocol": append(slices.Clone(good), id("\x01\x00\x00\x50\xc0\x00\x02\x01"), id("\x01\x00\x00\x50\xc0\x00\x02\x02")),
		"KE without group":    append(slices.Clone(good), wire.Payload{Type: wire.KEPayload, Body: make([]byte, 64)}),
		"two KEs":             append(slices.Clone(good), wire.Payload{Type: wire.KEPayload}, wire.Payload{Type: wire.KEPayload}),
		"group without KE":    {{Type: wire.SAPayload, Body: quickSA(proposals(t, "esp-aes256gcm"), map[sadb.Proto]sadb.SPI{sadb.ESP: 0x5000}, quickShape{PFS: sadb.ECP256})}, good[1]},
		"reserved SPI":        {{Type: wire.SAPayload, Body: quickSA(proposals(t, "esp-aes256gcm"), map[sadb.Proto]sadb.SPI{sadb.ESP: 255}, quickShape{})}, good[1]},
		"certificate":         append(slices.Clone(good), wire.Payload{Type: wire.CertPayload}),
		"malformed SA":        {{Type: wire.SAPayload, Body: []byte{0, 0, 0, 1, 0, 0, 0, 1, 9}}, good[1]},
		"DOI":                 {{Type: wire.SAPayload, Body: []byte{0, 0, 0, 2, 0, 0, 0, 1}}, good[1]},
		"situation":           {{Type: wire.SAPayload, Body: []byte{0, 0, 0, 1, 0, 0, 0, 2}}, good[1]},
	}
	for name, payloads := range cases {
		b.failed = nil
		send(wire.QuickMode, payloads)
		if len(b.failed) != 1 || len(b.m.quicks) != 0 {
			t.Errorf("%s: failed %+v", name, b.failed)
		}
	}
	deletes := map[string][]wire.Payload{
		"garbage":     {{Type: wire.DeletePayload, Body: []byte{1, 2, 3}}},
		"unknown SPI": {{Type: wire.DeletePayload, Body: wire.Delete{DOI: 1, Protocol: wire.ProtoESP, SPIs: [][]byte{{1, 2, 3, 4}, {9, 9, 9, 9}}}.Append(nil)}},
		"odd length":  {{Type: wire.DeletePayload, Body: wire.Delete{DOI: 1, Protocol: wire.ProtoESP, SPIs: [][]byte{{1, 2}}}.Append(nil)}},
		"cookies":     {{Type: wire.DeletePayload, Body: wire.Delete{DOI: 1, Protocol: wire.ProtoISAKMP, SPIs: [][]byte{make([]byte, 16)}}.Append(nil)}},
		"IPComp":      {{Type: wire.DeletePayload, Body: wire.Delete{DOI: 1, Protocol: wire.ProtoIPComp, SPIs: [][]byte{{1, 2, 3, 4}}}.Append(nil)}},
		"our outbound": {{Type: wire.DeletePayload, Body: wire.Delete{DOI: 1, Protocol: wire.ProtoESP,
			SPIs: [][]byte{spiBytes(b.newestPair().In[0].SPI)}}.Append(nil)}},
		"notify":       {{Type: wire.NotifyPayload, Body: []byte{1}}},
		"KE in it":     {{Type: wire.KEPayload}},
		"error notify": {{Type: wire.NotifyPayload, Body: wire.Notify{DOI: 1, Protocol: wire.ProtoESP, Type: wire.NoProposalChosen}.Append(nil)}},
	}
	for name, payloads := range deletes {
		send(wire.Informational, payloads)
		if len(b.ended) != 0 || len(b.m.SAs()) != 1 {
			t.Fatalf("%s: ended %+v", name, b.ended)
		}
	}
	w.checkPaired(a, b)
}

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
	if n := b.m.halfOpen.addresses[a.addr].Len(); n != perAddress {
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
