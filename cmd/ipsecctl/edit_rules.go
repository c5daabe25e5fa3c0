package main

import (
	"slices"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
	"ipsecagent/policy/file"
)

// verb makes a command that edits the folder: its required flags first.
func (e *env) verb(c *cobra.Command, required []string, do func(cmd *cobra.Command, s *policy.Store) error) *cobra.Command {
	var o folderFlags
	c.Args = cobra.NoArgs
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := needFlags(cmd, required); err != nil {
			return err
		}
		return e.edit(cmd, o, func(s *policy.Store) error { return do(cmd, s) })
	}
	return o.add(c)
}

// needFlags refuses a command line without one of the flags.
func needFlags(cmd *cobra.Command, required []string) error {
	for _, name := range required {
		if cmd.Flags().Lookup(name).Value.String() == "" || !cmd.Flags().Changed(name) {
			return usage("--%s is missing: %s", name, cmd.UseLine())
		}
	}
	return nil
}

func (e *env) policyVerbs() []*cobra.Command {
	return []*cobra.Command{e.policyAdd(), e.policySet(), e.policyDelete()}
}

func (e *env) policyAdd() *cobra.Command {
	c := &cobra.Command{Use: "add --name NAME", Short: "Make a policy without rules",
		Example: "  ipsecctl policy add --name sql-servers --description 'Everything to the databases'"}
	name := c.Flags().String("name", "", "name of the policy")
	addOptions(c, policyOptions())
	return e.verb(c, []string{"name"}, func(cmd *cobra.Command, s *policy.Store) error {
		p := policy.Policy{Name: *name}
		if slices.ContainsFunc(s.Policies, func(o policy.Policy) bool { return o.Name == *name }) {
			return invalid("there is a policy %q already; change it by set, or use another name", *name)
		}
		err := applyOptions(cmd, policyOptions(), &p)
		s.Policies = append(s.Policies, p)
		return err
	})
}

func (e *env) policySet() *cobra.Command {
	c := &cobra.Command{Use: "set --name NAME", Short: "Change a policy: only what flags say",
		Example: "  ipsecctl policy set --name sql-servers --lifetime 4h --master-key-pfs"}
	name := c.Flags().String("name", "", "name of the policy")
	newName := c.Flags().String("new-name", "", "another name")
	addOptions(c, policyOptions())
	return e.verb(c, []string{"name"}, func(cmd *cobra.Command, s *policy.Store) error {
		p, err := policyNamed(s, *name)
		if err != nil {
			return err
		}
		if err := applyOptions(cmd, policyOptions(), p); err != nil {
			return err
		}
		if *newName == "" {
			return nil
		}
		if err := e.notAssigned(cmd, *name, "renamed"); err != nil {
			return err
		}
		p.Name = *newName
		return nil
	})
}

func (e *env) policyDelete() *cobra.Command {
	c := &cobra.Command{Use: "delete --name NAME", Short: "Delete a policy; not one that is assigned",
		Example: "  ipsecctl policy delete --name sql-servers"}
	name := c.Flags().String("name", "", "name of the policy")
	return e.verb(c, []string{"name"}, func(cmd *cobra.Command, s *policy.Store) error {
		if _, err := policyNamed(s, *name); err != nil {
			return err
		}
		if err := e.notAssigned(cmd, *name, "deleted"); err != nil {
			return err
		}
		s.Policies = slices.DeleteFunc(s.Policies, func(p policy.Policy) bool { return p.Name == *name })
		return nil
	})
}

// notAssigned refuses what would take the assigned policy away from the agent.
// Without an agent nothing is assigned that is known of.
func (e *env) notAssigned(cmd *cobra.Command, name, done string) error {
	if e.assignedFrom(cmd, cmd.Flags().Lookup("dir").Value.String()) == name {
		return invalid("policy %q is assigned and cannot be %s; assign another one first, or 'ipsecctl unassign'", name, done)
	}
	return nil
}

func ruleCommand(e *env) *cobra.Command {
	return group("rule", "Edit the rules of a policy in the policies folder", e.ruleAdd(), e.ruleSet(), e.ruleDelete(), e.ruleShow())
}

// ruleFlags are the policy and the name of a rule.
func ruleFlags(c *cobra.Command) (in, name *string) {
	return c.Flags().String("policy", "", "the policy of the rule"), c.Flags().String("name", "", "name of the rule")
}

