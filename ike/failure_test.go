package ike

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/iketest"
	"ipsecagent/sadb"
)

// hosts returns two hosts with keys and offers of their own.
func hosts(t *testing.T, keyA, keyB string, main MainOffer, quick QuickOffer) (*world, *host, *host) {
	w := newWorld(t, 1)
	w.net.SetPath(iketest.Path{Delay: 10 * time.Millisecond})
	a := w.host("192.0.2.1", keyA, Policy{})
	b := w.host("192.0.2.2", keyB, policyOf(main, quick))
	return w, a, b
}

func responderQuick(t *testing.T) QuickOffer {
	return QuickOffer{Filter: "b-filter", Proposals: proposals(t, "esp-aes256gcm", "esp-aes128-sha256")}
}

const otherKey = "an entirely different key 7741"

func TestWrongKeyFailsOnBothEndsWithinOneExchange(t *testing.T) {
	w, a, b := hosts(t, goodKey, otherKey, mainOffer(t), responderQuick(t))
	w.ask(a, b, 3)
	w.run(10 * time.Second)
	if len(a.failed) != 1 || a.failed[0].Code != FailPSK || a.failed[0].Request != 3 || !strings.Contains(a.failed[0].Reason, "preshared key") {
		t.Errorf("initiator: %+v", a.failed)
	}
	if len(b.failed) != 1 || b.failed[0].Code != FailPSK || !strings.Contains(b.failed[0].Reason, "preshared key does not match") {
		t.Errorf("responder: %+v", b.failed)
	}
	if len(a.mains)+len(b.mains)+len(a.sas)+len(b.sas) != 0 || len(b.m.mains) != 0 || b.m.halfOpen.len() != 0 {
		t.Error("something is left of it")
	}
}

func TestWrongKeyWithoutTheHint(t *testing.T) {
	w, a, b := hosts(t, goodKey, otherKey, mainOffer(t), responderQuick(t))
	w.net.SetDirection(b.addr, a.addr, iketest.Path{})
	for n := 3; n < 40; n++ { // messages 2 and 4 come through, no notify does
		w.net.DropNth(w.at(b), w.at(a), n)
	}
	w.ask(a, b, 3)
	w.run(140 * time.Second)
	if len(a.failed) != 1 || a.failed[0].Code != FailNoAnswer || !strings.Contains(a.failed[0].Reason, "preshared keys differ") {
		t.Errorf("initiator: %+v", a.failed)
	}
}

func TestTwoKeysAreValidDuringAChange(t *testing.T) {
	const both = "apiVersion: ipsecagent/v1\nkind: PresharedKeys\nkeys:\n- {name: default, peers: [any], keys: [\"" + otherKey + "\", \"" + goodKey + "\"]}\n"
	for name, keyA := range map[string]string{"new": otherKey, "old": goodKey} {
		w, a, b := hosts(t, keyA, both, mainOffer(t), responderQuick(t))
		w.ask(a, b, 1)
		w.run(5 * time.Second)
		if err := paired(a, b); err != nil {
			t.Errorf("initiator has the %s key: %v", name, err)
		}
	}
	// The initiator has both; its newest is not known to the peer yet. The
	// next attempt takes the other.
	w, a, b := hosts(t, both, goodKey, mainOffer(t), responderQuick(t))
	w.ask(a, b, 1)
	w.run(10 * time.Second)
	if len(a.failed) != 1 || a.failed[0].Code != FailPSK {
		t.Errorf("first attempt: %+v", a.failed)
	}
	w.ask(a, b, 2)
	w.run(10 * time.Second)
	w.checkPaired(a, b)
}

func TestPeerWithoutKeyForUs(t *testing.T) {
	const elsewhere = "apiVersion: ipsecagent/v1\nkind: PresharedKeys\nkeys:\n- {name: default, peers: [198.51.100.0/24], keys: [\"" + otherKey + "\"]}\n"
	w, a, b := hosts(t, goodKey, elsewhere, mainOffer(t), responderQuick(t))
	w.ask(a, b, 3)
	w.run(10 * time.Second)
	if len(a.failed) != 1 || a.failed[0].Code != FailAuth {
		t.Errorf("initiator: %+v", a.failed)
	}
	if len(b.failed) != 1 || b.failed[0].Code != FailPSK || !strings.Contains(b.failed[0].Reason, "192.0.2.1") {
		t.Errorf("responder: %+v", b.failed)
	}
	w2, a2, b2 := hosts(t, elsewhere, goodKey, mainOffer(t), responderQuick(t))
	w2.ask(a2, b2, 3)
	w2.run(10 * time.Second)
	if len(a2.failed) != 1 || a2.failed[0].Code != FailPSK {
		t.Errorf("initiator without key: %+v", a2.failed)
	}
}

