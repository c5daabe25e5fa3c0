package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-ldap/ldap/v3"
	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
	"ipsecagent/policy/directory"
)

// fsckView is what directory fsck says.
type fsckView struct {
	SchemaVersion string        `json:"schemaVersion"`
	Server        string        `json:"server"`
	Findings      []fsckFinding `json:"findings"`
}

type fsckFinding struct {
	Object     string `json:"object"`
	Message    string `json:"message"`
	Warning    bool   `json:"warning"`
	Repairable bool   `json:"repairable"`
}

func directoryFsckCommand(e *env, o *directoryOptions) *cobra.Command {
	var repair bool
	var host string
	c := &cobra.Command{
		Use:   "fsck [--repair] [--host HOST]",
		Short: "Find what is wrong with the policies of the directory",
		Long: `fsck looks for references that lead nowhere or are missing, for rules that belong
to no policy, for objects that cannot be understood or that hosts would refuse,
for assignments of what is not there and for preshared keys in clear. In Active
Directory it also looks for group policy objects that are half made or that no host
takes a policy from, and asks whether computers may read the policies, of which
they need the right; the one entry that gives it is printed if it is missing.
--host asks for that computer, else it is one that is in no group but Domain
Computers.

--repair puts right what has but one right answer: references back, and what
belongs to nothing. The exit code is 6 when hosts cannot take a policy because of
what was found.`,
		Example: `  ipsecctl directory fsck
  ipsecctl directory fsck --host sql1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.inDirectory(cmd, o, func(ctx context.Context, s *directory.Session) error { return e.fsck(ctx, s, host, repair) })
		},
	}
	c.Flags().BoolVar(&repair, "repair", false, "repair what has but one right answer")
	c.Flags().StringVar(&host, "host", "", "ask whether this computer may read the policies, by name")
	return e.withFormat(c)
}

// errFindings ends fsck; what was found is already printed.
var errFindings = &control.Error{Code: control.Invalid, Message: "hosts cannot take every policy of the directory; see above"}

func (e *env) fsck(ctx context.Context, s *directory.Session, host string, repair bool) error {
	computer, err := "", error(nil)
	if host != "" {
		computer, err = s.ComputerNamed(ctx, host)
	}
	var found []directory.Finding
	if err == nil {
		found, err = s.Check(ctx, computer)
	}
	if err != nil {
		return err
	}
	v := fsckView{SchemaVersion: control.SchemaVersion, Server: s.Server(), Findings: []fsckFinding{}}
	bad := false
	for _, f := range found {
		v.Findings = append(v.Findings, fsckFinding{f.Object, f.Message, f.Warning, f.Repair != nil})
		bad = bad || !f.Warning
	}
	if err := e.show(v, func(p *printer) { printFsck(p, v) }); err != nil {
		return err
	}
	if plan := directory.RepairPlan(found); repair && len(plan.Steps) > 0 {
		if _, err := s.Apply(ctx, plan); err != nil {
			return err
		}
		fmt.Fprintf(e.err, "ipsecctl: repaired, by %s\n", count(uint64(len(plan.Steps)), "change"))
	}
	if bad {
		return errFindings
	}
	return nil
}

func printFsck(p *printer, v fsckView) {
	if len(v.Findings) == 0 {
		p.line("Nothing is wrong with the policies on %s.", v.Server)
		return
	}
	for _, f := range v.Findings {
		kind := "error:  "
		if f.Warning {
			kind = "warning:"
		}
		p.block("", kind+" "+f.Object)
		p.block("         ", f.Message)
		if f.Repairable {
			p.line("         --repair puts it right.")
		}
	}
}

func directoryInitCommand(e *env, o *directoryOptions) *cobra.Command {
	var apply, schema bool
	c := &cobra.Command{
		Use:   "init [--apply|--schema]",
		Short: "Prepare an OpenLDAP server for policies",
		Long: `init prints, as LDIF, what an LDAP server other than Active Directory needs for
policies: the schema, for cn=config, and the container below --base. --schema
prints the schema alone, in the form that slapd.conf includes. --apply adds what is
missing; the account has to be one that may, and the schema is for that of
cn=config alone. In Active Directory there is nothing to do.`,
		Example: `  ipsecctl directory init --base dc=bank,dc=example
  ipsecctl directory init --apply --bind-dn cn=admin,dc=bank,dc=example --password-file /root/ldap`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if schema && apply {
				return usage("--schema and --apply do not go together")
			}
			if schema {
				_, err := fmt.Fprint(e.out, directory.Schema(false))
				return err
			}
			if !apply {
				return e.printInit(o)
			}
			return e.inDirectory(cmd, o, e.applyInit)
		},
	}
	c.Flags().BoolVar(&apply, "apply", false, "add what is missing")
	c.Flags().BoolVar(&schema, "schema", false, "print the schema in the form of slapd.conf")
	return c
}

// printInit prints LDIF; it needs no server.
func (e *env) printInit(o *directoryOptions) error {
	if err := o.read(); err != nil {
		return err
	}
	base, container := o.settings.Base, o.settings.Container
	if base == "" {
		return usage("--base is missing: the DN of the tree, for example dc=bank,dc=example")
	}
	if container == "" {
		container = "CN=IP Security,CN=System," + base
	}
	entries, err := directory.ContainerLDIF(container, base)
	if err != nil {
		return usage("--container: %v", err)
	}
	_, err = fmt.Fprintf(e.out, "%s\n# For the tree, by an account that may write there.\n%s", directory.Schema(true), entries)
	return err
}

func (e *env) applyInit(ctx context.Context, s *directory.Session) error {
	p, err := s.PlanInit(ctx)
	if err != nil {
		return err
	}
	err = e.carryOut(ctx, s, planFlags{}, p, "Added: what the directory lacked")
	if ldap.IsErrorWithCode(err, ldap.LDAPResultInsufficientAccessRights) {
		return errors.Join(err, errors.New("the schema is for the administrator of cn=config, the container for that of the tree: run it as each, or on the server: ipsecctl directory init --base DN | ldapadd -Y EXTERNAL -H ldapi:///"))
	}
	return err
}
