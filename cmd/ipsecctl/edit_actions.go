package main

import (
	"strings"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
	"ipsecagent/policy/file"
	"ipsecagent/sadb"
)

func actionCommand(e *env) *cobra.Command {
	return group("filteraction", "Edit the filter actions in the policies folder", e.actionAdd(), e.actionSet(), e.actionDelete(), e.actionShow())
}

func (e *env) actionAdd() *cobra.Command {
	c := &cobra.Command{Use: "add --name NAME", Short: "Make a filter action for every policy",
		Long: `add makes a filter action that every policy of the folder can use. Without --action
it negotiates security.`,
		Example: "  ipsecctl filteraction add --name require --method esp-aes256gcm --method esp-aes128gcm --accept-unsecured"}
	name := c.Flags().String("name", "", "name of the action")
	addOptions(c, actionOptions())
	return e.verb(c, []string{"name"}, func(cmd *cobra.Command, s *policy.Store) error {
		a := policy.FilterAction{Name: *name, Kind: sadb.Negotiate}
		if err := applyOptions(cmd, actionOptions(), &a); err != nil {
			return err
		}
		return actionShelf().insert(s, a, "")
	})
}

func (e *env) actionSet() *cobra.Command {
	c := &cobra.Command{Use: "set --name NAME", Short: "Change a filter action: only what flags say",
		Example: "  ipsecctl filteraction set --name require --session-key-pfs ecp256"}
	return setVerb(e, c, actionShelf(), actionOptions())
}

func (e *env) actionDelete() *cobra.Command {
	c := &cobra.Command{Use: "delete --name NAME", Short: "Delete a filter action that no rule uses",
		Example: "  ipsecctl filteraction delete --name require"}
	name, in := c.Flags().String("name", "", "name of the action"), c.Flags().String("policy", "", inHelp)
	return e.verb(c, []string{"name"}, func(_ *cobra.Command, s *policy.Store) error { return actionShelf().remove(s, *name, *in) })
}

// shownActions are filter actions.
type shownActions struct {
	SchemaVersion string        `json:"schemaVersion"`
	FilterActions []shownAction `json:"filterActions"`
}

type shownAction struct {
	Name        string   `json:"name"`
	Action      string   `json:"action"`
	Description string   `json:"description,omitempty"`
	UsedBy      []string `json:"usedBy"`
	// Document is the action in the language of policy documents.
	Document string `json:"document"`
}

func (e *env) actionShow() *cobra.Command {
	c := &cobra.Command{Use: "show [NAME]", Short: "Show the filter actions in the policies folder, or one whole", Args: cobra.MaximumNArgs(1),
		Example: "  ipsecctl filteraction show\n  ipsecctl filteraction show require"}
	dir := c.Flags().String("dir", policiesDir, "the policies folder")
	c.RunE = func(_ *cobra.Command, args []string) error {
		s, err := showFolder(*dir)
		if err != nil {
			return err
		}
		name := strings.Join(args, "")
		shown := shownActions{SchemaVersion: control.SchemaVersion, FilterActions: []shownAction{}}
		for _, g := range copies(&s, actionShelf(), name) {
			a := g[0].object
			shown.FilterActions = append(shown.FilterActions, shownAction{a.Name, a.Kind.String(), a.Description, actionShelf().users(g), file.ActionText(*a)})
		}
		if name != "" && len(shown.FilterActions) == 0 {
			return actionShelf().missing(&s, name)
		}
		return e.show(shown, func(p *printer) { printActions(p, shown, name != "") })
	}
	return e.withFormat(c)
}

func printActions(p *printer, shown shownActions, whole bool) {
	if !whole {
		rows := [][]string{{"NAME", "ACTION", "USED BY", "DESCRIPTION"}}
		for _, a := range shown.FilterActions {
			rows = append(rows, []string{a.Name, a.Action, usedBy(a.UsedBy), shorten(a.Description)})
		}
		p.table("", rows)
		return
	}
	for _, a := range shown.FilterActions {
		p.line("# used by: %s", listed(a.UsedBy))
		if strings.Contains(a.Document, ":") {
			p.line("%s:", a.Name)
			p.block("  ", a.Document)
			continue
		}
		p.line("%s: %s", a.Name, a.Document)
	}
}

// indentRest indents all lines of an item of a list but the first.
func indentRest(text string) string { return strings.ReplaceAll(text, "\n", "\n  ") }
