package kerberos

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"ipsecagent/auth"
	"ipsecagent/auth/gss"
	"ipsecagent/auth/krbtest"
)

// hashOf is a stand-in for HASH_I and HASH_R: what matters is that both ends
// compute it over the same extra octets.
func hashOf(role string, id []byte) func([]byte) []byte {
	return func(extra []byte) []byte {
		h := hmac.New(sha256.New, []byte("SKEYID"))
		h.Write([]byte(role))
		h.Write(id)
		h.Write(extra)
		return h.Sum(nil)
	}
}

// outcome is what both ends have when a main mode is over.
type outcome struct {
	a, b         auth.Session
	seenA, seenB auth.Principal // whom the ends see
	errA, errB   error
	claimA       auth.Claim
	proofA       []byte
}

// run does what IKE does with two sessions, message by message.
func (w *world) run() (o outcome) {
	w.t.Helper()
	a, b := w.hosts()
	if o.a, o.errA = a.Start(auth.Request{Initiator: true, Local: addrA, Remote: addrB, Requirement: w.needA, Attempt: w.attempt}); o.errA != nil {
		return o
	}
	if o.b, o.errB = b.Start(auth.Request{Local: addrB, Remote: addrA, Requirement: w.needB}); o.errB != nil {
		return o
	}
	nameA, nameB := o.a.Local().GSS, o.b.Local().GSS
	if w.changeName != nil {
		nameB = w.changeName(nameB)
	}
	if o.errA = o.a.Remote(auth.Claim{GSS: nameB}); o.errA != nil {
		return o
	}
	var req, rep, none []byte
	if req, o.errA = o.a.Token(nil); o.errA != nil {
		return o
	}
	if o.errB = o.b.Remote(auth.Claim{GSS: nameA}); o.errB != nil {
		return o
	}
	if rep, o.errB = o.b.Token(req); o.errB != nil {
		return o
	}
	if none, o.errA = o.a.Token(rep); o.errA != nil {
		return o
	}
	if none != nil {
		w.t.Fatalf("a third token: %x", none)
	}
	return w.prove(o, nameA, nameB)
}

// prove does messages 5 and 6.
func (w *world) prove(o outcome, nameA, nameB []byte) outcome {
	w.t.Helper()
	o.claimA = o.a.Local()
	o.claimA.GSS = nameA
	if o.proofA, o.errA = o.a.Prove(hashOf("I", o.claimA.ID)); o.errA != nil {
		return o
	}
	if o.errB = o.b.Remote(o.claimA); o.errB != nil {
		return o
	}
	if o.seenB, o.errB = o.b.Check(hashOf("I", o.claimA.ID), o.proofA); o.errB != nil {
		return o
	}
	claimB := o.b.Local()
	claimB.GSS = nameB
	proof, err := o.b.Prove(hashOf("R", claimB.ID))
	if o.errB = err; err != nil {
		return o
	}
	if o.errA = o.a.Remote(claimB); o.errA != nil {
		return o
	}
	o.seenA, o.errA = o.a.Check(hashOf("R", claimB.ID), proof)
	return o
}

func (w *world) mustPair(o outcome) {
	w.t.Helper()
	if o.errA != nil || o.errB != nil {
		w.t.Fatalf("%v; %v", o.errA, o.errB)
	}
	if o.seenA != "host/b.mit.test@MIT.TEST" || o.seenB != "host/a.mit.test@MIT.TEST" {
		w.t.Errorf("seen: %s, %s", o.seenA, o.seenB)
	}
}

func TestTwoHostsOfARealm(t *testing.T) {
	for _, etypes := range []string{"", "aes128-cts-hmac-sha1-96", "aes256-cts-hmac-sha1-96",
		"aes128-cts-hmac-sha256-128", "aes256-cts-hmac-sha384-192"} {
		t.Run(etypes, func(t *testing.T) {
			w := newWorld(t, etypes)
			o := w.run()
			w.mustPair(o)
			if o.claimA.IDType != idFQDN || string(o.claimA.ID) != "a.mit.test" {
				t.Errorf("identification %d %q", o.claimA.IDType, o.claimA.ID)
			}
			if !bytes.Equal(o.claimA.GSS, utf16le("host/a.mit.test@MIT.TEST")) {
				t.Errorf("name %q", o.claimA.GSS)
			}
			if o.a.Seeds() != nil {
				t.Error("a seed")
			}
			if _, err := o.b.Check(hashOf("I", o.claimA.ID), o.proofA); err == nil {
				t.Error("the same proof counts twice")
			}
		})
	}
}