func (e *env) ruleAdd() *cobra.Command {
	c := &cobra.Command{Use: "add --policy POLICY --name NAME --list LIST --action ACTION", Short: "Add a rule to a policy",
		Long: `add adds a rule. Its filter list and filter action may be those of this policy,
shared ones, or those of another policy, which are then shared by both.`,
		Example: "  ipsecctl rule add --policy sql-servers --name 'database traffic' --list database --action require --auth kerberos"}
	in, name := ruleFlags(c)
	addOptions(c, ruleOptions())
	return e.verb(c, []string{"policy", "name", "list", "action"}, func(cmd *cobra.Command, s *policy.Store) error {
		p, err := policyNamed(s, *in)
		if err != nil {
			return err
		}
		if _, err := ruleNamed(p, *name); err == nil {
			return invalid("policy %q has a rule %q already; change it by set, or use another name", *in, *name)
		}
		p.Rules = append(p.Rules, policy.Rule{Name: *name})
		return changeRule(cmd, s, p, len(p.Rules)-1)
	})
}

func changeRule(cmd *cobra.Command, s *policy.Store, p *policy.Policy, i int) error {
	r := &p.Rules[i]
	if err := applyOptions(cmd, ruleOptions(), r); err != nil {
		return err
	}
	if err := listShelf().attach(s, p, r.FilterList); err != nil {
		return err
	}
	return attachAction(s, p, r.FilterAction)
}

func (e *env) ruleSet() *cobra.Command {
	c := &cobra.Command{Use: "set --policy POLICY --name NAME", Short: "Change a rule: only what flags say",
		Example: "  ipsecctl rule set --policy sql-servers --name 'database traffic' --auth kerberos --auth 'cert:CN=Bank Root CA,O=Bank'"}
	in, name := ruleFlags(c)
	newName := c.Flags().String("new-name", "", "another name")
	addOptions(c, ruleOptions())
	return e.verb(c, []string{"policy", "name"}, func(cmd *cobra.Command, s *policy.Store) error {
		p, i, err := findRule(s, *in, *name)
		if err != nil {
			return err
		}
		if *newName != "" {
			p.Rules[i].Name = *newName
		}
		return changeRule(cmd, s, p, i)
	})
}

func findRule(s *policy.Store, in, name string) (*policy.Policy, int, error) {
	p, err := policyNamed(s, in)
	if err != nil {
		return nil, 0, err
	}
	i, err := ruleNamed(p, name)
	return p, i, err
}

func (e *env) ruleDelete() *cobra.Command {
	c := &cobra.Command{Use: "delete --policy POLICY --name NAME", Short: "Delete a rule; its list and action stay",
		Example: "  ipsecctl rule delete --policy sql-servers --name 'database traffic'"}
	in, name := ruleFlags(c)
	return e.verb(c, []string{"policy", "name"}, func(_ *cobra.Command, s *policy.Store) error {
		p, i, err := findRule(s, *in, *name)
		if err != nil {
			return err
		}
		p.Rules = slices.Delete(p.Rules, i, i+1)
		return nil
	})
}

// shownRules are the rules of policies.
type shownRules struct {
	SchemaVersion string      `json:"schemaVersion"`
	Rules         []shownRule `json:"rules"`
}

type shownRule struct {
	Policy string `json:"policy"`
	Name   string `json:"name"`
	// Document is the rule in the language of policy documents.
	Document string `json:"document"`
}

func (e *env) ruleShow() *cobra.Command {
	c := &cobra.Command{Use: "show", Short: "Show the rules of the policies in the policies folder", Args: cobra.NoArgs,
		Example: "  ipsecctl rule show --policy sql-servers"}
	in, name := ruleFlags(c)
	dir := c.Flags().String("dir", policiesDir, "the policies folder")
	c.RunE = func(*cobra.Command, []string) error {
		s, err := showFolder(*dir)
		if err != nil {
			return err
		}
		shown, err := rulesOf(s, *in, *name)
		if err != nil {
			return err
		}
		return e.show(shown, func(p *printer) {
			if len(shown.Rules) == 0 {
				p.line("No rules.")
			}
			for i, r := range shown.Rules {
				if i == 0 || shown.Rules[i-1].Policy != r.Policy {
					p.line("# policy %q", r.Policy)
				}
				p.block("", "- "+indentRest(r.Document))
			}
		})
	}
	return e.withFormat(c)
}

func rulesOf(s policy.Store, in, name string) (shownRules, error) {
	shown := shownRules{SchemaVersion: control.SchemaVersion, Rules: []shownRule{}}
	if in != "" {
		if _, err := policyNamed(&s, in); err != nil {
			return shown, err
		}
	}
	for _, p := range s.Policies {
		for _, r := range p.Rules {
			if (in == "" || p.Name == in) && (name == "" || r.Name == name) {
				shown.Rules = append(shown.Rules, shownRule{p.Name, r.Name, file.RuleText(r)})
			}
		}
	}
	if name != "" && len(shown.Rules) == 0 {
		return shown, notFound("there is no rule %q", name)
	}
	return shown, nil
}
