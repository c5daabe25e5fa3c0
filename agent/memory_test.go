package agent

import (
	"context"
	"math"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"ipsecagent/policy"
)

// resident returns the bytes of the heap that the system has given.
func resident() int {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int(stats.HeapSys - stats.HeapReleased)
}

// What a long list takes for a moment does not stay resident.
func TestMemoryOfALongListIsGivenBack(t *testing.T) {
	const moment = 128 << 20
	list := &policy.Compiled{Filters: make([]policy.CompiledFilter, longList)}
	giveBack(list)
	before := resident()
	taken := make([]byte, moment)
	for i := 0; i < len(taken); i += 4096 {
		taken[i] = 1
	}
	if grown := resident() - before; grown < moment*9/10 {
		t.Fatalf("it takes %d bytes, not %d", grown, moment)
	}
	runtime.KeepAlive(taken)
	giveBack(list)
	if grown := resident() - before; grown > moment/4 {
		t.Errorf("%d bytes are still resident", grown)
	}
	runtime.KeepAlive(list)
}

// The limit leaves room above what is live, however much that is.
func TestMemoryLimit(t *testing.T) {
	for live, want := range map[int64]int64{0: 96 << 20, 40 << 20: 96 << 20, 60 << 20: 114 << 20, 1 << 30: 1560 << 20} {
		if got := memoryLimit(live); got != want {
			t.Errorf("%d MiB live: %d MiB, want %d", live>>20, got>>20, want>>20)
		}
	}
}

// The limit is that of the process as long as it is wanted.
func TestLimitMemory(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { LimitMemory(ctx); close(ended) }()
	deadline := time.Now().Add(10 * time.Second)
	for debug.SetMemoryLimit(-1) == math.MaxInt64 {
		if time.Now().After(deadline) {
			t.Fatal("there is no limit")
		}
		time.Sleep(time.Millisecond) // polling, not synchronisation
	}
	cancel()
	<-ended
	if got := debug.SetMemoryLimit(-1); got != math.MaxInt64 {
		t.Errorf("the limit of %d bytes is left", got)
	}
	t.Setenv("GOMEMLIMIT", "off")
	LimitMemory(t.Context()) // returns at once
	if got := debug.SetMemoryLimit(-1); got != math.MaxInt64 {
		t.Errorf("the administrator's limit became %d bytes", got)
	}
}
