package agent

import (
	"context"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// memoryFloor is what the process may take in any case, in bytes.
	memoryFloor = 96 << 20
	// memoryRoom is what it may take beside half as much again as is live: a
	// list of all associations is made anew each time somebody asks.
	memoryRoom = 24 << 20
	// memoryLook is how often what is live is looked at.
	memoryLook = 5 * time.Second
)

// LimitMemory keeps what this process holds of the system's memory near to what
// is live in it, until ctx ends. Without it, lists that are made for a moment
// double it. Where the administrator has set GOMEMLIMIT, that stands.
func LimitMemory(ctx context.Context) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	defer debug.SetMemoryLimit(math.MaxInt64)
	look := time.NewTicker(memoryLook)
	defer look.Stop()
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	for {
		metrics.Read(sample)
		debug.SetMemoryLimit(memoryLimit(int64(sample[0].Value.Uint64())))
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
}

// memoryLimit is a soft limit that follows what is live: one that stood below
// it would have the collector run for ever.
func memoryLimit(live int64) int64 {
	return max(memoryFloor, live+live/2+memoryRoom)
}
