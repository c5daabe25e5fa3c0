package agent

import (
	"testing"
	"time"

	"ipsecagent/agent/control"
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
	r.send(tcp(bob(), 80))
	in := one[ike.Initiate](r)
	p := pairFor(in.Quick, bob())
	p.Suites = in.Quick.Proposals[method].Suites
	r.establish(in.Request, p)
	return p
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

func TestDowngradeIsRefusedBySetting(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assignDocument(dir, "mixed", mixedMethods)
		p := r.meetBy(0)
		r.out(ike.Ended{Pair: p.ID, Reason: "test"})
		taken[ike.Gone](r)
		old := r.meetBy(1)
		if got := one[ike.Gone](r); got.Pair != old.ID {
			t.Errorf("gone: %+v", got)
		}
		if s := r.status(); len(s.Secured) != 0 {
			t.Errorf("in force all the same: %+v", s.Secured)
		}
		for _, sa := range r.fake.SAs() {
			if sa.Pair == old.ID {
				t.Errorf("in force all the same: %v", sa.ID)
			}
		}
		if w := r.why(); w.State != control.PeerFailed || len(w.Failures) != 1 {
			t.Errorf("why: %+v", w)
		}
	}, func(c *Config) { c.Library, c.RefuseDowngrade = folder(dir), true })
}

func TestModernIdentitiesAreBounded(t *testing.T) {
	m := modern{}
	for i := range maxModern + 10 {
		m.put(numbered(i).String(), time.Unix(int64(i), 0))
	}
	if _, ok := m[numbered(0).String()]; ok || len(m) != maxModern {
		t.Errorf("%d are remembered, the oldest: %v", len(m), ok)
	}
}
