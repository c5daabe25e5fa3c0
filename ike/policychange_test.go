package ike

import (
	"strings"
	"testing"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/wire"
)

// named is a main-mode offer that accepts one preshared key by its name.
func named(t *testing.T, key string) MainOffer {
	t.Helper()
	o := mainOffer(t)
	o.Auth = []auth.Requirement{{Method: auth.PSK, Key: key}}
	return o
}

// TestAPolicyThatNoLongerAcceptsThePeerEndsItsMainMode: on both sides, so that
// the other one negotiates anew, and fails of what really differs.
func TestAPolicyThatNoLongerAcceptsThePeerEndsItsMainMode(t *testing.T) {
	for name, accepted := range map[string]MainOffer{"another authority": named(t, "other"), "no rule at all": {}} {
		w, a, b := two(t, 1)
		w.ask(a, b, 1)
		w.run(time.Second)
		b.m.Handle(w.now, SetPolicy{policyOf(accepted, responderQuick(t))})
		b.m.Handle(w.now, Recheck{})
		w.run(time.Second)
		if len(a.m.sas)+len(b.m.sas) != 0 {
			t.Errorf("%s: %d and %d ISAKMP SAs are left", name, len(a.m.sas), len(b.m.sas))
		}
		w.ask(a, b, 2)
		w.run(130 * time.Second)
		if len(a.failed) != 1 || a.failed[0].Code == FailPrincipal {
			t.Errorf("%s: the new negotiation: %+v", name, a.failed)
		}
	}
}

func TestAPolicyThatStillAcceptsThePeerLeavesItsMainMode(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(time.Second)
	both := mainOffer(t)
	both.Auth = append(named(t, "other").Auth, both.Auth...)
	b.m.Handle(w.now, SetPolicy{policyOf(both, responderQuick(t))})
	b.m.Handle(w.now, Recheck{})
	w.run(time.Second)
	if len(a.m.sas) != 1 || len(b.m.sas) != 1 {
		t.Errorf("%d and %d ISAKMP SAs are left", len(a.m.sas), len(b.m.sas))
	}
}

// TestARuleThatWantsAnotherIdentitySaysSo: another rule still accepts what was
// proven in main mode, which therefore stays. Both sides are told what to
// compare.
func TestARuleThatWantsAnotherIdentitySaysSo(t *testing.T) {
	w, a, b := two(t, 1)
	p := policyOf(mainOffer(t), responderQuick(t))
	p.Quick = func(QuickQuery) (QuickOffer, error) {
		return QuickOffer{}, &Refusal{Notify: uint16(wire.AuthenticationFailed), Reason: "the rule wants another authority"}
	}
	b.m.Handle(w.now, SetPolicy{p})
	b.m.Handle(w.now, Recheck{})
	w.ask(a, b, 1)
	w.run(3 * time.Second)
	if len(b.failed) != 1 || b.failed[0].Code != FailPrincipal {
		t.Errorf("the refusing side: %+v", b.failed)
	}
	if len(a.failed) != 1 || a.failed[0].Code != FailPrincipal || !strings.Contains(a.failed[0].Hint, "authority") || !strings.Contains(a.failed[0].Reason, "proven in main mode, by") {
		t.Errorf("the refused side: %+v", a.failed)
	}
	if len(a.m.sas) != 1 {
		t.Errorf("%d ISAKMP SAs", len(a.m.sas))
	}
}

// TestAMainModeThatWasUnderWayWhenPolicyChangedEnds: it was accepted by the
// policy of its first message. The first quick mode under it finds out, and the
// peer is told instead of trying it in vain for hours.
func TestAMainModeThatWasUnderWayWhenPolicyChangedEnds(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 1)
	w.run(35 * time.Millisecond) // b works on message 3
	p := policyOf(named(t, "other"), responderQuick(t))
	p.Quick = func(QuickQuery) (QuickOffer, error) {
		return QuickOffer{}, &Refusal{Notify: uint16(wire.AuthenticationFailed), Reason: "the rule wants another key"}
	}
	b.m.Handle(w.now, SetPolicy{p})
	b.m.Handle(w.now, Recheck{})
	w.run(5 * time.Second)
	if len(a.failed) != 1 || a.failed[0].Code != FailPrincipal {
		t.Errorf("the refused side: %+v", a.failed)
	}
	if len(a.m.sas)+len(b.m.sas) != 0 {
		t.Errorf("%d and %d ISAKMP SAs are left", len(a.m.sas), len(b.m.sas))
	}
}