func TestRC4OnlyWhenAllowed(t *testing.T) {
	w := newWorld(t, "")
	w.realm.Admin("delprinc -force " + hostB)
	w.realm.Add(hostB, "arcfour-hmac")
	if err := os.Remove(w.ktB); err != nil {
		t.Fatal(err)
	}
	w.realm.Keytab("b.keytab", hostB)
	if got := codeOfError(t, w.run().errA); got != codeEtype {
		t.Error(got)
	}
	w.a, w.confA.AllowRC4 = nil, true
	if got := codeOfError(t, w.run().errB); got != codeEtype {
		t.Error(got)
	}
	w.a, w.confB.AllowRC4 = nil, true
	w.mustPair(w.run())
}

// A ticket is kept: once it is there, the KDC may go.
func TestTicketsAreReused(t *testing.T) {
	w := newWorld(t, "")
	w.mustPair(w.run())
	w.realm.StopKDC()
	w.mustPair(w.run())
}

// Each reason is provoked for real.
func TestReasons(t *testing.T) {
	cases := []struct {
		name   string
		change func(*world)
		codeA  string
		codeB  string
		words  string // in the reason
	}{
		{"KDC stopped", func(w *world) { w.realm.StopKDC() }, codeKDCUnreachable, "", "MIT.TEST"},
		{"initiator's clock ahead", func(w *world) { w.skewA = 10 * time.Minute }, codeClockSkew, "", "MIT.TEST"},
		{"initiator's clock behind", func(w *world) { w.skewA = -10 * time.Minute }, codeClockSkew, "", "MIT.TEST"},
		{"responder's clock ahead", func(w *world) { w.skewB = 10 * time.Minute }, "", codeClockSkew, hostA},
		{"responder's clock far ahead", func(w *world) { w.skewB = 24 * time.Hour }, "", codeTicketExpired, hostA},
		{"responder's keytab is of before", func(w *world) { w.realm.Rekey(hostB) }, "", codeKeyVersion, hostB},
		{"initiator's keytab is of before", func(w *world) { w.realm.Rekey(hostA) }, codeWrongKey, "", hostA},
		{"no keytab here", func(w *world) { w.confA.Keytab = "/nonexistent/keytab" }, codeNoKeytab, "", "/nonexistent/keytab"},
		{"no keytab there", func(w *world) { w.confB.Keytab = "/nonexistent/keytab" }, "", codeNoKeytab, "/nonexistent/keytab"},
		{"a keytab of a person", func(w *world) {
			w.realm.Add("alice", "")
			w.confA.Keytab = w.realm.Keytab("alice.keytab", "alice")
		}, codeNoKeytab, "", "host/NAME"},
		{"a keytab of two bytes", func(w *world) { w.confA.Keytab = w.file("keytab", []byte{5, 2}) }, codeNoKeytab, "", "host/NAME"},
		{"a keytab that is none", func(w *world) { w.confA.Keytab = w.file("keytab", []byte("no keytab")) }, codeNoKeytab, "", "cannot be read"},
		{"a principal that the keytab lacks", func(w *world) { w.confA.Principal = "host/x.mit.test" }, codeNoKeytab, "", "host/x.mit.test"},
		{"principal unknown to the KDC", func(w *world) { w.realm.Admin("delprinc -force " + hostA) }, codeUnknownPrincipal, "", hostA},
		{"service unknown to the KDC", func(w *world) { w.realm.Admin("delprinc -force " + hostB) }, codeUnknownService, "", hostB},
		{"a name of another realm", func(w *world) { w.rename("host/b.far.test@FAR.TEST") }, codeWrongRealm, "", "FAR.TEST"},
		{"no trust with that realm", func(w *world) {
			w.rename("host/b.far.test@FAR.TEST")
			w.confA.Realms = []string{"FAR.TEST"}
		}, codeWrongRealm, "", "FAR.TEST"},
		{"a person as target", func(w *world) { w.rename("mallory@MIT.TEST") }, codeTargetRefused, "", "mallory"},
		{"another service as target", func(w *world) { w.rename("ldap/b.mit.test") }, codeTargetRefused, "", "ldap/b.mit.test"},
		{"the KDC itself as target", func(w *world) { w.rename("krbtgt/MIT.TEST") }, codeTargetRefused, "", "krbtgt"},
		{"no name", func(w *world) { w.changeName = func([]byte) []byte { return nil } }, codeTargetRefused, "", "192.0.2.2"},
		{"a name that is none", func(w *world) { w.rename("//") }, codeTargetRefused, "", "192.0.2.2"},
		{"a target that the rule does not accept", func(w *world) {
			w.needA.AcceptPrincipals = []string{"host/c.mit.test@MIT.TEST"}
		}, codeTargetRefused, "", hostB},
		{"an initiator that the rule does not accept", func(w *world) {
			w.needB.AcceptPrincipals = []string{"host/c.mit.test@MIT.TEST"}
		}, "", codePrincipalRefused, hostA},
		{"keys of another encryption type", func(w *world) {
			w.realm.Admin(`cpw -randkey -e "aes256-cts-hmac-sha1-96:normal" ` + hostA)
		}, codeEtype, "", "encryption type"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, "")
			c.change(w)
			if c.codeA == codeEtype {
				w.confA.Keytab = w.file("keytab", append([]byte{5, 2}, entry(t, hostA+"@MIT.TEST", 17)...))
			}
			o := w.run()
			err, code := o.errA, c.codeA
			if c.codeB != "" {
				err, code = o.errB, c.codeB
			}
			if err == nil {
				t.Fatalf("no error here; %v, %v", o.errA, o.errB)
			}
			if got := codeOfError(t, err); got != code || !strings.Contains(err.Error(), c.words) {
				t.Errorf("code %q, want %q with %q", got, code, c.words)
			}
		})
	}
}

