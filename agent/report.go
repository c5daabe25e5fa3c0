package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/driver"
	"ipsecagent/policy"
	"ipsecagent/sadb"
)

const (
	// reportEvery is how often the data path is asked what report mode lets
	// pass: it forgets a peer ten minutes after its last packet.
	reportEvery = time.Minute
	// keepEvery is how often the counts are written.
	keepEvery = 5 * time.Minute
	// auditEvery is how often it is said that rules are in report mode.
	auditEvery = 24 * time.Hour
	// maxReported bounds the peers and filters that are counted.
	maxReported = 4096
	// maxRuleNames bounds the rules that a sentence names.
	maxRuleNames = 5
)

// reports is what report mode has let pass since it began.
type reports struct {
	policy  string // whose it is
	rules   string // and which of its rules, in words
	blocked map[reportKey]*wouldBlock
	// seen is the counters of the data path as last read.
	seen    map[clearKey]uint64
	more    uint64 // peers that found no room
	since   time.Time
	audited time.Time // when it was last said
	kept    time.Time // when it was last written
	timer   *timer
}

type reportKey struct {
	filter        sadb.FilterID
	local, remote netip.Addr
}

// clearKey is a record of the data path.
type clearKey struct {
	reportKey
	inbound bool
}

// wouldBlock is traffic with one peer by one filter.
type wouldBlock struct {
	sent, received uint64
	first, last    time.Time
}

// Reported says what report mode has let pass.
func (a *Agent) Reported(ctx context.Context) (control.Report, error) {
	return ask(ctx, a, func(now time.Time) (control.Report, error) {
		state, err := a.driverState()
		if err != nil {
			return control.Report{}, fmt.Errorf("agent: report: %w", err)
		}
		a.collect(now, state)
		return a.reported(), nil
	})
}

func (a *Agent) reported() control.Report {
	r := control.Report{SchemaVersion: control.SchemaVersion, Policy: a.inForce.name, Rules: a.reportedRules(), Blocked: []control.WouldBlock{}, More: a.reports.more}
	for k, b := range a.reports.blocked {
		f, ok := a.inForce.snapshot.filter(k.filter)
		if !ok {
			continue
		}
		why := a.whyClear(driver.ClearPeer{Filter: k.filter, Local: k.local, Remote: k.remote, Inbound: b.sent == 0})
		r.Blocked = append(r.Blocked, control.WouldBlock{Peer: k.remote.String(), Local: k.local.String(), Rule: f.Rule, Filter: string(k.filter),
			Flow: f.Selector.String(), Sent: b.sent, Received: b.received, First: b.first, Last: b.last, Why: why})
	}
	slices.SortFunc(r.Blocked, func(x, y control.WouldBlock) int {
		return cmp.Or(cmp.Compare(y.Sent+y.Received, x.Sent+x.Received), cmp.Compare(x.Peer, y.Peer), cmp.Compare(x.Filter, y.Filter))
	})
	return r
}

// reportedRules returns the rules in report mode, in the order of their names.
func (a *Agent) reportedRules() []control.ReportedRule {
	rules := []control.ReportedRule{}
	said := map[string]bool{}
	for _, f := range a.inForce.snapshot.filters {
		if f.Report != nil && !said[f.Rule] {
			said[f.Rule] = true
			rules = append(rules, control.ReportedRule{Rule: f.Rule, Enforced: f.Report.Enforced.String(), Until: f.Report.Until})
		}
	}
	slices.SortFunc(rules, func(x, y control.ReportedRule) int { return cmp.Compare(x.Rule, y.Rule) })
	return rules
}

// reportStatus says what report mode amounts to; nil: everything is enforced.
func (a *Agent) reportStatus() *control.ReportStatus {
	rules := a.reportedRules()
	if len(rules) == 0 {
		return nil
	}
	return &control.ReportStatus{Rules: len(rules), Until: a.reportEnds(), Peers: a.reportedPeers()}
}

func (a *Agent) reportedPeers() int {
	peers := map[netip.Addr]bool{}
	for k := range a.reports.blocked {
		peers[k.remote] = true
	}
	return len(peers)
}

// reportEnds returns when the first rule in report mode is enforced; zero: none
// is in it.
func (a *Agent) reportEnds() time.Time {
	var first time.Time
	for _, r := range a.reportedRules() {
		if first.IsZero() || r.Until.Before(first) {
			first = r.Until
		}
	}
	return first
}

