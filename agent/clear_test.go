package agent

import (
	"strings"
	"testing"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/auth"
	"ipsecagent/driver"
	"ipsecagent/driver/drivertest"
	"ipsecagent/ike"
	"ipsecagent/sadb"
)

func noAnswer(in ike.Initiate) ike.Failed {
	return ike.Failed{Request: in.Request, Local: in.Local, Remote: in.Remote, Filter: in.Quick.Filter, Step: "main mode message 1",
		Reason: "the peer did not answer", Code: ike.FailNoAnswer, Silence: true}
}

func TestRequestedTrafficIsInClearAndListed(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		if got := r.send(tcp(bob(), 80)); got != drivertest.Clear {
			t.Fatalf("the first packet is %v", got)
		}
		in := one[ike.Initiate](r)
		s := r.status()
		if len(s.InClear) != 1 || s.InClear[0].Peer != "192.0.2.2" || !strings.Contains(s.InClear[0].Why, "under way") {
			t.Fatalf("in clear %+v", s.InClear)
		}
		r.out(noAnswer(in))
		s = r.status()
		if len(s.InClear) != 1 || !strings.Contains(s.InClear[0].Why, "did not answer") || s.InClear[0].Since.IsZero() {
			t.Errorf("in clear %+v", s.InClear)
		}
		if len(r.events(control.EventClear)) != 1 {
			t.Errorf("events %v", r.events(control.EventClear))
		}
	})
}

func TestPeerInClearIsListedOnceForBothDirections(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		r.fake.Receive(tcp(bob(), 80), 100, sadb.SAID{})
		if s := r.status(); len(s.InClear) != 1 || s.InClear[0].Packets != 1 || !s.InClear[0].Inbound || !strings.Contains(s.InClear[0].Why, "accepts") {
			t.Errorf("only received: %+v", s.InClear)
		}
		r.pass(time.Second)
		r.send(tcp(bob(), 80))
		s := r.status()
		if len(s.InClear) != 1 || s.InClear[0].Packets != 1 || s.InClear[0].Inbound || !s.InClear[0].Last.After(s.InClear[0].Since) {
			t.Errorf("both: %+v", s.InClear)
		}
	})
}

func TestClearTrafficIsNegotiatedAgainMoreAndMoreSeldom(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		r.send(tcp(bob(), 80))
		for _, wait := range []time.Duration{time.Minute, 5 * time.Minute, 30 * time.Minute, 30 * time.Minute} {
			r.out(noAnswer(one[ike.Initiate](r)))
			for range 10 {
				r.pass(wait * 8 / 100)
				r.send(tcp(bob(), 80))
			}
			none[ike.Initiate](r)
			r.pass(wait * 35 / 100)
			r.send(tcp(bob(), 80))
		}
		one[ike.Initiate](r)
	})
}

func TestPeerThatComesToLifeIsTriedAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		r.send(tcp(bob(), 80))
		r.out(noAnswer(one[ike.Initiate](r)))
		r.out(ike.MainMode{SA: ike.ISAKMPSA{Local: addrPort(alice()), Remote: addrPort(bob()), Principal: "psk:default"}})
		r.pass(3 * time.Second)
		r.send(tcp(bob(), 80))
		one[ike.Initiate](r)
	})
}

func TestSecuredOnceStaysRequired(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		p := r.secure(tcp(bob(), 80))
		if got := r.fake.Receive(tcp(bob(), 80), 100, sadb.SAID{}); got != drivertest.Dropped {
			t.Errorf("clear from a secured peer is %v", got)
		}
		if got := r.fake.Receive(tcp(carol(), 80), 100, sadb.SAID{}); got != drivertest.Clear {
			t.Errorf("clear from another peer is %v", got)
		}
		r.out(ike.Ended{Pair: p.ID, Reason: "deleted by the peer"})
		if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
			t.Errorf("within the grace the packet is %v", got)
		}
		r.out(noAnswer(one[ike.Initiate](r)))
		r.pass(grace + 2*time.Second)
		if got := r.send(tcp(bob(), 80)); got != drivertest.Clear {
			t.Errorf("after the grace the packet is %v", got)
		}
		if got := r.events(control.EventClear); len(got) != 2 {
			t.Errorf("events %q", got)
		}
	})
}

func TestAcceptedInClearOnlyUntilSecured(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		if got := r.fake.Receive(tcp(bob(), 80), 100, sadb.SAID{}); got != drivertest.Clear {
			t.Errorf("before, a clear packet is %v", got)
		}
		r.secure(tcp(bob(), 80))
		if got := r.fake.Receive(tcp(bob(), 80), 100, sadb.SAID{}); got != drivertest.Dropped {
			t.Errorf("from a secured peer, a clear packet is %v", got)
		}
	})
}

