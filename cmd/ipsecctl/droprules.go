package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"ipsecagent/agent/control"
)

// likelyRule is a rule of the policy in force that a counter may be about.
type likelyRule struct {
	Rule string `json:"rule"`
	// Dropped is what filters of the rule have dropped by their own account: the
	// firewall table's, which sees some packets before XFRM does.
	Dropped uint64 `json:"dropped"`
	// Unsecured are the peers with whom a negotiation of the rule is under way or
	// has failed.
	Unsecured []string `json:"unsecured,omitempty"`
}

// enforced is what the agent says of the policy in force.
type enforced struct {
	filters []control.FilterView
	status  control.Status
}

// xfrmDriver is what the kernel driver is called in a status.
const xfrmDriver = "xfrm"

// enforced asks the agent.
func (e *env) enforced(ctx context.Context) (enforced, error) {
	status, err := e.agent().Status(ctx)
	if err != nil || status.Policy.State != "assigned" {
		return enforced{}, err
	}
	if d := status.DataPath.Driver; d != xfrmDriver {
		return enforced{}, fmt.Errorf("XFRM does not enforce the agent's policy (driver %s): what it counts is another program's", d)
	}
	v, err := e.agent().Policy(ctx, status.Policy.Name, true)
	return enforced{v.Filters, status}, err
}

// wants says of counters which filters drop what they count; the others are about
// associations or about no filter.
func wants(counter string) func(control.FilterView) bool {
	switch counter {
	case "XfrmInPolBlock":
		return func(f control.FilterView) bool { return f.Action == "block" && f.Direction != "out" }
	case "XfrmOutPolBlock":
		return func(f control.FilterView) bool { return f.Action == "block" && f.Direction != "in" }
	case "XfrmInTmplMismatch":
		return func(f control.FilterView) bool {
			return strings.HasSuffix(f.Action, " security") && f.Direction != "out"
		}
	case "XfrmInNoPols":
		return func(f control.FilterView) bool { return f.Tunnel != "" && f.Direction != "out" }
	case "XfrmOutNoStates", "XfrmOutStateExpired", "XfrmAcquireError":
		return func(f control.FilterView) bool {
			return strings.HasPrefix(f.Action, "require security") && f.Direction != "in"
		}
	}
	return func(control.FilterView) bool { return false }
}

// likely returns the rules that a counter may be about, the likeliest first: those
// without an association where they want one, then those that have dropped most.
func (v enforced) likely(counter string) []likelyRule {
	var rules []likelyRule
	dropped := map[string]uint64{}
	fits := wants(counter)
	for _, f := range v.filters {
		if !fits(f) || f.Rule == "" {
			continue
		}
		if _, known := dropped[f.Rule]; !known {
			rules = append(rules, likelyRule{Rule: f.Rule})
		}
		dropped[f.Rule] += f.Dropped
	}
	for i := range rules {
		rules[i].Dropped = dropped[rules[i].Rule]
		if strings.HasPrefix(counter, "XfrmOut") && counter != "XfrmOutPolBlock" {
			rules[i].Unsecured = v.unsecured(rules[i].Rule)
		}
	}
	slices.SortStableFunc(rules, func(a, b likelyRule) int {
		return cmp.Or(cmp.Compare(len(b.Unsecured), len(a.Unsecured)), cmp.Compare(b.Dropped, a.Dropped))
	})
	return rules
}

// unsecured returns the peers that a rule has no association with now.
func (v enforced) unsecured(rule string) []string {
	var peers []string
	for _, n := range v.status.Negotiating {
		if n.Rule == rule {
			peers = append(peers, n.Peer)
		}
	}
	for _, f := range v.status.Failures {
		if f.Rule == rule {
			peers = append(peers, f.Peer)
		}
	}
	slices.Sort(peers)
	return slices.Compact(peers)
}

// mostLikely is how many likely rules are named in words, and peers of each.
const mostLikely = 3

// likelyWords names rules for people.
func likelyWords(rules []likelyRule) string {
	var words []string
	for _, r := range rules[:min(len(rules), mostLikely)] {
		about := ""
		if r.Dropped > 0 {
			about = fmt.Sprintf(" (its filters: %d dropped)", r.Dropped)
		}
		if n := len(r.Unsecured); n > 0 {
			about = fmt.Sprintf(" (no association: %s)", strings.Join(r.Unsecured[:min(n, mostLikely)], ", "))
		}
		words = append(words, r.Rule+about)
	}
	if more := len(rules) - mostLikely; more > 0 {
		words = append(words, fmt.Sprintf("%d more", more))
	}
	return strings.Join(words, "; ")
}
