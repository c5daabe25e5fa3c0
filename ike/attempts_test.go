package ike

import (
	"testing"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/wire"
)

// TestNextAttemptTriesAnotherMethod: the KDC does not answer. The first attempt
// fails for that reason, the next one takes the other method of the rule, and
// the one after a success begins with all of them again.
func TestNextAttemptTriesAnotherMethod(t *testing.T) {
	both := kerberosOffer(t, auth.Requirement{Method: auth.Kerberos}, auth.Requirement{Method: auth.RSA})
	ta := newTicket("host/a")
	ta.kdc = &auth.Error{Code: "kdc-unreachable", Reason: "no answer"}
	w, a, b := kerberosPair(t, 1, ta, newTicket("host/b"), both, both, sound())
	w.run(time.Second)
	if len(a.failed) != 1 || a.failed[0].Code != "kdc-unreachable" {
		t.Fatalf("%+v", a.failed)
	}
	again := func(request uint64) {
		a.m.Handle(w.now, Initiate{Request: request, Local: a.addr, Remote: b.addr, Main: both, Quick: quickOffer(t, a.addr, b.addr)})
		w.run(time.Second)
	}
	again(2)
	w.checkPaired(a, b)
	if a.newestPair().Method != auth.RSA.String() || len(a.m.attempts) != 0 {
		t.Errorf("%+v, attempts %v", a.newestPair(), a.m.attempts)
	}
	only := newTicket("host/a")
	only.kdc = ta.kdc
	w, a, b = kerberosPair(t, 1, only, newTicket("host/b"), kerberosOffer(t), kerberosOffer(t))
	w.run(time.Second)
	a.m.startMain(w.now, path{w.at(a), w.at(b)}, kerberosOffer(t))
	w.run(time.Second)
	if len(a.failed) != 2 || a.failed[1].Code != "kdc-unreachable" {
		t.Errorf("with one method there is no other to try: %+v", a.failed)
	}
}

// windows2000 is a first message as Windows 2000 sends it to a peer of its
// domain: its suites, its vendor IDs, its name in the attribute it uses, all
// lifetimes in four bytes.
func windows2000(class uint16) []byte {
	p := wire.Proposal{Number: 1, Protocol: wire.ProtoISAKMP}
	for i, suite := range [][3]uint16{{5, 2, 2}, {5, 1, 2}, {1, 2, 1}, {1, 1, 1}} {
		p.Transforms = append(p.Transforms, wire.Transform{Number: uint8(i + 1), ID: keyIKE, Attributes: []wire.Attribute{
			wire.Uint16(attrEncryption, suite[0]), wire.Uint16(attrHash, suite[1]), wire.Uint16(attrGroup, suite[2]),
			wire.Uint16(attrAuth, uint16(auth.Kerberos)), wire.Uint16(attrLifeType, 1), wire.Uint32(attrLifeDuration, 28800),
			{Type: class, Value: []byte("gss:host/a")}}})
	}
	return saBody(p)
}

// TestWindows2000IsAnswered: whichever number its GSS name has, the answer has
// ours in its place, and it is told no more than it knows.
func TestWindows2000IsAnswered(t *testing.T) {
	for _, class := range []uint16{attrGSSName, 16, 32001} {
		offer := kerberosOffer(t)
		offer.Suites = mainSuite(t, "aes256-sha256-ecp256", "3des-sha1-modp1024")
		w, a, b := kerberosPair(t, 1, newTicket("host/a"), newTicket("host/b"), offer, offer)
		w.net.OnNth(w.at(a), w.at(b), 1, func(data []byte) []byte {
			return rewrite(t, data, func([]wire.Payload) []wire.Payload {
				return append([]wire.Payload{{Type: wire.SAPayload, Body: windows2000(class)}},
					vendorPayloads(vidWindows+"\x00\x00\x00\x02", vidGSSAPI)...)
			})
		})
		w.run(100 * time.Millisecond)
		if len(b.sent) == 0 {
			t.Fatalf("%d: %v", class, b.dropped)
		}
		answer := clearPayloads(t, b.sent[0])
		r, err := readMainSA(answer[0].Body, true)
		if err != nil || len(r.choices) != 1 || string(r.choices[0].name) != "gss:host/b" ||
			r.choices[0].Suite.String() != "3des-sha1-modp1024" || r.proposal.Transforms[0].Attributes[6].Type != class {
			t.Errorf("%d: %+v, %v", class, r, err)
		}
		if len(answer) != 2 || string(answer[1].Body) != vidGSSAPI {
			t.Errorf("%d: %d payloads", class, len(answer))
		}
	}
	psk := wire.Transform{Number: 1, ID: keyIKE, Attributes: append(mainOffer(t).choices()[0].transform(1).Attributes,
		wire.Attribute{Type: 16, Value: make([]byte, 20)})}
	if _, err := readMainTransform(psk); err == nil {
		t.Error("a group order is taken for a name")
	}
}
