package main

import "github.com/spf13/cobra"

func rollbackCommand(e *env) *cobra.Command {
	return e.withFormat(&cobra.Command{
		Use:   "rollback",
		Short: "Go back to the policy before the one that was applied",
		Long: `rollback puts in force again what was before the last 'ipsecctl apply', whether
that is confirmed or still waits. It is one step: what was before that is not
known, and an assignment since ends it. Preshared keys stay as they are.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := e.agent().Rollback(cmd.Context())
			if err != nil {
				return err
			}
			return e.showApplied(v)
		},
	})
}
