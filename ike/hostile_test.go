package ike

import (
	"fmt"
	"slices"
	"testing"
	"time"

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
