package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
	"ipsecagent/policy/directory"
	"ipsecagent/policy/file"
)

// directoryView is what directory show says of all.
type directoryView struct {
	SchemaVersion string            `json:"schemaVersion"`
	Server        string            `json:"server"`
	Container     string            `json:"container"`
	Policies      []directoryPolicy `json:"policies"`
	// FilterLists and FilterActions are those that no policy uses.
	FilterLists   []string `json:"filterLists"`
	FilterActions []string `json:"filterActions"`
	// Unreadable is the number of objects that this account may not read.
	Unreadable int      `json:"unreadable"`
	Problems   []string `json:"problems"`
}

// directoryPolicy is one policy of a directory.
type directoryPolicy struct {
	Name        string       `json:"name"`
	GUID        string       `json:"guid"`
	Description string       `json:"description"`
	Rules       int          `json:"rules"`
	Filters     int          `json:"filters"` // in all lists
	Assigned    []assignedAt `json:"assigned"`
	Document    string       `json:"document,omitempty"`
}

// assignedAt is where a policy is assigned.
type assignedAt struct {
	Name  string   `json:"name"`
	DN    string   `json:"dn"`
	Links []string `json:"links,omitempty"`
}

func directoryShowCommand(e *env, o *directoryOptions) *cobra.Command {
	return e.withFormat(&cobra.Command{
		Use:   "show [POLICY]",
		Short: "Show the policies of the directory, or one of them as a document",
		Long: `show lists the policies that the directory holds and where each is assigned, and
what hosts could not take. With the name or the GUID of a policy it prints that
policy as a document of this program: change it, and publish it.`,
		Example: `  ipsecctl directory show
  ipsecctl directory show 'Server (Request Security)' > server.yaml`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.inDirectory(cmd, o, func(ctx context.Context, s *directory.Session) error {
				i, err := s.Inventory(ctx)
				if err != nil {
					return err
				}
				if len(args) == 1 {
					return e.showDirectoryPolicy(&i, args[0])
				}
				v := directoryViewOf(&i, s)
				return e.show(v, func(p *printer) { printDirectory(p, v) })
			})
		},
	})
}

func directoryViewOf(i *directory.Inventory, s *directory.Session) directoryView {
	v := directoryView{SchemaVersion: control.SchemaVersion, Server: s.Server(), Container: s.Container(), Unreadable: i.Unreadable,
		Policies: []directoryPolicy{}, FilterLists: []string{}, FilterActions: []string{}, Problems: []string{}}
	for k := range i.Store.Policies {
		v.Policies = append(v.Policies, directoryPolicyOf(i, &i.Store.Policies[k]))
	}
	for _, l := range i.Store.FilterLists {
		v.FilterLists = append(v.FilterLists, l.Name)
	}
	for _, a := range i.Store.FilterActions {
		v.FilterActions = append(v.FilterActions, a.Name)
	}
	for _, p := range i.Problems {
		if i.Unreadable == 0 {
			v.Problems = append(v.Problems, p.Error())
		}
	}
	return v
}

func directoryPolicyOf(i *directory.Inventory, p *policy.Policy) directoryPolicy {
	v := directoryPolicy{Name: p.Name, GUID: p.GUID, Description: p.Description, Rules: len(p.Rules), Assigned: []assignedAt{}}
	for _, l := range p.FilterLists {
		v.Filters += len(l.Filters)
	}
	for _, a := range i.By(p.GUID) {
		v.Assigned = append(v.Assigned, assignedAt{a.Name, a.At, a.Links})
	}
	return v
}

func printDirectory(p *printer, v directoryView) {
	p.line("%s on %s", v.Container, v.Server)
	p.gap()
	rows := [][]string{{"NAME", "RULES", "ASSIGNED BY", "DESCRIPTION"}}
	for _, x := range v.Policies {
		var names []string
		for _, a := range x.Assigned {
			names = append(names, a.Name)
		}
		rows = append(rows, []string{x.Name, fmt.Sprint(x.Rules), shorten(strings.Join(names, ", ")), shorten(x.Description)})
	}
	p.table("", rows)
	for _, x := range v.Policies {
		printAssigned(p, x)
	}
	printUnused(p, "Filter lists that no rule uses", v.FilterLists)
	printUnused(p, "Filter actions that no rule uses", v.FilterActions)
	if v.Unreadable > 0 {
		p.gap()
		p.line("%s cannot be read by this account, so policies may be missing: 'ipsecctl directory fsck' says what to do.", count(uint64(v.Unreadable), "object"))
	}
	if len(v.Problems) > 0 {
		p.heading("Problems ('ipsecctl directory fsck' looks closer)", len(v.Problems))
		p.block("", shortList(v.Problems))
	}
}

