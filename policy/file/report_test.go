package file

import (
	"strings"
	"testing"

	"ipsecagent/policy"
)

const reported = `apiVersion: ipsecagent/v1
kind: Policy
name: rollout
mode: report
reportUntil: 2030-12-01
filterLists:
  all: [{from: me, to: any}]
filterActions:
  require: {negotiate: {methods: [esp-aes256gcm]}}
rules:
  - {name: a, filterList: all, filterAction: require, authentication: [psk], mode: enforce}
  - {name: b, filterList: all, filterAction: require, authentication: [kerberos], mode: report, reportUntil: 2030-11-30T12:00:00+01:00}
`

func TestReportModeIsReadAndWritten(t *testing.T) {
	p, err := Parse("rollout.yaml", []byte(reported))
	if err != nil {
		t.Fatal(err)
	}
	if p.Mode != policy.ReportOnly || p.Rules[0].Mode != policy.Enforce || p.Rules[1].Mode != policy.ReportOnly {
		t.Errorf("modes %v, %v, %v", p.Mode, p.Rules[0].Mode, p.Rules[1].Mode)
	}
	if got := policy.FormatDeadline(p.Rules[1].ReportUntil); got != "2030-11-30T11:00:00Z" {
		t.Errorf("the rule's end %s", got)
	}
	text, err := Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse("rollout.yaml", text)
	if err != nil || again.ReportUntil != p.ReportUntil || again.Rules[0].Mode != p.Rules[0].Mode || again.Rules[1].ReportUntil != p.Rules[1].ReportUntil {
		t.Errorf("%v, written as:\n%s", err, text)
	}
}

func TestReportModeMistakesHaveTheirPlace(t *testing.T) {
	for edit, want := range map[string]string{
		"reportUntil: soon":   `rollout.yaml:5:14: "soon" is neither a date`,
		"mode: off":           `rollout.yaml:5:7: mode "off"`,
		"description: no end": "rollout.yaml:4:7: the policy: report mode has to end",
	} {
		text := strings.Replace(reported, "reportUntil: 2030-12-01\n", edit+"\n", 1)
		if strings.HasPrefix(edit, "mode") {
			text = strings.Replace(text, "mode: report\n", "description: d\n", 1)
		}
		_, err := Parse("rollout.yaml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", edit, err)
		}
	}
}
