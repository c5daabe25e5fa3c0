package main

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/sadb"
)

func TestDropsForPeople(t *testing.T) {
	print := func(v drops) string {
		p := &printer{now: time.Now(), zone: time.UTC}
		printDrops(p, v)
		return p.text.String()
	}
	if got := print(drops{}); !strings.Contains(got, "ipsecctl status") {
		t.Errorf("nothing dropped: %q", got)
	}
	got := print(drops{Drops: []drop{{Counter: "XfrmInNoStates", Packets: 12, Meaning: "no association", Hint: "the peer"}, {Counter: "XfrmNew", Packets: 1}}})
	for _, want := range []string{"COUNTER", "XfrmInNoStates", "12", "no association", "the peer", "not known to this program"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in %q", want, got)
		}
	}
}

// A counter names the rules whose filters drop what it counts, first the one that
// has most to do with it.
func TestDropsNameTheLikelyRules(t *testing.T) {
	words := func(k sadb.ActionKind, clear, through bool) string {
		return sadb.Action{Kind: k, AllowClear: clear, PassThrough: through}.String()
	}
	require := words(sadb.Negotiate, false, false)
	policy := enforced{filters: []control.FilterView{
		{Rule: "telnet", Action: words(sadb.Block, false, false), Direction: "both"},
		{Rule: "old hosts", Action: words(sadb.Block, false, false), Direction: "in", Dropped: 4},
		{Rule: "old hosts", Action: words(sadb.Block, false, false), Direction: "in", Dropped: 3},
		{Rule: "web", Action: words(sadb.Negotiate, true, true), Direction: "both"},
		{Rule: "database", Action: require, Direction: "both"},
		{Rule: "backup", Action: words(sadb.Negotiate, false, true), Direction: "both"},
		{Rule: "Bern", Action: require, Direction: "in", Tunnel: "192.0.2.1 - 192.0.2.2"},
		{Rule: "open", Action: words(sadb.Permit, false, false), Direction: "both"},
	}, status: control.Status{Negotiating: []control.Negotiating{{Peer: "192.0.2.9", Rule: "backup"}},
		Failures: []control.Failure{{Peer: "192.0.2.9", Rule: "backup"}, {Peer: "192.0.2.8", Rule: "backup"}}}}
	for counter, want := range map[string][]likelyRule{
		"XfrmInPolBlock":     {{Rule: "old hosts", Dropped: 7}, {Rule: "telnet"}},
		"XfrmOutPolBlock":    {{Rule: "telnet"}},
		"XfrmInTmplMismatch": {{Rule: "database"}, {Rule: "Bern"}},
		"XfrmOutNoStates":    {{Rule: "backup", Unsecured: []string{"192.0.2.8", "192.0.2.9"}}, {Rule: "database"}},
		"XfrmInNoPols":       {{Rule: "Bern"}},
		"XfrmInNoStates":     nil,
		"XfrmNew":            nil,
	} {
		v := drops{Drops: []drop{{Counter: counter, Packets: 1}, {Counter: counter}}}
		v.nameRules(policy, nil)
		if got := v.Drops[0].Rules; !reflect.DeepEqual(got, want) || v.Drops[1].Rules != nil {
			t.Errorf("%s: %+v, want %+v; of none %+v", counter, got, want, v.Drops[1].Rules)
		}
	}
	if got := likelyWords(policy.likely("XfrmOutNoStates")); got != "backup (no association: 192.0.2.8, 192.0.2.9); database" {
		t.Error(got)
	}
	v := drops{Drops: []drop{{Counter: "XfrmInPolBlock", Packets: 1}}}
	v.nameRules(enforced{}, errors.New("the agent is not reachable"))
	p := &printer{now: time.Now(), zone: time.UTC}
	if printDrops(p, v); !strings.Contains(p.text.String(), "the agent is not reachable") {
		t.Error(p.text.String())
	}
}
