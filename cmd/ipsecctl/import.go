package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
)

// imported is what a file of another system says.
type imported struct {
	store policy.Store
	keys  []importedKey
	// left is what could not be taken over, notes what was taken over in
	// another way; one line each, none with a key.
	left, notes []string
}

// importedKey is a preshared key that stood in the file.
type importedKey struct {
	name string // what the rules of the store call it
	text []byte
}

const importHelp = `import puts the policies of another system into the policies folder:

  ldif     the objects below CN=IP Security of a directory (ldapsearch, ldifde)
  reg      the local policy store of Windows (regedit, reg export)
  netsh    a script of 'netsh ipsec static'
  groups   the policy groups of libreswan: a folder with private, clear, block...
  yaml     documents of this program: a file, or a folder

Nothing is written when anything of the file cannot be taken over; with --partial
the rest is, and what was left out is listed. Preshared keys never become part of
a policy: they go to a file in the secrets folder that root alone can read, and
the rules name them.`

func importCommand(e *env) *cobra.Command {
	var o importOptions
	c := &cobra.Command{
		Use:   "import FILE",
		Short: "Take over policies of Windows, a directory, netsh scripts or libreswan",
		Long:  importHelp,
		Example: `  ipsecctl import store.reg
  ipsecctl import --from ldif --policy 'Bank servers' directory.ldif --dry-run
  ipsecctl import --from groups --policy fleet --auth kerberos /etc/ipsec.d/policies`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.secrets == "" && o.dir == policiesDir {
				o.secrets = secretsDir
			}
			return e.importFile(cmd, o, args[0])
		},
	}
	f := c.Flags()
	f.StringVar(&o.from, "from", "", "format: "+strings.Join(importFormats(), ", ")+"; found out by what is in the file if not given")
	f.StringArrayVar(&o.policies, "policy", nil, "take this policy alone; repeat it for more. With groups: the name of the policy to make")
	f.StringArrayVar(&o.auth, "auth", nil, "with groups: how hosts authenticate; as --auth of a rule")
	f.StringVar(&o.secrets, "secrets", "", "folder for preshared keys; "+secretsDir+" unless --dir is given")
	f.StringVar(&o.as, "as", "", "give the policy another name")
	f.BoolVar(&o.partial, "partial", false, "take over what can be, and list what was left out")
	f.BoolVar(&o.replace, "replace", false, "replace policies, lists and actions of the same name")
	c.RegisterFlagCompletionFunc("from", cobra.FixedCompletions(importFormats(), cobra.ShellCompDirectiveNoFileComp))
	return o.add(c)
}

type importOptions struct {
	folderFlags
	from     string
	policies []string
	auth     []string
	secrets  string
	as       string
	partial  bool
	replace  bool
}

func (e *env) importFile(cmd *cobra.Command, o importOptions, path string) error {
	i, err := readImport(o, path)
	if err != nil {
		return err
	}
	if err := i.choose(o); err != nil {
		return err
	}
	if err := i.rename(o.as); err != nil {
		return err
	}
	i.enforce()
	if len(i.left) > 0 && !o.partial {
		return invalid("nothing is imported; this cannot be taken over (--partial imports the rest):\n%s", shortList(i.left))
	}
	if len(i.store.Policies)+len(i.store.FilterLists)+len(i.store.FilterActions) == 0 {
		return invalid("nothing is imported; %s holds no policy, filter list or filter action that could be", path)
	}
	f, err := openFolder(o.dir)
	if err != nil {
		return err
	}
	if err := i.nameKeys(o.secrets); err != nil {
		return err
	}
	s := f.Store()
	if err := i.mergeInto(&s, o.replace); err != nil {
		return err
	}
	if _, err := f.Changes(s); err != nil {
		return invalid("nothing is imported; it would not be valid here (--policy NAME --as OTHER imports one under another name):\n%v", err)
	}
	if err := e.print(func(p *printer) { i.print(p) }); err != nil {
		return err
	}
	if err := e.storeKeys(o, i.keys); err != nil {
		return err
	}
	return e.save(cmd, o.folderFlags, f, s)
}

// enforce leaves out policies in report mode: that a rule is not enforced is
// for the administrator of the host to say.
func (i *imported) enforce() {
	i.store.Policies = slices.DeleteFunc(i.store.Policies, func(p policy.Policy) bool {
		if !reports(p) {
			return false
		}
		i.left = append(i.left, fmt.Sprintf("policy %q: report mode cannot be imported; take 'mode: report' out of it and set it here: ipsecctl policy set --mode report", p.Name))
		return true
	})
}

