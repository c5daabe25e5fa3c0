package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
)

// packetFlags are a packet as flags.
type packetFlags struct {
	src, dst, proto, sport, dport, icmp string
	dir, connection, policy             string
}

func explainCommand(e *env) *cobra.Command {
	var f packetFlags
	c := &cobra.Command{
		Use:   "explain [FLOW]",
		Short: "Say how a packet is treated: which filter decides, why no other, and what is live",
		Long: `explain says which filter of which rule decides about a packet, why those before
it do not, what becomes of the packet, and which methods and authentication are
offered in order. It asks the agent, and adds the association, fall-back and last
failure that are live with the peer; with --policy it needs no agent and explains
what a policy would do.

The packet is given by flags, or as one FLOW in the words of a policy's tests.
An address is "me", this host; "me=ADDRESS", this host at that address; or an
address. What is left out of --src and --dst is me.`,
		Example: `  ipsecctl explain --dst 10.1.2.3 --proto tcp --dport 443
  ipsecctl explain --src 10.1.2.3 --proto icmp
  ipsecctl explain "tcp 10.1.2.3 -> me:1433" --policy database-servers.yaml`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := e.explained(cmd, f, strings.Join(args, ""))
			if err != nil {
				return err
			}
			return e.show(v, func(p *printer) { printExplanation(p, v) })
		},
	}
	flags := c.Flags()
	flags.StringVar(&f.src, "src", "", "address of the sender, or me")
	flags.StringVar(&f.dst, "dst", "", "address of the receiver, or me")
	flags.StringVar(&f.proto, "proto", "", "protocol: tcp, udp, sctp, dccp, icmp, icmpv6 or 1-255")
	flags.StringVar(&f.sport, "sport", "", "port of the sender; left out: an ephemeral one")
	flags.StringVar(&f.dport, "dport", "", "port of the receiver; left out: an ephemeral one")
	flags.StringVar(&f.icmp, "icmp-type", "", "ICMP TYPE or TYPE/CODE; left out: echo request")
	flags.StringVar(&f.dir, "dir", "", "in or out, where both sides are given by address: which one is this host")
	flags.StringVar(&f.connection, "connection", "", "type of connection it uses: lan or remote-access (default: that of the own address; lan with --policy)")
	flags.StringVar(&f.policy, "policy", "", "explain a policy, by FILE or NAME, instead of what is in force")
	c.RegisterFlagCompletionFunc("dir", cobra.FixedCompletions([]string{"in", "out"}, cobra.ShellCompDirectiveNoFileComp))
	c.RegisterFlagCompletionFunc("connection", cobra.FixedCompletions([]string{"lan", "remote-access"}, cobra.ShellCompDirectiveNoFileComp))
	return e.withFormat(c)
}

func (e *env) explained(cmd *cobra.Command, f packetFlags, flow string) (control.Explanation, error) {
	flow, err := f.flow(flow)
	if err != nil {
		return control.Explanation{}, err
	}
	r := control.ExplainRequest{Flow: flow, Direction: f.dir, Connection: f.connection}
	q, err := r.Question()
	if err != nil {
		return control.Explanation{}, usage("%v", err)
	}
	if f.policy == "" {
		return e.agent().Explain(cmd.Context(), r)
	}
	p, err := e.findPolicy(cmd.Context(), f.policy)
	if err != nil {
		return control.Explanation{}, err
	}
	c, err := p.compile()
	if err != nil {
		return control.Explanation{}, err
	}
	v := control.Explained(c, policy.Explain(c, q))
	v.Origin = p.origin
	return v, nil
}

// flow returns the packet in the words of a policy's tests.
func (f packetFlags) flow(given string) (string, error) {
	parts := f.src + f.dst + f.proto + f.sport + f.dport + f.icmp
	switch {
	case given != "" && parts != "":
		return "", usage("explain: give the packet as a flow or by flags, not both")
	case given != "":
		return given, nil
	case f.src == "" && f.dst == "":
		return "", usage("explain: which packet? give --src or --dst and --proto, or a flow such as \"tcp me -> 10.1.2.3:443\"")
	case f.proto == "":
		return "", usage("explain: give --proto: tcp, udp, sctp, dccp, icmp, icmpv6 or 1-255")
	}
	proto := f.proto
	if f.icmp != "" {
		proto += ":" + f.icmp
	}
	return fmt.Sprintf("%s %s -> %s", proto, flowSide(f.src, f.sport), flowSide(f.dst, f.dport)), nil
}

