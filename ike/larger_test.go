package ike

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/wire"
)

// question is a first message that takes what of a and of its policy it is given.
func question(t testing.TB, h wire.Header, offer MainOffer, name string, vendors []wire.Payload) []byte {
	t.Helper()
	choices := offer.choices()
	for i := range choices {
		if choices[i].Method == auth.Kerberos {
			choices[i].name = []byte(name)
		}
	}
	return wire.AppendClear(nil, h, append([]wire.Payload{{Type: wire.SAPayload, Body: mainSA(choices)}}, vendors...))
}

// implementations are what peers say of themselves.
func implementations() map[string][]wire.Payload {
	return map[string][]wire.Payload{
		"ipsecagent": vendorPayloads(vidAgent+ourCapabilities, vidGSSAPI), "Windows": vendorPayloads(vidWindows + "\x00\x00\x00\x05"),
		"racoon": vendorPayloads(vidGSSAPI, vidRacoon, vidDPD+"\x01\x00"), "silent": vendorPayloads(vidGSSLong, vidRFC3947), "none": nil,
	}
}

// offersOf are offers of every size that these methods make.
func offersOf(t testing.TB) map[string]MainOffer {
	all := map[string]MainOffer{}
	for _, methods := range [][]auth.Method{{auth.Kerberos}, {auth.Kerberos, auth.PSK}, {auth.PSK, auth.Kerberos}, {auth.PSK}} {
		for suites := range 2 {
			o := mainOffer(t)
			o.Suites, o.Auth = o.Suites[:suites+1], nil
			for _, method := range methods {
				o.Auth = append(o.Auth, auth.Requirement{Method: method})
			}
			all[fmt.Sprintf("%v with %d suites", methods, suites+1)] = o
		}
	}
	return all
}

// TestNoFirstAnswerIsLargerThanItsQuestion: whatever is offered, by which
// implementation, and however long the names are. What is sent before a cookie
// has come back could be sent on to anybody.
func TestNoFirstAnswerIsLargerThanItsQuestion(t *testing.T) {
	asked, answered := 0, 0
	for offered, offer := range offersOf(t) {
		for _, name := range []int{0, 4, 40, 120, 500} {
			ticket := newTicket(strings.Repeat("b", name))
			w, a, b := kerberosPair(t, 1, newTicket("a"), ticket, offer, offer, &method{number: auth.PSK})
			n := byte(0)
			for who, vendors := range implementations() {
				for _, theirs := range []string{"", "a", strings.Repeat("a", 200)} {
					n++
					data := question(t, wire.Header{ICookie: [8]byte{n}, Version: wire.Version1, Exchange: wire.MainMode}, offer, theirs, vendors)
					sent := len(b.sent)
					b.m.Handle(w.now, Packet{Local: w.at(b), Remote: w.at(a), Data: data})
					w.flush()
					asked++
					for _, answer := range b.sent[sent:] {
						answered++
						if len(answer) > len(data) {
							t.Errorf("%s, %s, names of %d and %d bytes: %d bytes for %d", who, offered, len(theirs), name, len(answer), len(data))
						}
					}
				}
			}
		}
	}
	if answered < asked/2 {
		t.Errorf("only %d of %d questions were answered", answered, asked)
	}
}

// longName is a responder with so long a name, and host a, which offers it one
// suite; if it is silent it says nothing of itself but that it means Kerberos.
func longName(t *testing.T, name int, silent bool, more ...auth.Authenticator) (*world, *host, *host) {
	offer := kerberosOffer(t)
	offer.Suites = offer.Suites[:1]
	if len(more) > 0 {
		offer.Auth = append(offer.Auth, auth.Requirement{Method: auth.PSK})
	}
	w, a, b := kerberosPair(t, 1, newTicket("host/a"), newTicket(strings.Repeat("b", name)), offer, offer, more...)
	if a.m.anonymous = silent; silent {
		for n := range 20 {
			w.net.OnNth(w.at(a), w.at(b), n+1, func(data []byte) []byte {
				if h, _, err := wire.ParseHeader(data); err != nil || h.Next != wire.SAPayload {
					return data
				}
				return rewrite(t, data, func(p []wire.Payload) []wire.Payload { return append(p, vendorPayloads(vidGSSAPI)...) })
			})
		}
	}
	return w, a, b
}

