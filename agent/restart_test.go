package agent

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
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

// TestAnAgentThatEndsTakesNothingOutOfForce: what policy requires stays
// required, and what is secured goes on, while no agent runs.
func TestAnAgentThatEndsTakesNothingOutOfForce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		r.secure(tcp(bob(), 80))
		filters, sas := r.fake.Filters(), r.fake.SAs()
		former := r.fake
		r.restart(former.Reopen())
		if len(filters) == 0 || len(sas) != 2 || len(former.Filters()) != len(filters) || len(former.SAs()) != len(sas) {
			t.Errorf("%d filters and %d associations were in force, %d and %d are left", len(filters), len(sas), len(former.Filters()), len(former.SAs()))
		}
	})
}

func TestRestartAdoptsAndRenews(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		p := r.secure(tcp(bob(), 80))
		r.pass(time.Minute)
		r.restart(nil)
		adopted := one[ike.Adopt](r)
		if adopted.Pair.ID != p.ID || adopted.Pair.Selector != p.Selector || len(adopted.Quick.Proposals) == 0 || len(adopted.Main.Suites) == 0 {
			t.Fatalf("adopted %+v", adopted)
		}
		if got := r.send(tcp(bob(), 80)); got != drivertest.Secured {
			t.Errorf("after the restart the packet is %v", got)
		}
		if s := r.status(); len(s.Secured) != 1 || s.Policy.Name != "server" {
			t.Errorf("status %+v", s)
		}
		none[ike.Initiate](r)
		r.pass(5 * time.Second)
		if k := one[ike.Rekey](r); k.Pair != p.ID {
			t.Errorf("renewed %v", k)
		}
	})
}

func TestRestartAdoptsOnlyWhatTheDriverConfirms(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		p := r.secure(tcp(bob(), 80))
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		r.stop = func() error { return nil }
		in, _ := associationsOf(p)
		in.Selector.Proto = sadb.UDP
		if err := r.fake.AddSA(t.Context(), in); err != nil {
			t.Fatal(err)
		}
		r.restart(nil)
		none[ike.Adopt](r)
		if len(r.fake.SAs()) != 0 {
			t.Errorf("in force %v", r.fake.SAs())
		}
	})
}

func TestRestartRetiresWhatWasReplaced(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		p := r.secure(tcp(bob(), 80))
		r.pass(time.Minute)
		q := pairFor(ike.QuickOffer{Filter: p.Filter, Selector: p.Selector, Proposals: []sadb.Proposal{{Suites: p.Suites, Lifetime: p.Lifetime}}}, bob())
		q.Replaces, q.Round = p.ID, p.Round+1
		r.establish(0, q)
		r.restart(nil)
		if got := taken[ike.Adopt](r); len(got) != 2 {
			t.Fatalf("%d pairs adopted", len(got))
		}
		r.pass(10 * time.Second)
		if k := one[ike.Rekey](r); k.Pair != q.ID {
			t.Errorf("renewed %v", k)
		}
		none[ike.Gone](r)
		r.pass(retireAfter)
		if gone := one[ike.Gone](r); gone.Pair != p.ID {
			t.Errorf("gone %v", gone)
		}
		if got := r.send(tcp(bob(), 80)); got != drivertest.Secured {
			t.Errorf("the packet is %v", got)
		}
	})
}

func TestRestartClaimsNothingToAdoptedPeers(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		p := r.secure(tcp(bob(), 80))
		r.pass(time.Minute)
		r.restart(nil)
		r.inject(driver.Acquire{Filter: p.Filter, Flow: tcp(bob(), 80)})
		r.send(tcp(carol(), 80))
		begun := taken[ike.Initiate](r)
		for _, in := range begun {
			if want := in.Remote == bob(); in.NoInitialContact != want {
				t.Errorf("with %s: no initial contact is %v", in.Remote, in.NoInitialContact)
			}
		}
		if len(begun) != 2 {
			t.Errorf("%d negotiations", len(begun))
		}
	})
}