// flowSide joins an address and a port; one of IPv6 goes into brackets.
func flowSide(addr, port string) string {
	if addr == "" {
		addr = "me"
	}
	if port == "" {
		return addr
	}
	me, host := "", addr
	if rest, named := strings.CutPrefix(addr, "me="); named {
		me, host = "me=", rest
	}
	if strings.Contains(host, ":") && !strings.HasPrefix(host, "[") {
		host = "[" + host + "]"
	}
	return me + host + ":" + port
}

func printExplanation(p *printer, v control.Explanation) {
	p.line("%s (%s) %s", v.Flow, directionWord(v.Direction), v.Outcome)
	p.gap()
	printDecision(p, v)
	for _, n := range v.Notes {
		p.line("  note: %s", n)
	}
	if v.Next != nil {
		p.line("  without it: filter %d would decide, rule %q, list %q: %s", v.Next.Place, v.Next.Rule, v.Next.List, v.Next.Action)
	}
	printPassed(p, v)
	if v.Offer != nil {
		printOffer(p, *v.Offer)
	}
	if v.Live != nil {
		printLive(p, *v.Live)
	}
}

func printDecision(p *printer, v control.Explanation) {
	origin := ""
	if v.Origin != "" {
		origin = " (" + v.Origin + ")"
	}
	switch {
	case v.Policy == "":
		p.line("No policy is in force.")
		return
	case v.Decision == "exempt":
		p.line("Policy %q%s is not asked about it.", v.Policy, origin)
		return
	case v.Decided == nil:
		p.line("No filter of policy %q%s matches it, of %s.", v.Policy, origin, count(uint64(v.Filters), "filter"))
		return
	}
	d := v.Decided
	p.line("Decided by filter %d of %d of policy %q%s", v.Place, v.Filters, v.Policy, origin)
	rows := [][2]string{{"rule:", d.Rule}, {"filter list:", d.List}, {"traffic:", d.Selector + ", " + directionWord(d.Direction)}, {"action:", d.Action},
		{"place:", fmt.Sprintf("weight %d: %s", d.Weight, d.Reason)}}
	if d.Tunnel != "" {
		rows = append(rows, [2]string{"tunnel:", d.Tunnel})
	}
	if d.Overlay {
		rows = append(rows, [2]string{"temporary:", "ends " + p.in(d.Expires)})
	}
	p.facts("  ", rows)
}

func printPassed(p *printer, v control.Explanation) {
	if v.Decision == "exempt" {
		return
	}
	total := v.MorePassed
	for _, g := range v.Passed {
		total += g.Count
	}
	p.heading("Filters before it that do not match", total)
	for _, g := range v.Passed {
		p.line("  not the %s: %s", strings.Join(g.Differs, ", not the "), count(uint64(g.Count), "filter"))
		for _, f := range g.First {
			p.line("    %d  %s, %s: %s (rule %q, list %q)", f.Place, f.Selector, directionWord(f.Direction), f.Action, f.Rule, f.List)
		}
		if more := g.Count - len(g.First); more > 0 {
			p.line("    and %s", count(uint64(more), "more filter"))
		}
	}
	if v.MorePassed > 0 {
		p.line("  and %s for other reasons", count(uint64(v.MorePassed), "more filter"))
	}
}

func printOffer(p *printer, o control.Offer) {
	p.gap()
	p.line("Negotiated by %s, in this order:", o.By)
	p.facts("  ", [][2]string{{"authentication:", strings.Join(o.Authentication, ", ")}, {"main mode:", strings.Join(o.MainMode, ", ")},
		{"quick mode:", strings.Join(o.Methods, ", ")}, {"session key PFS:", o.PFS}})
}

func printLive(p *printer, l control.Live) {
	since := ""
	if !l.Since.IsZero() {
		since = " since " + p.ago(l.Since)
	}
	p.gap()
	p.line("Now: %s is %s%s: %s", l.Peer, l.State, since, l.Words)
	if len(l.Secured) > 0 {
		printSecured(p, l.Secured)
		for _, s := range l.Secured {
			p.line("  %s  SPI in %s, out %s; rule %q", s.Peer, s.SPIIn, s.SPIOut, s.Rule)
		}
	}
	if len(l.InClear) > 0 {
		printClear(p, l.InClear)
	}
	if len(l.Negotiating) > 0 {
		printNegotiating(p, l.Negotiating)
	}
	if len(l.Failures) > 0 {
		printFailures(p, l.Failures)
	}
}
