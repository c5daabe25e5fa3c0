package ike

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/iketest"
	"ipsecagent/ike/wire"
)

// ticket is an authenticator of the kind of Kerberos: a name with the SA, a
// token each way, and a proof that covers both.
type ticket struct {
	name            string
	knows           string // the only peer it takes; "": any
	start, kdc      error  // of Start, and of the first token
	accept          error  // of the peer's token
	more            bool   // wants another round
	tokens, started *int   // counts
	requirements    *[]auth.Requirement
}

func newTicket(name string) *ticket {
	return &ticket{name: name, tokens: new(int), started: new(int), requirements: new([]auth.Requirement)}
}

func (k *ticket) Method() auth.Method { return auth.Kerberos }

func (k *ticket) Start(r auth.Request) (auth.Session, error) {
	if k.start != nil {
		return nil, k.start
	}
	*k.started++
	*k.requirements = append(*k.requirements, r.Requirement)
	return &ticketSession{ticket: k, initiator: r.Initiator}, nil
}

type ticketSession struct {
	*ticket
	initiator bool
	peer      auth.Claim
	sent, got []byte
}

func (s *ticketSession) Local() auth.Claim {
	return auth.Claim{IDType: uint8(wire.IDFQDN), ID: []byte(s.name), GSS: []byte("gss:" + s.name)}
}

func (s *ticketSession) Remote(c auth.Claim) error {
	s.peer = c
	if s.knows != "" && string(c.GSS) != "gss:"+s.knows {
		return &auth.Error{Code: "principal-not-accepted", Reason: fmt.Sprintf("%q is not welcome", c.GSS), Hint: "accept it"}
	}
	return nil
}

func (s *ticketSession) Trusted() bool {
	return !strings.HasPrefix(strings.TrimPrefix(string(s.peer.GSS), "gss:"), "person")
}

func (s *ticketSession) Seeds() [][]byte { return nil }

func (s *ticketSession) Token(in []byte) ([]byte, error) {
	*s.tokens++
	switch {
	case s.initiator && in == nil && s.kdc != nil:
		return nil, s.kdc
	case s.initiator && in == nil:
		s.sent = append([]byte("AP-REQ "+s.name), make([]byte, 200)...)
		return s.sent, nil
	case !s.initiator && s.accept != nil:
		return nil, s.accept
	case !s.initiator && !bytes.HasPrefix(in, []byte("AP-REQ ")):
		return nil, &auth.Error{Code: "token-malformed", Reason: "no AP-REQ"}
	case !s.initiator:
		s.got, s.sent = in, []byte("AP-REP "+s.name)
		return s.sent, nil
	case !bytes.HasPrefix(in, []byte("AP-REP ")):
		return nil, &auth.Error{Code: "token-malformed", Reason: "no AP-REP"}
	}
	s.got = in
	if s.more {
		return []byte("more"), nil
	}
	return nil, nil
}

func (s *ticketSession) Prove(hash func([]byte) []byte) ([]byte, error) {
	return append([]byte("sealed "), hash(append([]byte(s.name), s.sent...))...), nil
}

func (s *ticketSession) Check(hash func([]byte) []byte, proof []byte) (auth.Principal, error) {
	name := strings.TrimPrefix(string(s.peer.GSS), "gss:")
	if !bytes.Equal(proof, append([]byte("sealed "), hash(append([]byte(name), s.got...))...)) {
		return "", &auth.Error{Code: "proof", Reason: "it does not open"}
	}
	return auth.Principal(name), nil
}

func kerberosOffer(t testing.TB, reqs ...auth.Requirement) MainOffer {
	o := mainOffer(t)
	if o.Auth = reqs; len(reqs) == 0 {
		o.Auth = []auth.Requirement{{Method: auth.Kerberos}}
	}
	return o
}

// kerberosPair is two hosts of one realm.
func kerberosPair(t *testing.T, seed uint64, ta, tb *ticket, oa, ob MainOffer, others ...auth.Authenticator) (*world, *host, *host) {
	w := newWorld(t, seed)
	w.net.SetPath(iketest.Path{Delay: 10 * time.Millisecond})
	a := w.bareHost(v4[0], 1, append(slices.Clone(others), ta)...)
	b := w.bareHost(v4[1], 2, append(slices.Clone(others), tb)...)
	b.m.Handle(w.now, SetPolicy{policyOf(ob, responderQuick(t))})
	a.m.Handle(w.now, Initiate{Request: 1, Local: a.addr, Remote: b.addr, Main: oa, Quick: quickOffer(t, a.addr, b.addr)})
	return w, a, b
}

func TestKerberosMainMode(t *testing.T) {
	ta, tb := newTicket("host/a"), newTicket("host/b")
	w, a, b := kerberosPair(t, 1, ta, tb, kerberosOffer(t), kerberosOffer(t))
	w.run(time.Second)
	w.checkPaired(a, b)
	if a.newestPair().Principal != "host/b" || b.newestPair().Principal != "host/a" || a.newestPair().Method != "Kerberos" {
		t.Errorf("%+v %+v", a.newestPair(), b.newestPair())
	}
	if *ta.tokens != 2 || *tb.tokens != 1 {
		t.Errorf("%d and %d tokens", *ta.tokens, *tb.tokens)
	}
}

