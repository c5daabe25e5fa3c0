package kerberos

import (
	"testing"

	"ipsecagent/auth"
	"ipsecagent/auth/krbtest"
)

// Members of a domain as Windows has them: they log in by their accounts, and
// tickets carry a PAC.
func TestMembersOfADomain(t *testing.T) {
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
	}{{"host2.example.test", false}, {"old.example.test", true}} {
		o := between(c.host, c.rc4)
		if o.errA != nil || o.errB != nil {
			t.Fatalf("%s: %v; %v", c.host, o.errA, o.errB)
		}
		if o.seenA != auth.Principal("host/"+c.host+"@EXAMPLE.TEST") || o.seenB != "HOST1$@EXAMPLE.TEST" {
			t.Errorf("seen: %s, %s", o.seenA, o.seenB)
		}
		if n := len(o.a.(*session).sent.token); n < 1000 {
			t.Errorf("an AP-REQ of %d bytes has no PAC", n)
		}
	}
	if o := between("old.example.test", false); o.errA == nil || codeOfError(t, o.errA) != codeEtype {
		t.Errorf("RC4, which is not allowed: %v", o.errA)
	}
}