func TestRestartRemakesWhatTheDriverLost(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		r.secure(tcp(bob(), 80))
		r.restart(drivertest.New(time.Now)) // as after a reboot
		none[ike.Adopt](r)
		r.pass(5 * time.Second)
		in := one[ike.Initiate](r)
		if in.Remote != bob() || in.NoInitialContact {
			t.Errorf("initiate %+v", in)
		}
		if s := r.status(); len(s.Secured) != 0 || s.Policy.Name != "secure-server" {
			t.Errorf("status %+v", s)
		}
	})
}

func TestRestartRemakesADefaultResponseOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("client")
		offer, err := r.asked(80)
		if err != nil {
			t.Fatal(err)
		}
		r.establish(0, pairFor(offer, bob()))
		r.restart(drivertest.New(time.Now))
		r.pass(5 * time.Second)
		in := one[ike.Initiate](r)
		if !in.Quick.DefaultResponse || in.Quick.Filter != offer.Filter {
			t.Errorf("initiate %+v", in.Quick)
		}
		r.out(noAnswer(in))
		r.pass(time.Hour)
		none[ike.Initiate](r)
	})
}

func TestRestartEndsTheProtectionOfWhatIsLost(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		p := r.secure(tcp(bob(), 80))
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		if err := r.fake.DeleteSA(t.Context(), p.In[0]); err != nil {
			t.Fatal(err)
		}
		r.stop = func() error { return nil }
		r.restart(nil)
		if len(r.fake.SAs()) != 0 {
			t.Error("the half of a pair stays")
		}
		r.pass(5 * time.Second)
		r.out(noAnswer(one[ike.Initiate](r)))
		if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
			t.Errorf("within the grace the packet is %v", got)
		}
		r.pass(grace)
		if got := r.send(tcp(bob(), 80)); got != drivertest.Clear {
			t.Errorf("after the grace the packet is %v", got)
		}
	})
}

// killed ends the agent as if by a signal, with the state file as it was when
// something else had been written.
func (r *rig) killed(state []byte) {
	r.t.Helper()
	if err := r.stop(); err != nil {
		r.t.Fatal(err)
	}
	r.stop = func() error { return nil }
	if err := os.WriteFile(r.cfg.StateFile, state, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) stateFile() []byte {
	r.t.Helper()
	state, err := os.ReadFile(r.cfg.StateFile)
	if err != nil {
		r.t.Fatal(err)
	}
	return state
}

func TestKilledBeforeItWroteAdopts(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		state := r.stateFile()
		p := r.secure(tcp(bob(), 80))
		q := r.secure(tcp(carol(), 80)) // within the time that gathers writes
		r.killed(state)
		r.restart(nil)
		adopted := taken[ike.Adopt](r)
		slices.SortFunc(adopted, func(a, b ike.Adopt) int { return a.Pair.Remote.Compare(b.Pair.Remote) })
		for i, want := range []sadb.Pair{p, q} {
			if len(adopted) != 2 || !reflect.DeepEqual(recordOf(adopted[i].Pair).write(), recordOf(want).write()) {
				t.Fatalf("adopted %+v", adopted)
			}
			if got := r.send(tcp(want.Remote, 80)); got != drivertest.Secured {
				t.Errorf("to %s the packet is %v", want.Remote, got)
			}
		}
		r.restart(nil)
		if again := taken[ike.Adopt](r); len(again) != 2 {
			t.Errorf("the next agent adopts %d pairs", len(again))
		}
	})
}