func TestNoCommonMainModeMethod(t *testing.T) {
	main := mainOffer(t)
	main.Suites = mainSuite(t, "aes256-sha384-ecp384")
	w, a, b := hosts(t, goodKey, goodKey, main, responderQuick(t))
	w.ask(a, b, 3)
	w.run(10 * time.Second)
	if len(a.failed) != 1 || a.failed[0].Code != FailNoProposal || len(a.failed[0].Offered) != 2 || a.failed[0].Silence {
		t.Errorf("initiator: %+v", a.failed)
	}
	f := b.failed
	if len(f) == 0 || f[0].Code != FailNoProposal || f[0].Differs != "hash: here sha384, peer sha256" ||
		len(f[0].Offered) != 1 || f[0].Offered[0] != "aes256-sha384-ecp384, preshared key" || len(f[0].Received) != 2 {
		t.Errorf("responder: %+v", f)
	}
	if len(b.m.mains) != 0 {
		t.Error("the responder keeps a refused exchange")
	}
}

func TestQuickModeRefusals(t *testing.T) {
	cases := map[string]struct {
		change func(*QuickOffer)
		err    error
		code   FailCode // at both ends
		says   string   // at the responder
	}{
		"no common method": {change: func(o *QuickOffer) { o.Proposals = proposals(t, "esp-aes256-sha256") }, code: FailNoProposal,
			says: "encryption: here aes256, peer aes128"},
		"PFS required":        {change: func(o *QuickOffer) { o.PFS = sadb.ECP256 }, code: FailNoProposal, says: "PFS group: here ecp256, peer none"},
		"tunnel":              {change: func(o *QuickOffer) { o.Mode = sadb.Tunnel }, code: FailNoProposal, says: "mode: here tunnel, peer transport"},
		"blocked by a filter": {err: &Refusal{Notify: 18, Reason: "filter \"x\" blocks this"}, code: FailFilters, says: "blocks this"},
	}
	for name, c := range cases {
		w, a, b := hosts(t, goodKey, goodKey, mainOffer(t), QuickOffer{})
		p := policyOf(mainOffer(t), responderQuick(t))
		answer := p.Quick
		p.Quick = func(q QuickQuery) (QuickOffer, error) {
			o, _ := answer(q)
			if c.change != nil {
				c.change(&o)
			}
			return o, c.err
		}
		b.m.Handle(w.now, SetPolicy{p})
		w.ask(a, b, 3)
		w.run(3 * time.Second)
		if len(a.failed) != 1 || a.failed[0].Code != c.code || a.failed[0].Request != 3 || len(a.failed[0].Offered) != 2 {
			t.Errorf("%s: initiator: %+v", name, a.failed)
		}
		if len(b.failed) != 1 || b.failed[0].Code != c.code || !strings.Contains(b.failed[0].Reason+b.failed[0].Differs, c.says) {
			t.Errorf("%s: responder: %+v", name, b.failed)
		}
		if len(a.sas)+len(b.sas)+len(a.m.quicks)+len(b.m.quicks) != 0 {
			t.Errorf("%s: something is left of it", name)
		}
	}
}

func TestNoPolicyNoAnswer(t *testing.T) {
	w, a, b := hosts(t, goodKey, goodKey, MainOffer{}, QuickOffer{})
	b.m.Handle(w.now, SetPolicy{})
	w.ask(a, b, 3)
	w.run(130 * time.Second)
	if len(b.sent) != 0 || len(b.m.mains) != 0 || b.dropped["main mode message 1: no policy is in force"] == 0 {
		t.Errorf("sent %d, dropped %v", len(b.sent), b.dropped)
	}
	if len(a.failed) != 1 || a.failed[0].Code != FailNoAnswer || !a.failed[0].Silence {
		t.Errorf("initiator: %+v", a.failed)
	}
	if len(a.sent) != maxSends {
		t.Errorf("message 1 was sent %d times", len(a.sent))
	}
}

func TestPrincipalNotAccepted(t *testing.T) {
	main := mainOffer(t)
	main.Auth = []auth.Requirement{{Method: auth.PSK, AcceptPrincipals: []string{"psk:others"}}}
	w, a, b := hosts(t, goodKey, goodKey, main, responderQuick(t))
	w.ask(a, b, 3)
	w.run(130 * time.Second)
	if len(b.failed) != 1 || b.failed[0].Code != FailPrincipal || !strings.Contains(b.failed[0].Reason, "psk:default") {
		t.Errorf("responder: %+v", b.failed)
	}
	if len(a.failed) != 1 || len(a.mains) != 0 {
		t.Errorf("initiator: %+v %+v", a.failed, a.mains)
	}
}

