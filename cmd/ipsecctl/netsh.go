package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
	"ipsecagent/policy/file"
	"ipsecagent/policy/netsh"
)

func netshCommand(e *env) *cobra.Command {
	var o importOptions
	var script string
	c := &cobra.Command{
		Use:   "netsh 'static add ...' | netsh -f SCRIPT",
		Short: "Edit the policies folder in the words of 'netsh ipsec static'",
		Long: `netsh takes a line, or with -f a script, of 'netsh ipsec static' and does it to the
policies folder. A script is done as a whole, or, when a line of it cannot be
done, not at all. A preshared key is taken from a script alone, never from the
command line; it goes to the secrets folder.`,
		Example: `  ipsecctl netsh 'static add filter filterlist=web srcaddr=me dstaddr=any protocol=tcp srcport=80'
  ipsecctl netsh 'static show policy all'
  ipsecctl netsh -f bank.netsh --dry-run`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.secrets == "" && o.dir == policiesDir {
				o.secrets = secretsDir
			}
			if (script == "") == (len(args) == 0) {
				return usage("netsh takes one line, or a script with -f")
			}
			return e.netsh(cmd, o, script, netsh.Join(args))
		},
	}
	c.Flags().StringVarP(&script, "file", "f", "", "a script of netsh lines; - is standard input")
	c.Flags().StringVar(&o.secrets, "secrets", "", "folder for preshared keys; "+secretsDir+" unless --dir is given")
	return o.add(c)
}

// netsh does a script, or else a line.
func (e *env) netsh(cmd *cobra.Command, o importOptions, script, line string) error {
	f, err := openFolder(o.dir)
	if err != nil {
		return err
	}
	before := f.Store()
	before.Assigned = e.assignedFrom(cmd, o.dir)
	r, err := runNetsh(before, script, line)
	if err != nil {
		return err
	}
	if r.Output != "" {
		if _, err := fmt.Fprintln(e.out, cleanText(r.Output)); err != nil {
			return err
		}
	}
	i := &imported{store: r.Store}
	for _, s := range r.Secrets {
		i.keys = append(i.keys, importedKey{s.Name, s.Key.Bytes()})
	}
	if err := i.nameKeys(o.secrets); err != nil {
		return err
	}
	return e.saveNetsh(cmd, o, f, i, before.Assigned)
}

func runNetsh(s policy.Store, script, line string) (netsh.Result, error) {
	if script == "" {
		r, err := netsh.Exec(s, line)
		if err == nil && len(r.Secrets) > 0 {
			err = usage("a preshared key never stands on a command line, where others can read it, and this one should be given up: put the line into a script for -f, or name a key of the secrets with pskname=")
		} else if err != nil {
			err = invalid("%v", err)
		}
		return r, err
	}
	text, err := scriptText(script)
	if err != nil {
		return netsh.Result{}, err
	}
	r := netsh.Run(s, text)
	if len(r.Problems) == 0 {
		return r, nil
	}
	var lines []string
	for _, p := range r.Problems {
		lines = append(lines, p.Error())
	}
	return r, invalid("nothing is changed; these lines of %s cannot be done:\n%s", script, shortList(lines))
}

// saveNetsh writes what the lines have made, and assigns what they assign.
func (e *env) saveNetsh(cmd *cobra.Command, o importOptions, f *file.Folder, i *imported, assigned string) error {
	changes, err := f.Changes(i.store)
	if err != nil {
		return invalid("nothing is changed; it would not be valid:\n%v", err)
	}
	if len(changes) > 0 {
		if err := e.storeKeys(o, i.keys); err != nil {
			return err
		}
		if err := e.save(cmd, o.folderFlags, f, i.store); err != nil {
			return err
		}
	}
	if i.store.Assigned == assigned || o.dryRun {
		return nil
	}
	return e.assignAs(cmd, i.store.Assigned)
}

// assignAs assigns what netsh words have assigned; "": nothing.
func (e *env) assignAs(cmd *cobra.Command, name string) error {
	var res control.AssignResult
	var err error
	if name == "" {
		res, err = e.agent().Unassign(cmd.Context())
	} else {
		res, err = e.agent().Assign(cmd.Context(), control.AssignRequest{Policy: name})
	}
	if err != nil {
		return err
	}
	return e.showAssigned(res)
}

// assignedFrom returns the policy of the folder that is assigned; "" if none
// is, or no agent runs here.
func (e *env) assignedFrom(cmd *cobra.Command, dir string) string {
	list, err := e.agent().Policies(cmd.Context())
	if err != nil {
		return ""
	}
	for _, i := range list.Policies {
		if i.Assigned && within(dir, i.Origin) {
			return i.Name
		}
	}
	return ""
}
