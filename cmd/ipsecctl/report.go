package main

import (
	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
)

func reportCommand(e *env) *cobra.Command {
	return e.withFormat(&cobra.Command{
		Use:   "report",
		Short: "Show what rules in report mode would have blocked",
		Long: `report shows, for each peer and filter, the traffic that rules in report mode have
let pass in clear and would have blocked, the most first. A peer leaves the list
once its traffic is secured. What is left is what breaks when the rules are
enforced: look at each with 'ipsecctl why PEER'.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := e.agent().Reported(cmd.Context())
			if err != nil {
				return err
			}
			return e.show(v, func(p *printer) { printReport(p, v) })
		},
	})
}

func printReport(p *printer, v control.Report) {
	if len(v.Rules) == 0 {
		p.line("No rule in force is in report mode: everything is enforced.")
		return
	}
	p.line("REPORT ONLY: policy %q", v.Policy)
	rows := [][]string{{"RULE", "ENFORCED FROM", "THEN"}}
	for _, r := range v.Rules {
		rows = append(rows, []string{r.Rule, policy.FormatDeadline(r.Until), r.Enforced})
	}
	p.table("  ", rows)
	p.heading("Would have been blocked", len(v.Blocked))
	for _, b := range v.Blocked {
		p.line("  %s  %s sent and %s received in clear, first %s, last %s", b.Peer, count(b.Sent, "packet"), count(b.Received, "packet"), p.ago(b.First), p.ago(b.Last))
		p.line("      rule:  %s, for %s", b.Rule, b.Flow)
		p.line("      why:   %s", b.Why)
	}
	if v.More > 0 {
		p.line("  and more that did not fit into the list, met %s", count(v.More, "time"))
	}
}
