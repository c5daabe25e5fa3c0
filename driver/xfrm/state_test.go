package xfrm

import (
	"testing"
	"time"

	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// TestAnAssociationInUseIsNotIdle: the kernel tells the time of the first packet
// alone. Who goes on sending is seen to, who has stopped is not taken for active.
func TestAnAssociationInUseIsNotIdle(t *testing.T) {
	first := time.Unix(1_800_000_000, 0)
	a := &association{SA: sadb.SA{Dir: sadb.Out}, Added: first}
	if got := saState(a, wire.State{}, first); !got.LastUsed.IsZero() {
		t.Errorf("unused, and last used %v", got.LastUsed)
	}
	looks := []struct {
		after   time.Duration
		packets uint64
		want    time.Duration
	}{
		{1 * time.Minute, 5, 1 * time.Minute},
		{4 * time.Minute, 9, 4 * time.Minute},
		{8 * time.Minute, 9, 4 * time.Minute},
		{9 * time.Minute, 10, 9 * time.Minute},
	}
	for _, l := range looks {
		st := wire.State{Use: wire.Use{Packets: l.packets, First: first}}
		if got := saState(a, st, first.Add(l.after)).LastUsed.Sub(first); got != l.want {
			t.Errorf("after %v with %d packets: last used at %v, want %v", l.after, l.packets, got, l.want)
		}
	}
	late := wire.State{LastUsed: first.Add(time.Hour), Use: wire.Use{Packets: 10, First: first}}
	if got := saState(a, late, first.Add(2*time.Hour)).LastUsed; !got.Equal(late.LastUsed) {
		t.Errorf("the kernel's own time is not taken: %v", got)
	}
}
