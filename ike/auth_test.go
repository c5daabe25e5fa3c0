package ike

import (
	"errors"
	"strings"
	"testing"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/iketest"
	"ipsecagent/ike/wire"
)

// method is an authentication whose keys start from g^xy, with faults.
type method struct {
	number                       auth.Method
	start, remote, prove, refuse error
	claim                        auth.Claim
	forge                        bool
	principal                    auth.Principal
}

func (f *method) Method() auth.Method { return f.number }

func (f *method) Start(auth.Request) (auth.Session, error) {
	if f.start != nil {
		return nil, f.start
	}
	return f, nil
}

func (f *method) Local() auth.Claim       { return f.claim }
func (f *method) Remote(auth.Claim) error { return f.remote }
func (f *method) Trusted() bool           { return true }

func (f *method) Seeds() [][]byte                 { return nil }
func (f *method) Token(in []byte) ([]byte, error) { return nil, nil }

func (f *method) Prove(hash func([]byte) []byte) ([]byte, error) {
	p := hash(nil)
	if f.forge {
		p[0] ^= 1
	}
	return p, f.prove
}

func (f *method) Check(hash func([]byte) []byte, proof []byte) (auth.Principal, error) {
	if f.refuse != nil || !equal(hash(nil), proof) {
		return "", errors.Join(errHash, f.refuse)
	}
	return f.principal, nil
}

// meet has two hosts with the given methods negotiate.
func meet(t *testing.T, fa, fb *method, requireA []string) (*world, *host, *host) {
	t.Helper()
	w := newWorld(t, 1)
	w.net.SetPath(iketest.Path{Delay: 10 * time.Millisecond})
	a, b := w.bareHost(v4[0], 1, fa), w.bareHost(v4[1], 2, fb)
	main := mainOffer(t)
	main.Auth = []auth.Requirement{{Method: fb.number}}
	b.m.Handle(w.now, SetPolicy{policyOf(main, responderQuick(t))})
	main.Auth = []auth.Requirement{{Method: fa.number, AcceptPrincipals: requireA}}
	a.m.Handle(w.now, Initiate{Request: 1, Local: a.addr, Remote: b.addr, Main: main, Quick: quickOffer(t, a.addr, b.addr)})
	w.run(200 * time.Second)
	return w, a, b
}

func sound() *method { return &method{number: auth.RSA, principal: "CN=somebody"} }

func TestMethodsWithoutASharedKey(t *testing.T) {
	w, a, b := meet(t, sound(), sound(), nil)
	w.checkPaired(a, b)
	if p := a.newestPair(); p.Principal != "CN=somebody" || p.Method != "certificate (RSA)" {
		t.Errorf("%+v", p)
	}
}

// TestAuthenticationThatFails: whatever fails on either side, no ISAKMP SA is
// made by who could not verify, and both ends are told.
func TestAuthenticationThatFails(t *testing.T) {
	broken := func(f func(*method)) *method { m := sound(); f(m); return m }
	keyless := &auth.Error{Reason: "no certificate", Err: errors.New("no file")}
	cases := []struct {
		name     string
		a, b     *method
		accept   []string
		codeA    FailCode
		codeB    FailCode // "" : the responder is satisfied
		partlySA bool     // the responder has proven the initiator already
	}{
		{"initiator cannot start", broken(func(m *method) { m.start = keyless }), sound(), nil, FailAuth, "", false},
		{"initiator cannot prove", broken(func(m *method) { m.prove = errBusy }), sound(), nil, FailLocal, FailNoAnswer, false},
		{"initiator forges", broken(func(m *method) { m.forge = true }), sound(), nil, FailAuth, FailAuth, false},
		{"responder cannot start", sound(), broken(func(m *method) { m.start = keyless }), nil, FailAuth, FailAuth, false},
		{"responder breaks", sound(), broken(func(m *method) { m.start = errBusy }), nil, FailAuth, FailLocal, false},
		{"responder cannot prove", sound(), broken(func(m *method) { m.prove = errBusy }), nil, FailAuth, FailAuth, false},
		{"responder refuses the claim", sound(), broken(func(m *method) { m.remote = errBusy }), nil, FailAuth, FailAuth, false},
		{"responder refuses the proof", sound(), broken(func(m *method) { m.refuse = errBusy }), nil, FailAuth, FailAuth, false},
		{"responder forges", sound(), broken(func(m *method) { m.forge = true }), nil, FailAuth, "", true},
		{"initiator refuses the claim", broken(func(m *method) { m.remote = errBusy }), sound(), nil, FailAuth, "", true},
		{"initiator wants somebody else", sound(), sound(), []string{"CN=other"}, FailPrincipal, "", true},
		{"methods differ", sound(), broken(func(m *method) { m.number = auth.ECDSA256 }), nil, FailNoProposal, FailNoProposal, false},
		{"claim that is none", broken(func(m *method) { m.claim = auth.Claim{IDType: 1, ID: []byte{1}} }), sound(), nil, FailAuth, FailAuth, false},
	}
	for _, c := range cases {
		_, a, b := meet(t, c.a, c.b, c.accept)
		if len(a.failed) != 1 || a.failed[0].Code != c.codeA || a.failed[0].Request != 1 {
			t.Errorf("%s: initiator: %+v", c.name, a.failed)
		}
		if c.codeB == "" && len(b.failed) != 0 || c.codeB != "" && (len(b.failed) == 0 || b.failed[0].Code != c.codeB) {
			t.Errorf("%s: responder: %+v", c.name, b.failed)
		}
		if len(a.mains) != 0 || (len(b.mains) != 0) != c.partlySA || len(a.established)+len(b.established) != 0 {
			t.Errorf("%s: ISAKMP SAs %+v %+v", c.name, a.mains, b.mains)
		}
	}
}

