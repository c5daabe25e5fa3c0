package ike

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestSlowWorkDelaysNoOther: every worker waits for a KDC that does not answer;
// what else there is to do is done all the same, and in the end there are as
// many workers as before.
func TestSlowWorkDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Config{Rand: randomFrom(1)})
		p, _ := pipes(v4[0], v4[1])
		s := NewServer(ServerConfig{Machine: m, Transport: p})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		quick := make(chan time.Duration, 1)
		begun := time.Now()
		for range 5 {
			m.work(Work{Run: func() any { time.Sleep(10 * time.Second); return nil }}, func(time.Time, any) {})
		}
		m.work(Work{Low: true, Run: func() any { quick <- time.Since(begun); return nil }}, func(time.Time, any) {})
		go s.Run(ctx)
		if d := <-quick; d > 2*time.Second {
			t.Errorf("it began after %s", d)
		}
		time.Sleep(20 * time.Second)
		if n := s.reliefs.Load(); n != 0 {
			t.Errorf("%d workers stand in for nobody", n)
		}
		cancel()
		synctest.Wait()
	})
}
