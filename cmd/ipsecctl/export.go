package main

import (
	"bytes"
	"fmt"

	"strings"

	"github.com/spf13/cobra"

	"ipsecagent/policy"
	"ipsecagent/policy/file"
	"ipsecagent/policy/gpipsec"
	"ipsecagent/policy/netsh"
)

const exportHelp = `export prints policies of the policies folder, or predefined ones, in another
format; without a name all that the folder holds, with the lists and actions that
no policy uses. What the format cannot say is listed on standard error.
Preshared keys are never part of it.

  yaml     one policy as a whole document; several go to a folder, --to-dir
  ldif     the objects of Active Directory, for ldapmodify or ldifde
  netsh    a script for 'netsh -f'`

type exportOptions struct {
	to     string
	dir    string
	toDir  string
	baseDN string
}

func exportCommand(e *env) *cobra.Command {
	var o exportOptions
	c := &cobra.Command{
		Use:   "export --to FORMAT [POLICY...]",
		Short: "Print policies as YAML, LDIF or a netsh script",
		Long:  exportHelp,
		Example: `  ipsecctl export --to yaml secure-server > mine.yaml
  ipsecctl export --to netsh sql-servers > sql.netsh
  ipsecctl export --to yaml --to-dir /srv/policies`,
		ValidArgsFunction: e.completePolicies,
		RunE:              func(_ *cobra.Command, names []string) error { return e.export(o, names) },
	}
	c.Flags().StringVar(&o.to, "to", "", "format: "+strings.Join(exportFormats(), ", "))
	c.Flags().StringVar(&o.dir, "dir", policiesDir, "the policies folder")
	c.Flags().StringVar(&o.toDir, "to-dir", "", "with yaml: add the policies to this folder")
	c.Flags().StringVar(&o.baseDN, "base-dn", "", "with ldif: where the objects stand, for example CN=IP Security,CN=System,DC=bank,DC=example")
	c.RegisterFlagCompletionFunc("to", cobra.FixedCompletions(exportFormats(), cobra.ShellCompDirectiveNoFileComp))
	return c
}

func exportFormats() []string { return []string{fromYAML, fromLDIF, fromNetsh} }

func (e *env) export(o exportOptions, names []string) error {
	s, err := exported(o.dir, names)
	if err != nil {
		return err
	}
	var text []byte
	var losses []string
	switch o.to {
	case fromYAML:
		return e.exportYAML(o, s)
	case fromLDIF:
		if text, losses, err = ldif(o.baseDN, s); err != nil {
			return err
		}
	case fromNetsh:
		script, lost := netsh.Write(s)
		for _, l := range lost {
			losses = append(losses, l.String())
		}
		text = script
	case "":
		return usage("--to is missing: one of %s", strings.Join(exportFormats(), ", "))
	default:
		return usage("--to %q: the formats are %s", o.to, strings.Join(exportFormats(), ", "))
	}
	for _, p := range s.Policies {
		if reports(p) {
			losses = append(losses, fmt.Sprintf("policy %q: report mode is not written; whoever takes this over enforces it", p.Name))
		}
	}
	for _, l := range losses {
		fmt.Fprintln(e.err, "ipsecctl: "+clean(l))
	}
	if !bytes.HasSuffix(text, []byte("\n")) {
		text = append(text, '\n')
	}
	_, err = e.out.Write(text)
	return err
}

// ldif writes a store as the objects of a directory. Preshared keys are named,
// never written.
func ldif(baseDN string, s policy.Store) (text []byte, losses []string, err error) {
	if baseDN == "" {
		return nil, nil, usage("--base-dn is missing: where the objects stand in the directory, for example \"%s,DC=bank,DC=example\"", gpipsec.DefaultBaseDN)
	}
	objects, warnings, err := gpipsec.Encode(s, gpipsec.Options{KeyNames: true})
	if err != nil {
		return nil, nil, invalid("nothing is exported:\n%v", err)
	}
	for _, w := range warnings {
		losses = append(losses, w.Error())
	}
	var b bytes.Buffer
	if err := gpipsec.WriteLDIF(&b, baseDN, objects); err != nil {
		return nil, nil, usage("--base-dn: %v", err)
	}
	return b.Bytes(), losses, nil
}

// exported returns what the names stand for; without one, all of the folder.
func exported(dir string, names []string) (policy.Store, error) {
	var s policy.Store
	all, err := showFolder(dir)
	if err != nil {
		return s, err
	}
	if len(names) == 0 {
		return all, nil
	}
	for _, name := range names {
		if p, ok := policy.Predefined(name); ok {
			s.Policies = append(s.Policies, *p)
			continue
		}
		p, err := policyNamed(&all, name)
		if err != nil {
			return s, err
		}
		s.Policies = append(s.Policies, *p)
	}
	return s, nil
}

func (e *env) exportYAML(o exportOptions, s policy.Store) error {
	if o.toDir != "" {
		return e.exportFolder(o.toDir, s)
	}
	if len(s.Policies) != 1 {
		return usage("a document holds one policy and here are %d; name one, or give a folder with --to-dir", len(s.Policies))
	}
	text, err := file.Marshal(&s.Policies[0])
	if err != nil {
		return err
	}
	_, err = e.out.Write(text)
	return err
}

// exportFolder adds policies to another folder.
func (e *env) exportFolder(dir string, s policy.Store) error {
	f, err := openFolder(dir)
	if err != nil {
		return err
	}
	to := f.Store()
	if err := (&imported{store: s}).mergeInto(&to, false); err != nil {
		return err
	}
	changes, err := f.Changes(to)
	if err != nil {
		return invalid("nothing is exported; it would not be valid there:\n%v", err)
	}
	if err := f.Write(changes); err != nil {
		return err
	}
	return e.print(func(p *printer) { printSaved(p, changes) })
}
