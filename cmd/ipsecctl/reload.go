package main

import "github.com/spf13/cobra"

func reloadCommand(e *env) *cobra.Command {
	return e.withFormat(&cobra.Command{
		Use:   "reload",
		Short: "Read policy, secrets and addresses again",
		Long: `reload reads the assigned policy and the secrets again and puts what they say in
force. Nothing opens meanwhile; if something is not valid, what is in force stays.`,
		Example: "  ipsecctl reload",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			res, err := e.agent().Reload(cmd.Context())
			if err != nil {
				return err
			}
			return e.showAssigned(res)
		},
	})
}