// reportOnly says, loudly, that rules are in report mode; empty: none is.
func (a *Agent) reportOnly() []string {
	rules := a.reportedRules()
	if len(rules) == 0 {
		return nil
	}
	words := "REPORT ONLY: " + rulesWords(rules) + " of policy " + strconv.Quote(a.inForce.name) + ": traffic that is to be secured and cannot be passes in clear until " +
		policy.FormatDeadline(a.reportEnds())
	if n := a.reportedPeers(); n > 0 {
		words += fmt.Sprintf("; traffic with %s would have been blocked so far: ipsecctl report", peersWords(n))
	}
	return []string{words}
}

func peersWords(n int) string {
	if n == 1 {
		return "1 peer"
	}
	return strconv.Itoa(n) + " peers"
}

func rulesWords(rules []control.ReportedRule) string {
	var names []string
	for i, r := range rules {
		if i == maxRuleNames {
			names = append(names, fmt.Sprintf("%d more", len(rules)-i))
			break
		}
		names = append(names, strconv.Quote(r.Rule))
	}
	if len(rules) == 1 {
		return "rule " + names[0]
	}
	return "rules " + strings.Join(names, ", ")
}

// followReport begins, goes on with or ends what report mode needs, after a
// change of what is in force.
func (a *Agent) followReport(now time.Time) {
	ends := a.reportEnds()
	if ends.IsZero() {
		a.endReport(now)
		return
	}
	if a.reports.since.IsZero() || a.reports.policy != a.inForce.name {
		a.beginReport(now)
	}
	maps.DeleteFunc(a.reports.blocked, func(k reportKey, _ *wouldBlock) bool {
		f, ok := a.inForce.snapshot.filter(k.filter)
		return !ok || f.Report == nil
	})
	if rules := rulesWords(a.reportedRules()) + ends.String(); rules != a.reports.rules {
		a.reports.rules = rules
		a.auditReport(now)
	}
	if !a.reports.timer.pending() {
		a.reports.timer = a.timers.at(nextReport(now, ends), a.reportTick)
	}
}

// nextReport returns when to look again: no later than when report mode ends.
func nextReport(now, ends time.Time) time.Time {
	if next := now.Add(reportEvery); !ends.After(now) || next.Before(ends) {
		return next
	}
	return ends
}

func (a *Agent) beginReport(now time.Time) {
	a.timers.stop(a.reports.timer)
	a.reports = reports{policy: a.inForce.name, blocked: map[reportKey]*wouldBlock{}, seen: map[clearKey]uint64{}, since: now, kept: now}
	a.takeReports()
	if state, err := a.driverState(); err == nil {
		for _, c := range state.Clear { // what passed before is not its doing
			a.reports.seen[clearKeyOf(c)] = c.Packets
		}
	}
}

func (a *Agent) endReport(now time.Time) {
	if a.reports.since.IsZero() {
		return
	}
	a.timers.stop(a.reports.timer)
	n := a.reportedPeers()
	a.reports = reports{}
	if err := a.store.keepReports(nil); err != nil {
		a.event(now, control.EventAgent, "warning", err.Error(), nil)
	}
	a.event(now, control.EventReport, "warning", fmt.Sprintf("report mode has ended: every rule in force is enforced; traffic with %s would have been blocked before", peersWords(n)),
		map[string]string{"policy": a.inForce.name, "peers": strconv.Itoa(n)})
}

// auditReport records that rules are in report mode.
func (a *Agent) auditReport(now time.Time) {
	a.reports.audited = now
	for _, words := range a.reportOnly() {
		a.event(now, control.EventReport, "warning", words, map[string]string{"policy": a.inForce.name,
			"until": policy.FormatDeadline(a.reportEnds()), "peers": strconv.Itoa(a.reportedPeers())})
	}
}

// reportTick reads what has passed, and enforces the rules whose time has come.
func (a *Agent) reportTick(now time.Time) {
	if state, err := a.driverState(); err == nil {
		a.collect(now, state)
	}
	if !a.reportEnds().After(now) {
		a.recompile(now, "the time of report mode is over")
	}
	if !a.reports.since.IsZero() && !now.Before(a.reports.audited.Add(auditEvery)) {
		a.auditReport(now)
	}
	if !a.reports.since.IsZero() && !now.Before(a.reports.kept.Add(keepEvery)) {
		a.keepReports(now)
	}
	a.followReport(now)
}

