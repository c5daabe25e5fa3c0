package test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPeerThatIsGone: bob's agent and data path are killed. Alice, who goes on
// sending, asks, ends the associations within a minute, says why, and sends
// nothing in clear. When bob is back the two are secured anew.
func TestPeerThatIsGone(t *testing.T) {
	t.Parallel() // it is waiting, most of the time
	a, b := newPair(t, "gone")
	key := aKey("gone")
	a.settings = []string{"silentTime: 10s"}
	a.startAgent(map[string]string{"require-all.yaml": requireAll})
	b.startAgent(map[string]string{"require-all.yaml": requireAll})
	for _, h := range []*host{a, b} {
		h.assign("require-all", key)
	}
	eventually(t, 60*time.Second, "traffic is secured", func() bool { return a.ping(b.v4, 1) == 1 })
	wire := a.capture("wire")
	b.die()
	pings := a.start("ping", "-n", "-i", "0.5", "-c", fmt.Sprint(150), b.v4)
	began := time.Now()
	eventually(t, 90*time.Second, "the peer is found dead", func() bool {
		return strings.Contains(a.mustCtl("events"), "the peer is dead") && len(a.pairs()) == 0
	})
	t.Logf("figure: found dead after %.0f s", time.Since(began).Seconds())
	b.startAgent(nil)
	eventually(t, 90*time.Second, "the two are secured anew", func() bool { return a.ping(b.v4, 1) == 1 && len(a.pairs()) > 0 })
	pings.signal(t, syscall.SIGTERM)
	if found := leaks(wire.end(), nil); len(found) > 0 {
		t.Errorf("in clear: %v", found[0])
	}
}
