package main

import (
	"github.com/spf13/cobra"

	"ipsecagent/policy/file"
)

func schemaCommand(e *env) *cobra.Command {
	return group("schema", "Print the schemas of documents", &cobra.Command{
		Use:   "policy",
		Short: "Print the JSON Schema of policy documents, for editors",
		Long: `policy prints the JSON Schema of policy documents and of shared ones. Editors that
know JSON Schema complete and check documents by it; with yaml-language-server this
line stands at the beginning of the document:

  # yaml-language-server: $schema=/usr/share/ipsecagent/policy.json`,
		Example: "  ipsecctl schema policy > policy.json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			text, err := file.Schema()
			if err != nil {
				return err
			}
			_, err = e.out.Write(text)
			return err
		},
	})
}
