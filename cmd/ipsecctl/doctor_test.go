package main

import (
	"testing"
	"time"

	"ipsecagent/agent/control"
)

func TestDoctorIsShownLineByLine(t *testing.T) {
	p := &printer{now: time.Now(), zone: time.UTC}
	printDoctor(p, control.Doctor{Checks: []control.Check{
		{Name: "agent", State: control.CheckFine, Says: "runs"},
		{Name: "firewall", State: control.CheckProblem, Says: "drops ESP\x1b", Do: "let it pass"},
		{Name: "clock", State: control.CheckWarning, Says: "not kept", Do: "keep it"},
	}})
	const want = "ok       agent     runs\n" +
		"problem  firewall  drops ESP\\u001b\n" +
		"                   do: let it pass\n" +
		"warning  clock     not kept\n" +
		"                   do: keep it\n" +
		"\n1 problem, 1 warning, 1 ok\n"
	if got := p.text.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
