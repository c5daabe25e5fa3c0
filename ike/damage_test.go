package ike

import (
	"slices"
	"testing"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/wire"
)

// TestDamagedMessagesLeaveNoTrace: of each encrypted message a copy with one
// bit changed arrives first, all along it. Nothing is answered or concluded
// from it, and the genuine one does its work. (In messages 5 and 6 what follows
// the hash is not covered by it, RFC 2409 §5: whoever can change that can as
// well drop it.)
func TestDamagedMessagesLeaveNoTrace(t *testing.T) {
	for message := 5; message <= 9; message++ {
		for at := wire.HeaderLen; ; at += 3 {
			w, a, b := two(t, 1)
			from, to := a, b
			if message%2 == 0 {
				from, to = b, a
			}
			length := 0
			w.net.OnNth(w.at(from), w.at(to), (message+1)/2, func(data []byte) []byte {
				length = len(data)
				if message <= 6 {
					length = wire.HeaderLen + 12 + 36 // ID and HASH
				}
				if at < length {
					damaged := slices.Clone(data)
					damaged[at] ^= 1 << (at % 8)
					to.m.Handle(w.now, Packet{Local: w.at(to), Remote: w.at(from), Data: damaged})
				}
				return data
			})
			w.ask(a, b, 1)
			w.run(3 * time.Second)
			if err := paired(a, b); err != nil || len(a.failed)+len(b.failed)+len(a.ended)+len(b.ended) != 0 {
				t.Fatalf("message %d, byte %d: %v, failed %+v %+v", message, at, err, a.failed, b.failed)
			}
			if at >= length {
				break
			}
		}
	}
}

// TestRepeatedNotifyIsOld: a genuine error notify of before does not end a
// quick mode of now.
func TestRepeatedNotifyIsOld(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Second)
	n := wire.Notify{DOI: 1, Protocol: wire.ProtoESP, Type: wire.NoProposalChosen}
	b.m.sendInformational(w.now, b.m.established()[0], 1, wire.Payload{Type: wire.NotifyPayload, Body: n.Append(nil)})
	w.run(time.Second)
	old := b.sent[len(b.sent)-1]
	w.ask2(a, b, 2, mainOffer(t), 80)
	w.flush()
	a.m.Handle(w.now, Packet{Local: w.at(a), Remote: w.at(b), Data: old})
	w.run(time.Second)
	if len(a.failed) != 0 || len(a.established) != 2 {
		t.Errorf("failed %+v", a.failed)
	}
}

// TestInitialContactOfAnotherHostWithTheSameKey ends nothing of others: a key
// shared by many proves the same principal for all of them.
func TestInitialContactOfAnotherHostWithTheSameKey(t *testing.T) {
	w, a, b := two(t, 1)
	c := w.host("192.0.2.3", goodKey, b.m.policy)
	w.ask(a, b, 1)
	w.run(time.Minute)
	w.ask(c, b, 1) // says INITIAL-CONTACT
	w.run(time.Second)
	if len(b.ended) != 0 || len(b.m.SAs()) != 2 || len(c.established) != 1 {
		t.Errorf("ended %+v", b.ended)
	}
}

// TestInitialContactOfAnotherIdentityAtTheAddress: who has proven less, where
// another was before, ends nothing of what that one has established.
func TestInitialContactOfAnotherIdentityAtTheAddress(t *testing.T) {
	const keys = "apiVersion: ipsecagent/v1\nkind: PresharedKeys\nkeys:\n" +
		"- {name: weak, peers: [192.0.2.0/24], keys: [\"" + otherKey + "\"]}\n" +
		"- {name: strong, peers: [192.0.2.0/25], keys: [\"" + goodKey + "\"]}\n"
	weak, strong, both := mainOffer(t), mainOffer(t), mainOffer(t)
	weak.Auth = []auth.Requirement{{Method: auth.PSK, Key: "weak"}}
	strong.Auth = []auth.Requirement{{Method: auth.PSK, Key: "strong"}}
	both.Auth = append(slices.Clone(weak.Auth), strong.Auth...)
	p := policyOf(both, responderQuick(t))
	w := newWorld(t, 1)
	a, b := w.host("192.0.2.1", keys, p), w.host("192.0.2.2", keys, p)
	w.ask2(a, b, 1, strong, 0)
	w.run(time.Minute)
	a.restart(t, w, 77)
	w.ask2(a, b, 2, weak, 0) // says INITIAL-CONTACT
	w.run(time.Second)
	if len(b.established) != 2 || b.established[0].Pair.Principal != "psk:strong" || b.established[1].Pair.Principal != "psk:weak" {
		t.Fatalf("established %+v", b.established)
	}
	if len(b.ended) != 0 || len(b.m.SAs()) != 2 {
		t.Errorf("ended %+v, %d ISAKMP SAs are left", b.ended, len(b.m.SAs()))
	}
}

// TestNothingLargerThanTheQuestion: a first message too short to be worth the
// notify gets none.
func TestNothingLargerThanTheQuestion(t *testing.T) {
	for body, answers := range map[string]int{
		"\x00\x00\x00\x02":                          0,
		"\x00\x00\x00\x02and labels of that domain": 1,
	} {
		w, a, b := two(t, 1)
		h := wire.Header{ICookie: [8]byte{1}, Version: wire.Version1, Exchange: wire.MainMode}
		data := wire.AppendClear(nil, h, []wire.Payload{{Type: wire.SAPayload, Body: []byte(body)}})
		for range 5 { // once a second at most
			b.m.Handle(w.now, Packet{Local: w.at(b), Remote: w.at(a), Data: data})
		}
		w.flush()
		if len(b.sent) != answers {
			t.Errorf("%d answers to %d bytes", len(b.sent), len(data))
		}
		for _, s := range b.sent {
			if len(s) > len(data) {
				t.Errorf("an answer of %d bytes to a question of %d", len(s), len(data))
			}
		}
	}
}

// TestOneMessageAtATime: while one message 3 is worked on another one, which
// anyone can make, costs nothing and changes nothing.
func TestOneMessageAtATime(t *testing.T) {
	w, a, b := two(t, 1)
	b.hold = true
	w.ask(a, b, 1)
	w.run(35 * time.Millisecond)
	genuine := a.sent[1]
	for n := range 20 {
		forged := slices.Clone(genuine)
		forged[len(forged)-1-n] ^= 0xff
		b.m.Handle(w.now, Packet{Local: w.at(b), Remote: w.at(a), Data: forged})
	}
	w.flush()
	if b.works != 1 {
		t.Errorf("%d pieces of work", b.works)
	}
	b.release(w)
	w.run(5 * time.Second)
	w.checkPaired(a, b)
}
