package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
)

func eventsCommand(e *env) *cobra.Command {
	var follow bool
	c := &cobra.Command{
		Use:   "events",
		Short: "Show what happened: associations, failures, fall-back to clear, policy",
		Long: `events shows what the agent remembers of what happened, oldest first; with -f
also what happens from now on, until it is stopped. With -o json each event is
one line.`,
		Example: "  ipsecctl events\n  ipsecctl events -f -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.agent().Events(cmd.Context(), follow, e.showEvent)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with the events to come")
	return e.withFormat(c)
}

func (e *env) showEvent(v control.Event) error {
	switch e.format {
	case formatJSON:
		text, err := toJSON(v, "")
		if err != nil {
			return err
		}
		_, err = e.out.Write(text)
		return err
	case formatYAML:
		if _, err := fmt.Fprintln(e.out, "---"); err != nil {
			return err
		}
		return e.showYAML(v)
	}
	return e.show(v, func(p *printer) { printEvent(p, v) })
}

func printEvent(p *printer, v control.Event) {
	peer := ""
	if !strings.Contains(v.Message, v.Peer) {
		peer = v.Peer + ": "
	}
	p.line("%s  %-7s  %-18s  %s%s", p.at(v.Time), v.Severity, v.Kind, peer, v.Message)
}