// rename has the responder send another name.
func (w *world) rename(name string) {
	w.changeName = func([]byte) []byte { return utf16le(name) }
}

// No KDC is asked for a ticket for a name that policy does not want.
func TestTargetIsCheckedBeforeTheKDCIsAsked(t *testing.T) {
	w := newWorld(t, "")
	w.realm.StopKDC()
	w.rename("host/evil.far.test@FAR.TEST")
	if got := codeOfError(t, w.run().errA); got != codeWrongRealm {
		t.Errorf("%s", got)
	}
}

// A ticket for another service of the host is none for IKE, although the
// keytab has its key.
func TestOtherServicesOfTheHost(t *testing.T) {
	w := newWorld(t, "aes256-cts-hmac-sha1-96")
	w.realm.Add("nfs/b.mit.test", "aes256-cts-hmac-sha1-96")
	w.realm.Keytab("b.keytab", "nfs/b.mit.test")
	w.rename("nfs/b.mit.test")
	w.needA.AcceptPrincipals = []string{"nfs/b.mit.test@MIT.TEST"}
	o := w.run()
	if o.errB == nil || codeOfError(t, o.errB) != codeUnknownService {
		t.Errorf("%v; %v", o.errA, o.errB)
	}
}

// After the service got new keys an attempt fails by the ticket of before; the
// next one asks for another.
func TestFailedAttemptsAskForAFreshTicket(t *testing.T) {
	w := newWorld(t, "")
	w.mustPair(w.run())
	w.realm.Rekey(hostB)
	if err := os.Remove(w.ktB); err != nil {
		t.Fatal(err)
	}
	w.realm.Keytab("b.keytab", hostB) // the old keys are gone
	o := w.run()
	if o.errB == nil || codeOfError(t, o.errB) != codeKeyVersion {
		t.Fatalf("%v", o.errB)
	}
	w.skewA, w.attempt = keepFresh+time.Second, 1
	w.mustPair(w.run())
}