// TestLongNameAfterACookie: a peer that knows how to go on with a cookie gets
// the name once it has, and nothing is kept before.
func TestLongNameAfterACookie(t *testing.T) {
	w, a, b := longName(t, 500, false)
	w.run(15 * time.Millisecond)
	if len(b.sent) != 1 || len(b.sent[0]) > len(a.sent[0]) || len(b.m.mains)+b.m.halfOpen.len() != 0 {
		t.Fatalf("%d answers, %d exchanges", len(b.sent), len(b.m.mains))
	}
	w.run(2 * time.Second)
	w.checkPaired(a, b)
	if len(b.sent[1]) <= len(a.sent[1]) {
		t.Errorf("the answer has %d bytes only", len(b.sent[1]))
	}
}

// TestNamesOfEveryLength: wherever the answer begins to be too large, nothing of
// what the two say to each other is lost.
func TestNamesOfEveryLength(t *testing.T) {
	for name := 100; name < 400; name += 7 {
		w, a, b := longName(t, name, false)
		w.run(2 * time.Second)
		if err := paired(a, b); err != nil {
			t.Fatalf("%d bytes: %v, %+v", name, err, a.failed)
		}
		if s := a.m.established()[0]; !s.agent || !s.dpd || !s.fragments || s.nat.form != natRFC3947 {
			t.Fatalf("%d bytes: of the responder is known %+v", name, s)
		}
	}
}

// TestLongNameToAnybody: a peer that knows of no cookies is answered without
// Kerberos if it offers something else, and refused if it does not; both ends
// hear why.
func TestLongNameToAnybody(t *testing.T) {
	w, a, b := longName(t, 400, true, &method{number: auth.PSK, principal: "somebody"})
	w.run(2 * time.Second)
	w.checkPaired(a, b)
	w, a, b = longName(t, 200, true)
	w.run(200 * time.Second)
	if len(b.failed) == 0 || b.failed[0].Code != FailLocal || !strings.Contains(b.failed[0].Reason, "is larger") || len(b.failed[0].Received) != 1 {
		t.Errorf("the responder says %+v", b.failed)
	}
	if len(a.failed) != 1 || a.failed[0].Code != FailNoProposal || len(b.m.mains) != 0 {
		t.Errorf("the initiator says %+v", a.failed)
	}
}

// FuzzFirstMessage: whatever comes from nobody knows where, with a cookie or
// without, twice, what goes there is never more.
func FuzzFirstMessage(f *testing.F) {
	for _, offer := range offersOf(f) {
		for _, vendors := range implementations() {
			f.Add(uint8(90), question(f, wire.Header{ICookie: [8]byte{1}, Version: wire.Version1, Exchange: wire.MainMode}, offer, "gss:a", vendors))
		}
	}
	f.Fuzz(func(t *testing.T, name uint8, data []byte) {
		offer := kerberosOffer(t, auth.Requirement{Method: auth.Kerberos}, auth.Requirement{Method: auth.PSK})
		w, a, b := kerberosPair(t, 1, newTicket("a"), newTicket(strings.Repeat("b", int(name))), offer, offer, &method{number: auth.PSK})
		for range 2 {
			sent := 0
			b.m.Handle(w.now, Packet{Local: w.at(b), Remote: w.at(a), Data: data})
			for o, ok := b.m.Poll(); ok; o, ok = b.m.Poll() {
				switch o := o.(type) {
				case Work:
					b.m.Handle(w.now, WorkDone{o.ID, o.Run()})
				case Send:
					sent += len(o.Data)
				}
			}
			if sent > len(data) {
				t.Fatalf("%d bytes for %d", sent, len(data))
			}
		}
		if len(b.m.mains) > 1 {
			t.Fatalf("%d exchanges", len(b.m.mains))
		}
	})
}
