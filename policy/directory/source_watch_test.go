package directory

import (
	"testing"
	"time"
)

// TestTheEndOfAConnection: who is told of changes over it hurries to have another
// one; who is not waits until it is time to ask.
func TestTheEndOfAConnection(t *testing.T) {
	for name, noWatch := range map[string]bool{"told of changes": false, "not told": true} {
		t.Run(name, func(t *testing.T) {
			played(t, func(c *SourceConfig) { c.NoWatch = noWatch }, func(t *testing.T, s *Source, p *play) {
				asked := func() int {
					p.Lock()
					defer p.Unlock()
					return p.polls
				}
				p.set(func() { close(p.ended) })
				pass(time.Minute)
				if got := asked() > 0; got == noWatch {
					t.Errorf("it asked %d times within a minute", asked())
				}
				pass(2 * DefaultRefresh)
				holds(t, s, "first", false)
				if asked() == 0 {
					t.Error("it never asked again")
				}
			})
		})
	}
}

// TestAServerThatEndsConnectionsIsLeftAlone: each bind costs it more than all that
// it is asked for, and may cost another host its connection.
func TestAServerThatEndsConnectionsIsLeftAlone(t *testing.T) {
	for _, jitter := range []time.Duration{0, time.Minute} {
		t.Run(jitter.String(), func(t *testing.T) {
			played(t, func(c *SourceConfig) { c.Jitter = jitter }, func(t *testing.T, s *Source, p *play) {
				p.set(func() { p.lasts = 300 * time.Millisecond; close(p.ended) })
				pass(24 * time.Hour)
				p.set(func() {
					if n := len(p.connects); n < 15 || n > 25 {
						t.Errorf("connected %d times in a day", n)
					}
				})
				holds(t, s, "first", false)
				// One that does so no longer is hurried to again.
				p.set(func() { p.lasts = 5 * time.Hour })
				pass(8 * time.Hour)
				before := 0
				p.set(func() { before = len(p.connects) })
				pass(10*time.Hour + 2*jitter)
				p.set(func() {
					if n := len(p.connects) - before; n != 2 {
						t.Errorf("connected %d times in ten hours, with connections that last five", n)
					}
				})
			})
		})
	}
}

// TestAHintPutsNothingOff: what is due is asked, however far hosts spread.
func TestAHintPutsNothingOff(t *testing.T) {
	played(t, func(c *SourceConfig) { c.Jitter = 10_000 * time.Hour }, func(t *testing.T, s *Source, p *play) {
		p.hints <- struct{}{}
		pass(DefaultRefresh + DefaultRefresh/3)
		p.set(func() {
			if p.polls == 0 {
				t.Error("it has not asked")
			}
		})
	})
}
