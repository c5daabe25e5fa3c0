package agent

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"ipsecagent/driver/drivertest"
	"ipsecagent/ike"
	"ipsecagent/sadb"
)

// stranger is a peer of which nothing is known.
func stranger(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}) }

// flood has answers to packets from n made-up addresses ask for associations.
func (r *rig) flood(n int) {
	r.t.Helper()
	for i := range n {
		r.send(tcp(stranger(i), 80))
	}
}

// loop runs f as the agent's loop does, which owns what f looks at.
func (r *rig) loop(f func(a *Agent)) {
	r.t.Helper()
	if _, err := ask(r.t.Context(), r.agent, func(time.Time) (bool, error) { f(r.agent); return true, nil }); err != nil {
		r.t.Fatal(err)
	}
}

// wantBounded fails if more is remembered than may be.
func (r *rig) wantBounded(talks int) {
	r.t.Helper()
	r.loop(func(a *Agent) {
		if n := len(a.talks.byKey); n > talks {
			r.t.Errorf("%d negotiations are remembered", n)
		}
		if n := len(a.talks.byRequest); n > maxRunning {
			r.t.Errorf("%d negotiations are under way", n)
		}
		if n := len(a.timers.due); n > 2*maxTalks {
			r.t.Errorf("%d timers", n)
		}
	})
}

func TestFloodOfStrangersKeepsNobodyOut(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		p := r.secure(tcp(bob(), 80))
		r.out(ike.Ended{Pair: p.ID, Reason: "deleted by the peer"})
		dave := netip.MustParseAddr("192.0.2.4")
		r.send(tcp(dave, 80))
		slow := one[ike.Initiate](r)
		r.out(ike.MainMode{SA: ike.ISAKMPSA{Local: addrPort(alice()), Remote: addrPort(dave), Initiator: true, Principal: "psk:default"}})

		r.flood(10000)
		r.wantBounded(maxTalks)
		begun, given := taken[ike.Initiate](r), taken[ike.Cancel](r)
		if len(begun) != 10000 || len(begun)-len(given) > maxStrangersRunning {
			t.Errorf("%d begun, %d given up", len(begun), len(given))
		}
		for i, c := range given {
			if c.Request != begun[i].Request || c.Request == slow.Request {
				t.Fatalf("number %d given up is request %d, want the oldest stranger's, %d", i, c.Request, begun[i].Request)
			}
		}

		for _, peer := range []netip.Addr{bob(), carol()} {
			r.send(tcp(peer, 80))
			if in := one[ike.Initiate](r); in.Remote != peer {
				t.Errorf("begun with %s, want %s", in.Remote, peer)
			}
		}
	})
}

func TestFloodWithoutAnswersLeavesNothingBehind(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		for range 2 {
			r.flood(2 * maxTalks)
			for _, in := range taken[ike.Initiate](r) {
				r.outputs <- noAnswer(in) // also for those that were given up
			}
			synctest.Wait()
			r.wantBounded(maxStrangers)
		}
		r.pass(2 * time.Hour)
		r.loop(func(a *Agent) {
			ts := a.talks
			if len(ts.byKey)+len(ts.byRequest)+ts.idle.Len()+ts.running.Len()+len(ts.spared) != 0 {
				t.Errorf("two hours later %d negotiations are remembered", len(ts.byKey))
			}
		})
	})
}

// giveUp has the negotiation with bob give way to strangers.
func giveUp(t *testing.T, r *rig) ike.Initiate {
	t.Helper()
	r.assign("secure-server")
	if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
		t.Fatalf("the first packet is %v", got)
	}
	in := one[ike.Initiate](r)
	r.flood(maxStrangersRunning)
	if c := one[ike.Cancel](r); c.Request != in.Request {
		t.Fatalf("given up is request %d, want %d", c.Request, in.Request)
	}
	taken[ike.Initiate](r)
	return in
}

func TestGivenUpNegotiationIsAskedForAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		former := giveUp(t, r)
		r.out(ike.Failed{Request: former.Request, Local: alice(), Remote: bob(), Code: ike.FailCancelled, Reason: "policy no longer wants it"})
		if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
			t.Errorf("the next packet is %v", got)
		}
		again := one[ike.Initiate](r) // the driver asks anew: what waited was abandoned
		r.out(noAnswer(former))       // it crossed
		if s := r.status(); len(s.Failures) != 0 {
			t.Errorf("failures %+v", s.Failures)
		}
		r.establish(again.Request, pairFor(again.Quick, bob()))
		if got := r.send(tcp(bob(), 80)); got != drivertest.Secured {
			t.Errorf("secured at last, the packet is %v", got)
		}
	})
}

func TestGivenUpNegotiationMayStillSucceed(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		former := giveUp(t, r)
		r.establish(former.Request, pairFor(former.Quick, bob()))
		if got := r.send(tcp(bob(), 80)); got != drivertest.Secured {
			t.Errorf("the packet is %v", got)
		}
		none[ike.Initiate](r)
		if s := r.status(); len(s.Secured) != 1 {
			t.Errorf("secured %+v", s.Secured)
		}
	})
}

func TestProvenPeersHaveTheirShare(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		const known = maxRunning - maxStrangersRunning
		for i := range known {
			peer := netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)})
			r.out(ike.MainMode{SA: ike.ISAKMPSA{Local: addrPort(alice()), Remote: addrPort(peer), Initiator: true}})
			r.send(tcp(peer, 80))
		}
		if got := taken[ike.Initiate](r); len(got) != known {
			t.Fatalf("%d begun with proven peers", len(got))
		}
		r.flood(2 * maxRunning)
		first := taken[ike.Initiate](r)[0].Request
		for _, c := range taken[ike.Cancel](r) {
			if c.Request < first {
				t.Fatalf("request %d of a proven peer gave way", c.Request)
			}
		}
		peer := netip.MustParseAddr("10.3.0.1")
		r.out(ike.MainMode{SA: ike.ISAKMPSA{Local: addrPort(alice()), Remote: addrPort(peer), Initiator: true}})
		r.send(tcp(peer, 80))
		if in := one[ike.Initiate](r); in.Remote != peer {
			t.Errorf("begun with %s", in.Remote)
		}
		r.wantBounded(maxTalks)
	})
}

func TestOnePeerHasNoMoreThanItsShare(t *testing.T) {
	ts := newTalks()
	for port := range uint16(2 * maxOfPeer) {
		key := talkKey{"f", sadb.Selector{RemotePorts: sadb.Port(port + 1)}}
		ts.add(&talk{key: key, remote: bob()}, true)
	}
	if n := ts.idle.Len(); n != maxOfPeer {
		t.Errorf("%d may give way, want %d", n, maxOfPeer)
	}
	for _, t := range ts.all() {
		ts.remove(t)
		ts.remove(t)
	}
	if ts.idle.Len() != 0 || len(ts.spared) != 0 {
		t.Errorf("%d are listed, %d are counted", ts.idle.Len(), len(ts.spared))
	}
}

func TestProvenPeersAreBounded(t *testing.T) {
	p := proven{}
	for i := range maxProven + 10 {
		p.put(stranger(i), time.Unix(int64(i), 0))
	}
	if _, ok := p[stranger(9)]; ok || len(p) != maxProven {
		t.Errorf("%d remembered, the oldest is there: %v", len(p), ok)
	}
}

func TestStoppedTimersDoNotRun(t *testing.T) {
	var ts timers
	at := time.Unix(1000, 0)
	ran := map[int]bool{}
	var all []*timer
	for i := range 100 {
		all = append(all, ts.at(at.Add(time.Duration(i*37%100)*time.Second), func(time.Time) { ran[i] = true }))
	}
	for i := 0; i < 100; i += 2 {
		ts.stop(all[i])
		ts.stop(all[i])
	}
	ts.stop(nil)
	ts.run(at.Add(time.Hour))
	for i, x := range all {
		if ran[i] != (i%2 == 1) || x.pending() {
			t.Errorf("timer %d has run: %v", i, ran[i])
		}
	}
}
