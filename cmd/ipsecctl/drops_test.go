package main

import (
	"strings"
	"testing"
	"time"
)

func TestDropsForPeople(t *testing.T) {
	print := func(v drops) string {
		p := &printer{now: time.Now(), zone: time.UTC}
		printDrops(p, v)
		return p.text.String()
	}
	if got := print(drops{}); !strings.Contains(got, "ipsecctl status") {
		t.Errorf("nothing dropped: %q", got)
	}
	got := print(drops{Drops: []drop{{"XfrmInNoStates", 12, "no association", "the peer"}, {"XfrmNew", 1, "", ""}}})
	for _, want := range []string{"COUNTER", "XfrmInNoStates", "12", "no association", "the peer", "not known to this program"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in %q", want, got)
		}
	}
}
