package agent

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/auth"
	"ipsecagent/driver"
	"ipsecagent/driver/drivertest"
	"ipsecagent/host"
	"ipsecagent/ike"
	"ipsecagent/sadb"
)

func TestRequiredTrafficIsHeldNegotiatedAndSecured(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		result := r.assign("secure-server")
		if result.Policy != "secure-server" || result.Filters == 0 || len(r.keys) != 1 {
			t.Fatalf("assigned: %+v", result)
		}
		if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
			t.Fatalf("before an association the packet is %v", got)
		}
		in := one[ike.Initiate](r)
		if in.Local != alice() || in.Remote != bob() || in.NoInitialContact {
			t.Errorf("initiate %+v", in)
		}
		if want := "192.0.2.1 <-> 192.0.2.2 any"; in.Quick.Selector.String() != want {
			t.Errorf("selector %s, want %s", in.Quick.Selector, want)
		}
		r.out(ike.ReserveSPI{ID: 7, Src: bob(), Dst: alice(), Proto: sadb.ESP})
		if got := one[ike.SPIReserved](r); got.ID != 7 || got.Err != nil || got.SPI < 256 {
			t.Errorf("reserved %+v", got)
		}
		p := pairFor(in.Quick, bob())
		r.establish(in.Request, p)
		if got := r.send(tcp(bob(), 80)); got != drivertest.Secured {
			t.Errorf("with an association the packet is %v", got)
		}
		s := r.status()
		if len(s.Secured) != 1 || s.Secured[0].Peer != "192.0.2.2" || s.Secured[0].PacketsOut != 1 || s.Secured[0].Principal != "psk:default" {
			t.Errorf("secured %+v", s.Secured)
		}
		if len(s.Negotiating) != 0 || len(s.Problems) != 0 || len(r.events(control.EventSAUp)) != 1 {
			t.Errorf("negotiating %v, problems %v", s.Negotiating, s.Problems)
		}
	})
}

func TestOneNegotiationForOneFilterAndPeer(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		r.send(tcp(bob(), 80))
		first := one[ike.Initiate](r)
		f := r.fake.Filters()
		for _, e := range f {
			if e.ID == first.Quick.Filter {
				r.inject(acquireFor(e, tcp(bob(), 443)))
			}
		}
		none[ike.Initiate](r)
		r.send(tcp(carol(), 80))
		if got := one[ike.Initiate](r); got.Remote != carol() {
			t.Errorf("second negotiation with %s", got.Remote)
		}
	})
}

func TestRequiredTrafficIsDroppedAndTriedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		r.send(tcp(bob(), 80))
		in := one[ike.Initiate](r)
		r.out(ike.Failed{Request: in.Request, Local: alice(), Remote: bob(), Filter: in.Quick.Filter, Step: "main mode message 1",
			Reason: "the peer did not answer", Code: ike.FailNoAnswer, Silence: true})
		s := r.status()
		if len(s.Failures) != 1 || s.Failures[0].Code != "no-answer" || !s.Failures[0].Retry.After(time.Now()) {
			t.Fatalf("failures %+v", s.Failures)
		}
		if len(s.InClear) != 0 {
			t.Errorf("in clear: %+v", s.InClear)
		}
		none[ike.Initiate](r)
		r.pass(time.Minute)
		none[ike.Initiate](r) // no traffic, no attempt
		if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
			t.Errorf("the packet after the failure is %v", got)
		}
		one[ike.Initiate](r)
	})
}

func TestRetryWaitsForItsTime(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		r.send(tcp(bob(), 80))
		in := one[ike.Initiate](r)
		r.out(failedAuth(in))
		r.send(tcp(bob(), 80))
		none[ike.Initiate](r) // asked, but not yet
		r.pass(5 * time.Second)
		again := one[ike.Initiate](r)
		if again.Request == in.Request {
			t.Error("the second attempt has the first one's number")
		}
	})
}

func TestUnassignTakesEverythingDown(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		p := r.secure(tcp(bob(), 80))
		result, err := r.agent.Unassign(t.Context())
		if err != nil || result.Policy != "" || result.Filters != 0 {
			t.Fatalf("unassign: %+v, %v", result, err)
		}
		if gone := one[ike.Gone](r); gone.Pair != p.ID {
			t.Errorf("gone %v", gone)
		}
		if c := one[ike.Close](r); !c.Main {
			t.Errorf("close %+v", c)
		}
		if len(r.fake.SAs()) != 0 || len(r.fake.Filters()) != 0 {
			t.Errorf("left: %v, %v", r.fake.SAs(), r.fake.Filters())
		}
		if got := r.send(tcp(bob(), 80)); got != drivertest.Passed {
			t.Errorf("without policy the packet is %v", got)
		}
		if s := r.status(); s.Policy.State != "none" || len(s.Secured) != 0 {
			t.Errorf("status %+v", s.Policy)
		}
	})
}

func TestReloadOfTheSameChangesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		r.secure(tcp(bob(), 80))
		before, applied := r.fake.Filters(), r.status().Policy.Applied
		r.pass(time.Second)
		for range 3 {
			if _, err := r.agent.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if after := r.fake.Filters(); len(after) != len(before) {
			t.Errorf("filters %v, before %v", after, before)
		}
		if r.status().Policy.Applied != applied || len(r.fake.SAs()) != 2 || len(r.events(control.EventPolicyApplied)) != 1 {
			t.Error("a reload of the same policy counts as a change")
		}
		none[ike.Gone](r)
	})
}

func TestAnotherPolicySweepsWhatItDoesNotWant(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		p := r.secure(tcp(bob(), 80))
		r.send(tcp(carol(), 80))
		pending := one[ike.Initiate](r)
		r.assign("client")
		if gone := one[ike.Gone](r); gone.Pair != p.ID {
			t.Errorf("gone %v", gone)
		}
		if c := one[ike.Cancel](r); c.Request != pending.Request {
			t.Errorf("cancelled %v", c)
		}
		in, _ := associationsOf(pairFor(pending.Quick, carol()))
		r.out(ike.Install{ID: 9, SA: in, Pair: pairFor(pending.Quick, carol())})
		if got := one[ike.Installed](r); got.Err == nil {
			t.Error("an association of the former policy was installed")
		}
		if len(r.fake.SAs()) != 0 {
			t.Errorf("left: %v", r.fake.SAs())
		}
	})
}

func TestBadRequestsChangeNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		before := r.fake.Filters()
		cases := []struct {
			request control.AssignRequest
			code    control.Code
			words   string
		}{
			{control.AssignRequest{}, control.Usage, "no policy is named"},
			{control.AssignRequest{Policy: "client", Auth: "ntlm"}, control.Usage, "not known"},
			{control.AssignRequest{Policy: "client", Auth: "psk-file"}, control.Usage, "empty"},
			{control.AssignRequest{Policy: "client", Keys: "k"}, control.Usage, "--auth"},
			{control.AssignRequest{Policy: "nowhere"}, control.NotFound, "nowhere"},
			{control.AssignRequest{Policy: "client"}, control.Invalid, "psk-file"},
			{control.AssignRequest{Policy: "client", Auth: "psk-file", Keys: "bad"}, control.Invalid, "too short"},
		}
		for _, c := range cases {
			_, err := r.agent.Assign(t.Context(), c.request)
			var e *control.Error
			if !errors.As(err, &e) || e.Code != c.code || !strings.Contains(e.Message, c.words) {
				t.Errorf("%+v: %v", c.request, err)
			}
		}
		if len(r.fake.Filters()) != len(before) || r.status().Policy.Name != "server" {
			t.Error("a refused request has changed the policy")
		}
	}, func(c *Config) { c.Unusable = onlyPSK })
}

func TestDriverThatRefusesLeavesTheFormerPolicy(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		r.fake.FailNext(errors.New("no room"))
		_, err := r.agent.Assign(t.Context(), control.AssignRequest{Policy: "secure-server", Auth: "psk-file", Keys: "a key"})
		if err == nil || !strings.Contains(err.Error(), "no room") {
			t.Fatalf("assign: %v", err)
		}
		if s := r.status(); s.Policy.Name != "server" {
			t.Errorf("in force: %+v", s.Policy)
		}
	})
}

func TestLinkLocalPeersAreKnownByTheirZone(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		local, remote := netip.MustParseAddr("fe80::1"), netip.MustParseAddr("fe80::2")
		r.facts.mu.Lock()
		r.facts.now = host.Facts{Addresses: []netip.Addr{local}, Interfaces: []host.Interface{{Name: "eth0", Up: true, Addresses: []netip.Addr{local}}}}
		r.facts.mu.Unlock()
		if _, err := r.agent.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.assign("secure-server")
		flow := sadb.Flow{Local: local, LocalMe: true, Remote: remote, Proto: sadb.TCP, RemotePort: 80}
		r.send(flow)
		in := one[ike.Initiate](r)
		if in.Local != local.WithZone("eth0") || in.Remote != remote.WithZone("eth0") {
			t.Fatalf("initiate between %s and %s", in.Local, in.Remote)
		}
		p := pairFor(in.Quick, in.Remote)
		p.Local, p.In[0].Dst = in.Local, in.Local
		r.establish(in.Request, p)
		r.inject(driver.Used{ID: sadb.SAID{Dst: local, Proto: sadb.ESP, SPI: p.In[0].SPI}})
		if used := one[ike.Used](r); used.ID != p.In[0] {
			t.Errorf("used %v, want %v", used.ID, p.In[0])
		}
		r.inject(driver.Expire{ID: sadb.SAID{Dst: remote, Proto: sadb.ESP, SPI: p.Out[0].SPI}})
		if k := one[ike.Rekey](r); k.Pair != p.ID {
			t.Errorf("rekey %v", k)
		}
		r.inject(driver.Resync{Reason: "test"})
		if len(r.status().Secured) != 1 {
			t.Error("the pair is not found in the driver")
		}
	})
}

