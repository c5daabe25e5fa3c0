package main

import (
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
)

func whyCommand(e *env) *cobra.Command {
	return e.withFormat(&cobra.Command{
		Use:   "why PEER",
		Short: "Say how traffic with one peer goes, which rule decides, and why it failed",
		Long: `why shows what is known of one peer, by its address: whether traffic with it is
secured, in clear or dropped, since when and why; which filters speak of it, in
the order of decision; and what failed lately: at which step, what both sides
offered, the first item that differs, and what to do.`,
		Example: "  ipsecctl why 10.1.2.3\n  ipsecctl why fd00::7 -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			peer, err := parsePeer(args[0])
			if err != nil {
				return err
			}
			w, err := e.agent().Why(cmd.Context(), peer)
			if err != nil {
				return err
			}
			return e.show(w, func(p *printer) { printWhy(p, w) })
		},
	})
}

func parsePeer(arg string) (netip.Addr, error) {
	peer, err := netip.ParseAddr(arg)
	if err != nil {
		return netip.Addr{}, usage("%q is not the address of a peer, for example 10.1.2.3 or fd00::7", arg)
	}
	return peer, nil
}

func printWhy(p *printer, w control.Why) {
	since := ""
	if !w.Since.IsZero() {
		since = fmt.Sprintf(" since %s (%s)", p.ago(w.Since), p.at(w.Since))
	}
	p.line("%s: %s%s: %s", w.Peer, w.State, since, w.Words)
	p.gap()
	printDeciding(p, w)
	if len(w.Secured) > 0 {
		printSecured(p, w.Secured)
	}
	if len(w.InClear) > 0 {
		printClear(p, w.InClear)
	}
	if len(w.MainMode) > 0 {
		p.heading("Main mode", len(w.MainMode))
		p.table("  ", mainModeRows(p, w.MainMode))
	}
	printNegotiating(p, w.Negotiating)
	printFailures(p, w.Failures)
}

// printDeciding lists the filters that speak of the peer.
func printDeciding(p *printer, w control.Why) {
	if w.State == control.PeerHeld {
		return // the filters are not known either
	}
	if len(w.Filters) == 0 {
		p.line("No filter of the policy speaks of it: what is not negotiated passes in clear.")
		return
	}
	p.line("Filters that speak of it, the first that matches a packet decides:")
	rows := [][]string{{"RULE", "TRAFFIC", "DIRECTION", "ACTION", "BECAUSE"}}
	for _, f := range w.Filters {
		rows = append(rows, []string{f.Rule, f.Selector, f.Direction, f.Action, f.Reason})
	}
	p.table("  ", rows)
	if w.MoreFilters > 0 {
		p.line("  and %s: ipsecctl policy show --effective", count(uint64(w.MoreFilters), "more filter"))
	}
}
