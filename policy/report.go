package policy

import (
	"errors"
	"fmt"
	"time"

	"ipsecagent/sadb"
)

// Enforcement says what becomes of traffic that a negotiate rule cannot secure.
type Enforcement uint8

// Unsaid is the zero value: a rule is as its policy, and a policy enforces.
// ReportOnly secures what can be secured, lets the rest pass in clear, and has
// it counted as what Enforce would have blocked.
const (
	Unsaid Enforcement = iota
	Enforce
	ReportOnly
)

// String returns "enforce" or "report", the words of a document.
func (e Enforcement) String() string {
	switch e {
	case Unsaid, Enforce:
		return "enforce"
	case ReportOnly:
		return "report"
	}
	return fmt.Sprintf("mode %d", uint8(e))
}

// ParseEnforcement reads the mode of a policy or rule.
func ParseEnforcement(text string) (Enforcement, error) {
	switch text {
	case "enforce":
		return Enforce, nil
	case "report":
		return ReportOnly, nil
	}
	return Unsaid, fmt.Errorf("mode %q is neither enforce nor report", text)
}

// Report marks a filter of a rule in report mode, whose action is not what its
// rule says.
type Report struct {
	// Enforced is the action that the rule says, and that the filter has
	// from Until on.
	Enforced sadb.Action
	Until    time.Time
}

// maxReport is how far ahead report mode may end, when it is assigned: what is
// never enforced is no policy.
const maxReport = 366 * 24 * time.Hour

// CheckReport says what is wrong with the time of report mode for a policy that
// is put in force now: it has to be ahead, and not for ever. The error joins
// values of type *Problem. A deadline that passes later ends report mode and is
// no error.
func CheckReport(p *Policy, now time.Time) error {
	r := &report{}
	check := func(path, what string, mode Enforcement, until time.Time) {
		switch {
		case mode != ReportOnly:
		case !until.After(now):
			r.add(path, "%s: report mode has ended: reportUntil is %s, which is past; remove mode and reportUntil to enforce, or name a later time", what, FormatDeadline(until))
		case until.After(now.Add(maxReport)):
			r.add(path, "%s: reportUntil is %s, more than a year ahead; a rollout ends sooner", what, FormatDeadline(until))
		}
	}
	check("reportUntil", "the policy", p.Mode, p.ReportUntil)
	for i := range p.Rules {
		rule := &p.Rules[i]
		if rule.Disabled {
			continue
		}
		check(at("rules", i, "reportUntil"), fmt.Sprintf("rule %q", rule.label()), rule.Mode, rule.ReportUntil)
	}
	return r.err()
}

// The bounds of a deadline that is written: outside, it is a slip of the pen.
const (
	firstYear = 2000
	lastYear  = 9999
)

// ParseDeadline reads a time (RFC 3339) or a date, which is its beginning in UTC.
func ParseDeadline(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t, err = time.Parse(time.DateOnly, text)
	}
	if err != nil || t.Nanosecond() != 0 || t.UTC().Year() < firstYear || t.UTC().Year() > lastYear {
		return time.Time{}, errors.New(`"` + text + `" is neither a date like 2030-12-01 nor a time like 2030-12-01T08:00:00Z (RFC 3339, whole seconds)`)
	}
	return t.UTC(), nil
}

// FormatDeadline writes what ParseDeadline reads, a date where it says the same.
func FormatDeadline(t time.Time) string {
	t = t.UTC()
	if t.Equal(t.Truncate(24 * time.Hour)) {
		return t.Format(time.DateOnly)
	}
	return t.Format(time.RFC3339)
}

