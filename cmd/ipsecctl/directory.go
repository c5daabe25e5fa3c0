package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/go-ldap/ldap/v3"
	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
	"ipsecagent/policy/directory"
)

const directoryHelp = `directory shows, publishes and assigns the policies that hosts take from Active
Directory or from another LDAP server. The objects are those of Windows, which
reads them too.

How the directory is reached stands in the settings of the agent (directory: in
agent.yaml); flags go before that. It is asked in the name of the first of these
that is given:

  --bind-dn with --password-file
  --keytab, with --principal where the key table has several
  --ccache, or KRB5CCNAME, or /tmp/krb5cc_UID if it is there: what kinit has got
  bindDN and passwordFile of the settings
  the key table of this host, which root alone can read

Reading takes an account that may read the policies, publishing and assigning one
that may write them: in Active Directory, Domain Admins.`

func directoryCommand(e *env) *cobra.Command {
	var o directoryOptions
	g := group("directory", "Show, publish and assign the policies of a directory",
		directoryShowCommand(e, &o), directoryPublishCommand(e, &o), directoryAssignCommand(e, &o), directoryUnassignCommand(e, &o),
		directoryDeleteCommand(e, &o), directoryFsckCommand(e, &o), directoryDiffCommand(e, &o), directoryInitCommand(e, &o))
	g.Long = directoryHelp
	o.add(g)
	return g
}

// inDirectory runs something with a connection to the directory. The time of
// --timeout is for the connection; what then is done takes as long as it takes:
// each question to the server has a limit of its own.
func (e *env) inDirectory(cmd *cobra.Command, o *directoryOptions, do func(context.Context, *directory.Session) error) error {
	c, err := o.config(e)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), e.timeout)
	defer cancel()
	s, err := directory.Connect(ctx, c)
	if err != nil {
		return directoryError(ctx, err)
	}
	defer s.Close()
	return directoryError(ctx, do(cmd.Context(), s))
}

// directoryError gives an error of the directory its exit code.
func directoryError(ctx context.Context, err error) error {
	var coded *control.Error
	if err == nil || errors.As(err, &coded) {
		return err
	}
	code := control.Failed
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		code = control.TimedOut
	case ldap.IsErrorAnyOf(err, ldap.LDAPResultInsufficientAccessRights, ldap.LDAPResultInvalidCredentials), errors.Is(err, directory.ErrNotPermitted):
		code = control.NotPermitted
	case errors.Is(err, directory.ErrNotFound), errors.Is(err, directory.ErrNothing), errors.Is(err, directory.ErrNotLinked):
		code = control.NotFound
	case errors.Is(err, directory.ErrAmbiguous), errors.Is(err, directory.ErrShared), errors.Is(err, directory.ErrOversized), errors.Is(err, directory.ErrInUse):
		code = control.Invalid
	}
	return &control.Error{Code: code, Message: err.Error()}
}

// planFlags are those of commands that change the directory.
type planFlags struct{ dryRun bool }

func (o *planFlags) add(c *cobra.Command) *cobra.Command {
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "show what would change and change nothing")
	return c
}

// carryOut does what a plan says, or shows it.
func (e *env) carryOut(ctx context.Context, s *directory.Session, o planFlags, p directory.Plan, done string) error {
	for _, w := range p.Warnings {
		fmt.Fprintln(e.err, "ipsecctl: "+clean(w))
	}
	if o.dryRun || len(p.Steps) == 0 {
		return e.print(func(out *printer) { printPlan(out, p, s.Server()) })
	}
	applied, err := s.Apply(ctx, p)
	switch {
	case err != nil && applied:
		return fmt.Errorf("%s, but not all is done: %w", done, err)
	case err != nil:
		return err
	}
	return e.print(func(out *printer) {
		out.line("%s (%s on %s).", done, count(uint64(len(p.Steps)), "change"), s.Server())
		for _, n := range p.Notes {
			out.line("Note: %s", n)
		}
	})
}

func printPlan(out *printer, p directory.Plan, server string) {
	if len(p.Steps) == 0 {
		out.line("Nothing to do: %s has it so.", server)
		return
	}
	out.line("This would be done on %s:", server)
	for i, step := range p.Steps {
		what := step.What
		if i == p.Commit && len(p.Steps) > 1 {
			what += "   <- from here on it counts"
		}
		out.line("  %s", what)
	}
	for _, n := range p.Notes {
		out.line("Note: %s", n)
	}
}

