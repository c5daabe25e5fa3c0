package agent

import (
	"testing"
	"time"

	"ipsecagent/driver"
	"ipsecagent/ike"
)

const idleTime = 5 * time.Minute

func withIdle(c *Config) { c.IdleTime = idleTime }

func TestIdlePairsAreEnded(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		p := r.secure(tcp(bob(), 80))
		r.pass(4 * time.Minute)
		r.send(tcp(bob(), 80))
		r.pass(4 * time.Minute)
		none[ike.Close](r) // four minutes since the last packet
		r.pass(3 * time.Minute)
		c := last[ike.Close](r)
		if c.Pair != p.ID || c.Main || c.Reason == "" {
			t.Errorf("close %+v", c)
		}
		r.out(ike.Ended{Pair: p.ID, Reason: c.Reason})
		taken[ike.Close](r)
		r.send(tcp(bob(), 80))
		one[ike.Initiate](r) // the next packet asks anew
	}, withIdle)
}

func TestInboundTrafficKeepsAPair(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		p := r.secure(tcp(bob(), 80))
		for range 4 {
			r.pass(4 * time.Minute)
			r.fake.Receive(tcp(bob(), 80), 100, p.In[0])
		}
		none[ike.Close](r)
	}, withIdle)
}

// TestIdlePairsWhoseEndWouldOpenAreNotRenewed: they last as long as their keys.
func TestIdlePairsWhoseEndWouldOpenAreNotRenewed(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		p := r.secure(tcp(bob(), 80))
		r.pass(20 * time.Minute)
		none[ike.Close](r)
		r.inject(driver.Expire{ID: p.Out[0]})
		none[ike.Rekey](r)
		r.send(tcp(bob(), 80))
		r.pass(2 * time.Minute)
		r.inject(driver.Expire{ID: p.Out[0]})
		one[ike.Rekey](r)
	}, withIdle)
}

func TestWithoutAnIdleTimePairsStay(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		r.secure(tcp(bob(), 80))
		r.pass(20 * time.Minute)
		none[ike.Close](r)
	})
}
