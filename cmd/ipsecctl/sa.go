package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
)

func saCommand(e *env) *cobra.Command {
	return group("sa", "Show security associations", saListCommand(e))
}

func saListCommand(e *env) *cobra.Command {
	return e.withFormat(&cobra.Command{
		Use:     "list",
		Short:   "List the security associations, main mode and quick mode",
		Long:    "list shows the ISAKMP security associations (main mode) and the pairs of IPsec\nsecurity associations (quick mode) in force. It never shows a key.",
		Example: "  ipsecctl sa list\n  ipsecctl sa list -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := e.agent().SAs(cmd.Context())
			if err != nil {
				return err
			}
			return e.show(list, func(p *printer) { printSAs(p, list) })
		},
	})
}

func printSAs(p *printer, l control.SAList) {
	p.line("Main mode: %d", len(l.MainMode))
	if len(l.MainMode) > 0 {
		p.table("  ", mainModeRows(p, l.MainMode))
	}
	p.gap()
	p.line("Quick mode, pairs: %d", len(l.Pairs))
	if len(l.Pairs) > 0 {
		p.table("  ", pairRows(p, l.Pairs))
	}
}

func mainModeRows(p *printer, list []control.MainModeSA) [][]string {
	rows := [][]string{{"PEER", "LOCAL", "IDENTITY", "PROVEN BY", "METHOD", "BEGUN BY", "SINCE", "ENDS", "QUICK MODES", "COOKIES"}}
	for _, m := range list {
		by := "peer"
		if m.Initiator {
			by = "this host"
		}
		rows = append(rows, []string{
			m.Peer, m.Local, m.Principal, m.Method, m.Suite, by, p.ago(m.Since), p.in(m.Expires), fmt.Sprint(m.QuickModes), m.Cookies,
		})
	}
	return rows
}

func pairRows(p *printer, list []control.SecuredPeer) [][]string {
	rows := [][]string{{"PEER", "LOCAL", "TRAFFIC", "METHOD", "MODE", "NAT", "RULE", "SINCE", "ENDS", "SENT", "RECEIVED", "SPI OUT", "SPI IN"}}
	for _, s := range list {
		rows = append(rows, []string{
			s.Peer, s.Local, s.Flow, s.Suite, s.Mode, s.NAT, s.Rule, p.ago(s.Since), p.in(s.Expires), size(s.BytesOut), size(s.BytesIn), s.SPIOut, s.SPIIn,
		})
	}
	return rows
}