func TestRefusedAssignmentIsReported(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		if _, err := r.agent.Assign(t.Context(), control.AssignRequest{Policy: "server"}); err == nil {
			t.Fatal("assigned without any way to prove an identity")
		} else if !strings.Contains(err.Error(), "no key table") || !strings.Contains(err.Error(), "psk-file:FILE") {
			t.Errorf("error %v", err)
		}
		if got := r.events(control.EventPolicyRejected); len(got) == 0 {
			t.Error("no event")
		}
		if s := r.status(); s.Policy.State != "none" || len(s.Problems) != 0 {
			t.Errorf("status %+v, %q", s.Policy, s.Problems)
		}
	}, func(c *Config) { c.Unusable = onlyPSK })
}

// onlyPSK is a host that has preshared keys and nothing else.
func onlyPSK(r auth.Requirement) string {
	if r.Method == auth.PSK {
		return ""
	}
	return "this host has no key table"
}

func TestDroppedDatagramsAreCounted(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.out(ike.Dropped{Remote: addrPort(bob()), Reason: "not ISAKMP", Count: 3})
		r.out(ike.Dropped{Remote: addrPort(bob()), Reason: "not ISAKMP", Count: 4})
		r.out(ike.Dropped{Reason: ike.InternalError + ": runtime error", Count: 2})
		counters := r.status().DataPath.Counters
		if got := counters["ikeDropped"]; got != 9 {
			t.Errorf("%d counted", got)
		}
		if got := counters["ikeInternalErrors"]; got != 2 {
			t.Errorf("%d panics counted", got)
		}
	})
}

func TestTamperingIsReported(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.inject(driver.Tampered{What: "ip rule 900", Restored: false})
		if s := r.status(); len(s.Problems) != 1 {
			t.Errorf("problems %q", s.Problems)
		}
		r.inject(driver.Tampered{What: "ip rule 900", Restored: true})
		if s := r.status(); len(s.Problems) != 0 || len(r.events(control.EventTampered)) != 2 {
			t.Errorf("problems %q", s.Problems)
		}
	})
}

func TestTooManyNegotiationsOfProvenPeersWaitTheirTurn(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		var filter sadb.FilterID
		for i := range maxTalks + 10 {
			remote := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			r.out(ike.MainMode{SA: ike.ISAKMPSA{Local: addrPort(alice()), Remote: addrPort(remote), Initiator: true}})
			if i == 0 { // the driver makes one, the others are made up
				r.send(tcp(remote, 80))
				filter = one[ike.Initiate](r).Quick.Filter
				continue
			}
			r.inject(driver.Acquire{Filter: filter, Flow: tcp(remote, 80)})
		}
		if n := len(taken[ike.Initiate](r)); n != maxRunning-1 {
			t.Errorf("%d more negotiations run", n)
		}
		if n := len(r.status().Negotiating); n != maxTalks {
			t.Errorf("%d negotiations are remembered", n)
		}
		r.out(ike.Failed{Request: 1, Local: alice(), Remote: netip.MustParseAddr("10.0.0.0"), Filter: filter, Code: ike.FailNoAnswer, Reason: "no answer"})
		r.pass(3 * time.Second)
		if n := len(taken[ike.Initiate](r)); n != 1 {
			t.Errorf("%d began in the free place", n)
		}
	})
}

func TestNothingIsNegotiatedWithMulticast(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		for _, remote := range []string{"224.0.0.1", "255.255.255.255", "0.0.0.0", "ff02::1", "127.0.0.1"} {
			r.send(tcp(netip.MustParseAddr(remote), 80))
		}
		none[ike.Initiate](r)
	})
}

func TestPairOfAFormerPolicyIsNotBooked(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		r.send(tcp(bob(), 80))
		in := one[ike.Initiate](r)
		p := pairFor(in.Quick, bob())
		for i, sa := range sasOf(p) {
			r.out(ike.Install{ID: uint64(i), SA: sa, Pair: p})
		}
		r.assign("client")
		r.out(ike.Established{Request: in.Request, Pair: p})
		if gone := one[ike.Gone](r); gone.Pair != p.ID {
			t.Errorf("gone %v", gone)
		}
		if len(r.fake.SAs()) != 0 || len(r.status().Secured) != 0 {
			t.Errorf("in force %v", r.fake.SAs())
		}
	})
}