func TestDefaultResponseEndsWithItsRule(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("client")
		offer, err := r.asked(80)
		if err != nil {
			t.Fatal(err)
		}
		r.establish(0, pairFor(offer, bob()))
		r.assignDocument(dir, "narrow", strings.NewReplacer("delayed", "narrow", "to: any", "to: 10.0.0.0/8").Replace(delayed))
		one[ike.Gone](r)
		if got := r.send(tcp(bob(), 80)); got != drivertest.Passed {
			t.Errorf("without the rule the packet is %v", got)
		}
	}, func(c *Config) { c.Library = folder(dir) })
}

func TestEndOfAFilterPutAgainIsStale(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		p := r.secure(tcp(bob(), 80))
		for _, f := range r.fake.Filters() {
			if f.Overlay() {
				r.inject(driver.FilterEnded{ID: f.ID}) // it crossed the refresh
			}
		}
		r.out(ike.Ended{Pair: p.ID, Reason: "deleted by the peer"})
		r.pass(grace + 2*time.Second)
		if got := r.send(tcp(bob(), 80)); got != drivertest.Clear {
			t.Errorf("after the grace the packet is %v", got)
		}
	})
}

func TestListOfPeersInClearEndsWithSecurity(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		r.secure(tcp(bob(), 80))
		if s := r.status(); len(s.InClear) != 0 || len(s.Secured) != 1 {
			t.Errorf("in clear %+v", s.InClear)
		}
	})
}

const delayed = `apiVersion: ipsecagent/v1
kind: Policy
name: delayed
filterLists:
  all: [{from: me, to: any}]
filterActions:
  request:
    negotiate:
      methods: [esp-aes256gcm]
      allowClear: true
      clearDelay: 3s
rules:
  - {name: slow, filterList: all, filterAction: request, authentication: [psk]}
`

func TestDelayedFallBackHoldsThenPasses(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assignDocument(dir, "delayed", delayed)
		if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
			t.Fatalf("before the delay the packet is %v", got)
		}
		in := one[ike.Initiate](r)
		r.pass(4 * time.Second)
		if got := r.send(tcp(bob(), 80)); got != drivertest.Passed {
			t.Fatalf("after the delay the packet is %v", got)
		}
		if got := r.send(tcp(carol(), 80)); got != drivertest.Held {
			t.Errorf("another peer's packet is %v", got)
		}
		taken[ike.Initiate](r)
		s := r.status()
		if len(s.InClear) != 1 || s.InClear[0].Peer != "192.0.2.2" || !strings.Contains(s.InClear[0].Why, "3s") {
			t.Errorf("in clear %+v", s.InClear)
		}
		r.establish(in.Request, pairFor(in.Quick, bob()))
		if got := r.send(tcp(bob(), 80)); got != drivertest.Secured {
			t.Errorf("secured at last, the packet is %v", got)
		}
		if s := r.status(); len(s.InClear) != 0 {
			t.Errorf("in clear %+v", s.InClear)
		}
	}, func(c *Config) { c.Library = folder(dir) })
}

func TestSoftAssociationEnds(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assignDocument(dir, "delayed", delayed)
		r.send(tcp(bob(), 80))
		r.out(noAnswer(one[ike.Initiate](r)))
		if got := r.send(tcp(bob(), 80)); got != drivertest.Passed {
			t.Fatalf("after the failure the packet is %v", got)
		}
		r.pass(softLifetime + 2*time.Second)
		if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
			t.Errorf("after the soft association the packet is %v", got)
		}
		one[ike.Initiate](r)
	}, func(c *Config) { c.Library = folder(dir) })
}

func TestSoftAssociationEndsWithThePermission(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assignDocument(dir, "delayed", delayed)
		r.send(tcp(bob(), 80))
		r.out(noAnswer(one[ike.Initiate](r)))
		strict := strings.NewReplacer("allowClear: true", "allowClear: false", "      clearDelay: 3s\n", "").Replace(delayed)
		r.assignDocument(dir, "delayed", strict)
		if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
			t.Errorf("under the stricter policy the packet is %v", got)
		}
	}, func(c *Config) { c.Library = folder(dir) })
}

