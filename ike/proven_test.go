package ike

import (
	"crypto/elliptic"
	"fmt"
	"strings"
	"testing"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/wire"
)

// TestAWeakerProofDoesNotSatisfyAStrongerRule: the responder has a rule for the
// account of a certificate and one for any certificate of the authority. Who
// has no account proves to be nobody but the subject.
func TestAWeakerProofDoesNotSatisfyAStrongerRule(t *testing.T) {
	ca := newAuthority(t, "Root")
	open := auth.Requirement{Method: auth.ECDSA256, CA: "CN=Root"}
	mapped := open
	mapped.MapToAccount = true
	for _, offer := range []MainOffer{certOffer(t, mapped, open), certOffer(t, open, mapped)} {
		w, a, b := certificates(t, ca.keeper("a", ecKey(t, elliptic.P256()), ca), ca.keeper("b", ecKey(t, elliptic.P256()), ca), certOffer(t, open), offer)
		w.run(2 * time.Second)
		w.checkPaired(a, b)
		s := b.m.established()[0]
		if s.satisfies(certOffer(t, mapped)) || !s.satisfies(certOffer(t, open)) {
			t.Errorf("%+v", s.proof)
		}
	}
}

// TestAnAccountIsProvenBesideTheSubject: whichever rule comes first, the peer
// satisfies those that list its account and those that list its subject.
func TestAnAccountIsProvenBesideTheSubject(t *testing.T) {
	account, subject := &method{number: auth.RSA, principal: "a$@R"}, &method{number: auth.RSA, principal: "CN=a"}
	open := auth.Requirement{Method: auth.RSA, CA: "CN=Root", AcceptPrincipals: []string{"CN=a"}}
	mapped := auth.Requirement{Method: auth.RSA, CA: "CN=Root", MapToAccount: true, AcceptPrincipals: []string{"a$@R"}}
	for _, offer := range []MainOffer{certOffer(t, mapped, open), certOffer(t, open, mapped)} {
		w, a, b := certificates(t, []auth.Authenticator{sound()}, []auth.Authenticator{perMapping{subject, account}},
			certOffer(t, auth.Requirement{Method: auth.RSA}), offer)
		w.run(2 * time.Second)
		w.checkPaired(a, b)
		s := b.m.established()[0]
		if !s.satisfies(certOffer(t, mapped)) || !s.satisfies(certOffer(t, open)) || b.newestPair().Subject != "CN=a" || !b.newestPair().Mapped {
			t.Errorf("%+v", s.proof)
		}
	}
}

// perMapping is a method whose principal depends on whether a rule maps.
type perMapping struct{ subject, account *method }

func (p perMapping) Method() auth.Method { return p.subject.number }

func (p perMapping) Start(r auth.Request) (auth.Session, error) {
	if r.Requirement.MapToAccount {
		return p.account, nil
	}
	return p.subject, nil
}

// TestRulesOfOneAuthorityThatAcceptOthers: the first rule does not want the
// peer, the second does.
func TestRulesOfOneAuthorityThatAcceptOthers(t *testing.T) {
	ca := newAuthority(t, "Root")
	only := func(who string) auth.Requirement {
		return auth.Requirement{Method: auth.ECDSA256, CA: "CN=Root", AcceptPrincipals: []string{who}}
	}
	any := certOffer(t, auth.Requirement{Method: auth.ECDSA256, CA: "CN=Root"})
	w, a, b := certificates(t, ca.keeper("a", ecKey(t, elliptic.P256()), ca), ca.keeper("b", ecKey(t, elliptic.P256()), ca),
		any, certOffer(t, only("CN=c"), only("CN=a")))
	w.run(2 * time.Second)
	w.checkPaired(a, b)
	if s := b.m.established()[0]; s.satisfies(certOffer(t, only("CN=c"))) || !s.satisfies(certOffer(t, only("CN=a"))) {
		t.Errorf("%+v", s.proof)
	}
}

// TestKerberosOfAListedPersonDoesNotSatisfyTheOpenRule, and both are let in
// where one rule is open and the other lists the person.
func TestKerberosOfAListedPersonDoesNotSatisfyTheOpenRule(t *testing.T) {
	open := auth.Requirement{Method: auth.Kerberos}
	lists := auth.Requirement{Method: auth.Kerberos, AcceptPrincipals: []string{"person@F"}}
	for name, trusted := range map[string]bool{"person@F": false, "host/a": true} {
		tb := newTicket("host/b")
		w, a, b := kerberosPair(t, 1, newTicket(name), tb, kerberosOffer(t), kerberosOffer(t, open, lists))
		w.run(2 * time.Second)
		w.checkPaired(a, b)
		s := b.m.established()[0]
		if s.satisfies(kerberosOffer(t, open)) != trusted || s.satisfies(kerberosOffer(t, lists)) == trusted || b.newestPair().Listed == trusted {
			t.Errorf("%s: %+v", name, s.proof)
		}
		if r := (*tb.requirements)[0]; !r.AcceptTrusted || len(r.AcceptPrincipals) != 1 {
			t.Errorf("the session was started with %+v", r)
		}
	}
}

