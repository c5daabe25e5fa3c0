package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
	"ipsecagent/policy/file"
)

// folderFlags are the flags of every command that changes the policies folder.
type folderFlags struct {
	dir    string
	dryRun bool
	reload bool
}

func (o *folderFlags) add(c *cobra.Command) *cobra.Command {
	c.Flags().StringVar(&o.dir, "dir", policiesDir, "the policies folder")
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "show what would change and change nothing")
	c.Flags().BoolVar(&o.reload, "reload", false, "wait until the agent has read the change, and say what is in force")
	return c
}

// edit changes what the folder holds by do. Nothing is written unless the whole folder is valid afterwards.
func (e *env) edit(cmd *cobra.Command, o folderFlags, do func(*policy.Store) error) error {
	f, err := openFolder(o.dir)
	if err != nil {
		return err
	}
	s := f.Store()
	if err := do(&s); err != nil {
		return err
	}
	keepShared(f, f.Store().Policies, &s)
	return e.save(cmd, o, f, s)
}

// keepShared keeps what is shared where the policy that used it has gone.
func keepShared(f *file.Folder, before []policy.Policy, s *policy.Store) {
	for _, p := range before {
		if slices.ContainsFunc(s.Policies, func(o policy.Policy) bool { return o.Name == p.Name }) {
			continue
		}
		for _, l := range p.FilterLists {
			if f.Shares(l.Name) && !listShelf().exists(s, l.Name) {
				s.FilterLists = append(s.FilterLists, l)
			}
		}
		for _, a := range p.FilterActions {
			if f.SharesAction(a.Name) && !actionShelf().exists(s, a.Name) {
				s.FilterActions = append(s.FilterActions, a)
			}
		}
	}
}

// openFolder reads the folder to change it.
func openFolder(dir string) (*file.Folder, error) {
	f, err := file.OpenFolder(dir)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, &control.Error{Code: control.NotPermitted, Message: fmt.Sprintf("not permitted to read %s: %v", dir, err)}
	case err != nil:
		return nil, invalid("%s holds what is not valid; mend that first:\n%v", dir, err)
	}
	return f, nil
}

// showFolder reads the folder to show it; one that was named has to be there.
func showFolder(dir string) (policy.Store, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && dir != policiesDir {
		return policy.Store{}, notFound("there is no folder %s", dir)
	}
	f, err := openFolder(dir)
	if err != nil {
		return policy.Store{}, err
	}
	return f.Store(), nil
}

// save writes what makes the folder hold s.
func (e *env) save(cmd *cobra.Command, o folderFlags, f *file.Folder, s policy.Store) error {
	changes, err := f.Changes(s)
	if err != nil {
		return invalid("nothing is changed; it would not be valid:\n%v", err)
	}
	if o.dryRun {
		return e.print(func(p *printer) { printChanges(p, changes) })
	}
	if err := f.Write(changes); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return &control.Error{Code: control.NotPermitted, Message: err.Error()}
		}
		return err
	}
	if err := e.print(func(p *printer) { printSaved(p, changes) }); err != nil || len(changes) == 0 {
		return err
	}
	return e.afterSave(cmd, o)
}

// print prints for people; what an edit says has no other format.
func (e *env) print(table func(*printer)) error {
	p := &printer{now: e.now(), zone: e.zone}
	table(p)
	_, err := e.out.Write(p.text.Bytes())
	return err
}

// afterSave says what is in force now, if that was asked for or may have
// changed.
func (e *env) afterSave(cmd *cobra.Command, o folderFlags) error {
	if o.reload {
		res, err := e.agent().Reload(cmd.Context())
		if err != nil {
			return err
		}
		return e.showAssigned(res)
	}
	if name := e.assignedFrom(cmd, o.dir); name != "" {
		return e.print(func(p *printer) {
			p.line("Policy %q is assigned: the agent puts a change in force by itself; --reload waits for it.", name)
		})
	}
	return nil
}

func within(dir, path string) bool {
	return strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

func printSaved(p *printer, changes []file.Change) {
	if len(changes) == 0 {
		p.line("Nothing has changed.")
	}
	for _, c := range changes {
		switch {
		case c.New == nil:
			p.line("Removed %s.", c.Path)
		case c.Old == nil:
			p.line("Made %s.", c.Path)
		default:
			p.line("Changed %s.", c.Path)
		}
	}
}

// printChanges shows the lines that differ, in the form of diff.
func printChanges(p *printer, changes []file.Change) {
	if len(changes) == 0 {
		p.line("Nothing would change.")
	}
	for _, c := range changes {
		old, now := textLines(c.Old), textLines(c.New)
		first := 0
		for first < min(len(old), len(now)) && old[first] == now[first] {
			first++
		}
		last := 0
		for last < min(len(old), len(now))-first && old[len(old)-1-last] == now[len(now)-1-last] {
			last++
		}
		p.line("%s, line %d:", c.Path, first+1)
		for _, l := range old[first : len(old)-last] {
			p.line("- %s", l)
		}
		for _, l := range now[first : len(now)-last] {
			p.line("+ %s", l)
		}
	}
}

func textLines(data []byte) []string {
	if len(data) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
}
