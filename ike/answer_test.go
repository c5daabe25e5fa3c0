package ike

import (
	"slices"
	"strings"
	"testing"
	"time"

	"ipsecagent/ike/wire"
	"ipsecagent/sadb"
)

// tamperedAnswer has the responder's message 2 of quick mode arrive changed,
// as a responder that does not keep to the rules would have sent it.
func tamperedAnswer(t *testing.T, change func(q *quickMode, p []wire.Payload) []wire.Payload) (*world, *host, *host) {
	w, a, b := two(t, 1)
	w.net.OnNth(w.at(b), w.at(a), 4, func(data []byte) []byte {
		q := firstQuick(a.m)
		h, body, _ := wire.ParseHeader(data)
		chain, _, err := open(q.sa.keys, message{Header: h, body: body}, q.iv)
		if err != nil {
			t.Fatal(err)
		}
		p := withHash(func(raw []byte) []byte { return q.sa.keys.Hash2(q.id, q.ni, raw) }, change(q, chain.Payloads[1:]))
		data, _, err = seal(q.sa.keys, h, q.iv, p)
		if err != nil {
			t.Fatal(err)
		}
		return data
	})
	w.ask(a, b, 5)
	w.run(time.Second)
	return w, a, b
}

func firstQuick(m *Machine) *quickMode {
	for _, q := range m.quicks {
		return q
	}
	return nil
}

func lifetimeNotify(attrs ...wire.Attribute) wire.Payload {
	n := wire.Notify{DOI: 1, Protocol: wire.ProtoESP, Type: wire.ResponderLifetime, SPI: []byte{1, 2, 3, 4}, Data: wire.AppendAttributes(nil, attrs)}
	return wire.Payload{Type: wire.NotifyPayload, Body: n.Append(nil)}
}

func TestAnswersThatKeepToNoRule(t *testing.T) {
	add := func(extra ...wire.Payload) func(*quickMode, []wire.Payload) []wire.Payload {
		return func(_ *quickMode, p []wire.Payload) []wire.Payload { return append(slices.Clone(p), extra...) }
	}
	set := func(i int, body []byte) func(*quickMode, []wire.Payload) []wire.Payload {
		return func(_ *quickMode, p []wire.Payload) []wire.Payload {
			p = slices.Clone(p)
			p[i].Body = body
			return p
		}
	}
	cases := map[string]func(*quickMode, []wire.Payload) []wire.Payload{
		"no nonce":           func(_ *quickMode, p []wire.Payload) []wire.Payload { return slices.Delete(slices.Clone(p), 1, 2) },
		"short nonce":        set(1, []byte{1}),
		"SA malformed":       set(0, []byte{1}),
		"SA not offered":     set(0, quickSA(proposals(t, "esp-3des-md5"), map[sadb.Proto]sadb.SPI{sadb.ESP: 0x4000}, quickShape{})),
		"KE not asked for":   add(wire.Payload{Type: wire.KEPayload, Body: make([]byte, 64)}),
		"other address":      set(2, []byte{1, 0, 0, 0, 192, 0, 2, 9}),
		"other protocol":     set(3, []byte{1, 6, 0, 80, 192, 0, 2, 2}),
		"one ID":             func(_ *quickMode, p []wire.Payload) []wire.Payload { return slices.Delete(slices.Clone(p), 3, 4) },
		"lifetime of 5 s":    add(lifetimeNotify(wire.Uint16(attr2LifeType, lifeSeconds), wire.Uint16(attr2LifeDuration, 5))),
		"lifetime malformed": add(wire.Payload{Type: wire.NotifyPayload, Body: append(lifetimeNotify().Body, 0, 1)}),
		"notify malformed":   add(wire.Payload{Type: wire.NotifyPayload, Body: []byte{1}}),
		"a certificate":      add(wire.Payload{Type: wire.CertPayload, Body: []byte{1}}),
	}
	for name, change := range cases {
		w, a, b := tamperedAnswer(t, change)
		if len(a.failed) != 1 || a.failed[0].Code != FailProtocol || a.failed[0].Request != 5 || len(a.sas) != 0 {
			t.Errorf("%s: %+v", name, a.failed)
		}
		w.run(200 * time.Second)
		if len(b.sas) != 0 || len(b.failed) != 1 {
			t.Errorf("%s: the responder keeps its half: %+v", name, b.failed)
		}
	}
}