// targetFlags say what a policy is assigned to.
type targetFlags struct{ directory.Target }

func (o *targetFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&o.GPO, "gpo", "", "a group policy object: its name, GUID or DN (Active Directory)")
	c.Flags().StringVar(&o.OU, "ou", "", "an organizational unit or the domain, by name or DN; in Active Directory: the group policy object linked there")
	c.Flags().StringVar(&o.Host, "host", "", "a host or a group, by name or DN (not in Active Directory)")
}

// check reports whether exactly one target is given.
func (o *targetFlags) check() error {
	given := 0
	for _, t := range []string{o.GPO, o.OU, o.Host} {
		if t != "" {
			given++
		}
	}
	if given != 1 {
		return usage("name one target: --gpo, --ou or --host")
	}
	return nil
}

// String names the target for people.
func (o *targetFlags) String() string {
	switch {
	case o.GPO != "":
		return fmt.Sprintf("group policy object %q", o.GPO)
	case o.OU != "":
		return fmt.Sprintf("%q", o.OU)
	}
	return fmt.Sprintf("%q", o.Host)
}

func directoryAssignCommand(e *env, o *directoryOptions) *cobra.Command {
	var to targetFlags
	var flags planFlags
	c := &cobra.Command{
		Use:   "assign POLICY --gpo GPO|--ou OU|--host HOST",
		Short: "Assign a policy of the directory to hosts",
		Long: `assign names the policy, by its name or GUID, where hosts look for it: in Active
Directory in a group policy object, which has to be there and to be linked; in
other directories at the entry of a host, of a group, or above hosts. It takes the
place of what was assigned there. Hosts follow when they next look, at once where
the directory tells them of changes.

In Active Directory --ou stands for the group policy object that is linked there and
nowhere else: the one that assigns a policy, or the only one. Where none is linked,
the commands that make one are printed.`,
		Example: `  ipsecctl directory assign 'Secure Server (Require Security)' --gpo 'IPsec servers'
  ipsecctl directory assign sql-servers --ou OU=Servers,DC=bank,DC=example`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := to.check(); err != nil {
				return err
			}
			return e.inDirectory(cmd, o, func(ctx context.Context, s *directory.Session) error {
				p, err := s.PlanAssign(ctx, args[0], to.Target)
				if err != nil {
					return err
				}
				if err := e.carryOut(ctx, s, flags, p, fmt.Sprintf("Assigned: policy %q to %s", args[0], to.String())); err != nil || flags.dryRun {
					return err
				}
				return e.warnOfObstacles(ctx, s)
			})
		},
	}
	to.add(c)
	return flags.add(c)
}

// warnOfObstacles says that hosts cannot take the policies of the directory, if
// they cannot: in a new domain they have no right to read them.
func (e *env) warnOfObstacles(ctx context.Context, s *directory.Session) error {
	found, err := s.Check(ctx, "")
	if err != nil {
		return nil // what was asked for is done
	}
	for _, f := range found {
		if f.Warning {
			continue
		}
		message, _, _ := strings.Cut(f.Message, ". ")
		_, err := fmt.Fprintf(e.err, "ipsecctl: %s: %s; 'ipsecctl directory fsck' says more\n", clean(f.Object), clean(message))
		return err
	}
	return nil
}

func directoryUnassignCommand(e *env, o *directoryOptions) *cobra.Command {
	var from targetFlags
	var flags planFlags
	c := &cobra.Command{
		Use:   "unassign --gpo GPO|--ou OU|--host HOST",
		Short: "Take away what is assigned to hosts",
		Long: `unassign takes the assignment away. Hosts that nothing else assigns a policy to
have none then, once the directory has said so twice a minute apart: their traffic
passes in clear, or as the policy says that is assigned on the host itself.`,
		Example: "  ipsecctl directory unassign --gpo 'IPsec servers'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := from.check(); err != nil {
				return err
			}
			return e.inDirectory(cmd, o, func(ctx context.Context, s *directory.Session) error {
				p, err := s.PlanUnassign(ctx, from.Target)
				if err != nil {
					return err
				}
				return e.carryOut(ctx, s, flags, p, "Unassigned from "+from.String())
			})
		},
	}
	from.add(c)
	return flags.add(c)
}
