package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ipsecagent/policy"
	"ipsecagent/policy/directory"
	"ipsecagent/policy/gpipsec"
	"ipsecagent/sadb"
)

type publishFlags struct {
	planFlags
	keyNames, rename bool
	keys             []string // NAME=FILE
}

func directoryPublishCommand(e *env, o *directoryOptions) *cobra.Command {
	var flags publishFlags
	c := &cobra.Command{
		Use:   "publish POLICY...",
		Short: "Write policies into the directory, for Windows hosts too",
		Long: `publish writes policies, each a file, the name of one in the policies folder or a
predefined one, as the objects that Windows reads. One of the name that is there
is changed to what the file says; what it shares with others and does not change
stays shared, and others keep what it changes. Nothing is in force half: all that
is new is written first, then one change of the policy itself puts it in force,
then what is no longer needed is removed. If that fails before, all is taken back.

A policy that nothing assigns has no effect: 'ipsecctl directory assign'.

Preshared keys stand in clear in a directory, for every computer of the domain. A
policy that names some is refused unless --key-names writes their names alone,
which hosts with this program find among their own secrets, or --publish-key gives
the text of each.`,
		Example: `  ipsecctl directory publish sql-servers.yaml --dry-run
  ipsecctl directory publish sql-servers.yaml secure-server`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error { return e.publish(cmd, o, flags, names) },
	}
	c.Flags().BoolVar(&flags.keyNames, "key-names", false, "write preshared keys by their names: hosts have the keys, Windows hosts cannot use the rule")
	c.Flags().BoolVar(&flags.rename, "rename", false, "give the policy that has the GUID of the document the name of the document")
	c.Flags().StringArrayVar(&flags.keys, "publish-key", nil, "NAME=FILE: write the text of this preshared key, in clear for everyone who can read the policy; repeat it for more")
	return flags.add(c)
}

func (e *env) publish(cmd *cobra.Command, o *directoryOptions, flags publishFlags, names []string) error {
	options, err := flags.options()
	if err != nil {
		return err
	}
	var policies []policy.Policy
	for _, name := range names {
		p, err := e.publishable(cmd.Context(), name)
		if err != nil {
			return err
		}
		policies = append(policies, *p)
	}
	return e.inDirectory(cmd, o, func(ctx context.Context, s *directory.Session) error {
		for i, p := range policies {
			options.Names = e.resolveNames(ctx, o, p)
			plan, err := s.PlanPublish(ctx, p, options)
			if err == nil {
				err = e.carryOut(ctx, s, flags.planFlags, plan, fmt.Sprintf("Published: policy %q", p.Name))
			}
			if err != nil {
				return errors.Join(refusedPublishing(p, err), notReached(policies[i+1:]))
			}
		}
		return nil
	})
}

