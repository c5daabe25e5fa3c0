package agent

import (
	"runtime"
	"testing"

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
