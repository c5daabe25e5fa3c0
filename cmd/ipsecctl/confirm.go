package main

import "github.com/spf13/cobra"

func confirmCommand(e *env) *cobra.Command {
	return e.withFormat(&cobra.Command{
		Use:   "confirm",
		Short: "Keep the policy that was applied",
		Long: `confirm keeps the policy that 'ipsecctl apply --confirm' has put in force: it stays,
across restarts too, and its document stands in the policies folder.

Give it from a new session: that one can be made is what is to be shown.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := e.agent().Confirm(cmd.Context())
			if err != nil {
				return err
			}
			return e.showApplied(v)
		},
	})
}
