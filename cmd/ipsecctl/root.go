package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// defaultTimeout bounds a request; assign of a large policy takes longest.
const defaultTimeout = 30 * time.Second

func rootCommand(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:   "ipsecctl",
		Short: "Secure the traffic of this host by policy",
		Long: `ipsecctl tells the agent of this host which IPsec policy is in force and shows
what it does. For most hosts one command is the whole job:

  ipsecctl assign client|server|secure-server`,
		Example: `  ipsecctl assign client --auth psk-file:/root/key
  ipsecctl status
  ipsecctl policy show --effective`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		DisableAutoGenTag: true,
		PersistentPreRunE: func(*cobra.Command, []string) error { e.parsed = true; return e.checkFlags() },
	}
	root.Long += "\n\nExit codes:\n" + exitCodeTable()
	flags := root.PersistentFlags()
	flags.StringVar(&e.socket, "socket", e.defaultSocket(), "control socket of the agent; also IPSECAGENT_SOCKET")
	flags.DurationVar(&e.timeout, "timeout", defaultTimeout, "how long to wait for the agent")
	root.AddCommand(assignCommand(e), unassignCommand(e), statusCommand(e), policyCommand(e), saCommand(e), whyCommand(e), explainCommand(e), traceCommand(e),
		applyCommand(e), confirmCommand(e), rollbackCommand(e), reportCommand(e),
		eventsCommand(e), dropsCommand(e), doctorCommand(e), reloadCommand(e), versionCommand(e),
		ruleCommand(e), listCommand(e), filterCommand(e), actionCommand(e),
		importCommand(e), exportCommand(e), netshCommand(e), schemaCommand(e),
		directoryCommand(e), rsopCommand(e))
	root.SetOut(e.out)
	root.SetErr(e.err)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	sayForm(root)
	return root
}

// sayForm has each command answer a wrong number of arguments with its form;
// cobra says only how many it wants.
func sayForm(c *cobra.Command) {
	if fits := c.Args; fits != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if fits(c, args) == nil {
				return nil
			}
			if len(args) == 0 {
				return usage("an argument is missing: %s", c.UseLine())
			}
			return usage("%q does not fit; the form is: %s", strings.Join(args, " "), c.UseLine())
		}
	}
	for _, sub := range c.Commands() {
		sayForm(sub)
	}
}

func exitCodeTable() string {
	var b strings.Builder
	for _, c := range exitCodes() {
		fmt.Fprintf(&b, "  %d  %s\n", c.code, c.name)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func (e *env) checkFlags() error {
	if e.timeout <= 0 {
		return usage("--timeout %v: it has to be more than nothing", e.timeout)
	}
	switch e.format {
	case "", formatTable, formatJSON, formatYAML:
		return nil
	}
	return usage("-o %q: the formats are table, json and yaml", e.format)
}

// group is a command that has commands of its own and does nothing itself.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs}
	var names []string
	for _, c := range commands {
		names = append(names, c.Name())
	}
	g.RunE = func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usage("%s needs a command: %s", use, strings.Join(names, ", "))
		}
		return usage("%s has no command %q; it has: %s", use, args[0], strings.Join(names, ", "))
	}
	g.AddCommand(commands...)
	return g
}

// withFormat adds -o to a command that shows something.
func (e *env) withFormat(c *cobra.Command) *cobra.Command {
	c.Flags().StringVarP(&e.format, "output", "o", formatTable, "format: table, json or yaml")
	c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{formatTable, formatJSON, formatYAML}, cobra.ShellCompDirectiveNoFileComp))
	return c
}
