package agent

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ipsecagent/driver"
	"ipsecagent/driver/drivertest"
	"ipsecagent/ike"
	"ipsecagent/sadb"
)

// narrowed has bob secure port 80 under the filter that would hold all of the
// traffic between the two hosts.
func (r *rig) narrowed() sadb.Pair {
	r.t.Helper()
	offer, err := r.asked(80)
	if err != nil {
		r.t.Fatal(err)
	}
	p := pairFor(offer, bob())
	r.establish(0, p)
	return p
}

// softened has the rest of the traffic with bob fail and go in clear.
func (r *rig) softened() {
	r.t.Helper()
	if got := r.send(tcp(bob(), 443)); got != drivertest.Held {
		r.t.Fatalf("before its negotiation has failed the packet is %v", got)
	}
	r.out(noAnswer(one[ike.Initiate](r)))
	r.wantClear(443)
}

// wantClear fails unless packets of a port pass in clear both ways.
func (r *rig) wantClear(port uint16) {
	r.t.Helper()
	if got := r.send(tcp(bob(), port)); got != drivertest.Passed {
		r.t.Errorf("port %d: the packet is %v", port, got)
	}
	if got := r.fake.Receive(tcp(bob(), port), 100, sadb.SAID{}); got != drivertest.Passed {
		r.t.Errorf("port %d: the answer is %v", port, got)
	}
}

// wantSecured fails unless port 80 is secured by p both ways, and only so.
func (r *rig) wantSecured(p sadb.Pair) {
	r.t.Helper()
	if got := r.send(tcp(bob(), 80)); got != drivertest.Secured {
		r.t.Errorf("port 80: the packet is %v", got)
	}
	if got := r.fake.Receive(tcp(bob(), 80), 100, p.In[0]); got != drivertest.Secured {
		r.t.Errorf("port 80: the secured answer is %v", got)
	}
	if got := r.fake.Receive(tcp(bob(), 80), 100, sadb.SAID{}); got != drivertest.Dropped {
		r.t.Errorf("port 80: the answer in clear is %v", got)
	}
}

// delayedInBubble runs f under policies that let traffic go in clear by a
// temporary filter after a delay, accepting unsecured packets or not.
func delayedInBubble(t *testing.T, f func(t *testing.T, r *rig)) {
	accepting := strings.Replace(delayed, "      clearDelay: 3s\n", "      acceptUnsecured: true\n      clearDelay: 3s\n", 1)
	for name, document := range map[string]string{"delayed": delayed, "accepting": accepting} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			inBubble(t, func(t *testing.T, r *rig) {
				r.assignDocument(dir, "delayed", document)
				f(t, r)
			}, func(c *Config) { c.Library = folder(dir) })
		})
	}
}

func TestClearTrafficStaysBelowANarrowPair(t *testing.T) {
	delayedInBubble(t, func(t *testing.T, r *rig) {
		p := r.narrowed()
		r.wantSecured(p)
		r.softened()
		r.wantSecured(p)
		r.pass(time.Minute)
		r.softenedAgain()
		r.wantSecured(p)
		r.out(ike.Ended{Pair: p.ID, Reason: "deleted by the peer"})
		if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
			t.Errorf("within the grace the packet is %v", got)
		}
	})
}

func TestClearTrafficWithoutDelayStaysBelowANarrowPair(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assignDocument(dir, "delayed", strings.Replace(delayed, "      clearDelay: 3s\n", "", 1))
		p := r.narrowed()
		if got := r.send(tcp(bob(), 443)); got != drivertest.Clear {
			t.Errorf("the first packet is %v", got)
		}
		r.wantClear(443)
		r.wantSecured(p)
		r.out(ike.Ended{Pair: p.ID, Reason: "deleted by the peer"})
		if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
			t.Errorf("within the grace the packet is %v", got)
		}
	}, func(c *Config) { c.Library = folder(dir) })
}

// softenedAgain has another negotiation for the rest fail, if there is one.
func (r *rig) softenedAgain() {
	r.t.Helper()
	r.pass(softLifetime)
	for range 2 {
		r.send(tcp(bob(), 443))
		for _, in := range taken[ike.Initiate](r) {
			r.out(noAnswer(in))
		}
	}
	r.wantClear(443)
}

// softOverlays returns how many soft filters stand.
func (r *rig) softOverlays() (n int) {
	for _, f := range r.fake.Filters() {
		if f.Overlay() && f.Action.Kind == sadb.Permit {
			n++
		}
	}
	return n
}

