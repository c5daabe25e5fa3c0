package ike

import (
	"os"
	"testing"
	"time"

	"ipsecagent/auth"
	"ipsecagent/ike/iketest"
	"ipsecagent/sadb"
)

func TestTwoHostsEstablishAPair(t *testing.T) {
	w, a, b := two(t, 1)
	w.ask(a, b, 7)
	w.run(2 * time.Second)
	w.checkPaired(a, b)
	if len(a.established) != 1 || len(b.established) != 1 || len(a.failed)+len(b.failed) != 0 {
		t.Fatalf("a: %+v %+v, b: %+v %+v", a.established, a.failed, b.established, b.failed)
	}
	e := a.established[0]
	if e.Request != 7 || b.established[0].Request != 0 || !e.Pair.Initiator || e.Pair.Principal != "psk:default" ||
		e.Pair.Suites[0].String() != "esp-aes256gcm" || e.Pair.Lifetime.Time != time.Hour {
		t.Errorf("the pair is %+v", e.Pair)
	}
	sas := a.m.SAs()
	if len(sas) != 1 || sas[0].Suite.String() != "aes256-sha256-ecp256" || sas[0].Method != auth.PSK || sas[0].QuickModes != 1 {
		t.Errorf("ISAKMP SAs: %+v", sas)
	}
	for _, sa := range a.sas {
		if sa.Lifetime.Hard.Time != time.Hour || sa.Lifetime.Soft.Time < 50*time.Minute || sa.Lifetime.Soft.Time >= 54*time.Minute {
			t.Errorf("lifetime of %s: %+v", sa.ID, sa.Lifetime)
		}
		if sa.Dir == sadb.In && sa.Replay != 1024 {
			t.Errorf("replay window %d", sa.Replay)
		}
	}
}

// TestLossyNetwork: with 30 % loss each way, reordering and duplication both
// ends are established with the same keys within 125 s in at least 98 % of
// seeded runs, and the rest end cleanly on both.
func TestLossyNetwork(t *testing.T) {
	runs := 200
	if os.Getenv("IPSECAGENT_FULL") == "1" {
		runs = 2000
	}
	good := 0
	for seed := range runs {
		w, a, b := two(t, uint64(seed))
		w.net.SetPath(iketest.Path{Loss: 0.3, Duplicate: 0.1, Reorder: 0.1, Delay: 20 * time.Millisecond,
			Jitter: 30 * time.Millisecond, Late: 300 * time.Millisecond})
		w.ask(a, b, 1)
		w.run(125 * time.Second)
		if paired(a, b) == nil {
			good++
			w.run(300 * time.Second)
			if len(a.failed)+len(b.failed) != 0 || paired(a, b) != nil {
				t.Errorf("seed %d: after success %v, failed %+v %+v", seed, paired(a, b), a.failed, b.failed)
			}
			continue
		}
		before := paired(a, b)
		w.run(400 * time.Second)
		if len(a.sas) != 0 || len(b.sas) != 0 {
			if err := paired(a, b); err != nil {
				t.Errorf("seed %d: at 125 s %v, in the end %v", seed, before, err)
			}
		}
		if len(a.established)+len(a.failed) == 0 {
			t.Errorf("seed %d: the request was never answered", seed)
		}
	}
	t.Logf("figure: %d of %d runs established on both ends within 125 s", good, runs)
	if good*100 < runs*98 {
		t.Errorf("only %d of %d runs", good, runs)
	}
}
