package ike

import (
	"testing"
	"time"

	"ipsecagent/auth"
	"ipsecagent/auth/kerberos"
	"ipsecagent/auth/krbtest"
	"ipsecagent/ike/iketest"
)

// realm is two hosts of a real realm.
func realm(t *testing.T) (a, b kerberos.Config, r *krbtest.Realm) {
	t.Helper()
	r = krbtest.Start(t, "MIT.TEST", "")
	config := func(host string) kerberos.Config {
		r.Add("host/"+host, "")
		return kerberos.Config{Keytab: r.Keytab(host+".keytab", "host/"+host), Krb5Conf: r.Conf, Host: host}
	}
	return config("a.mit.test"), config("b.mit.test"), r
}

func kerberosHosts(t *testing.T, ca, cb kerberos.Config, accept ...string) (*world, *host, *host) {
	t.Helper()
	w := newWorld(t, 1)
	w.net.SetPath(iketest.Path{Delay: 10 * time.Millisecond})
	var hosts [2]*host
	for i, c := range []kerberos.Config{ca, cb} {
		k, err := kerberos.New(c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { k.Close() })
		hosts[i] = w.bareHost(v4[i], uint64(i+1), k)
	}
	a, b := hosts[0], hosts[1]
	b.m.Handle(w.now, SetPolicy{policyOf(kerberosOffer(t), responderQuick(t))})
	offer := kerberosOffer(t, auth.Requirement{Method: auth.Kerberos, AcceptPrincipals: accept})
	a.m.Handle(w.now, Initiate{Request: 1, Local: a.addr, Remote: b.addr, Main: offer, Quick: quickOffer(t, a.addr, b.addr)})
	return w, a, b
}

// TestMainModeByKerberos: with tickets of a real KDC, over a network that loses
// and doubles, so that a token comes again: it is answered, not replayed.
func TestMainModeByKerberos(t *testing.T) {
	ca, cb, _ := realm(t)
	w, a, b := kerberosHosts(t, ca, cb)
	w.net.SetPath(iketest.Path{Loss: 0.2, Duplicate: 0.3, Delay: 10 * time.Millisecond})
	w.run(200 * time.Second)
	w.checkPaired(a, b)
	if pa, pb := a.newestPair(), b.newestPair(); pa.Principal != "host/b.mit.test@MIT.TEST" || pb.Principal != "host/a.mit.test@MIT.TEST" {
		t.Errorf("%s and %s", pa.Principal, pb.Principal)
	}
}

// TestKerberosOfTheWrongPeer: the name in message 2 is not the rule's, so that
// no ticket is asked for.
func TestKerberosOfTheWrongPeer(t *testing.T) {
	ca, cb, r := realm(t)
	r.StopKDC() // whoever asks it fails by another code
	w, a, b := kerberosHosts(t, ca, cb, "host/c.mit.test@MIT.TEST")
	w.run(200 * time.Second)
	if len(a.mains)+len(b.mains) != 0 || len(a.failed) != 1 || a.failed[0].Code != "target-refused" || a.failed[0].Hint == "" {
		t.Errorf("%+v", a.failed)
	}
}

func TestKerberosWithAWrongClock(t *testing.T) {
	ca, cb, _ := realm(t)
	cb.Clock = func() time.Time { return time.Now().Add(time.Hour) }
	w, a, b := kerberosHosts(t, ca, cb)
	w.run(300 * time.Second)
	if len(a.mains)+len(b.mains) != 0 || len(b.failed) == 0 || b.failed[0].Code != "clock-skew" {
		t.Errorf("%+v, %+v", a.failed, b.failed)
	}
}