// TestAKeyOfAnotherRuleIsNotTheOneMeantForThePeer, unless it is.
func TestAKeyOfAnotherRuleIsNotTheOneMeantForThePeer(t *testing.T) {
	const keys = "apiVersion: ipsecagent/v1\nkind: PresharedKeys\nkeys:\n" +
		"- {name: wide, peers: [192.0.2.0/24], keys: [\"" + otherKey + "\"]}\n" +
		"- {name: meant, peers: [192.0.2.0/25], keys: [\"" + goodKey + "\"]}\n"
	plain := mainOffer(t)
	for key, meant := range map[string]bool{"wide": false, "meant": true} {
		named, both := mainOffer(t), mainOffer(t)
		named.Auth = []auth.Requirement{{Method: auth.PSK, Key: key}}
		both.Auth = append(both.Auth, named.Auth...)
		w := newWorld(t, 1)
		a, b := w.host("192.0.2.1", keys, Policy{}), w.host("192.0.2.2", keys, policyOf(both, responderQuick(t)))
		w.ask2(a, b, 1, named, 0)
		w.run(time.Second)
		w.checkPaired(a, b)
		if s := b.m.established()[0]; s.satisfies(plain) != meant || !s.satisfies(named) {
			t.Errorf("%s: %+v", key, s.proof)
		}
	}
}

// TestManyKeysByName: each of as many as a policy may name for one peer works.
func TestManyKeysByName(t *testing.T) {
	var keys strings.Builder
	keys.WriteString("apiVersion: ipsecagent/v1\nkind: PresharedKeys\nkeys:\n")
	all, last := mainOffer(t), mainOffer(t)
	all.Auth = nil
	for i := range auth.MaxWays(auth.PSK) {
		name := fmt.Sprintf("k%d", i)
		fmt.Fprintf(&keys, "- {name: %s, peers: [192.0.2.0/24], keys: [\"%s%d\"]}\n", name, goodKey, i)
		last.Auth = []auth.Requirement{{Method: auth.PSK, Key: name}}
		all.Auth = append(all.Auth, last.Auth...)
	}
	w := newWorld(t, 1)
	a, b := w.host("192.0.2.1", keys.String(), Policy{}), w.host("192.0.2.2", keys.String(), policyOf(all, responderQuick(t)))
	w.ask2(a, b, 1, last, 0)
	w.run(time.Second)
	w.checkPaired(a, b)
}

// TestTheInitiatorIsToldThatItIsNotWelcome, under the keys: nobody else could.
func TestTheInitiatorIsToldThatItIsNotWelcome(t *testing.T) {
	ca := newAuthority(t, "Root")
	any := auth.Requirement{Method: auth.ECDSA256, CA: "CN=Root"}
	only := any
	only.AcceptPrincipals = []string{"CN=c"}
	for _, spoiled := range []bool{false, true} {
		w, a, b := certificates(t, ca.keeper("a", ecKey(t, elliptic.P256()), ca), ca.keeper("b", ecKey(t, elliptic.P256()), ca),
			certOffer(t, any), certOffer(t, only))
		told := 0
		w.net.OnNth(w.at(b), w.at(a), 3, func(data []byte) []byte {
			told++
			if data[18] != byte(wire.Informational) || data[19]&wire.FlagEncrypted == 0 {
				t.Errorf("exchange %d, flags %x", data[18], data[19])
			}
			if spoiled {
				data[len(data)-1] ^= 1
			}
			return data
		})
		w.run(300 * time.Second)
		if told == 0 || len(b.failed) != 1 || b.failed[0].Code != FailPrincipal || len(a.mains)+len(b.mains) != 0 {
			t.Errorf("responder: %d %+v", told, b.failed)
		}
		if len(a.failed) != 1 || (a.failed[0].Code == FailPrincipal) == spoiled {
			t.Errorf("initiator, notify spoiled %v: %+v", spoiled, a.failed)
		}
	}
}

// TestTheInitiatorsRuleMayAcceptByAnyOfItsRequirements of one authority.
func TestTheInitiatorsRuleMayAcceptByAnyOfItsRequirements(t *testing.T) {
	ca := newAuthority(t, "Root")
	only := func(who string) auth.Requirement {
		return auth.Requirement{Method: auth.ECDSA256, CA: "CN=Root", AcceptPrincipals: []string{who}}
	}
	w, a, b := certificates(t, ca.keeper("a", ecKey(t, elliptic.P256()), ca), ca.keeper("b", ecKey(t, elliptic.P256()), ca),
		certOffer(t, only("CN=c"), only("CN=b")), certOffer(t, only("CN=a")))
	w.run(2 * time.Second)
	w.checkPaired(a, b)
}
