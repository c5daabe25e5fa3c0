package agent

import (
	"strings"
	"testing"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/driver/drivertest"
	"ipsecagent/ike"
	"ipsecagent/sadb"
)

// rollout requires security with everybody and blocks carol; synctest begins in
// the year 2000.
const rollout = `apiVersion: ipsecagent/v1
kind: Policy
name: rollout
mode: report
reportUntil: 2000-01-03T00:00:00Z
filterLists:
  all: [{from: me, to: any}]
  carol: [{from: me, to: 192.0.2.3}]
filterActions:
  require: {negotiate: {methods: [esp-aes256gcm]}}
rules:
  - {name: everything, filterList: all, filterAction: require, authentication: [psk]}
  - {name: carol, filterList: carol, filterAction: block}
defaultResponse: {active: true, authentication: [psk]}
`

func (r *rig) report() control.Report {
	r.t.Helper()
	v, err := r.agent.Reported(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

// TestReportModeNeverBlocksWhatARuleWantsSecured is its first promise; the second
// is that it says what it would have blocked.
func TestReportModeNeverBlocksWhatARuleWantsSecured(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.mustApply(rollout, 0)
		if got := r.send(tcp(bob(), 80)); got != drivertest.Clear {
			t.Errorf("without an association the packet is %v", got)
		}
		if got := r.fake.Receive(tcp(bob(), 80), 100, sadb.SAID{}); got != drivertest.Clear {
			t.Errorf("in clear, a packet is %v", got)
		}
		if got := r.send(tcp(carol(), 80)); got != drivertest.Dropped {
			t.Errorf("what a rule blocks is %v", got)
		}
		r.out(noAnswer(one[ike.Initiate](r)))
		r.send(tcp(bob(), 80))
		v := r.report()
		if len(v.Rules) != 1 || v.Rules[0].Rule != "everything" || v.Rules[0].Enforced != "require security" {
			t.Errorf("rules %+v", v.Rules)
		}
		if len(v.Blocked) != 1 || v.Blocked[0].Peer != "192.0.2.2" || v.Blocked[0].Sent != 2 || v.Blocked[0].Received != 1 ||
			v.Blocked[0].Rule != "everything" || !strings.Contains(v.Blocked[0].Why, "did not answer") {
			t.Errorf("would have been blocked: %+v", v.Blocked)
		}
	})
}

func TestReportModeIsLoud(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		if got := r.mustApply(rollout, 0).Warnings; len(got) == 0 || !strings.HasPrefix(got[0], "REPORT ONLY: ") {
			t.Errorf("who applies it is told %q", got)
		}
		r.send(tcp(bob(), 80))
		s := r.status()
		if len(s.Problems) == 0 || !strings.HasPrefix(s.Problems[0], "REPORT ONLY") || !strings.Contains(s.Problems[0], "1 peer") || s.Report == nil || s.Report.Peers != 1 {
			t.Errorf("problems %q, report %+v", s.Problems, s.Report)
		}
		r.pass(30 * time.Hour)
		if got := r.events(control.EventReport); len(got) != 2 {
			t.Errorf("in 30 hours it was said %d times: %q", len(got), got)
		}
		v, err := r.agent.Policy(t.Context(), "", true)
		if err != nil {
			t.Fatal(err)
		}
		marked := 0
		for _, f := range v.Filters {
			if strings.Contains(f.Action, "REPORT ONLY until 2000-01-03 (then: require security)") {
				marked++
			}
		}
		if marked != 1 {
			t.Errorf("%d filters are marked", marked)
		}
		x, err := r.agent.Explain(t.Context(), control.ExplainRequest{Flow: "tcp me=192.0.2.1 -> 192.0.2.2:80"})
		if err != nil || !strings.Contains(x.Outcome, "report: in clear it would have been blocked") {
			t.Errorf("explained %q, %v", x.Outcome, err)
		}
	})
}

// TestReportModeEndsAtItsTime: nobody has to do anything, and traffic in clear
// ends.
func TestReportModeEndsAtItsTime(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.mustApply(rollout, 0)
		r.send(tcp(bob(), 80))
		r.out(noAnswer(one[ike.Initiate](r)))
		r.pass(48*time.Hour + time.Second)
		if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
			t.Errorf("after its time the packet is %v", got)
		}
		if got := r.fake.Receive(tcp(bob(), 80), 100, sadb.SAID{}); got != drivertest.Dropped {
			t.Errorf("in clear, a packet is %v", got)
		}
		if s := r.status(); s.Report != nil || len(r.report().Rules) != 0 {
			t.Errorf("status %+v", s.Report)
		}
		said := r.events(control.EventReport)
		if len(said) == 0 || !strings.Contains(said[len(said)-1], "report mode has ended") || !strings.Contains(said[len(said)-1], "1 peer") {
			t.Errorf("events %q", said)
		}
		r.restart(nil) // and it does not come back
		if got := r.send(tcp(bob(), 80)); got != drivertest.Held {
			t.Errorf("after a restart the packet is %v", got)
		}
		if _, err := r.agent.Assign(t.Context(), control.AssignRequest{Policy: "rollout"}); codeOf(err) != control.Invalid || !strings.Contains(err.Error(), "report mode has ended") {
			t.Errorf("assigned after its time: %v", err)
		}
	})
}