// asked is the quick mode bob proposes to alice.
func (r *rig) asked(port uint16) (ike.QuickOffer, error) {
	r.t.Helper()
	set := taken[ike.SetPolicy](r)
	if len(set) == 0 {
		r.t.Fatal("the key exchange has no policy")
	}
	sel := sadb.Selector{Local: sadb.Addr(alice()), Remote: sadb.Addr(bob()), Proto: sadb.TCP, RemotePorts: sadb.Port(port)}
	return set[len(set)-1].Policy.Quick(ike.QuickQuery{Local: alice(), Remote: bob(), Selector: sel, Proof: auth.Proof{Method: 1, Principal: "psk:default"}})
}

func TestDefaultResponseSecuresExactlyWhatWasAsked(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("client")
		offer, err := r.asked(80)
		if err != nil || !offer.DefaultResponse {
			t.Fatalf("offer %+v, %v", offer, err)
		}
		p := pairFor(offer, bob())
		in, _ := associationsOf(p)
		r.out(ike.Install{ID: 1, SA: in, Pair: p})
		if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
			t.Errorf("while the negotiation runs the packet is %v", got)
		}
		taken[ike.Installed](r)
		r.establish(0, p)
		if got := r.send(tcp(bob(), 80)); got != drivertest.Secured {
			t.Errorf("secured, the packet is %v", got)
		}
		if got := r.send(tcp(bob(), 81)); got != drivertest.Passed {
			t.Errorf("other traffic with the peer is %v", got)
		}
		none[ike.Initiate](r)
		r.out(ike.Ended{Pair: p.ID, Reason: "deleted by the peer"})
		if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
			t.Errorf("within the grace the packet is %v", got)
		}
		r.pass(grace + 2*time.Second)
		if got := r.send(tcp(bob(), 80)); got != drivertest.Passed {
			t.Errorf("after the grace the packet is %v", got)
		}
		none[ike.Initiate](r)
		if s := r.status(); len(s.InClear) != 1 || s.InClear[0].Rule != "default response" {
			t.Errorf("the return to clear is not listed: %+v", s.InClear)
		}
	})
}

func TestDefaultResponseIsCappedForEachPeer(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("client")
		set := last[ike.SetPolicy](r)
		for port := range uint16(maxResponses + 1) {
			sel := sadb.Selector{Local: sadb.Addr(alice()), Remote: sadb.Addr(bob()), Proto: sadb.UDP, LocalPorts: sadb.Port(port + 1)}
			offer, err := set.Policy.Quick(ike.QuickQuery{Local: alice(), Remote: bob(), Selector: sel, Proof: auth.Proof{Method: 1, Principal: "psk:default"}})
			if err != nil {
				t.Fatal(err)
			}
			p := pairFor(offer, bob())
			in, _ := associationsOf(p)
			r.out(ike.Install{ID: 1, SA: in, Pair: p})
			if got := one[ike.Installed](r); (got.Err != nil) != (port == maxResponses) {
				t.Errorf("temporary filter %d: %v", port, got.Err)
			}
		}
	})
}

func TestHalfPairsAreTakenDown(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		r.send(tcp(bob(), 80))
		p := pairFor(one[ike.Initiate](r).Quick, bob())
		in, _ := associationsOf(p)
		r.out(ike.Install{ID: 1, SA: in, Pair: p})
		if len(r.fake.SAs()) != 1 {
			t.Fatal("not installed")
		}
		r.pass(halfLife + time.Second)
		if len(r.fake.SAs()) != 0 {
			t.Error("an association without its pair stays for ever")
		}
	})
}

func TestClearWithoutPassThroughAdmitsTheAnswers(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assignDocument(dir, "delayed", strings.Replace(delayed, "      clearDelay: 3s\n", "", 1))
		if got := r.fake.Receive(tcp(bob(), 80), 100, sadb.SAID{}); got != drivertest.Dropped {
			t.Errorf("unasked, a clear packet is %v", got)
		}
		if got := r.send(tcp(bob(), 80)); got != drivertest.Clear {
			t.Fatalf("the first packet is %v", got)
		}
		if got := r.fake.Receive(tcp(bob(), 80), 100, sadb.SAID{}); got != drivertest.Passed {
			t.Errorf("the answer is %v", got)
		}
		in := one[ike.Initiate](r)
		if s := r.status(); len(s.InClear) == 0 {
			t.Error("not listed")
		}
		r.establish(in.Request, pairFor(in.Quick, bob()))
		if got := r.fake.Receive(tcp(bob(), 80), 100, sadb.SAID{}); got != drivertest.Dropped {
			t.Errorf("secured, a clear packet is %v", got)
		}
	}, func(c *Config) { c.Library = folder(dir) })
}
