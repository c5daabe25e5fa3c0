package policy

import (
	"strings"
	"testing"
	"time"

	"ipsecagent/sadb"
)

func deadline() time.Time { return time.Date(2030, 12, 1, 0, 0, 0, 0, time.UTC) }

// reported is a policy that requires security with everybody, permits ssh and
// blocks telnet, in report mode.
func reported() *Policy {
	list := func(name string, port uint16) FilterList {
		f := Filter{From: Endpoint{}, To: Endpoint{Kind: Me}, Protocol: sadb.TCP, ToPorts: sadb.Port(port), Mirrored: true}
		return FilterList{Name: name, Filters: []Filter{f}}
	}
	all := FilterList{Name: "all", Filters: []Filter{{From: Endpoint{Kind: Me}, Mirrored: true}}}
	suite, err := sadb.ParseSuite("esp-aes256gcm")
	if err != nil {
		panic(err)
	}
	psk := []AuthMethod{{Kind: PresharedKey}}
	return &Policy{Name: "rollout", Mode: ReportOnly, ReportUntil: deadline(),
		FilterLists:   []FilterList{all, list("ssh", 22), list("telnet", 23)},
		FilterActions: []FilterAction{{Name: "require", Kind: sadb.Negotiate, Methods: []SecurityMethod{{Suites: []sadb.Suite{suite}}}}},
		Rules: []Rule{
			{Name: "everything", FilterList: "all", FilterAction: "require", Authentication: psk},
			{Name: "ssh", FilterList: "ssh", FilterAction: "permit"},
			{Name: "telnet", FilterList: "telnet", FilterAction: "block"}}}
}

