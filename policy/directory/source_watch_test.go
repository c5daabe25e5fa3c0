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