// What is written down beside an association proves nothing that the driver
// and policy do not.
func TestWhatIsWrittenDownDoesNotDecide(t *testing.T) {
	for _, spoil := range []func(in, out *sadb.SA){
		func(_, out *sadb.SA) { out.Record = "" },
		func(_, out *sadb.SA) { out.Record = out.Record[:len(out.Record)/2] },
		func(in, _ *sadb.SA) { in.Selector.Proto = sadb.UDP },
		func(_, out *sadb.SA) {
			out.Record = strings.Replace(out.Record, auth.PSK.String(), auth.Kerberos.String(), 1)
		},
	} {
		inBubble(t, func(t *testing.T, r *rig) {
			r.assign("secure-server")
			state := r.stateFile()
			p := r.secure(tcp(bob(), 80))
			sas := r.fake.SAs()
			r.killed(state)
			in, out := associationsOf(p)
			for _, sa := range sas {
				if sa.Dir == sadb.Out {
					out.Record = sa.Record
				}
			}
			if out.Record == "" {
				t.Fatal("nothing is written down")
			}
			spoil(&in, &out)
			for _, sa := range []sadb.SA{in, out} {
				if err := r.fake.AddSA(t.Context(), sa); err != nil {
					t.Fatal(err)
				}
			}
			r.restart(nil)
			none[ike.Adopt](r)
			if left := r.fake.SAs(); len(left) != 0 {
				t.Errorf("in force %+v", left)
			}
			if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
				t.Errorf("the packet is %v", got)
			}
			r.pass(5 * time.Second)
			if begun := one[ike.Initiate](r); begun.Remote != bob() || begun.NoInitialContact {
				t.Errorf("initiate %+v", begun)
			}
		})
	}
}

// A peer that has started anew may choose an SPI that it had before: the former
// pair ends and the association of the new one stays.
func TestAPeerGivesAnSPIAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		p := r.secure(tcp(bob(), 80))
		r.pass(time.Minute)
		state := r.stateFile() // it knows p alone
		q := pairFor(ike.QuickOffer{Filter: p.Filter, Selector: p.Selector, Proposals: []sadb.Proposal{{Suites: p.Suites, Lifetime: p.Lifetime}}}, bob())
		q.Out, q.Round = p.Out, p.Round+1
		r.establish(0, q)
		if gone := one[ike.Gone](r); gone.Pair != p.ID {
			t.Errorf("gone %v", gone)
		}
		for _, when := range []string{"at once", "when the former has ended", "after kill -9"} {
			if got := r.send(tcp(bob(), 80)); got != drivertest.Secured {
				t.Errorf("%s the packet is %v", when, got)
			}
			if s := r.status(); len(s.Secured) != 1 {
				t.Errorf("%s %d pairs are shown", when, len(s.Secured))
			}
			if when == "at once" {
				r.pass(time.Minute)
				continue
			}
			r.killed(state)
			r.restart(nil)
			if adopted := one[ike.Adopt](r); adopted.Pair.ID != q.ID {
				t.Errorf("adopted %+v", adopted.Pair)
			}
			r.pass(retireAfter + time.Minute)
		}
		if left := r.fake.SAs(); len(left) != 2 {
			t.Errorf("in force %+v", left)
		}
	})
}

// Of two peers behind one translator neither takes the other's place by its SPI.
func TestAPeerGivesTheSPIOfAnother(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		p := r.secure(tcp(bob(), 80))
		q := pairFor(ike.QuickOffer{Filter: p.Filter, Selector: p.Selector, Proposals: []sadb.Proposal{{Suites: p.Suites, Lifetime: p.Lifetime}}}, bob())
		q.Out, q.Principal = p.Out, "psk:mallory"
		_, out := associationsOf(q)
		r.out(ike.Install{ID: 7, SA: out, Pair: q})
		if got := one[ike.Installed](r); got.Err == nil || !strings.Contains(got.Err.Error(), p.Principal) {
			t.Errorf("installed %+v", got)
		}
		none[ike.Gone](r)
		if left := r.fake.SAs(); len(left) != 2 || left[0].Pair != p.ID || left[1].Pair != p.ID {
			t.Errorf("in force %+v", left)
		}
		if got := r.send(tcp(bob(), 80)); got != drivertest.Secured {
			t.Errorf("the packet is %v", got)
		}
		if s := r.status(); len(s.Secured) != 1 {
			t.Errorf("secured %+v", s.Secured)
		}
	})
}

