package ike

import (
	"testing"
	"time"

	"ipsecagent/sadb"
)

// TestSoftLimits: bytes and packets leave a fast transfer room for the
// negotiation, and the initiator is the one who renews.
func TestSoftLimits(t *testing.T) {
	hard := sadb.Limits{Time: 1000 * time.Second, Bytes: 100_000 << 10, Packets: 100_000}
	drawn := map[uint64]bool{}
	for seed := range uint64(100) {
		w, a, b := two(t, seed)
		a.m.cfg.Rand, b.m.cfg.Rand = randomFrom(seed), randomFrom(seed+1000)
		q := quickOffer(t, a.addr, b.addr)
		q.Proposals[0].Lifetime = hard
		a.m.Handle(w.now, Initiate{Request: 1, Local: a.addr, Remote: b.addr, Main: mainOffer(t), Quick: q})
		w.run(time.Second)
		if len(a.sas) != 2 || len(b.sas) != 2 {
			t.Fatalf("seed %d: %d and %d associations", seed, len(a.sas), len(b.sas))
		}
		for _, sa := range a.sas {
			drawn[sa.Lifetime.Soft.Bytes] = true
			checkSoft(t, "initiator", sa.Lifetime, 700, 740)
		}
		for _, sa := range b.sas {
			checkSoft(t, "responder", sa.Lifetime, 760, 800)
		}
	}
	if len(drawn) < 20 {
		t.Errorf("only %d different limits: everybody would renew at once", len(drawn))
	}
}

// checkSoft checks the limits of volume, in thousandths.
func checkSoft(t *testing.T, who string, l sadb.Lifetime, low, high uint64) {
	t.Helper()
	for name, v := range map[string][2]uint64{
		"bytes":   {l.Soft.Bytes, l.Hard.Bytes},
		"packets": {l.Soft.Packets, l.Hard.Packets},
	} {
		if v[1] != 0 && (v[0]*1000 < v[1]*low || v[0]*1000 >= v[1]*high) {
			t.Errorf("%s renews after %d of %d %s", who, v[0], v[1], name)
		}
	}
	if l.Hard.Bytes == 0 || l.Soft.Time <= l.Hard.Time*8/10 || l.Soft.Time >= l.Hard.Time {
		t.Errorf("%s: %+v", who, l)
	}
}

// TestSoftLimitsOfNoLimit: what has no limit gets none.
func TestSoftLimitsOfNoLimit(t *testing.T) {
	_, a, _ := two(t, 1)
	if soft := a.m.softLimits(sadb.Limits{}, true); !soft.IsZero() {
		t.Errorf("%+v", soft)
	}
	if soft := a.m.softLimits(sadb.Limits{Bytes: 1}, false); soft != (sadb.Limits{Bytes: 1}) {
		t.Errorf("%+v", soft)
	}
}