func TestNewPairEndsClearTrafficThatOverlaps(t *testing.T) {
	delayedInBubble(t, func(t *testing.T, r *rig) {
		r.softened()
		r.wantClear(80)
		p := r.narrowed()
		if n := r.softOverlays(); n != 0 {
			t.Errorf("%d soft filters stand", n)
		}
		r.wantSecured(p)
		r.softenedAgain()
		r.wantSecured(p)
		q := pairFor(ike.QuickOffer{Filter: p.Filter, Selector: p.Selector, Proposals: []sadb.Proposal{{Suites: p.Suites, Lifetime: p.Lifetime}}}, bob())
		q.Replaces = p.ID
		r.establish(0, q)
		r.wantClear(443) // a rekey disturbs nothing
		r.wantSecured(q)
	})
}

func TestPairThatCannotBeProtectedEndsClearTraffic(t *testing.T) {
	delayedInBubble(t, func(t *testing.T, r *rig) {
		p := r.narrowed()
		r.softened()
		q := pairFor(ike.QuickOffer{Filter: p.Filter, Selector: p.Selector, Proposals: []sadb.Proposal{{Suites: p.Suites, Lifetime: p.Lifetime}}}, bob())
		q.Replaces = p.ID
		for i, sa := range sasOf(q) {
			r.out(ike.Install{ID: uint64(i + 1), SA: sa, Pair: q})
		}
		r.fake.FailNext(errors.New("no room"))
		r.out(ike.Established{Pair: q})
		if n := r.softOverlays(); n != 0 {
			t.Errorf("%d soft filters stand", n)
		}
	})
}

func TestNewDataPathKeepsANarrowPairClosed(t *testing.T) {
	for range 10 { // an agent that puts them in any order is lucky now and then
		synctest.Test(t, func(t *testing.T) {
			dir, connect := t.TempDir(), make(chan driver.Driver)
			r := newRig(t, reconnecting(connect), func(c *Config) { c.Library = folder(dir) })
			defer r.stop()
			r.assignDocument(dir, "delayed", delayed)
			p := r.narrowed()
			r.softened()
			r.wantSecured(p)
			r.fake.Close()
			fresh := drivertest.New(time.Now)
			connect <- watched{fresh, func() {
				if got, _ := fresh.Send(tcp(bob(), 80), 100); got != drivertest.Held {
					t.Errorf("in between the packet is %v", got)
				}
			}}
			synctest.Wait()
			r.fake = fresh
			r.wantClear(443)
		})
	}
}

// fillSoft makes up as many soft filters as there may be, and returns the
// oldest.
func fillSoft(a *Agent) (oldest sadb.FilterID) {
	for i := range maxSoft {
		id := sadb.NewFilterID("soft", stranger(i).String())
		a.overlays[id] = overlay{kind: softOverlay, filter: sadb.Filter{ID: id, Expires: time.Now().Add(time.Hour)},
			since: time.Now().Add(time.Duration(i) * time.Second)}
	}
	return sadb.NewFilterID("soft", stranger(0).String())
}

func TestSoftFiltersLeaveRoomForOthers(t *testing.T) {
	delayedInBubble(t, func(t *testing.T, r *rig) {
		var oldest sadb.FilterID
		r.loop(func(a *Agent) { oldest = fillSoft(a) })
		p := r.narrowed()
		r.wantSecured(p)
		r.softened()
		r.loop(func(a *Agent) {
			if _, ok := a.overlays[oldest]; ok {
				t.Error("the oldest soft filter stays")
			}
			if n := len(a.overlays); n != maxSoft+1 {
				t.Errorf("%d temporary filters, want the soft ones and one", n)
			}
		})
	})
}

func TestMayMeet(t *testing.T) {
	all := sadb.Selector{Local: sadb.Addr(alice()), Remote: sadb.Addr(bob())}
	web, tls, dns, other, network := all, all, all, all, all
	web.Proto, web.RemotePorts = sadb.TCP, sadb.Ports{From: 80, To: 443}
	tls.Proto, tls.RemotePorts = sadb.TCP, sadb.Port(443)
	dns.Proto, dns.RemotePorts = sadb.UDP, sadb.Port(443)
	other.Remote = sadb.Addr(carol())
	network.Remote = sadb.Range(bob(), carol())
	for _, c := range []struct {
		a, b sadb.Selector
		want bool
	}{{all, all, true}, {all, web, true}, {web, tls, true}, {tls, dns, false}, {web, dns, false}, {all, other, false},
		{network, other, true}, {network, tls, true}, {sadb.Selector{}, tls, true}, {sadb.Selector{Local: sadb.Me()}, tls, true}} {
		if mayMeet(c.a, c.b) != c.want || mayMeet(c.b, c.a) != c.want {
			t.Errorf("%s and %s: not %v", c.a, c.b, c.want)
		}
	}
}