func TestRestartSweepsWhatNobodyKnows(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		p := r.secure(tcp(bob(), 80))
		stray, _ := associationsOf(pairFor(ike.QuickOffer{Filter: p.Filter, Selector: p.Selector, Proposals: []sadb.Proposal{{Suites: p.Suites}}}, carol()))
		if err := r.fake.AddSA(t.Context(), stray); err != nil {
			t.Fatal(err)
		}
		r.restart(nil)
		if got := r.fake.SAs(); len(got) != 2 || got[0].Pair != p.ID {
			t.Errorf("in force: %v", got)
		}
	})
}

func TestRestartAfterTheFileBrokeUsesItsKeptCopy(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assignDocument(dir, "delayed", delayed)
		before := r.fake.Filters()
		if err := os.WriteFile(filepath.Join(dir, "delayed.yaml"), []byte("kind: Nonsense\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		r.restart(drivertest.New(time.Now))
		after := r.fake.Filters()
		if len(after) != len(before) || after[0] != before[0] {
			t.Fatalf("filters %v, before %v", after, before)
		}
		s := r.status()
		if s.Policy.Name != "delayed" || !strings.Contains(s.Policy.Error, "does not load") || len(s.Problems) == 0 {
			t.Errorf("status %+v, problems %q", s.Policy, s.Problems)
		}
		r.assignDocument(dir, "delayed", delayed)
		if s := r.status(); s.Policy.Error != "" || len(s.Problems) != 0 {
			t.Errorf("mended, the status is %+v, problems %q", s.Policy, s.Problems)
		}
	}, func(c *Config) { c.Library = folder(dir) })
}

func TestDamagedStateOpensNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		before := r.fake.Filters()
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(r.cfg.StateFile, []byte(strings.Repeat("not a database", 4096)), 0o600); err != nil {
			t.Fatal(err)
		}
		r.fake.Close()
		r.fake = r.fake.Reopen()
		r.cfg.Driver = r.fake
		r.run()
		if after := r.fake.Filters(); len(after) != len(before) {
			t.Errorf("filters %v, before %v", after, before)
		}
		s := r.status()
		if len(s.Problems) != 2 || !strings.Contains(strings.Join(s.Problems, " "), "damaged") || s.Policy.State != "held" {
			t.Errorf("problems %q, policy %+v", s.Problems, s.Policy)
		}
		if w, err := r.agent.Why(t.Context(), bob()); err != nil || w.State != control.PeerHeld {
			t.Errorf("why: %q, %q, %v", w.State, w.Words, err)
		}
		if v, err := r.agent.Explain(t.Context(), control.ExplainRequest{Flow: "tcp me -> 192.0.2.2:80"}); err == nil {
			t.Errorf("a packet is explained by filters that nobody knows: %+v", v)
		}
		aside, err := filepath.Glob(r.cfg.StateFile + ".damaged-*")
		if err != nil || len(aside) != 1 {
			t.Errorf("set aside: %v, %v", aside, err)
		}
		r.assign("server")
		if s := r.status(); len(s.Problems) != 0 || s.Policy.Name != "server" {
			t.Errorf("assigned again: %+v, %q", s.Policy, s.Problems)
		}
	})
}

func TestUnassignedStaysUnassigned(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		if _, err := r.agent.Unassign(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.restart(nil)
		if s := r.status(); s.Policy.State != "none" || len(s.Problems) != 0 {
			t.Errorf("status %+v, problems %q", s.Policy, s.Problems)
		}
	})
}

func TestSecondAgentOnTheSameStateIsRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		_, err := New(r.cfg)
		if err == nil || !strings.Contains(err.Error(), "another ipsecagent") {
			t.Errorf("New: %v", err)
		}
	})
}

