package main

import (
	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
)

// versions is what version shows.
type versions struct {
	SchemaVersion string               `json:"schemaVersion"`
	Ipsecctl      control.VersionInfo  `json:"ipsecctl"`
	Agent         *control.VersionInfo `json:"agent"` // null: it does not answer
}

func versionCommand(e *env) *cobra.Command {
	return e.withFormat(&cobra.Command{
		Use:     "version",
		Short:   "Show the version of this program and of the running agent",
		Long:    "version shows the version of this program and of the running agent. Its exit\ncode tells whether the agent answers.",
		Example: "  ipsecctl version",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versions{SchemaVersion: control.SchemaVersion, Ipsecctl: control.ThisProgram()}
			agent, failed := e.agent().Version(cmd.Context())
			if failed == nil {
				v.Agent = &agent
			}
			if err := e.show(v, func(p *printer) { printVersions(p, v) }); err != nil {
				return err
			}
			return failed
		},
	})
}

func printVersions(p *printer, v versions) {
	rows := [][2]string{{"ipsecctl", v.Ipsecctl.String()}}
	if v.Agent != nil {
		rows = append(rows, [2]string{"ipsecagent", v.Agent.String()})
	}
	p.facts("", rows)
}
