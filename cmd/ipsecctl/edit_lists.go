package main

import (
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
	"ipsecagent/policy/file"
)

const inHelp = "the policy whose own one it is; needed where several policies have one of that name"

func listCommand(e *env) *cobra.Command {
	return group("filterlist", "Edit the filter lists in the policies folder", e.listAdd(), e.listSet(), e.listDelete(), e.listShow())
}

func (e *env) listAdd() *cobra.Command {
	c := &cobra.Command{Use: "add --name NAME", Short: "Make a filter list for every policy, empty",
		Long: `add makes a filter list that every policy of the folder can use. 'ipsecctl filter
add' puts filters into it, and makes a list that is not there yet itself.`,
		Example: "  ipsecctl filterlist add --name database --description 'Everything to and from SQL Server'"}
	name := c.Flags().String("name", "", "name of the list")
	addOptions(c, listOptions())
	return e.verb(c, []string{"name"}, func(cmd *cobra.Command, s *policy.Store) error {
		l := policy.FilterList{Name: *name}
		if err := applyOptions(cmd, listOptions(), &l); err != nil {
			return err
		}
		return listShelf().insert(s, l, "")
	})
}

func (e *env) listSet() *cobra.Command {
	c := &cobra.Command{Use: "set --name NAME", Short: "Change a filter list: only what flags say",
		Example: "  ipsecctl filterlist set --name database --new-name databases"}
	return setVerb(e, c, listShelf(), listOptions())
}

// setVerb makes the set command of lists or of actions.
func setVerb[T any](e *env, c *cobra.Command, f shelf[T], options []option[T]) *cobra.Command {
	name := c.Flags().String("name", "", "name of the "+f.what)
	newName := c.Flags().String("new-name", "", "another name; the rules that use it follow")
	in := c.Flags().String("policy", "", inHelp)
	addOptions(c, options)
	return e.verb(c, []string{"name"}, func(cmd *cobra.Command, s *policy.Store) error {
		found, err := f.find(s, *name, *in)
		if err != nil {
			return err
		}
		for _, h := range found {
			if err := applyOptions(cmd, options, h.object); err != nil {
				return err
			}
		}
		if *newName == "" {
			return nil
		}
		return f.rename(s, found, *newName)
	})
}

func (e *env) listDelete() *cobra.Command {
	c := &cobra.Command{Use: "delete --name NAME", Short: "Delete a filter list that no rule uses",
		Example: "  ipsecctl filterlist delete --name database"}
	name, in := c.Flags().String("name", "", "name of the list"), c.Flags().String("policy", "", inHelp)
	return e.verb(c, []string{"name"}, func(_ *cobra.Command, s *policy.Store) error { return listShelf().remove(s, *name, *in) })
}

// shownLists are filter lists.
type shownLists struct {
	SchemaVersion string      `json:"schemaVersion"`
	FilterLists   []shownList `json:"filterLists"`
}

type shownList struct {
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	UsedBy      []string `json:"usedBy"`
	// Filters are in the language of policy documents; the first is number 1.
	Filters []string `json:"filters"`
}

func (e *env) listShow() *cobra.Command {
	c := &cobra.Command{Use: "show [NAME]", Short: "Show the filter lists in the policies folder, or the filters of one", Args: cobra.MaximumNArgs(1),
		Example: "  ipsecctl filterlist show\n  ipsecctl filterlist show database"}
	dir := c.Flags().String("dir", policiesDir, "the policies folder")
	c.RunE = func(_ *cobra.Command, args []string) error {
		return e.showLists(*dir, strings.Join(args, ""))
	}
	return e.withFormat(c)
}

func (e *env) showLists(dir, name string) error {
	s, err := showFolder(dir)
	if err != nil {
		return err
	}
	shown := shownLists{SchemaVersion: control.SchemaVersion, FilterLists: []shownList{}}
	for _, group := range copies(&s, listShelf(), name) {
		l := shownList{Name: group[0].object.Name, Description: group[0].object.Description, UsedBy: listShelf().users(group), Filters: []string{}}
		for _, filter := range group[0].object.Filters {
			l.Filters = append(l.Filters, file.FilterText(filter))
		}
		shown.FilterLists = append(shown.FilterLists, l)
	}
	if name != "" && len(shown.FilterLists) == 0 {
		return listShelf().missing(&s, name)
	}
	return e.show(shown, func(p *printer) { printLists(p, shown, name != "") })
}

// copies groups the objects of a store (of one name, if that is given) that
// are one thing.
func copies[T any](s *policy.Store, f shelf[T], name string) [][]holder[T] {
	var groups [][]holder[T]
	for _, h := range f.all(s) {
		if name != "" && *f.name(h.object) != name {
			continue
		}
		i := slices.IndexFunc(groups, func(g []holder[T]) bool { return reflect.DeepEqual(g[0].object, h.object) })
		if i < 0 {
			groups = append(groups, nil)
			i = len(groups) - 1
		}
		groups[i] = append(groups[i], h)
	}
	return groups
}

// usedBy says in a table who uses something.
func usedBy(rules []string) string {
	if len(rules) > 1 {
		return count(uint64(len(rules)), "rule")
	}
	return listed(rules)
}