// actions compiles p for a moment and returns the action and mark of each rule.
func actions(t *testing.T, p *Policy, now time.Time) map[string]CompiledFilter {
	t.Helper()
	c, err := Compile(p, Host{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	byRule := map[string]CompiledFilter{}
	for _, f := range c.Filters {
		byRule[f.Rule] = f
	}
	return byRule
}

func TestReportModeBlocksNothingThatARuleWantsSecured(t *testing.T) {
	got := actions(t, reported(), deadline().Add(-time.Second))
	require := got["everything"]
	if want := (sadb.Action{Kind: sadb.Negotiate, PassThrough: true, AllowClear: true}); require.Action != want {
		t.Errorf("the rule that requires security: %v", require.Action)
	}
	if require.Report == nil || require.Report.Enforced != (sadb.Action{Kind: sadb.Negotiate}) || !require.Report.Until.Equal(deadline()) {
		t.Errorf("its mark: %+v", require.Report)
	}
	if f := got["telnet"]; f.Action.Kind != sadb.Block || f.Report != nil {
		t.Errorf("the rule that blocks: %v, %v", f.Action, f.Report)
	}
	if f := got["ssh"]; f.Action.Kind != sadb.Permit || f.Report != nil {
		t.Errorf("the rule that permits: %v, %v", f.Action, f.Report)
	}
}

// TestReportModeEndsByItself: at the deadline, and for who does not say what
// moment it is, everything is as without report mode.
func TestReportModeEndsByItself(t *testing.T) {
	plain := reported()
	plain.Mode, plain.ReportUntil = Unsaid, time.Time{}
	want := actions(t, plain, deadline())["everything"]
	for name, now := range map[string]time.Time{"at the deadline": deadline(), "later": deadline().Add(time.Hour), "no moment": {}} {
		got := actions(t, reported(), now)["everything"]
		if got.Action != want.Action || got.Report != nil || got.ID != want.ID {
			t.Errorf("%s: %v, %v", name, got.Action, got.Report)
		}
	}
}

func TestModeOfARule(t *testing.T) {
	before := deadline().Add(-time.Hour)
	p := reported()
	p.Rules[0].Mode = Enforce
	if f := actions(t, p, before)["everything"]; f.Report != nil {
		t.Error("a rule that is enforced is in report mode with its policy")
	}
	p.Mode, p.ReportUntil = Unsaid, time.Time{}
	p.Rules[0].Mode, p.Rules[0].ReportUntil = ReportOnly, deadline()
	if f := actions(t, p, before)["everything"]; f.Report == nil {
		t.Error("a rule in report mode is enforced with its policy")
	}
}

// TestMomentStandsForNow: compiled for it, a policy is what it is now, and it is
// the same as long as that is.
func TestMomentStandsForNow(t *testing.T) {
	p := reported()
	p.Rules[0].Mode, p.Rules[0].ReportUntil = ReportOnly, deadline().AddDate(0, 0, -2)
	moments := map[time.Time]bool{}
	for hour := -100; hour <= 24; hour++ {
		now := deadline().Add(time.Duration(hour) * time.Hour)
		moments[p.Moment(now)] = true
		if got, want := actions(t, p, p.Moment(now))["everything"], actions(t, p, now)["everything"]; got.Action != want.Action {
			t.Errorf("%d hours: %v, want %v", hour, got.Action, want.Action)
		}
	}
	if len(moments) != 3 || !moments[time.Time{}] {
		t.Errorf("moments %v", moments)
	}
	if got := (&Policy{}).Moment(deadline()); !got.IsZero() {
		t.Errorf("without report mode %v", got)
	}
}

func TestReportModeThatCannotBe(t *testing.T) {
	tests := map[string]struct {
		edit func(*Policy)
		want string
	}{
		"without an end":            {func(p *Policy) { p.ReportUntil = time.Time{} }, "mode: the policy: report mode has to end"},
		"an end without it":         {func(p *Policy) { p.Mode = Enforce }, "reportUntil: the policy: reportUntil belongs"},
		"a rule without an end":     {func(p *Policy) { p.Rules[0].Mode = ReportOnly }, `rules[0].mode: rule "everything": report mode has to end`},
		"a rule's end without it":   {func(p *Policy) { p.Rules[0].ReportUntil = deadline() }, "rules[0].reportUntil"},
		"a rule that blocks":        {func(p *Policy) { p.Rules[2].Mode, p.Rules[2].ReportUntil = ReportOnly, deadline() }, "block is always enforced"},
		"unknown":                   {func(p *Policy) { p.Mode = 9 }, "unknown mode 9"},
		"a tunnel in such a policy": {func(p *Policy) { p.Rules[0].Tunnel.Name = "gw.example.com" }, "write mode: enforce"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := reported()
			tt.edit(p)
			if err := Validate(p); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

func TestReportModeIsAssignedForATimeAhead(t *testing.T) {
	p := reported()
	for name, tt := range map[string]struct {
		now time.Time
		ok  bool
	}{
		"a day ahead":       {deadline().AddDate(0, 0, -1), true},
		"past":              {deadline(), false},
		"two years ahead":   {deadline().AddDate(-2, 0, 0), false},
		"within a year yet": {deadline().AddDate(-1, 0, 0), true},
	} {
		if err := CheckReport(p, tt.now); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	p.Mode, p.ReportUntil = Unsaid, time.Time{}
	if err := CheckReport(p, deadline()); err != nil {
		t.Errorf("without report mode: %v", err)
	}
	p.Rules[0].Mode, p.Rules[0].ReportUntil = ReportOnly, deadline()
	if err := CheckReport(p, deadline()); err == nil || !strings.Contains(err.Error(), `rule "everything"`) {
		t.Errorf("a rule: %v", err)
	}
	p.Rules[0].Disabled = true
	if err := CheckReport(p, deadline()); err != nil {
		t.Errorf("a rule that is disabled: %v", err)
	}
}

func TestDeadlines(t *testing.T) {
	for text, want := range map[string]string{
		"2030-12-01": "2030-12-01", "2030-12-01T00:00:00Z": "2030-12-01", "2030-12-01T01:00:00+01:00": "2030-12-01",
		"2030-12-01T08:30:00+02:00": "2030-12-01T06:30:00Z",
	} {
		got, err := ParseDeadline(text)
		if err != nil || FormatDeadline(got) != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "soon", "2030-13-01", "2030-12-01 08:00", "0001-01-01", "1999-12-31", "2030-12-01T08:00:00.5Z", "2030-12"} {
		if got, err := ParseDeadline(text); err == nil {
			t.Errorf("%q is taken for %v", text, got)
		}
	}
}

// FuzzParseDeadline: what is read is written and read again as the same.
func FuzzParseDeadline(f *testing.F) {
	f.Add("2030-12-01")
	f.Add("2030-12-01T08:30:00+02:00")
	f.Fuzz(func(t *testing.T, text string) {
		first, err := ParseDeadline(text)
		if err != nil {
			return
		}
		if again, err := ParseDeadline(FormatDeadline(first)); err != nil || again != first {
			t.Errorf("%q is %v, then %v (%v)", text, first, again, err)
		}
	})
}