func TestKeytabIsReadAgainWhenItChanges(t *testing.T) {
	w := newWorld(t, "")
	kt := w.read(w.ktB)
	if err := os.Remove(w.ktB); err != nil {
		t.Fatal(err)
	}
	if got := codeOfError(t, w.run().errB); got != codeNoKeytab {
		t.Error(got)
	}
	if err := os.WriteFile(w.ktB, kt, 0o600); err != nil {
		t.Fatal(err)
	}
	w.mustPair(w.run())
	if self, err := w.b.Identity(); err != nil || self != "host/b.mit.test@MIT.TEST" {
		t.Errorf("%s, %v", self, err)
	}
}

// A recorded AP-REQ is refused, by the same process and by the next one.
func TestReplayedTokenIsRefused(t *testing.T) {
	w := newWorld(t, "")
	w.confB.ReplayCache = w.t.TempDir() + "/replay"
	a, b := w.hosts()
	s, err := a.Start(auth.Request{Initiator: true, Local: addrA, Remote: addrB, Requirement: w.needA})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remote(auth.Claim{GSS: utf16le(hostB)}); err != nil {
		t.Fatal(err)
	}
	token, err := s.Token(nil)
	if err != nil {
		t.Fatal(err)
	}
	accept := func(b *Authenticator) error {
		s, err := b.Start(auth.Request{Local: addrB, Remote: addrA, Requirement: w.needB})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Token(token)
		return err
	}
	if err := accept(b); err != nil {
		t.Fatal(err)
	}
	for _, again := range []*Authenticator{b, host(t, w.confB)} {
		if got := codeOfError(t, accept(again)); got != codeReplay {
			t.Errorf("%s", got)
		}
	}
}

// The identification counts for nothing but must not say something else.
func TestForeignIdentificationIsRefused(t *testing.T) {
	for name, id := range map[string]struct {
		kind byte
		data string
		ok   bool
	}{
		"another host":       {idFQDN, "dc-a.other.example", false},
		"the host":           {idFQDN, "A.mit.test", true},
		"its name, longer":   {idFQDN, "a.mit.test.evil.example", false},
		"the address":        {idIPv4, string(addrA.AsSlice()), true},
		"another address":    {idIPv4, string(addrB.AsSlice()), false},
		"a user":             {3, "root@a.mit.test", false},
		"a certificate name": {9, "\x30\x00", false},
		"nothing":            {0, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "aes256-cts-hmac-sha1-96")
			o := w.run()
			w.mustPair(o)
			proof, err := o.a.Prove(hashOf("I", []byte(id.data)))
			if err != nil {
				t.Fatal(err)
			}
			claim := o.claimA
			claim.IDType, claim.ID = id.kind, []byte(id.data)
			if err := o.b.Remote(claim); err != nil {
				t.Fatal(err)
			}
			_, err = o.b.Check(hashOf("I", claim.ID), proof)
			if id.ok && err != nil || !id.ok && (err == nil || codeOfError(t, err) != codeIdentity) {
				t.Errorf("%v", err)
			}
		})
	}
}

// A peer may hash its name in each of the forms, and put something before its
// token; it is answered in kind, and remembered.
func TestFormsOfPeers(t *testing.T) {
	w := newWorld(t, "aes256-cts-hmac-sha1-96")
	a, b := w.hosts()
	for f := range forms {
		for _, prefix := range []string{"", "\x00\x00\x00\x01"} {
			a.learn(addrB, quirk{f, prefix})
			o := w.run()
			w.mustPair(o)
			if got := b.quirks[addrA]; got != (quirk{f, prefix}) {
				t.Errorf("learnt %+v, want %d with %q", got, f, prefix)
			}
			if got := a.quirks[addrB]; got != (quirk{f, prefix}) {
				t.Errorf("answered %+v, want %d with %q", got, f, prefix)
			}
		}
	}
}

// Who has to prove first tries another form after each attempt that failed.
func TestFormsOfAttempts(t *testing.T) {
	w := newWorld(t, "aes256-cts-hmac-sha1-96")
	a, _ := w.hosts()
	seen := map[form]bool{}
	for n := range int(forms) {
		seen[a.quirkOf(auth.Request{Remote: addrB, Attempt: n}).form] = true
	}
	if len(seen) != int(forms) {
		t.Errorf("%v", seen)
	}
	a.learn(addrB, quirk{form: formWire})
	if got := a.quirkOf(auth.Request{Remote: addrB}).form; got != formWire {
		t.Errorf("%d", got)
	}
}