func printLists(p *printer, shown shownLists, whole bool) {
	if !whole {
		rows := [][]string{{"NAME", "FILTERS", "USED BY", "DESCRIPTION"}}
		for _, l := range shown.FilterLists {
			rows = append(rows, []string{l.Name, grouped(uint64(len(l.Filters))), usedBy(l.UsedBy), shorten(l.Description)})
		}
		p.table("", rows)
		return
	}
	for _, l := range shown.FilterLists {
		p.line("%s: %s; used by: %s", l.Name, count(uint64(len(l.Filters)), "filter"), listed(l.UsedBy))
		if l.Description != "" {
			p.block("  ", l.Description)
		}
		for i, f := range l.Filters {
			p.line("%4d  %s", i+1, f)
		}
	}
}

func filterCommand(e *env) *cobra.Command {
	return group("filter", "Edit the filters of a list in the policies folder", e.filterAdd(), e.filterSet(), e.filterDelete(), e.filterShow())
}

// filterFlags are the list of a filter and the policy of the list.
func filterFlags(c *cobra.Command) (list, in *string) {
	return c.Flags().String("list", "", "filter list"), c.Flags().String("policy", "", inHelp)
}

func (e *env) filterAdd() *cobra.Command {
	c := &cobra.Command{Use: "add --list LIST --from SOURCE --to DESTINATION", Short: "Add a filter to a list; a list that is not there is made",
		Example: "  ipsecctl filter add --list database --from me --to any --protocol tcp --source-port 1433"}
	list, in := filterFlags(c)
	addOptions(c, filterOptions())
	return e.verb(c, []string{"list", "from", "to"}, func(cmd *cobra.Command, s *policy.Store) error {
		f := policy.Filter{Mirrored: true}
		if err := applyOptions(cmd, filterOptions(), &f); err != nil {
			return err
		}
		if !listShelf().exists(s, *list) {
			return listShelf().insert(s, policy.FilterList{Name: *list, Filters: []policy.Filter{f}}, *in)
		}
		found, err := listShelf().find(s, *list, *in)
		if err != nil {
			return err
		}
		if i := slices.Index(found[0].object.Filters, f); i >= 0 {
			return invalid("filter list %q has that filter already, as number %d", *list, i+1)
		}
		for _, h := range found {
			h.object.Filters = append(h.object.Filters, f)
		}
		return nil
	})
}

func (e *env) filterSet() *cobra.Command {
	c := &cobra.Command{Use: "set --list LIST --number N", Short: "Change a filter: only what flags say",
		Example: "  ipsecctl filter set --list database --number 1 --source-port 1433-1434"}
	list, in := filterFlags(c)
	number := c.Flags().Int("number", 0, "of the filter, from 1, as filter show has it")
	addOptions(c, filterOptions())
	return e.verb(c, []string{"list", "number"}, func(cmd *cobra.Command, s *policy.Store) error {
		found, err := filterNumbered(s, *list, *in, *number)
		if err != nil {
			return err
		}
		for _, h := range found {
			if err := applyOptions(cmd, filterOptions(), &h.object.Filters[*number-1]); err != nil {
				return err
			}
		}
		return nil
	})
}

func filterNumbered(s *policy.Store, list, in string, number int) ([]holder[policy.FilterList], error) {
	found, err := listShelf().find(s, list, in)
	if err != nil {
		return nil, err
	}
	if n := len(found[0].object.Filters); number < 1 || number > n {
		return nil, notFound("filter list %q has no filter number %d; it has %s: ipsecctl filter show --list '%s'", list, number, count(uint64(n), "filter"), list)
	}
	return found, nil
}

func (e *env) filterDelete() *cobra.Command {
	c := &cobra.Command{Use: "delete --list LIST --number N", Short: "Delete a filter of a list",
		Example: "  ipsecctl filter delete --list database --number 2"}
	list, in := filterFlags(c)
	number := c.Flags().Int("number", 0, "of the filter, from 1, as filter show has it")
	return e.verb(c, []string{"list", "number"}, func(_ *cobra.Command, s *policy.Store) error {
		found, err := filterNumbered(s, *list, *in, *number)
		if err != nil {
			return err
		}
		if users := listShelf().users(found); len(found[0].object.Filters) == 1 && len(users) > 0 {
			return invalid("it is the only filter of list %q, which is in use: by %s; add another filter first, or change the rule", *list, strings.Join(users, ", "))
		}
		for _, h := range found {
			h.object.Filters = slices.Delete(h.object.Filters, *number-1, *number)
		}
		return nil
	})
}

func (e *env) filterShow() *cobra.Command {
	c := &cobra.Command{Use: "show --list LIST", Short: "Show the filters of a list with their numbers", Args: cobra.NoArgs,
		Example: "  ipsecctl filter show --list database"}
	list := c.Flags().String("list", "", "filter list")
	dir := c.Flags().String("dir", policiesDir, "the policies folder")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := needFlags(cmd, []string{"list"}); err != nil {
			return err
		}
		return e.showLists(*dir, *list)
	}
	return e.withFormat(c)
}
