package main

import (
	"os"
	"testing"
	"time"
)

// Every packet is counted where it is sent, where it arrives and where its
// answer does; and one that no peer gets is missed.
func TestTrafficCounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	for name, c := range map[string]struct {
		there int // of the two peers
		lost  bool
	}{"all arrive": {2, false}, "one peer is not there": {1, true}} {
		t.Run(name, func(t *testing.T) {
			var ns [2]string
			for i, suffix := range []string{"a", "b"} {
				var err error
				if ns[i], err = namespace("bch-" + suffix); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { removeNamespace(ns[i]) })
			}
			if err := join(ns[0], ns[1], c.there); err != nil {
				t.Fatal(err)
			}
			tr, err := startTraffic(ns[0], ns[1], 2)
			if err != nil {
				t.Fatal(err)
			}
			if err := tr.pass(20, time.Minute); err != nil {
				t.Fatal(err)
			}
			sent, echoed, returned := tr.stop()
			if lost := sent != echoed || echoed != returned; lost != c.lost || sent < 20 {
				t.Errorf("%d sent, %d arrived, %d answered", sent, echoed, returned)
			}
		})
	}
}