// reports tells whether a policy or a rule of it is in report mode.
func reports(p policy.Policy) bool {
	return p.Mode == policy.ReportOnly || slices.ContainsFunc(p.Rules, func(r policy.Rule) bool { return r.Mode == policy.ReportOnly })
}

// maxListed bounds a list of problems; nobody reads more.
const maxListed = 50

func shortList(lines []string) string {
	text := "  " + strings.Join(lines[:min(len(lines), maxListed)], "\n  ")
	if more := len(lines) - maxListed; more > 0 {
		text += fmt.Sprintf("\n  and %d more", more)
	}
	return text
}

// print says what was not taken over as it was, and what is left to do.
func (i *imported) print(p *printer) {
	for _, n := range i.notes {
		p.line("Note: %s", n)
	}
	if len(i.left) > 0 {
		p.line("Left out:")
		p.block("", shortList(i.left))
	}
	if i.store.Assigned != "" {
		p.line("There %q is assigned; here: ipsecctl assign '%s'", i.store.Assigned, i.store.Assigned)
	}
}

// choose keeps the policies asked for, and with them what they need.
func (i *imported) choose(o importOptions) error {
	if len(o.policies) == 0 || o.from == fromGroups {
		return nil
	}
	var chosen []policy.Policy
	for _, name := range o.policies {
		p, err := policyNamed(&i.store, name)
		if err != nil {
			return errors.Join(err, errors.New(shortList(i.left)))
		}
		chosen = append(chosen, *p)
	}
	i.store.Policies, i.store.FilterLists, i.store.FilterActions = chosen, nil, nil
	if !slices.Contains(o.policies, i.store.Assigned) {
		i.store.Assigned = ""
	}
	used := map[string]bool{}
	for p := range i.store.Policies {
		eachAuth(&i.store.Policies[p], func(a *policy.AuthMethod) { used[a.Key] = true })
	}
	i.keys = slices.DeleteFunc(i.keys, func(k importedKey) bool { return !used[k.name] })
	return nil
}

// rename gives the policy, which has to be the only one, another name.
func (i *imported) rename(name string) error {
	if name == "" {
		return nil
	}
	if len(i.store.Policies) != 1 {
		return usage("--as names one policy, and here are %d; choose one with --policy", len(i.store.Policies))
	}
	p := &i.store.Policies[0]
	if i.store.Assigned == p.Name {
		i.store.Assigned = name
	}
	p.Name = name
	return nil
}

// eachAuth visits every authentication method of a policy.
func eachAuth(p *policy.Policy, visit func(*policy.AuthMethod)) {
	for r := range p.Rules {
		for a := range p.Rules[r].Authentication {
			visit(&p.Rules[r].Authentication[a])
		}
	}
	for a := range p.DefaultResponse.Authentication {
		visit(&p.DefaultResponse.Authentication[a])
	}
}

// mergeInto adds what was read to what the folder holds.
func (i *imported) mergeInto(s *policy.Store, replace bool) error {
	for _, p := range i.store.Policies {
		at := slices.IndexFunc(s.Policies, func(o policy.Policy) bool { return o.Name == p.Name })
		switch {
		case at < 0:
			s.Policies = append(s.Policies, p)
		case replace:
			s.Policies[at] = p
		default:
			return invalid("there is a policy %q already; --replace replaces it", p.Name)
		}
	}
	for _, l := range i.store.FilterLists {
		if err := mergeOne(s, listShelf(), l, replace); err != nil {
			return err
		}
	}
	for _, a := range i.store.FilterActions {
		if err := mergeOne(s, actionShelf(), a, replace); err != nil {
			return err
		}
	}
	return nil
}

func mergeOne[T any](s *policy.Store, f shelf[T], object T, replace bool) error {
	groups := copies(s, f, *f.name(&object))
	switch {
	case len(groups) == 0:
		*f.loose(s) = append(*f.loose(s), object)
	case len(groups) == 1 && equal(*groups[0][0].object, object):
	case replace:
		for _, h := range slices.Concat(groups...) {
			*h.object = object
		}
	default:
		return invalid("there is another %s %q already; --replace replaces it", f.what, *f.name(&object))
	}
	return nil
}

// maxImport bounds a file to import, in bytes.
const maxImport = 256 << 20

// readFile reads a file to import, which may come from anywhere.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, notFound("there is no file %s", path)
	case errors.Is(err, os.ErrPermission):
		return nil, &control.Error{Code: control.NotPermitted, Message: fmt.Sprintf("not permitted to read %s", path)}
	case err != nil:
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxImport+1))
	if err == nil && len(data) > maxImport {
		return nil, invalid("%s is larger than %d MiB", path, maxImport>>20)
	}
	return data, err
}
