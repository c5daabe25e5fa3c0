package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
)

func statusCommand(e *env) *cobra.Command {
	var check bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what is in force, with whom traffic is secured and with whom not",
		Long: `status shows the policy in force, with whom traffic is secured, with whom it goes
in clear although policy asks for security, what failed and why, and the
counters of the data path.

With --check it exits with code 9 when the state is degraded, for monitoring.`,
		Example: `  ipsecctl status
  ipsecctl status -o json
  ipsecctl status --check >/dev/null || echo "look at ipsecctl status"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := e.agent().Status(cmd.Context())
			if err != nil {
				return orBoot(err)
			}
			if err := e.show(s, func(p *printer) { printStatus(p, s) }); err != nil {
				return err
			}
			if check && len(s.Problems) > 0 {
				return errDegraded
			}
			return nil
		},
	}
	c.Flags().BoolVar(&check, "check", false, "exit with code 9 when the state is degraded")
	return e.withFormat(c)
}

func printStatus(p *printer, s control.Status) {
	p.facts("", headFacts(p, s))
	printSecured(p, s.Secured)
	printClear(p, s.InClear)
	printNegotiating(p, s.Negotiating)
	printFailures(p, s.Failures)
	printCounters(p, s.DataPath.Counters)
	printWords(p, "Problems", s.Problems)
	if len(s.Warnings) > 0 {
		printWords(p, "Warnings", s.Warnings)
	}
}

func headFacts(p *printer, s control.Status) [][2]string {
	rows := [][2]string{{"Policy", policyLine(p, s.Policy)}}
	if words := sourceWords(p, s); words != "" {
		rows = append(rows, [2]string{"", words})
	}
	if s.Directory != nil {
		rows = append(rows, [2]string{"Directory", directoryLine(p, s.Directory)})
	}
	if s.Pending != nil {
		rows = append(rows, [2]string{"", pendingLine(p, s.Pending)})
	}
	if s.Report != nil {
		rows = append(rows, [2]string{"", fmt.Sprintf("REPORT ONLY: %s, until %s; traffic with %s would have been blocked (ipsecctl report)",
			count(uint64(s.Report.Rules), "rule"), policy.FormatDeadline(s.Report.Until), count(uint64(s.Report.Peers), "peer"))})
	}
	if s.Policy.Error != "" && s.Policy.State != "held" {
		rows = append(rows, [2]string{"", "the last reload did not take; what is named above is still in force (see problems)"})
	}
	return append(rows,
		[2]string{"State", stateWord(s.Problems)},
		[2]string{"Agent", fmt.Sprintf("%s, on %s, process %d, started %s", s.Agent.Version, s.Agent.Host, s.Agent.PID, p.ago(s.Agent.Started))},
		[2]string{"Data path", dataPathLine(p, s.DataPath)})
}

func policyLine(p *printer, s control.PolicyStatus) string {
	switch s.State {
	case "held":
		return "not known: what the data path enforces stays as it is (see problems)"
	case "none":
		return "none: traffic passes in clear"
	}
	response := "default response off"
	if s.DefaultResponse {
		response = "answers peers that ask for security (default response)"
	}
	return fmt.Sprintf("%s (%s), in force since %s, %s, %s", s.Name, s.Origin, p.ago(s.Applied), count(uint64(s.Filters), "filter"), response)
}

// pendingLine says that the policy waits to be confirmed.
func pendingLine(p *printer, v *control.Pending) string {
	if v.Problem != "" {
		return "NOT CONFIRMED, and could not be rolled back (see problems)"
	}
	return fmt.Sprintf("NOT CONFIRMED: applied %s, %s is in force again %s unless: ipsecctl confirm", p.ago(v.Applied), beforeWords(v), p.in(v.Until))
}

func stateWord(problems []string) string {
	if len(problems) == 0 {
		return "fine"
	}
	return "DEGRADED: " + count(uint64(len(problems)), "problem") + ", listed at the end"
}

func dataPathLine(p *printer, d control.DataPath) string {
	if d.Driver == "" {
		return "does not answer"
	}
	line := fmt.Sprintf("%s, started %s", driverWords(d.Driver), p.ago(d.Started))
	if d.Why != "" {
		line += "; chosen because " + d.Why
	}
	return line
}

func driverWords(name string) string {
	switch name {
	case "user":
		return "userspace ESP"
	case "xfrm":
		return "kernel (XFRM)"
	}
	return name
}

func printSecured(p *printer, peers []control.SecuredPeer) {
	p.heading("Secured with", len(peers))
	if len(peers) > 0 {
		p.table("  ", securedRows(p, peers))
	}
}

// securedRows is one row for each pair of associations.
func securedRows(p *printer, peers []control.SecuredPeer) [][]string {
	rows := [][]string{{"PEER", "IDENTITY", "TRAFFIC", "BY", "SINCE", "EXPIRES", "SENT", "RECEIVED"}}
	for _, s := range peers {
		rows = append(rows, []string{
			s.Peer, s.Principal, s.Flow, securedBy(s), p.ago(s.Since), p.in(s.Expires),
			size(s.BytesOut), size(s.BytesIn),
		})
	}
	return rows
}

// securedBy says by what a pair secures, and between which ends.
func securedBy(s control.SecuredPeer) string {
	by := fmt.Sprintf("%s, %s, %s", s.Suite, s.Mode, s.Method)
	if s.NAT != "" {
		by += ", in UDP through NAT (" + s.NAT + ")"
	}
	return by
}

func printClear(p *printer, peers []control.ClearPeer) {
	p.heading("In clear although policy asks for security", len(peers))
	for _, c := range peers {
		direction := "sent"
		if c.Inbound {
			direction = "received and accepted"
		}
		p.line("  %s  since %s (%s), last packet %s, %s %s", c.Peer, p.ago(c.Since), p.at(c.Since), p.ago(c.Last), count(c.Packets, "packet"), direction)
		p.line("      rule:  %s", c.Rule)
		p.line("      why:   %s", c.Why)
	}
}

func printNegotiating(p *printer, list []control.Negotiating) {
	if len(list) == 0 {
		return
	}
	p.heading("Negotiating with", len(list))
	for _, n := range list {
		p.line("  %s  since %s, rule %q: %s", n.Peer, p.ago(n.Since), n.Rule, n.Why)
	}
}

func printFailures(p *printer, list []control.Failure) {
	p.heading("Failed", len(list))
	for _, f := range list {
		p.line("  %s  %s: %s%s, begun by %s%s", f.Peer, p.ago(f.Time), f.Code, inStep(f.Step), starter(f.Own), again(p, f))
		p.facts("      ", failureFacts(p, f))
	}
}

func inStep(step string) string {
	if step == "" {
		return ""
	}
	return " in " + step
}

func starter(own bool) string {
	if own {
		return "this host"
	}
	return "the peer"
}

func again(p *printer, f control.Failure) string {
	if f.Times < 2 {
		return ""
	}
	return fmt.Sprintf(", %d times since %s", f.Times, p.ago(f.First))
}

func failureFacts(p *printer, f control.Failure) [][2]string {
	rows := [][2]string{{"reason:", f.Reason}}
	add := func(name, value string) {
		if value != "" {
			rows = append(rows, [2]string{name, value})
		}
	}
	add("differs:", f.Differs)
	add("we offered:", strings.Join(f.Offered, ", "))
	add("peer offered:", strings.Join(f.Received, ", "))
	add("rule:", f.Rule)
	add("do:", f.Hint)
	switch {
	case f.Retry.IsZero():
	case f.Retry.After(p.now):
		add("next try:", p.in(f.Retry))
	default:
		add("next try:", "when traffic asks for it")
	}
	return rows
}

// counterWords says what the counters of a data path count, in the order they
// are shown.
func counterWords() [][2]string {
	return [][2]string{
		{"outPackets", "packets sent secured"},
		{"inPackets", "packets received secured"},
		{"queued", "packets waiting for an association now"},
		{"queueDrops", "dropped while waiting for an association"},
		{"inClear", "dropped: received in clear, policy wants them secured"},
		{"lastChain", "dropped: about to leave in clear, policy wants them secured"},
		{"badSelector", "dropped: secured, but not what the association may carry"},
		{"badICV", "dropped: forged or damaged"},
		{"replayed", "dropped: replayed"},
		{"noSA", "dropped: no such association (SPI)"},
		{"malformed", "dropped: malformed"},
		{"ikeDropped", "IKE datagrams not acted on: late, repeated, of strangers, malformed"},
		{"ikeInternalErrors", "mistakes of the key exchange itself, each survived: please report them"},
	}
}

func printCounters(p *printer, counters map[string]uint64) {
	if len(counters) == 0 {
		return
	}
	p.gap()
	p.line("Counters of the data path since it started:")
	var rows [][2]string
	known := map[string]bool{}
	for _, w := range counterWords() {
		known[w[0]] = true
		if n, ok := counters[w[0]]; ok {
			rows = append(rows, [2]string{w[1], grouped(n)})
		}
	}
	var rest []string
	for name := range counters {
		if !known[name] {
			rest = append(rest, name)
		}
	}
	slices.Sort(rest)
	for _, name := range rest {
		rows = append(rows, [2]string{name, grouped(counters[name])})
	}
	p.facts("  ", rows)
}

func printWords(p *printer, heading string, texts []string) {
	p.heading(heading, len(texts))
	for _, text := range texts {
		first, rest, more := strings.Cut(text, "\n")
		p.line("  - %s", first)
		if more {
			p.block("    ", rest)
		}
	}
}
