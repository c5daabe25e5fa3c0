package agent

import (
	"testing"
	"time"

	"ipsecagent/ike"
)

func withSilent(c *Config) { c.SilentTime = 30 * time.Second }

// TestSilentPeersAreAsked: while something is sent and nothing comes, once in
// the time; not while both are quiet, and no more once something comes.
func TestSilentPeersAreAsked(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		p := r.secure(tcp(bob(), 80))
		r.pass(5 * time.Minute)
		none[ike.Silent](r)
		for range 25 {
			r.send(tcp(bob(), 80))
			r.fake.Receive(tcp(bob(), 80), 100, p.In[0])
			r.pass(5 * time.Second)
		}
		none[ike.Silent](r)
		for range 26 { // 130 s of nothing but sending
			r.send(tcp(bob(), 80))
			r.pass(5 * time.Second)
		}
		if asked := taken[ike.Silent](r); len(asked) < 3 || len(asked) > 4 || asked[0].Pair != p.ID {
			t.Errorf("asked %+v", asked)
		}
		r.fake.Receive(tcp(bob(), 80), 100, p.In[0])
		r.send(tcp(bob(), 80))
		r.pass(5 * time.Minute)
		none[ike.Silent](r)
	}, withSilent)
}

func TestWithoutASilentTimeNobodyIsAsked(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		r.secure(tcp(bob(), 80))
		for range 60 {
			r.send(tcp(bob(), 80))
			r.pass(5 * time.Second)
		}
		none[ike.Silent](r)
	})
}