// notReached names the policies behind one that was refused.
func notReached(rest []policy.Policy) error {
	var names []string
	for _, p := range rest {
		names = append(names, fmt.Sprintf("%q", p.Name))
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("nor are those behind it: %s", strings.Join(names, ", "))
}

// refusedPublishing says what to do about preshared keys.
func refusedPublishing(p policy.Policy, err error) error {
	var problem *gpipsec.Problem
	if !errors.As(err, &problem) {
		return fmt.Errorf("policy %q: %w", p.Name, err)
	}
	return invalid("policy %q is not published:\n%v\nFor preshared keys, --key-names and --publish-key say how.", p.Name, err)
}

// publishable finds a policy and checks it as hosts do.
func (e *env) publishable(ctx context.Context, name string) (*policy.Policy, error) {
	f, err := e.findPolicy(ctx, name)
	if err != nil {
		return nil, err
	}
	if reports(*f.policy) {
		return nil, invalid("%s is in report mode, which a directory cannot keep: hosts would enforce it. Take 'mode: report' out of it when that is meant", f.origin)
	}
	if err := policy.Validate(f.policy); err != nil {
		return nil, invalid("%s is not valid, and hosts would refuse it:\n%v", f.origin, err)
	}
	return f.policy, nil
}

// options reads the preshared keys to be written.
func (f *publishFlags) options() (directory.PublishOptions, error) {
	o := directory.PublishOptions{KeyNames: f.keyNames, Rename: f.rename, Keys: map[string]sadb.Secret{}}
	for _, k := range f.keys {
		name, path, ok := strings.Cut(k, "=")
		if !ok || path == "" {
			return o, usage("--publish-key %q: the form is NAME=FILE", k)
		}
		text, err := readFile(path)
		if err != nil {
			return o, unreadable(path, err)
		}
		if text = bytes.TrimRight(text, "\r\n"); len(text) == 0 {
			return o, invalid("%s: it holds no key", path)
		}
		o.Keys[name] = sadb.NewSecret(text)
	}
	return o, nil
}

// lookupTime is how long a name may take.
const lookupTime = 5 * time.Second

// resolveNames returns the addresses of the DNS names of a policy, asked for as
// the directory is. One without is left out, and said: the encoder leaves it to
// hosts with this program.
func (e *env) resolveNames(ctx context.Context, o *directoryOptions, p policy.Policy) map[string][]netip.Addr {
	resolver := directoryDialer(o.exemptMark).Resolver
	found := map[string][]netip.Addr{}
	for _, name := range namesIn(p) {
		ctx, cancel := context.WithTimeout(ctx, lookupTime)
		addrs, err := resolver.LookupNetIP(ctx, "ip", name)
		cancel()
		if err != nil {
			fmt.Fprintf(e.err, "ipsecctl: policy %q: Windows hosts get no address for the name %s: %v\n", clean(p.Name), clean(name), err)
			continue
		}
		slices.SortFunc(addrs, func(a, b netip.Addr) int { return a.Compare(b) })
		found[name] = addrs
	}
	return found
}

func namesIn(p policy.Policy) []string {
	var names []string
	for _, l := range p.FilterLists {
		for _, f := range l.Filters {
			names = append(names, f.From.Name, f.To.Name)
		}
	}
	for _, r := range p.Rules {
		names = append(names, r.Tunnel.Name)
	}
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(n string) bool { return n == "" })
}

func directoryDeleteCommand(e *env, o *directoryOptions) *cobra.Command {
	var flags planFlags
	var list, action string
	c := &cobra.Command{
		Use:   "delete POLICY|--filter-list NAME|--filter-action NAME",
		Short: "Delete a policy, a filter list or a filter action that nothing needs",
		Long: `delete removes a policy with its rules and key exchange settings. Its filter lists
and filter actions stay, for other policies; --filter-list and --filter-action
delete those. What is assigned, or named by a rule, is never deleted.`,
		Example: `  ipsecctl directory delete sql-servers
  ipsecctl directory delete --filter-list 'old networks'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if given := slices.DeleteFunc(append(args[:len(args):len(args)], list, action), func(s string) bool { return s == "" }); len(given) != 1 {
				return usage("name one thing to delete: a policy, --filter-list or --filter-action")
			}
			return e.inDirectory(cmd, o, func(ctx context.Context, s *directory.Session) error {
				p, what, err := planDeletion(ctx, s, strings.Join(args, ""), list, action)
				if err != nil {
					return err
				}
				return e.carryOut(ctx, s, flags, p, "Deleted: "+what)
			})
		},
	}
	c.Flags().StringVar(&list, "filter-list", "", "delete this filter list, by name or GUID")
	c.Flags().StringVar(&action, "filter-action", "", "delete this filter action, by name or GUID")
	return flags.add(c)
}

func planDeletion(ctx context.Context, s *directory.Session, name, list, action string) (p directory.Plan, what string, err error) {
	switch {
	case list != "":
		p, err = s.PlanDeleteShared(ctx, gpipsec.ClassFilter, list)
		return p, fmt.Sprintf("filter list %q", list), err
	case action != "":
		p, err = s.PlanDeleteShared(ctx, gpipsec.ClassNegotiation, action)
		return p, fmt.Sprintf("filter action %q", action), err
	}
	p, err = s.PlanDelete(ctx, name)
	return p, fmt.Sprintf("policy %q", name), err
}