// printAssigned says which links a policy reaches hosts by.
func printAssigned(p *printer, x directoryPolicy) {
	if len(x.Assigned) == 0 {
		return
	}
	p.gap()
	p.line("%s is assigned by", x.Name)
	for _, a := range x.Assigned {
		p.line("  %s (%s)", a.Name, a.DN)
		for _, l := range a.Links {
			p.line("    linked to %s", l)
		}
		if strings.Contains(a.DN, ",CN=Policies,CN=System,") && len(a.Links) == 0 {
			p.line("    linked to nothing: no host has it")
		}
	}
}

func printUnused(p *printer, what string, names []string) {
	if len(names) == 0 {
		return
	}
	p.heading(what, len(names))
	for _, n := range names {
		p.line("  %s", n)
	}
}

// directoryPolicyNamed finds a policy that was read.
func directoryPolicyNamed(i *directory.Inventory, name string) (*policy.Policy, error) {
	var names []string
	for k := range i.Store.Policies {
		p := &i.Store.Policies[k]
		if p.Name == name || strings.EqualFold(strings.Trim(p.GUID, "{}"), strings.Trim(name, "{}")) {
			return p, nil
		}
		names = append(names, fmt.Sprintf("%q", p.Name))
	}
	if i.Unreadable > 0 {
		return nil, notFound("no policy %q can be read: %s cannot be read by this account; 'ipsecctl directory fsck' says what to do", name, count(uint64(i.Unreadable), "object"))
	}
	for _, p := range i.Problems {
		if strings.Contains(p.Object, fmt.Sprintf("%q", name)) {
			return nil, invalid("policy %q cannot be taken: %v", name, p.Error())
		}
	}
	return nil, notFound("there is no policy %q in the directory; there are: %s", name, listed(names))
}

func (e *env) showDirectoryPolicy(i *directory.Inventory, name string) error {
	p, err := directoryPolicyNamed(i, name)
	if err != nil {
		return err
	}
	text, err := file.Marshal(p)
	if err != nil {
		return err
	}
	v := directoryPolicyOf(i, p)
	v.Document = string(text)
	return e.show(v, func(out *printer) { out.block("", v.Document) })
}

func directoryDiffCommand(e *env, o *directoryOptions) *cobra.Command {
	return e.withFormat(&cobra.Command{
		Use:   "diff POLICY",
		Short: "Compare a policy with the one of its name in the directory",
		Long: `diff says what publishing a policy (a file, the name of one in the policies
folder, or a predefined one) would change for hosts: rules, lists and actions, and
the traffic that would be treated differently. The exit code is 7 when they
differ.`,
		Example: "  ipsecctl directory diff sql-servers.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			after, err := e.publishable(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return e.inDirectory(cmd, o, func(ctx context.Context, s *directory.Session) error {
				i, err := s.Inventory(ctx)
				if err != nil {
					return err
				}
				before, err := directoryPolicyNamed(&i, after.Name)
				if err != nil {
					return err
				}
				return e.showDiff([2]found{{anonymous(*before), "in the directory, " + s.Server()}, {anonymous(*after), args[0]}})
			})
		},
	})
}

// anonymous takes the GUIDs out of a policy: publishing gives them, and they
// mean nothing to hosts.
func anonymous(p policy.Policy) *policy.Policy {
	p.GUID, p.KeyExchange.GUID, p.KeyExchange.Identity = "", "", ""
	p.DefaultResponse.GUID, p.DefaultResponse.ActionGUID = "", ""
	p.Rules, p.FilterActions, p.FilterLists = slices.Clone(p.Rules), slices.Clone(p.FilterActions), slices.Clone(p.FilterLists)
	for i := range p.Rules {
		p.Rules[i].GUID = ""
	}
	for i := range p.FilterActions {
		p.FilterActions[i].GUID = ""
	}
	for i := range p.FilterLists {
		l := &p.FilterLists[i]
		l.GUID, l.Filters = "", slices.Clone(l.Filters)
		for k := range l.Filters {
			l.Filters[k].GUID = ""
		}
	}
	return &p
}

// showDiff prints what differs between two policies.
func (e *env) showDiff(of [2]found) error {
	var sides [2]policy.Side
	var origins [2]string
	for k, f := range of {
		c, err := f.compile()
		if err != nil {
			return err
		}
		sides[k], origins[k] = policy.Side{Policy: f.policy, Compiled: c}, f.origin
	}
	d := policy.Diff(sides[0], sides[1])
	v := diffedOf(sides, origins, d)
	if err := e.show(v, func(p *printer) { printDiff(p, v) }); err != nil {
		return err
	}
	if !d.Empty() {
		return errDiffers
	}
	return nil
}