func TestAnswersThatAreFine(t *testing.T) {
	_, a, _ := tamperedAnswer(t, func(_ *quickMode, p []wire.Payload) []wire.Payload {
		ids := slices.Delete(slices.Clone(p), 2, 4) // for these two hosts they may be left out
		return append(ids, wire.Payload{Type: wire.VendorPayload}, lifetimeNotify(wire.Uint16(attr2LifeType, lifeSeconds), wire.Uint16(attr2LifeDuration, 600)))
	})
	if len(a.established) != 1 || a.newestPair().Lifetime.Time != 10*time.Minute {
		t.Errorf("%+v %+v", a.established, a.failed)
	}
}

// TestRefusalNamesItsQuickMode: of several the one that the notify names by
// SPI fails; one that names none fails only if there is no doubt.
func TestRefusalNamesItsQuickMode(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Second)
	b.hold = true
	w.ask2(a, b, 2, mainOffer(t), 80)
	w.ask2(a, b, 3, mainOffer(t), 81)
	w.run(50 * time.Millisecond)
	s := b.m.established()[0]
	notify := func(t wire.NotifyType, spi []byte) {
		n := wire.Notify{DOI: 1, Protocol: wire.ProtoESP, Type: t, SPI: spi}
		b.m.sendInformational(w.now, s, 1, wire.Payload{Type: wire.NotifyPayload, Body: n.Append(nil)})
		w.run(20 * time.Millisecond)
	}
	notify(wire.InvalidIDInformation, nil)
	if len(a.failed) != 0 {
		t.Fatalf("in doubt: %+v", a.failed)
	}
	var spi []byte
	for _, q := range a.m.quicks {
		if q.request.Request == 3 {
			spi = spiBytes(q.spis[sadb.ESP])
		}
	}
	notify(wire.InvalidIDInformation, spi)
	if len(a.failed) != 1 || a.failed[0].Request != 3 || a.failed[0].Code != FailFilters || !strings.Contains(a.failed[0].Reason, ":81") {
		t.Fatalf("named: %+v", a.failed)
	}
	notify(wire.AttributesNotSupported, nil)
	if len(a.failed) != 2 || a.failed[1].Request != 2 || a.failed[1].Code != FailRefused {
		t.Fatalf("the only one: %+v", a.failed)
	}
	notify(wire.NoProposalChosen, nil)
	if len(a.failed) != 2 {
		t.Errorf("none: %+v", a.failed)
	}
}

// TestInitialContactAfterMainMode: peers such as racoon say it in a message of
// its own.
func TestInitialContactAfterMainMode(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Minute)
	a.m.startMain(w.now, path{w.at(a), w.at(b)}, mainOffer(t))
	w.run(time.Second)
	s := a.m.established()[1]
	n := wire.Notify{DOI: 1, Protocol: wire.ProtoISAKMP, Type: wire.InitialContact, SPI: append(s.icookie[:], s.rcookie[:]...)}
	a.m.sendInformational(w.now, s, 1, wire.Payload{Type: wire.NotifyPayload, Body: n.Append(nil)})
	w.run(time.Second)
	if len(b.ended) != 1 || len(b.m.SAs()) != 1 {
		t.Errorf("ended %+v, %d ISAKMP SAs", b.ended, len(b.m.SAs()))
	}
}

// TestEndOfAnISAKMPSAWithWorkInProgress: what was under way or waiting under it
// starts over under a new one.
func TestEndOfAnISAKMPSAWithWorkInProgress(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Second)
	for r := range uint64(5) {
		w.ask2(a, b, r+2, mainOffer(t), uint16(r+80))
	}
	w.run(15 * time.Millisecond)
	b.m.closeSA(w.now, b.m.established()[0], "test")
	w.run(30 * time.Second)
	if len(a.established) != 6 || len(a.failed) != 0 {
		t.Errorf("established %d, failed %+v", len(a.established), a.failed)
	}
	for _, h := range []*host{a, b} {
		if len(h.sas) != 2*len(h.m.pairs) {
			t.Errorf("%s: %d associations, %d pairs", h.addr, len(h.sas), len(h.m.pairs))
		}
	}
}