// TestKerberosOverABadNetwork: a token is taken once however often a message
// arrives.
func TestKerberosOverABadNetwork(t *testing.T) {
	for seed := range uint64(100) {
		ta, tb := newTicket("host/a"), newTicket("host/b")
		w, a, b := kerberosPair(t, seed, ta, tb, kerberosOffer(t), kerberosOffer(t))
		w.net.SetPath(iketest.Path{Loss: 0.2, Duplicate: 0.2, Reorder: 0.1, Late: 100 * time.Millisecond, Delay: 20 * time.Millisecond})
		w.run(300 * time.Second)
		if err := paired(a, b); err != nil {
			t.Errorf("seed %d: %v %+v", seed, err, a.failed)
		}
	}
}

// TestKerberosThatFails: each failure is reported by its own code, by who sees
// it, and ends in no ISAKMP SA.
func TestKerberosThatFails(t *testing.T) {
	skew := &auth.Error{Code: "clock-skew", Reason: "the clocks differ", Hint: "set them"}
	cases := []struct {
		name         string
		a, b         func(*ticket)
		codeA, codeB FailCode
		stepA        string
	}{
		{"no keytab", func(k *ticket) { k.start = skew }, nil, "clock-skew", "", "main mode message 2"},
		{"no ticket", func(k *ticket) { k.kdc = skew }, nil, "clock-skew", "", "main mode message 2"},
		{"peer not welcome", func(k *ticket) { k.knows = "host/c" }, nil, "principal-not-accepted", "", "main mode message 2"},
		{"initiator not welcome", nil, func(k *ticket) { k.knows = "host/c" }, FailAuth, "principal-not-accepted", "main mode message 4"},
		{"token refused", nil, func(k *ticket) { k.accept = skew }, FailAuth, "clock-skew", "main mode message 4"},
		{"more rounds", func(k *ticket) { k.more = true }, nil, FailAuth, FailNoAnswer, "main mode message 4"},
		{"responder without keytab", nil, func(k *ticket) { k.start = skew }, FailNoProposal, "clock-skew", "main mode message 2"},
	}
	for _, c := range cases {
		ta, tb := newTicket("host/a"), newTicket("host/b")
		for f, k := range map[*func(*ticket)]*ticket{&c.a: ta, &c.b: tb} {
			if *f != nil {
				(*f)(k)
			}
		}
		w, a, b := kerberosPair(t, 1, ta, tb, kerberosOffer(t), kerberosOffer(t))
		w.run(300 * time.Second)
		if len(a.failed) != 1 || a.failed[0].Code != c.codeA || a.failed[0].Step != c.stepA {
			t.Errorf("%s: initiator: %+v", c.name, a.failed)
		}
		if c.codeA == "clock-skew" && a.failed[0].Hint != "set them" {
			t.Errorf("%s: no hint: %+v", c.name, a.failed)
		}
		if c.codeB == "" && len(b.failed) != 0 || c.codeB != "" && (len(b.failed) == 0 || b.failed[0].Code != c.codeB) {
			t.Errorf("%s: responder: %+v", c.name, b.failed)
		}
		if len(a.mains)+len(b.mains)+len(a.m.mains)+len(b.m.mains) != 0 {
			t.Errorf("%s: something is left", c.name)
		}
	}
}

// TestKerberosGivesWayToAnotherMethod: who has no keytab offers, and takes,
// what else the policy names.
func TestKerberosGivesWayToAnotherMethod(t *testing.T) {
	both := kerberosOffer(t, auth.Requirement{Method: auth.Kerberos}, auth.Requirement{Method: auth.RSA})
	none := &auth.Error{Code: "no-keytab", Reason: "none"}
	for _, side := range []string{"initiator", "responder"} {
		ta, tb := newTicket("host/a"), newTicket("host/b")
		if side == "initiator" {
			ta.start = none
		} else {
			tb.start = none
		}
		w, a, b := kerberosPair(t, 1, ta, tb, both, both, sound())
		w.run(2 * time.Second)
		w.checkPaired(a, b)
		if a.newestPair().Method != auth.RSA.String() {
			t.Errorf("%s: %+v", side, a.newestPair())
		}
	}
}