func TestReasonNamesWhoWasExpected(t *testing.T) {
	_, a, _ := meet(t, sound(), sound(), []string{"CN=other"})
	if r := a.failed[0].Reason; !strings.Contains(r, "CN=somebody") || !strings.Contains(r, "CN=other") {
		t.Errorf("%q", r)
	}
}

func TestIdentificationOfPhase1(t *testing.T) {
	for _, c := range []struct {
		id wire.ID
		ok bool
	}{
		{wire.ID{}, true}, {wire.ID{Proto: 17, Port: 500}, true}, {wire.ID{Proto: 17, Port: 4500}, true}, {wire.ID{Proto: 17}, true},
		{wire.ID{Port: 500}, false}, {wire.ID{Proto: 6, Port: 500}, false}, {wire.ID{Proto: 17, Port: 53}, false},
	} {
		if fitsID(c.id) != c.ok {
			t.Errorf("%+v", c.id)
		}
	}
}

// TestSilenceAtEachStep: from some datagram on nothing comes through, in one
// direction or in both. Each end has finished within 125 s of silence, one way
// or the other, and nothing stays half-open.
func TestSilenceAtEachStep(t *testing.T) {
	for message := 1; message <= 9; message++ {
		for _, deaf := range []string{"a", "b", "both"} {
			w, a, b := two(t, 1)
			w.ask(a, b, 1)
			// 10 ms each: what is sent then is the message.
			w.run(time.Duration(message-1)*10*time.Millisecond - time.Millisecond)
			for _, h := range []*host{a, b} {
				if deaf == "both" || (deaf == "a") == (h == a) {
					w.net.SetDirection(w.other(h).addr, h.addr, iketest.Path{Loss: 1})
				}
			}
			w.run(250 * time.Second)
			if len(a.established)+len(a.failed) == 0 {
				t.Errorf("message %d, %s deaf: the request has no answer", message, deaf)
			}
			if len(a.m.mains)+len(b.m.mains)+len(a.m.quicks)+len(b.m.quicks) != 0 || b.m.halfOpen.len() != 0 {
				t.Errorf("message %d, %s deaf: half-open", message, deaf)
			}
			for _, h := range []*host{a, b} {
				if in := 2 * len(h.m.pairs); len(h.sas) != in {
					t.Errorf("message %d, %s deaf: %s has %d associations and %d pairs", message, deaf, h.addr, len(h.sas), len(h.m.pairs))
				}
			}
		}
	}
}

func (w *world) other(h *host) *host {
	if h == w.hosts[0] {
		return w.hosts[1]
	}
	return w.hosts[0]
}

// TestWhatAnISAKMPSAMayCarry: it must have been made by a suite, a method, a
// key or authority and with a principal that the rule accepts.
func TestWhatAnISAKMPSAMayCarry(t *testing.T) {
	suites := mainSuite(t, "aes256-sha256-ecp256", "aes128-sha1-modp1024")
	s := &isakmp{suite: suites[0], proof: auth.Proof{Method: auth.PSK, Principal: "psk:a", CA: "CN=1"}}
	cases := []struct {
		name string
		req  auth.Requirement
		want bool
	}{
		{"any", auth.Requirement{Method: auth.PSK}, true},
		{"method", auth.Requirement{Method: auth.RSA}, false},
		{"its key", auth.Requirement{Method: auth.PSK, Key: "a"}, true},
		{"another key", auth.Requirement{Method: auth.PSK, Key: "b"}, false},
		{"its authority", auth.Requirement{Method: auth.PSK, CA: "CN=1"}, true},
		{"another authority", auth.Requirement{Method: auth.PSK, CA: "CN=2"}, false},
		{"its principal", auth.Requirement{Method: auth.PSK, AcceptPrincipals: []string{"psk:b", "psk:a"}}, true},
		{"another principal", auth.Requirement{Method: auth.PSK, AcceptPrincipals: []string{"psk:b"}}, false},
	}
	for _, c := range cases {
		if got := s.satisfies(MainOffer{Suites: suites, Auth: []auth.Requirement{c.req}}); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
		if s.satisfies(MainOffer{Suites: suites[1:], Auth: []auth.Requirement{c.req}}) {
			t.Errorf("%s: a suite that is not offered will do", c.name)
		}
	}
}