// TestReportModeDoesNotCountWhatIsSecured: what only waited for its association
// would not have been blocked.
func TestReportModeDoesNotCountWhatIsSecured(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.mustApply(rollout, 0)
		p := r.secure(tcp(bob(), 80))
		if v := r.report(); len(v.Blocked) != 0 {
			t.Errorf("would have been blocked: %+v", v.Blocked)
		}
		if got := r.send(tcp(bob(), 80)); got != drivertest.Secured {
			t.Errorf("secured, the packet is %v", got)
		}
		// A peer that has shown it can do better and sends in clear all the
		// same would have been dropped; here it is not.
		r.pass(5 * time.Second)
		if got := r.fake.Receive(tcp(bob(), 80), 100, sadb.SAID{}); got != drivertest.Clear {
			t.Errorf("in clear from a secured peer: %v", got)
		}
		if v := r.report(); len(v.Blocked) != 1 || v.Blocked[0].Received != 1 {
			t.Errorf("would have been blocked: %+v", v.Blocked)
		}
		r.out(ike.Ended{Pair: p.ID, Reason: "deleted by the peer"})
		if got := r.send(tcp(bob(), 80)); got != drivertest.Clear {
			t.Errorf("after its association the packet is %v", got)
		}
	})
}

// TestReportModeCountsOn: the data path forgets, the report does not.
func TestReportModeCountsOn(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.mustApply(rollout, 0)
		for range 3 {
			r.send(tcp(bob(), 80))
			r.pass(2 * reportEvery)
		}
		if v := r.report(); len(v.Blocked) != 1 || v.Blocked[0].Sent != 3 || !v.Blocked[0].Last.After(v.Blocked[0].First) {
			t.Errorf("%+v", v.Blocked)
		}
	})
}

// TestReportModeOutlivesARestart: what was counted and when it was last said.
func TestReportModeOutlivesARestart(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.mustApply(rollout, 0)
		r.send(tcp(bob(), 80))
		r.out(noAnswer(one[ike.Initiate](r)))
		before := r.report()
		r.pass(time.Hour)
		r.restart(nil)
		if v := r.report(); len(v.Blocked) != 1 || v.Blocked[0].Sent != before.Blocked[0].Sent || !v.Blocked[0].First.Equal(before.Blocked[0].First) {
			t.Errorf("%+v, before %+v", v.Blocked, before.Blocked)
		}
		if got := r.events(control.EventReport); len(got) != 0 {
			t.Errorf("said again: %q", got)
		}
		r.assign("server") // ends it
		r.mustApply(rollout, 0)
		if v := r.report(); len(v.Blocked) != 0 {
			t.Errorf("begun anew: %+v", v.Blocked)
		}
	})
}

// TestReportModeToEnforcedKeepsPairsSecured: a pair from before is protected as
// its rule says from then on.
func TestEnforcedAfterReportKeepsPairsSecured(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		request := strings.Replace(rollout, "{methods: [esp-aes256gcm]}", "{methods: [esp-aes256gcm], allowClear: true, acceptUnsecured: true}", 1)
		r.mustApply(request, 0)
		r.secure(tcp(bob(), 80))
		if _, err := r.agent.Apply(t.Context(), control.ApplyRequest{Replace: true,
			Document: strings.NewReplacer("mode: report\n", "", "reportUntil: 2000-01-03T00:00:00Z\n", "").Replace(request)}); err != nil {
			t.Fatal(err)
		}
		if got := r.fake.Receive(tcp(bob(), 80), 100, sadb.SAID{}); got != drivertest.Dropped {
			t.Errorf("in clear from a secured peer: %v", got)
		}
	})
}

func TestWhatEnforcingWouldBlock(t *testing.T) {
	for _, tt := range []struct {
		enforced              sadb.Action
		inbound, sent, blocks bool
	}{
		{sadb.Action{Kind: sadb.Negotiate}, false, true, true},
		{sadb.Action{Kind: sadb.Negotiate}, true, false, true},
		{sadb.Action{Kind: sadb.Negotiate, PassThrough: true}, true, false, false},
		{sadb.Action{Kind: sadb.Negotiate, PassThrough: true}, false, true, true},
		{sadb.Action{Kind: sadb.Negotiate, AllowClear: true}, false, true, false},
		{sadb.Action{Kind: sadb.Negotiate, AllowClear: true}, true, false, true},
		{sadb.Action{Kind: sadb.Negotiate, AllowClear: true}, true, true, false},
	} {
		if got := blocks(tt.enforced, tt.inbound, tt.sent); got != tt.blocks {
			t.Errorf("%v, inbound %v, sent %v: %v", tt.enforced, tt.inbound, tt.sent, got)
		}
	}
}
