package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
)

func policyCommand(e *env) *cobra.Command {
	return group("policy", "List, show, check and edit policies",
		append([]*cobra.Command{policyListCommand(e), policyShowCommand(e), validateCommand(e), lintCommand(e), diffCommand(e)}, e.policyVerbs()...)...)
}

func policyListCommand(e *env) *cobra.Command {
	return e.withFormat(&cobra.Command{
		Use:     "list",
		Short:   "List the policies that can be assigned",
		Example: "  ipsecctl policy list",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := e.agent().Policies(cmd.Context())
			if err != nil {
				return err
			}
			return e.show(list, func(p *printer) { printPolicies(p, list.Policies) })
		},
	})
}

func printPolicies(p *printer, list []control.PolicyInfo) {
	rows := [][]string{{"NAME", "ASSIGNED", "FROM", "DESCRIPTION"}}
	for _, i := range list {
		description := shorten(i.Description)
		if i.Error != "" {
			description = "NOT VALID, see below"
		}
		rows = append(rows, []string{i.Name, yesNo(i.Assigned), i.Origin, description})
	}
	p.table("", rows)
	for _, i := range list {
		if i.Error != "" {
			p.gap()
			p.line("%s (%s) is not valid:", i.Name, i.Origin)
			p.block("  ", i.Error)
		}
	}
}

// maxDescription is how many characters of a description a table shows.
const maxDescription = 80

func shorten(s string) string {
	if r := []rune(s); len(r) > maxDescription {
		return strings.TrimRight(string(r[:maxDescription-1]), " ") + "…"
	}
	return s
}

func policyShowCommand(e *env) *cobra.Command {
	var effective bool
	c := &cobra.Command{
		Use:   "show [NAME]",
		Short: "Show a policy; without a name the one in force",
		Long: `show prints a policy as a document. With --effective it prints what the policy
means on this host: the filters in the order in which they decide, each with the
reason for its place, and everything that is exempt.`,
		Example: `  ipsecctl policy show
  ipsecctl policy show secure-server --effective`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: e.completePolicies,
		RunE: func(cmd *cobra.Command, args []string) error {
			name := strings.Join(args, "")
			v, err := e.agent().Policy(cmd.Context(), name, effective)
			if err != nil {
				return err
			}
			return e.show(v, func(p *printer) { printPolicy(p, v, effective) })
		},
	}
	c.Flags().BoolVar(&effective, "effective", false, "as compiled for this host, in order of decision")
	return e.withFormat(c)
}

func printPolicy(p *printer, v control.PolicyView, effective bool) {
	assigned := "not in force"
	if v.Assigned {
		assigned = "in force"
	}
	p.line("# %s (%s), %s", v.Name, v.Origin, assigned)
	if !effective {
		p.block("", v.Document)
		return
	}
	p.gap()
	p.line("Filters in the order in which they decide; what none matches passes in clear.")
	p.gap()
	p.table("", filterRows(p, v.Filters))
	printFilterDetails(p, v.Filters)
	if len(v.MainMode) > 0 {
		p.gap()
		p.line("Main mode: %s", strings.Join(v.MainMode, ", "))
	}
	printUnresolved(p, v.Unresolved)
	p.heading("Passes whatever the filters say", len(v.Exempt))
	for _, x := range v.Exempt {
		p.line("  - %s", x)
	}
}

func printUnresolved(p *printer, unresolved []string) {
	if len(unresolved) == 0 {
		return
	}
	p.heading("Names and sets that stand for nothing now", len(unresolved))
	for _, x := range unresolved {
		p.line("  - %s", x)
	}
}

func filterRows(p *printer, filters []control.FilterView) [][]string {
	rows := [][]string{{"#", "TRAFFIC", "DIRECTION", "ACTION", "RULE", "FILTER LIST", "MATCHED", "DROPPED"}}
	for i, f := range filters {
		rule := f.Rule
		if f.Overlay {
			rule += " (temporary, ends " + p.in(f.Expires) + ")"
		}
		rows = append(rows, []string{
			fmt.Sprint(i + 1), f.Selector, directionWord(f.Direction), f.Action, rule, f.List, grouped(f.Packets), grouped(f.Dropped),
		})
	}
	return rows
}

func directionWord(d string) string {
	if d == "both" {
		return "in and out"
	}
	return d
}

func printFilterDetails(p *printer, filters []control.FilterView) {
	for i, f := range filters {
		p.gap()
		p.line("%d  %s", i+1, f.ID)
		var rows [][2]string
		add := func(name, value string) {
			if value != "" {
				rows = append(rows, [2]string{name, value})
			}
		}
		add("place:", fmt.Sprintf("weight %d: %s", f.Weight, f.Reason))
		add("above:", f.Parent)
		add("tunnel:", f.Tunnel)
		add("connections:", f.Connections)
		for _, o := range f.Origins {
			add("address of:", o)
		}
		add("methods:", strings.Join(f.Methods, ", "))
		add("authentication:", strings.Join(f.Auth, ", "))
		p.facts("   ", rows)
	}
}

// completionTimeout bounds what a shell waits for.
const completionTimeout = 2 * time.Second

// completePolicies offers the names of the policies the agent knows.
func (e *env) completePolicies(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	list, err := control.NewClient(e.socket, completionTimeout).Policies(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, i := range list.Policies {
		if strings.HasPrefix(i.Name, begun) {
			names = append(names, clean(i.Name)+"\t"+clean(i.Description))
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