// TestOneTokenServesAllRulesOfKerberos: the responder takes the token once and
// finds the rule by the principal.
func TestOneTokenServesAllRulesOfKerberos(t *testing.T) {
	ta, tb := newTicket("host/a"), newTicket("host/b")
	rules := kerberosOffer(t, auth.Requirement{Method: auth.Kerberos, AcceptPrincipals: []string{"host/c"}},
		auth.Requirement{Method: auth.Kerberos, AcceptPrincipals: []string{"host/a"}})
	w, a, b := kerberosPair(t, 1, ta, tb, kerberosOffer(t), rules)
	w.run(2 * time.Second)
	w.checkPaired(a, b)
	if s := b.m.established()[0]; s.proof.Principal != "host/a" || s.satisfies(kerberosOffer(t, rules.Auth[0])) || !s.satisfies(kerberosOffer(t, rules.Auth[1])) {
		t.Errorf("%+v", s.proof)
	}
	if got := (*tb.requirements)[0].AcceptPrincipals; !slices.Equal(got, []string{"host/c", "host/a"}) || *tb.tokens != 1 {
		t.Errorf("the session was started with %q, took %d tokens", got, *tb.tokens)
	}
	w, a, b = kerberosPair(t, 1, newTicket("host/x"), newTicket("host/b"), kerberosOffer(t), rules)
	w.run(300 * time.Second)
	if len(a.mains)+len(b.mains) != 0 || len(b.failed) != 1 || b.failed[0].Code != FailPrincipal {
		t.Errorf("%+v %+v", b.mains, b.failed)
	}
}

// TestMethod65001NeedsTheVendorID: without it the method means XAUTH, which is
// refused by its name, and costs no work.
func TestMethod65001NeedsTheVendorID(t *testing.T) {
	ta, tb := newTicket("host/a"), newTicket("host/b")
	w, a, b := kerberosPair(t, 1, ta, tb, kerberosOffer(t), kerberosOffer(t))
	strip(t, w, a, b, vidGSSAPI)
	w.run(300 * time.Second)
	if len(b.failed) == 0 || b.failed[0].Code != FailNoProposal || !strings.Contains(strings.Join(b.failed[0].Received, " "), "XAUTH") || b.works != 0 {
		t.Errorf("%+v, %d pieces of work", b.failed, b.works)
	}
	for _, id := range []string{vidGSSLong, vidGSSLongN, vidWindows + "\x00\x00\x00\x02"} {
		ta, tb := newTicket("host/a"), newTicket("host/b")
		w, a, b := kerberosPair(t, 1, ta, tb, kerberosOffer(t), kerberosOffer(t))
		w.net.OnNth(w.at(a), w.at(b), 1, func(data []byte) []byte {
			return rewrite(t, data, func(p []wire.Payload) []wire.Payload {
				return append(withoutVendor(p, vidGSSAPI), vendorPayloads(id)...)
			})
		})
		w.run(2 * time.Second)
		w.checkPaired(a, b)
	}
}

// strip takes a vendor ID out of every message in clear from one to another.
func strip(t *testing.T, w *world, from, to *host, id string) {
	for n := 1; n < 40; n++ {
		w.net.OnNth(w.at(from), w.at(to), n, func(data []byte) []byte {
			if h, _, err := wire.ParseHeader(data); err != nil || h.Encrypted() {
				return data
			}
			return rewrite(t, data, func(p []wire.Payload) []wire.Payload { return withoutVendor(p, id) })
		})
	}
}

func withoutVendor(p []wire.Payload, id string) []wire.Payload {
	return slices.DeleteFunc(slices.Clone(p), func(p wire.Payload) bool {
		return p.Type == wire.VendorPayload && strings.HasPrefix(string(p.Body), id)
	})
}

// TestForgedTokenEndsNothing: somebody who sees the cookies sends a message 3
// with a token that is none. The genuine one is still taken.
func TestForgedTokenEndsNothing(t *testing.T) {
	ta, tb := newTicket("host/a"), newTicket("host/b")
	w, a, b := kerberosPair(t, 1, ta, tb, kerberosOffer(t), kerberosOffer(t))
	w.net.OnNth(w.at(a), w.at(b), 2, func(data []byte) []byte {
		b.m.Handle(w.now, Packet{Local: w.at(b), Remote: w.at(a), Data: rewrite(t, data, func(p []wire.Payload) []wire.Payload {
			return append(slices.DeleteFunc(slices.Clone(p), func(p wire.Payload) bool { return p.Type == wire.GSSPayload }),
				wire.Payload{Type: wire.GSSPayload, Body: []byte("junk")})
		})})
		return data
	})
	w.run(3 * time.Second)
	w.checkPaired(a, b)
	if *tb.tokens != 2 || len(b.failed) != 0 {
		t.Errorf("%d tokens, %+v", *tb.tokens, b.failed)
	}
}

// TestInternalFailureOfASession: a session that fails for reasons of its own
// (no *auth.Error) is a failure of this host.
func TestInternalFailureOfASession(t *testing.T) {
	ta, tb := newTicket("host/a"), newTicket("host/b")
	ta.kdc = errors.New("broken")
	w, a, _ := kerberosPair(t, 1, ta, tb, kerberosOffer(t), kerberosOffer(t))
	w.run(time.Second)
	if len(a.failed) != 1 || a.failed[0].Code != FailLocal {
		t.Errorf("%+v", a.failed)
	}
}
