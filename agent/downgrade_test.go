package agent

import (
	"errors"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/auth"
	"ipsecagent/ike"
	"ipsecagent/sadb"
)

const mixedMethods = `apiVersion: ipsecagent/v1
kind: Policy
name: mixed
filterLists:
  all: [{from: me, to: any}]
filterActions:
  require: {negotiate: {methods: [esp-aes256gcm, esp-3des-sha1, esp-aes128-sha1]}}
rules:
  - {name: all, filterList: all, filterAction: require, authentication: [psk]}
`

// meetBy has bob secured by the method of that number.
func (r *rig) meetBy(method int) sadb.Pair {
	r.t.Helper()
	request, p := r.pairBy(method)
	r.establish(request, p)
	return p
}

// pairBy has alice ask for bob, and returns the pair that they agree on.
func (r *rig) pairBy(method int) (request uint64, p sadb.Pair) {
	r.t.Helper()
	r.send(tcp(bob(), 80))
	in := one[ike.Initiate](r)
	p = pairFor(in.Quick, bob())
	p.Suites, p.Main = in.Quick.Proposals[method].Suites, mainSuite("aes256-sha256-ecp256")
	return in.Request, p
}

func mainSuite(name string) sadb.ISAKMPSuite {
	s, err := sadb.ParseISAKMPSuite(name)
	if err != nil {
		panic(err)
	}
	return s
}

func TestDowngradeIsReported(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assignDocument(dir, "mixed", mixedMethods)
		end := func(p sadb.Pair) { r.out(ike.Ended{Pair: p.ID, Reason: "test"}) }
		end(r.meetBy(1)) // old from the beginning
		if got := r.events(control.EventDowngraded); len(got) != 0 {
			t.Fatalf("reported: %q", got)
		}
		end(r.meetBy(0))
		end(r.meetBy(2))
		if got := r.events(control.EventDowngraded); len(got) != 1 {
			t.Errorf("reported: %q", got)
		}
	}, func(c *Config) { c.Library = folder(dir) })
}

// TestDowngradeIsRefusedBySetting: nothing of the pair comes into force, also
// by an agent that was started since, and if only main mode is old.
func TestDowngradeIsRefusedBySetting(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assignDocument(dir, "mixed", mixedMethods)
		p := r.meetBy(0)
		r.out(ike.Ended{Pair: p.ID, Reason: "test"})
		r.restart(nil)
		for _, c := range []struct {
			method int
			main   string
		}{{1, "aes256-sha256-ecp256"}, {0, "aes256-sha1-modp2048"}, {0, "aes256-sha256-modp1024"}} {
			request, old := r.pairBy(c.method)
			old.Main = mainSuite(c.main)
			in, _ := associationsOf(old)
			r.out(ike.Install{ID: 1, SA: in, Pair: old})
			var refusal *ike.NotInstalled
			if got := one[ike.Installed](r); !errors.As(got.Err, &refusal) || refusal.Hint == "" || !strings.Contains(refusal.Reason, c.main) {
				t.Fatalf("%+v: %v", c, got.Err)
			}
			if len(r.fake.SAs()) != 0 {
				t.Errorf("%+v: in force all the same: %v", c, r.fake.SAs())
			}
			r.out(ike.Failed{Request: request, Local: alice(), Remote: bob(), Filter: old.Filter, Code: ike.FailPolicy, Reason: refusal.Reason})
			time.Sleep(time.Hour) // of the bubble: until bob is asked again
			taken[ike.Initiate](r)
		}
		if got := r.events(control.EventDowngraded); len(got) != 3 {
			t.Errorf("reported: %q", got)
		}
	}, func(c *Config) { c.Library, c.RefuseDowngrade = folder(dir), true })
}

// TestSharedKeyTellsNoHostApart: that one host with a preshared key is modern
// says nothing of the others that have it.
func TestSharedKeyTellsNoHostApart(t *testing.T) {
	p := sadb.Pair{Remote: bob(), Principal: "psk:default", Method: auth.PSK.String()}
	q := p
	q.Remote = carol()
	if identityOf(p) == identityOf(q) {
		t.Error("two hosts with one preshared key are one identity")
	}
	p.Method, q.Method = auth.RSA.String(), auth.RSA.String()
	if identityOf(p) != identityOf(q) {
		t.Error("a certificate is another identity at another address")
	}
}

func TestModernIdentitiesAreBoundedAndKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, k, _, err := openStore(path, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	m := newModern(k.Modern)
	for i := range maxModern {
		m.put(numbered(i).String(), time.Unix(int64(i), 0))
	}
	if err := s.write(nil, m.changed); err != nil {
		t.Fatal(err)
	}
	clear(m.changed)
	for i := range 10 {
		m.put(numbered(maxModern+i).String(), time.Unix(int64(maxModern+i), 0))
	}
	if _, ok := m.met[numbered(0).String()]; ok || len(m.met) != maxModern || len(m.changed) != 20 {
		t.Errorf("%d are remembered, the oldest: %v; %d changed", len(m.met), ok, len(m.changed))
	}
	if err := errors.Join(s.write(nil, m.changed), s.close()); err != nil {
		t.Fatal(err)
	}
	s, k, _, err = openStore(path, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	again := newModern(k.Modern)
	if !maps.EqualFunc(again.met, m.met, time.Time.Equal) || len(again.changed) != 0 {
		t.Errorf("%d are kept of %d, %d changed", len(again.met), len(m.met), len(again.changed))
	}
}