func TestQuirksAreBounded(t *testing.T) {
	a := &Authenticator{}
	addr := netip.MustParseAddr("10.0.0.0")
	for range 2 * maxQuirks {
		addr = addr.Next()
		a.learn(addr, quirk{form: formNone})
	}
	if len(a.quirks) != maxQuirks || a.quirks[addr].form != formNone {
		t.Errorf("%d", len(a.quirks))
	}
}

// A changed proof, and one for other names, tokens or hashes, proves nothing.
func TestChangedProofsAreRefused(t *testing.T) {
	w := newWorld(t, "aes256-cts-hmac-sha1-96")
	o := w.run()
	w.mustPair(o)
	proof, err := o.a.Prove(hashOf("I", o.claimA.ID))
	if err != nil {
		t.Fatal(err)
	}
	for n := range proof {
		bad := bytes.Clone(proof)
		bad[n] ^= 1
		if _, err := o.b.Check(hashOf("I", o.claimA.ID), bad); err == nil {
			t.Errorf("octet %d", n)
		}
	}
	if _, err := o.b.Check(hashOf("R", o.claimA.ID), proof); err == nil {
		t.Error("the hash of the other role")
	}
	clear, err := o.a.(*session).ctx.Wrap(hashOf("I", o.claimA.ID)(nil), false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.b.Check(hashOf("I", o.claimA.ID), clear); !errors.Is(err, gss.ErrNotSealed) {
		t.Errorf("a proof in clear: %v", err)
	}
}

// Two realms that trust each other.
func TestAcrossRealms(t *testing.T) {
	near, far := krbtest.Start(t, "MIT.TEST", ""), krbtest.Start(t, "FAR.TEST", "")
	for _, r := range []*krbtest.Realm{near, far} {
		r.Admin("addprinc -pw trust-between-both krbtgt/FAR.TEST@MIT.TEST")
		r.Admin("addprinc -pw trust-between-both krbtgt/MIT.TEST@FAR.TEST")
	}
	near.Add(hostA, "")
	far.Add("host/b.far.test", "")
	conf := "[libdefaults]\n default_realm = MIT.TEST\n dns_lookup_kdc = no\n[realms]\n" +
		" MIT.TEST = {\n kdc = " + near.Addr + "\n }\n FAR.TEST = {\n kdc = " + far.Addr + "\n }\n[domain_realm]\n .far.test = FAR.TEST\n"
	w := &world{t: t}
	w.confA = Config{Keytab: near.Keytab("a.keytab", hostA), Krb5Conf: w.file("krb5.conf", []byte(conf)), Realms: []string{"FAR.TEST"}}
	w.confB = Config{Keytab: far.Keytab("b.keytab", "host/b.far.test"), Krb5Conf: far.Conf, Realms: []string{"MIT.TEST"}}
	w.needA, w.needB = auth.Requirement{Method: auth.Kerberos}, auth.Requirement{Method: auth.Kerberos}
	o := w.run()
	if o.errA != nil || o.errB != nil || o.seenA != "host/b.far.test@FAR.TEST" || o.seenB != "host/a.mit.test@MIT.TEST" {
		t.Fatalf("%s, %s; %v; %v", o.seenA, o.seenB, o.errA, o.errB)
	}
	if !o.a.Trusted() || !o.b.Trusted() {
		t.Error("hosts of trusted realms are not trusted")
	}
	w.b.config.Realms, w.b.known = nil, nil
	w.needB = auth.Requirement{Method: auth.Kerberos, AcceptPrincipals: []string{"host/a.mit.test@MIT.TEST"}, AcceptTrusted: true}
	if o := w.run(); o.errB != nil || o.b.Trusted() {
		t.Errorf("a client of a realm that is not trusted, listed by a rule: %v", o.errB)
	}
	w.needB.AcceptPrincipals = []string{"host/c.mit.test@MIT.TEST"}
	if got := codeOfError(t, w.run().errB); got != codeWrongRealm {
		t.Errorf("a client of a realm that is not trusted: %s", got)
	}
}
