package main

import "github.com/spf13/cobra"

func unassignCommand(e *env) *cobra.Command {
	return e.withFormat(&cobra.Command{
		Use:     "unassign",
		Short:   "Take the policy out of force: traffic passes as it did without one",
		Example: "  ipsecctl unassign",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			res, err := e.agent().Unassign(cmd.Context())
			if err != nil {
				return err
			}
			return e.showAssigned(res)
		},
	})
}
