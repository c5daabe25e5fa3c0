package ike

import (
	"crypto/elliptic"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/iketest"
	"ipsecagent/ike/wire"
)

// forgeProof has what a sends as message 5 changed by somebody who knows the
// keys, as any initiator of main mode by signatures or Kerberos does: they prove
// nothing.
func forgeProof(t *testing.T, w *world, a, b *host, change func(x *mainMode, p []wire.Payload) []wire.Payload) {
	for n := 3; n < 14; n++ {
		w.net.OnNth(w.at(a), w.at(b), n, func(data []byte) []byte {
			for _, x := range a.m.mains {
				if h, _, err := wire.ParseHeader(data); err != nil || !h.Encrypted() || x.keys == nil {
					return data
				}
				p := openedWith(t, x.keys, x.keys.IV(), data)
				forged, _, err := seal(x.keys, x.header(), x.keys.IV(), change(x, slices.Clone(p)))
				if err != nil {
					t.Fatal(err)
				}
				return forged
			}
			return data
		})
	}
}

func replaced(p []wire.Payload, t wire.PayloadType, with ...wire.Payload) []wire.Payload {
	var all []wire.Payload
	for _, q := range p {
		if q.Type == t {
			all = append(all, with...)
			continue
		}
		all = append(all, q)
	}
	return all
}

func body(p []wire.Payload, t wire.PayloadType) []byte {
	for _, q := range p {
		if q.Type == t {
			return q.Body
		}
	}
	return nil
}

// TestSignatureModeWantsASignature: in main mode by certificates everybody
// knows SKEYID, so a hash proves nothing, and neither does anything but the
// signature over the right hash by the key of the certificate.
func TestSignatureModeWantsASignature(t *testing.T) {
	ca := newAuthority(t, "Root")
	other := ca.keeper("c", ecKey(t, elliptic.P256()), ca)
	payload := func(t wire.PayloadType, b []byte) wire.Payload { return wire.Payload{Type: t, Body: b} }
	cases := map[string]func(x *mainMode, p []wire.Payload) []wire.Payload{
		"a hash instead": func(x *mainMode, p []wire.Payload) []wire.Payload {
			return replaced(p, wire.SignaturePayload, payload(wire.HashPayload, x.keys.HashI(x.sai, body(p, wire.IDPayload), nil)))
		},
		"a hash as the signature": func(x *mainMode, p []wire.Payload) []wire.Payload {
			return replaced(p, wire.SignaturePayload, payload(wire.SignaturePayload, x.keys.HashI(x.sai, body(p, wire.IDPayload), nil)))
		},
		"a hash beside an empty signature": func(x *mainMode, p []wire.Payload) []wire.Payload {
			return replaced(p, wire.SignaturePayload, payload(wire.SignaturePayload, nil), payload(wire.HashPayload, x.keys.HashI(x.sai, body(p, wire.IDPayload), nil)))
		},
		"no signature": func(_ *mainMode, p []wire.Payload) []wire.Payload { return replaced(p, wire.SignaturePayload) },
		"zeroes": func(_ *mainMode, p []wire.Payload) []wire.Payload {
			return replaced(p, wire.SignaturePayload, payload(wire.SignaturePayload, make([]byte, 64)))
		},
		"two": func(_ *mainMode, p []wire.Payload) []wire.Payload {
			return append(p, payload(wire.SignaturePayload, make([]byte, 64)))
		},
		"no certificate": func(_ *mainMode, p []wire.Payload) []wire.Payload { return replaced(p, wire.CertPayload) },
		"another one's certificate": func(_ *mainMode, p []wire.Payload) []wire.Payload {
			s, err := other[1].Start(auth.Request{Initiator: true, Requirement: auth.Requirement{Method: auth.ECDSA256, CA: "CN=Root"}})
			if err != nil {
				t.Fatal(err)
			}
			claim := s.Local()
			p = replaced(p, wire.CertPayload, payload(wire.CertPayload, claim.Certs[0]))
			return replaced(p, wire.IDPayload, payload(wire.IDPayload, idBody(claim)))
		},
		"another identity": func(_ *mainMode, p []wire.Payload) []wire.Payload {
			return replaced(p, wire.IDPayload, payload(wire.IDPayload, idBody(auth.Claim{IDType: uint8(wire.IDFQDN), ID: []byte("b.example")})))
		},
		"nine certificates": func(_ *mainMode, p []wire.Payload) []wire.Payload {
			return append(p, slices.Repeat([]wire.Payload{payload(wire.CertPayload, []byte{4, 1})}, 8)...)
		},
		"a huge certificate": func(_ *mainMode, p []wire.Payload) []wire.Payload {
			return append(p, payload(wire.CertPayload, make([]byte, maxCertLen+1)))
		},
	}
	req := certOffer(t, auth.Requirement{Method: auth.ECDSA256, CA: "CN=Root"})
	for name, change := range cases {
		w, a, b := certificates(t, ca.keeper("a", ecKey(t, elliptic.P256()), ca), ca.keeper("b", ecKey(t, elliptic.P256()), ca), req, req)
		forgeProof(t, w, a, b, change)
		w.run(200 * time.Second)
		if len(b.mains) != 0 || len(a.mains) != 0 || len(a.failed) == 0 || len(b.m.mains) != 0 {
			t.Errorf("%s: %+v, failed %+v", name, b.mains, a.failed)
		}
	}
	w, a, b := certificates(t, ca.keeper("a", ecKey(t, elliptic.P256()), ca), ca.keeper("b", ecKey(t, elliptic.P256()), ca), req, req)
	forgeProof(t, w, a, b, func(_ *mainMode, p []wire.Payload) []wire.Payload { return p })
	w.run(10 * time.Second)
	w.checkPaired(a, b) // or the test proves nothing
}