func TestSoftLifetimeRekeysUntilReplaced(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		p := r.secure(tcp(bob(), 80))
		r.pass(p.Lifetime.Time*9/10 + 2*time.Second)
		if k := one[ike.Rekey](r); k.Pair != p.ID {
			t.Fatalf("rekey %v", k)
		}
		r.pass(2 * rekeyAgain)
		if len(taken[ike.Rekey](r)) == 0 {
			t.Error("a rekey that brought nothing is not asked for again")
		}
		set := last[ike.SetPolicy](r)
		offer, err := set.Policy.Quick(ike.QuickQuery{Local: alice(), Remote: bob(), Selector: p.Selector, Proof: auth.Proof{Method: 1, Principal: "psk:default"}})
		if err != nil {
			t.Fatal(err)
		}
		q := pairFor(offer, bob())
		q.Replaces = p.ID
		r.establish(0, q)
		r.out(ike.Ended{Pair: p.ID, Reason: "replaced"})
		r.pass(3 * rekeyAgain)
		none[ike.Rekey](r)
		none[ike.Gone](r)
		if s := r.status(); len(s.Secured) != 1 || len(r.fake.SAs()) != 2 {
			t.Errorf("secured %+v", s.Secured)
		}
		if got := r.fake.Receive(tcp(bob(), 80), 100, sadb.SAID{}); got != drivertest.Dropped {
			t.Errorf("clear from a secured peer is %v", got)
		}
	})
}

func TestHardLifetimeEndsAPair(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		p := r.secure(tcp(bob(), 80))
		r.pass(p.Lifetime.Time + 2*time.Second)
		if gone := one[ike.Gone](r); gone.Pair != p.ID {
			t.Errorf("gone %v", gone)
		}
		if s := r.status(); len(s.Secured) != 0 || len(r.fake.SAs()) != 0 {
			t.Errorf("secured %+v, in force %v", s.Secured, r.fake.SAs())
		}
		if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
			t.Errorf("afterwards the packet is %v", got)
		}
	})
}

func TestLostAddressEndsItsPairs(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		p := r.secure(tcp(bob(), 80))
		r.move(alice(), carol())
		none[ike.Gone](r)
		r.move(carol())
		if gone := one[ike.Gone](r); gone.Pair != p.ID {
			t.Errorf("gone %v", gone)
		}
	})
}

func TestChangedFileIsPutInForceOrRefusedWhole(t *testing.T) {
	dir := t.TempDir()
	hints := make(chan chan struct{}, 1)
	inBubble(t, func(t *testing.T, r *rig) {
		changed := <-hints
		r.assignDocument(dir, "delayed", delayed)
		write := func(document string) {
			if err := os.WriteFile(filepath.Join(dir, "delayed.yaml"), []byte(document), 0o600); err != nil {
				t.Fatal(err)
			}
			changed <- struct{}{}
			r.pass(time.Second)
		}
		write(strings.NewReplacer("slow", "", "methods", "metods", "to: any", "to: anybody").Replace(delayed))
		if got := r.events(control.EventPolicyRejected); len(got) < 3 {
			t.Errorf("problems reported: %q", got)
		}
		if s := r.status(); s.Policy.Name != "delayed" || s.Policy.Error == "" {
			t.Errorf("status %+v", s.Policy)
		}
		if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
			t.Errorf("under the last good policy the packet is %v", got)
		}
		write(strings.Replace(delayed, "request, authentication: [psk]", "permit", 1))
		if s := r.status(); s.Policy.Error != "" {
			t.Errorf("status %+v", s.Policy)
		}
		if got := r.send(tcp(bob(), 80)); got != drivertest.Passed {
			t.Errorf("under the new policy the packet is %v", got)
		}
	}, func(c *Config) {
		c.Library = folder(dir)
		changed := make(chan struct{}, 1)
		c.Library.Changed = changed
		hints <- changed
	})
}
