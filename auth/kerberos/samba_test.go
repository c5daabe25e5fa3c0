package kerberos

import (
	"os"
	"testing"

	"ipsecagent/auth"
	"ipsecagent/auth/krbtest"
)

// Members of a domain as Windows has them: they log in by their accounts,
// tickets are for their accounts, and carry a PAC.
func TestMembersOfADomain(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: Samba's domain controller")
	}
	d := krbtest.StartDomain(t, "EXAMPLE.TEST", "host1.example.test:24", "host2.example.test:24", "old.example.test:4")
	between := func(host string, rc4 bool) outcome {
		w := &world{t: t, needA: auth.Requirement{Method: auth.Kerberos}, needB: auth.Requirement{Method: auth.Kerberos}}
		w.confA = Config{Keytab: d.Keytab("host1.example.test"), Krb5Conf: d.Conf, AllowRC4: rc4}
		w.confB = Config{Keytab: d.Keytab(host), Krb5Conf: d.Conf, AllowRC4: rc4}
		return w.run()
	}
	for _, c := range []struct {
		host string
		rc4  bool
		seen auth.Principal
	}{{"host2.example.test", false, "HOST2$@EXAMPLE.TEST"}, {"old.example.test", true, "OLD$@EXAMPLE.TEST"}} {
		o := between(c.host, c.rc4)
		if o.errA != nil || o.errB != nil {
			t.Fatalf("%s: %v; %v", c.host, o.errA, o.errB)
		}
		if o.seenA != c.seen || o.seenB != "HOST1$@EXAMPLE.TEST" {
			t.Errorf("seen: %s, %s", o.seenA, o.seenB)
		}
		if n := len(o.a.(*session).sent.token); n < 1000 {
			t.Errorf("an AP-REQ of %d bytes has no PAC", n)
		}
	}
	// Who calls a host by its service name gets a ticket for that.
	w := &world{t: t, needA: auth.Requirement{Method: auth.Kerberos}, needB: auth.Requirement{Method: auth.Kerberos}}
	w.confA = Config{Keytab: d.Keytab("host1.example.test"), Krb5Conf: d.Conf}
	w.confB = Config{Keytab: d.Keytab("host2.example.test"), Krb5Conf: d.Conf, Principal: "host/host2.example.test"}
	if o := w.run(); o.errA != nil || o.seenA != "host/host2.example.test@EXAMPLE.TEST" {
		t.Errorf("%s, %v; %v", o.seenA, o.errA, o.errB)
	}
	if o := between("old.example.test", false); o.errA == nil || codeOfError(t, o.errA) != codeEtype {
		t.Errorf("RC4, which is not allowed: %v", o.errA)
	}
}