// TestProofsOfOneExchangeAreBounded: who has made a key exchange may not have
// us verify signatures for ever.
func TestProofsOfOneExchangeAreBounded(t *testing.T) {
	ca := newAuthority(t, "Root")
	req := certOffer(t, auth.Requirement{Method: auth.ECDSA256, CA: "CN=Root"})
	w, a, b := certificates(t, ca.keeper("a", ecKey(t, elliptic.P256()), ca), ca.keeper("b", ecKey(t, elliptic.P256()), ca), req, req)
	forgeProof(t, w, a, b, func(x *mainMode, p []wire.Payload) []wire.Payload {
		for n := range byte(10) {
			wrong := replaced(p, wire.SignaturePayload, wire.Payload{Type: wire.SignaturePayload, Body: slices.Repeat([]byte{n}, 64)})
			data, _, err := seal(x.keys, x.header(), x.keys.IV(), wrong)
			if err != nil {
				t.Fatal(err)
			}
			b.m.Handle(w.now, Packet{Local: w.at(b), Remote: w.at(a), Data: data})
			for o, ok := b.m.Poll(); ok; o, ok = b.m.Poll() {
				w.output(b, o)
			}
		}
		return p
	})
	w.run(4 * time.Second)
	if b.works != 1+maxProofWork || b.dropped["main mode message 5: too many of them"] < 7 {
		t.Errorf("%d pieces of work, dropped %v", b.works, b.dropped)
	}
}

// TestKerberosWantsASealedHash: the same for Kerberos; and a second round of
// tokens is refused by its reason.
func TestKerberosWantsASealedHash(t *testing.T) {
	cases := map[string]func(x *mainMode, p []wire.Payload) []wire.Payload{
		"a bare hash": func(x *mainMode, p []wire.Payload) []wire.Payload {
			return replaced(p, wire.HashPayload, wire.Payload{Type: wire.HashPayload, Body: x.keys.HashI(x.sai, body(p, wire.IDPayload), nil)})
		},
		"a signature": func(x *mainMode, p []wire.Payload) []wire.Payload {
			return replaced(p, wire.HashPayload, wire.Payload{Type: wire.SignaturePayload, Body: body(p, wire.HashPayload)})
		},
		"another token": func(_ *mainMode, p []wire.Payload) []wire.Payload {
			return append(p, wire.Payload{Type: wire.GSSPayload, Body: []byte("AP-REQ host/a")})
		},
		"nothing": func(_ *mainMode, p []wire.Payload) []wire.Payload { return replaced(p, wire.HashPayload) },
	}
	for name, change := range cases {
		w, a, b := kerberosPair(t, 1, newTicket("host/a"), newTicket("host/b"), kerberosOffer(t), kerberosOffer(t))
		forgeProof(t, w, a, b, change)
		w.run(200 * time.Second)
		if len(b.mains)+len(a.mains) != 0 || len(a.failed) == 0 || len(b.m.mains) != 0 {
			t.Errorf("%s: %+v, failed %+v", name, b.mains, a.failed)
		}
	}
}