func TestDriverRefuses(t *testing.T) {
	for name, refuses := range map[string]func(a, b *host) *host{
		"initiator": func(a, b *host) *host { return a }, "responder": func(a, b *host) *host { return b }} {
		w, a, b := hosts(t, goodKey, goodKey, mainOffer(t), responderQuick(t))
		h := refuses(a, b)
		h.refuseSA = errBusy
		w.ask(a, b, 3)
		w.run(130 * time.Second)
		if len(h.failed) != 1 || h.failed[0].Code != FailLocal {
			t.Errorf("%s: %+v", name, h.failed)
		}
		if len(a.failed) != 1 || a.failed[0].Request != 3 || len(a.sas)+len(b.sas) != 0 || len(a.established)+len(b.established) != 0 {
			t.Errorf("%s: a %+v %v, b %+v %v", name, a.failed, a.sas, b.failed, b.sas)
		}
	}
}

func TestRequestsThatCannotBegin(t *testing.T) {
	w, a, b := two(t, 1)
	good := Initiate{Request: 1, Local: a.addr, Remote: b.addr, Main: mainOffer(t), Quick: quickOffer(t, a.addr, b.addr)}
	cases := map[string]func(*Initiate){
		"families":         func(i *Initiate) { i.Local = mustAddr("2001:db8::1") },
		"no address":       func(i *Initiate) { i.Remote = mustAddr("0.0.0.0").Prev() },
		"no method":        func(i *Initiate) { i.Quick.Proposals = nil },
		"no main mode":     func(i *Initiate) { i.Main.Suites = nil },
		"no authenticator": func(i *Initiate) { i.Main.Auth = []auth.Requirement{{Method: auth.Kerberos}} },
		"selector": func(i *Initiate) {
			i.Quick.Selector = sadb.Selector{}.Narrow(mustAddr("2001:db8::1"), mustAddr("2001:db8::2"))
		},
	}
	for name, damage := range cases {
		in := good
		damage(&in)
		a.failed = nil
		a.m.Handle(w.now, in)
		w.run(5 * time.Second)
		if len(a.failed) != 1 || a.failed[0].Code != FailLocal || a.failed[0].Request != 1 {
			t.Errorf("%s: %+v", name, a.failed)
		}
	}
}

func TestCancel(t *testing.T) {
	for _, at := range []time.Duration{0, 15 * time.Millisecond, 35 * time.Millisecond, 65 * time.Millisecond} {
		w, a, b := two(t, 1)
		w.ask(a, b, 8)
		w.run(at)
		a.m.Handle(w.now, Cancel{8})
		w.run(300 * time.Second)
		if len(a.failed) != 1 || a.failed[0].Code != FailCancelled || a.failed[0].Request != 8 {
			t.Errorf("at %s: %+v", at, a.failed)
		}
		if len(a.sas)+len(b.sas)+len(a.m.mains)+len(a.m.quicks)+len(b.m.quicks) != 0 {
			t.Errorf("at %s: something is left of it: %v %v", at, a.sas, b.sas)
		}
	}
}

func TestRequestsShareOneMainMode(t *testing.T) {
	w, a, b := two(t, 1)
	for r := range uint64(8) {
		w.ask(a, b, r+1)
	}
	a.m.Handle(w.now, Cancel{8})
	a.m.Handle(w.now, Cancel{99})
	a.m.Handle(w.now, Cancel{0})
	w.run(75 * time.Millisecond) // quick modes run, more wait their turn
	a.m.Handle(w.now, Cancel{7})
	w.run(10 * time.Second)
	if len(a.established) != 6 || len(b.established) != 6 || len(a.m.SAs()) != 1 || len(a.failed) != 2 {
		t.Errorf("established %d and %d under %d ISAKMP SAs, failed %+v", len(a.established), len(b.established), len(a.m.SAs()), a.failed)
	}
}

// TestPolicyRefusesAnAssociation: that policy stands in the way, not the data
// path, is said as it is; and policy is told the main mode it decides about.
func TestPolicyRefusesAnAssociation(t *testing.T) {
	w, a, b := two(t, 1)
	var told []sadb.ISAKMPSuite
	w.watch = func(_ *host, o Output) {
		if in, ok := o.(Install); ok {
			told = append(told, in.Pair.Main)
		}
	}
	b.refuseSA = fmt.Errorf("agent: install: %w", &NotInstalled{Reason: "it was modern before", Hint: "see why"})
	w.ask(a, b, 1)
	w.run(time.Second)
	if len(b.failed) != 1 || b.failed[0].Code != FailPolicy || b.failed[0].Reason != "it was modern before" || b.failed[0].Hint != "see why" {
		t.Errorf("%+v", b.failed)
	}
	if len(told) == 0 || told[0].String() != "aes256-sha256-ecp256" {
		t.Errorf("told %v", told)
	}
}