func clearKeyOf(c driver.ClearPeer) clearKey {
	return clearKey{reportKey{c.Filter, plain(c.Local), plain(c.Remote)}, c.Inbound}
}

// keptReports is what report mode has let pass, for an agent that is started
// anew: a rollout lasts longer than a process.
type keptReports struct {
	Policy  string      `json:"policy"`
	Rules   string      `json:"rules"`
	Since   time.Time   `json:"since"`
	Audited time.Time   `json:"audited"`
	Blocked []keptBlock `json:"blocked"`
}

type keptBlock struct {
	Filter   sadb.FilterID `json:"filter"`
	Local    netip.Addr    `json:"local"`
	Remote   netip.Addr    `json:"remote"`
	Sent     uint64        `json:"sent"`
	Received uint64        `json:"received"`
	First    time.Time     `json:"first"`
	Last     time.Time     `json:"last"`
}

// keepReports writes what was counted.
func (a *Agent) keepReports(now time.Time) {
	a.reports.kept = now
	k := keptReports{Policy: a.reports.policy, Rules: a.reports.rules, Since: a.reports.since, Audited: a.reports.audited}
	for key, b := range a.reports.blocked {
		k.Blocked = append(k.Blocked, keptBlock{key.filter, key.local, key.remote, b.sent, b.received, b.first, b.last})
	}
	if err := a.store.keepReports(&k); err != nil {
		a.event(now, control.EventAgent, "warning", "what report mode has let pass would be forgotten at a restart: "+err.Error(), nil)
	}
}

// takeReports goes on with what an earlier process counted of the same policy.
func (a *Agent) takeReports() {
	k := a.earlier
	a.earlier = nil
	if k == nil || k.Policy != a.reports.policy {
		return
	}
	a.reports.rules, a.reports.since, a.reports.audited = k.Rules, k.Since, k.Audited
	for _, b := range k.Blocked[:min(len(k.Blocked), maxReported)] {
		a.reports.blocked[reportKey{b.Filter, b.Local, b.Remote}] = &wouldBlock{sent: b.Sent, received: b.Received, first: b.First, last: b.Last}
	}
}

// collect adds what the data path has let pass since it was last asked.
func (a *Agent) collect(now time.Time, state driver.State) {
	if a.reports.since.IsZero() {
		return
	}
	present := make(map[clearKey]uint64, len(state.Clear))
	sent := map[reportKey]bool{}
	for _, c := range state.Clear {
		k := clearKeyOf(c)
		present[k] = c.Packets
		sent[k.reportKey] = sent[k.reportKey] || !c.Inbound
	}
	for _, c := range state.Clear {
		a.collectOne(now, c, sent[clearKeyOf(c).reportKey])
	}
	a.reports.seen = present // what is no longer there begins anew
}

// collectOne adds one record, if enforcing would have blocked its traffic.
func (a *Agent) collectOne(now time.Time, c driver.ClearPeer, sent bool) {
	k := clearKeyOf(c)
	f, ok := a.inForce.snapshot.filter(c.Filter)
	if !ok || f.Report == nil || !blocks(f.Report.Enforced, c.Inbound, sent) {
		return
	}
	if a.securedSince(c) {
		delete(a.reports.blocked, k.reportKey) // it would have waited, and was secured
		return
	}
	n := c.Packets
	if was := a.reports.seen[k]; was <= n {
		n -= was
	}
	if n == 0 {
		return
	}
	b := a.reports.blocked[k.reportKey]
	if b == nil {
		if len(a.reports.blocked) >= maxReported {
			a.reports.more++
			return
		}
		b = &wouldBlock{first: c.Since}
		if b.first.Before(a.reports.since) {
			b.first = a.reports.since
		}
		a.reports.blocked[k.reportKey] = b
	}
	b.last = c.Last
	if c.Inbound {
		b.received += n
	} else {
		b.sent += n
	}
}

// blocks reports whether an action that is enforced blocks traffic in clear. A
// peer that this host may fall back to clear with is answered in clear, too.
func blocks(enforced sadb.Action, inbound, sent bool) bool {
	if inbound {
		return !enforced.PassThrough && !(enforced.AllowClear && sent)
	}
	return !enforced.AllowClear
}