// validateReport checks mode and reportUntil of the policy and its rules.
func (p *Policy) validateReport(r *report) {
	validateMode(r, "", "the policy", p.Mode, p.ReportUntil)
	o := p.objects()
	for i := range p.Rules {
		rule := &p.Rules[i]
		path, what := at("rules", i, ""), fmt.Sprintf("rule %q", rule.label())
		validateMode(r, path+".", what, rule.Mode, rule.ReportUntil)
		action := o.action(rule.FilterAction)
		switch {
		case action == nil:
		case rule.Mode == ReportOnly && action.Kind != sadb.Negotiate:
			r.add(path+".mode", "%s: report mode is for rules that negotiate security; %v is always enforced", what, action.Kind)
		case p.mode(rule) == ReportOnly && action.Kind == sadb.Negotiate && !rule.Tunnel.IsZero():
			r.add(path+".mode", "%s has a tunnel, and traffic of a tunnel cannot pass beside it: a tunnel is no rule for report mode; write mode: enforce", what)
		}
	}
}

func validateMode(r *report, path, what string, mode Enforcement, until time.Time) {
	switch {
	case mode > ReportOnly:
		r.add(path+"mode", "%s: unknown %v", what, mode)
	case mode == ReportOnly && until.IsZero():
		r.add(path+"mode", "%s: report mode has to end: say from when on it is enforced, for example reportUntil: 2030-12-01", what)
	case mode != ReportOnly && !until.IsZero():
		r.add(path+"reportUntil", "%s: reportUntil belongs to mode: report", what)
	}
}

// mode returns the mode of a rule, the policy's where it says nothing.
func (p *Policy) mode(r *Rule) Enforcement {
	if r.Mode == Unsaid {
		return p.Mode
	}
	return r.Mode
}

// until returns when the report mode of a rule ends.
func (p *Policy) until(r *Rule) time.Time {
	if r.Mode == ReportOnly {
		return r.ReportUntil
	}
	return p.ReportUntil
}

// Moment returns what stands for now where p is compiled (Host.Now): the same
// from one deadline of report mode to the next, zero when all have passed.
func (p *Policy) Moment(now time.Time) time.Time {
	last, ahead := time.Unix(0, 0).UTC(), false // no deadline is as early
	look := func(mode Enforcement, until time.Time) {
		switch {
		case mode != ReportOnly:
		case now.Before(until):
			ahead = true
		case until.After(last):
			last = until
		}
	}
	look(p.Mode, p.ReportUntil)
	for i := range p.Rules {
		look(p.Rules[i].Mode, p.Rules[i].ReportUntil)
	}
	if !ahead {
		return time.Time{}
	}
	return last
}

func reporting(mode Enforcement, until, now time.Time) bool {
	return mode == ReportOnly && !now.IsZero() && now.Before(until)
}

// report puts c in report mode if its rule is at that moment: what would wait,
// or be dropped, passes in clear and is counted by the driver as such.
func (p *Policy) report(c *CompiledFilter, r *Rule, now time.Time) {
	if c.Action.Kind != sadb.Negotiate || !reporting(p.mode(r), p.until(r), now) {
		return
	}
	c.Report = &Report{Enforced: c.Action, Until: p.until(r)}
	c.Action = sadb.Action{Kind: sadb.Negotiate, PassThrough: true, AllowClear: true}
}

// ActionWords says what the filter does, and, in report mode, what it does once
// it is enforced.
func (f *CompiledFilter) ActionWords() string {
	if f.Report == nil {
		return f.Action.String()
	}
	return fmt.Sprintf("REPORT ONLY until %s (then: %s)", FormatDeadline(f.Report.Until), f.Report.Enforced)
}

// reportWords says what becomes of a packet whose filter is in report mode.
func (x Explanation) reportWords() string {
	enforced := *x.Decided
	enforced.Action, enforced.Report = x.Decided.Report.Enforced, nil
	y := x
	y.Decided = &enforced
	words := "is secured where that can be, and passes in clear where it cannot: report mode until " + FormatDeadline(x.Decided.Report.Until)
	in := x.Question.Dir == sadb.In
	if in && !enforced.Action.PassThrough || !in && !enforced.Action.AllowClear {
		words += "; report: in clear it would have been blocked"
	}
	return words + "; enforced, it " + y.negotiated()
}