// TestForgedMessagesEndNoOtherMethod: what TestForgedMessagesEndNothing shows of
// preshared keys, of Kerberos and of certificates.
func TestForgedMessagesEndNoOtherMethod(t *testing.T) {
	ca := newAuthority(t, "Root")
	key := [2][]auth.Authenticator{ca.keeper("a", ecKey(t, elliptic.P256()), ca), ca.keeper("b", ecKey(t, elliptic.P256()), ca)}
	start := map[string]func() (*world, *host, *host){
		"Kerberos": func() (*world, *host, *host) {
			return kerberosPair(t, 1, newTicket("host/a"), newTicket("host/b"), kerberosOffer(t), kerberosOffer(t))
		},
		"certificates": func() (*world, *host, *host) {
			req := certOffer(t, auth.Requirement{Method: auth.ECDSA256, CA: "CN=Root"})
			return certificates(t, key[0], key[1], req, req)
		},
	}
	more := func(h wire.Header) map[string][]byte {
		all := forgeries(h)
		h.Flags = 0
		fragment := func(f wire.Fragment) []byte {
			return wire.AppendClear(nil, h, []wire.Payload{{Type: wire.FragmentPayload, Body: f.Append(nil)}})
		}
		all["fragment"] = fragment(wire.Fragment{ID: 1, Number: 1, Data: make([]byte, 100)})
		all["last fragment"] = fragment(wire.Fragment{ID: 1, Number: 1, Last: true, Data: make([]byte, 100)})
		return all
	}
	for method, begin := range start {
		for message := 2; message <= 6; message++ {
			for name := range more(wire.Header{}) {
				w, a, b := begin()
				from, to := a, b
				if message%2 == 0 {
					from, to = b, a
				}
				w.net.OnNth(w.at(from), w.at(to), (message+1)/2, func(data []byte) []byte {
					h, _, _ := wire.ParseHeader(data)
					forged := more(h)[name]
					a.m.Handle(w.now, Packet{Local: w.at(a), Remote: w.at(b), Data: forged})
					b.m.Handle(w.now, Packet{Local: w.at(b), Remote: w.at(a), Data: forged})
					return data
				})
				w.run(30 * time.Second)
				if err := paired(a, b); err != nil || len(a.failed)+len(b.failed) != 0 {
					t.Errorf("%s, before message %d, %s: %v, failed %+v %+v", method, message, name, err, a.failed, b.failed)
				}
			}
		}
	}
}

// TestSessionThatNeverEnds: a KDC or a smart card that does not answer ends the
// exchange in time, in either role, and what it says later is forgotten.
func TestSessionThatNeverEnds(t *testing.T) {
	for who := range 2 {
		w, a, b := kerberosPair(t, 1, newTicket("host/a"), newTicket("host/b"), kerberosOffer(t), kerberosOffer(t))
		h := w.hosts[who]
		h.hold = true
		w.run(126 * time.Second)
		if len(a.failed) != 1 || len(a.m.mains)+len(b.m.mains) != 0 {
			t.Errorf("host %d: %+v, %d and %d exchanges", who, a.failed, len(a.m.mains), len(b.m.mains))
		}
		if who == 0 && !strings.Contains(a.failed[0].Reason, "did not end in time") {
			t.Errorf("%+v", a.failed)
		}
		h.release(w)
		w.run(time.Second)
		if len(a.mains)+len(b.mains) != 0 {
			t.Errorf("host %d: an exchange that was over goes on", who)
		}
	}
}

// TestOneNetworkOfIPv6IsOneSource: who owns a /64 does not fill the table, and
// a whole office behind one comes in.
func TestOneNetworkOfIPv6IsOneSource(t *testing.T) {
	_, _, b := two(t, 1)
	local := netip.MustParseAddrPort("[2001:db8::1]:500")
	for n := range 5000 {
		_, data := message1From(t, uint64(n))
		from := netip.MustParseAddr(fmt.Sprintf("2001:db8:0:7::%x", n+1))
		b.m.Handle(epoch, Packet{Local: local, Remote: netip.AddrPortFrom(from, 500), Data: data})
	}
	if n := b.m.halfOpen.len(); n != perAddress*8 {
		t.Errorf("%d half-open exchanges of one network", n)
	}
}

// TestProofsThatFailLeaveNothing: thousands of exchanges that fail at the proof
// leave no state behind.
func TestProofsThatFailLeaveNothing(t *testing.T) {
	tb := newTicket("host/b")
	tb.accept = &auth.Error{Code: "clock-skew", Reason: "the clocks differ"}
	w, a, b := kerberosPair(t, 1, newTicket("host/a"), tb, kerberosOffer(t), kerberosOffer(t))
	w.net.SetPath(iketest.Path{})
	var grown [2]uint64
	for round := range grown {
		for range 300 {
			a.m.startMain(w.now, path{w.at(a), w.at(b)}, kerberosOffer(t))
			w.run(30 * time.Second)
			a.sent, b.sent, a.failed, b.failed, a.dropped, b.dropped = nil, nil, nil, nil, map[string]int{}, map[string]int{}
			*tb.requirements = nil
		}
		w.run(200 * time.Second)
		grown[round] = heapInUse()
	}
	for _, m := range []*Machine{a.m, b.m} {
		if n := len(m.mains) + m.halfOpen.len() + len(m.working) + m.strangers.total + len(m.strangers.waiting); n != 0 {
			t.Errorf("%d things are left", n)
		}
	}
	if grown[1] > grown[0]+256<<10 {
		t.Errorf("the heap grew from %d to %d", grown[0], grown[1])
	}
}
