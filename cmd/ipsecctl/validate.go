package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
	"ipsecagent/policy/file"
)

// validated is what policy validate says of all files.
type validated struct {
	SchemaVersion string          `json:"schemaVersion"`
	Files         []validatedFile `json:"files"`
}

// validatedFile is what it says of one.
type validatedFile struct {
	File     string    `json:"file"`
	Policy   string    `json:"policy,omitempty"`
	Shared   bool      `json:"shared,omitempty"` // lists and actions for policies
	Rules    int       `json:"rules"`
	Filters  int       `json:"filters"` // written, in all lists
	Tests    int       `json:"tests"`
	Errors   []mistake `json:"errors"`
	Warnings []mistake `json:"warnings"`
}

// mistake is a problem and its place. Line and column count from 1; 0: the whole
// file.
type mistake struct {
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Message string `json:"message"`
	Excerpt string `json:"excerpt,omitempty"`
}

func validateCommand(e *env) *cobra.Command {
	return e.withFormat(&cobra.Command{
		Use:   "validate FILE...",
		Short: "Check policy documents and run their tests; needs no agent and no privileges",
		Long: `validate runs what the agent runs before it puts a policy in force: it reads each
document, checks and compiles it, and runs its tests. Every mistake is shown with
its place, the line, and what to do. The exit code is 6 when a file is not valid.
Warnings, of what is allowed and probably not meant, do not change it; policy lint
looks closer.`,
		Example: "  ipsecctl policy validate /etc/ipsecagent/policies.d/*.yaml",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, files []string) error {
			v := validateFiles(files)
			if err := e.show(v, func(p *printer) { printValidated(p, v) }); err != nil {
				return err
			}
			return v.err()
		},
	})
}

func validateFiles(files []string) validated {
	v := validated{SchemaVersion: control.SchemaVersion}
	owner := map[string]string{}
	for _, path := range files {
		f := validateFile(path)
		if f.Policy != "" {
			f.claim(owner)
		}
		v.Files = append(v.Files, f)
	}
	return v
}

// claim finds two files that would not load into one folder.
func (f *validatedFile) claim(owner map[string]string) {
	first, taken := owner[f.Policy]
	if _, predefined := policy.Predefined(f.Policy); predefined {
		first, taken = "the predefined policies", true
	}
	if taken {
		f.Errors = append(f.Errors, mistake{Message: fmt.Sprintf("policy %q is already defined in %s; give it another name", f.Policy, first)})
		return
	}
	owner[f.Policy] = f.File
}

func validateFile(path string) validatedFile {
	v := validatedFile{File: path, Errors: []mistake{}, Warnings: []mistake{}}
	d, err := file.Open(path)
	if err != nil {
		v.Errors = mistakes(unreadable(path, err), err)
		return v
	}
	if d.Shared != nil {
		v.Shared = true
		for _, l := range d.Shared.FilterLists {
			v.Filters += len(l.Filters)
		}
		return v
	}
	p := d.Policy
	v.Policy, v.Rules, v.Tests = p.Name, len(p.Rules), len(p.Tests)
	for _, l := range p.FilterLists {
		v.Filters += len(l.Filters)
	}
	if err := d.Check(); err != nil {
		v.Errors = mistakes(err, err)
	}
	for _, w := range policy.Warnings(p) {
		v.Warnings = append(v.Warnings, mistakeOf(d.Locate(w)))
	}
	return v
}

// mistakes returns the problems of a document, or, in words, what else went
// wrong.
func mistakes(words, err error) []mistake {
	var all []mistake
	for _, e := range file.Errors(err) {
		all = append(all, mistakeOf(e))
	}
	if len(all) == 0 {
		all = append(all, mistake{Message: words.Error()})
	}
	return all
}

func mistakeOf(e *file.Error) mistake { return mistake{e.Line, e.Column, e.Message, e.Excerpt} }

// err tells how many files are not valid.
func (v validated) err() error {
	bad := 0
	for _, f := range v.Files {
		if len(f.Errors) > 0 {
			bad++
		}
	}
	switch {
	case bad == 0:
		return nil
	case len(v.Files) == 1:
		return &control.Error{Code: control.Invalid, Message: v.Files[0].File + " is not valid"}
	}
	return &control.Error{Code: control.Invalid, Message: fmt.Sprintf("%d of %d files are not valid", bad, len(v.Files))}
}

func printValidated(p *printer, v validated) {
	for _, f := range v.Files {
		for _, m := range f.Errors {
			printMistake(p, f.File, "", m)
		}
		for _, m := range f.Warnings {
			printMistake(p, f.File, "warning: ", m)
		}
		if len(f.Errors) == 0 && f.Shared {
			p.line("%s: valid: shared lists and actions, %s", f.File, count(uint64(f.Filters), "filter"))
		} else if len(f.Errors) == 0 {
			p.line("%s: valid: policy %q, %s, %s, %s", f.File, f.Policy, count(uint64(f.Rules), "rule"),
				count(uint64(f.Filters), "filter"), held(f.Tests))
		}
	}
}

func held(tests int) string {
	switch tests {
	case 0:
		return "no tests"
	case 1:
		return "its test holds"
	}
	return fmt.Sprintf("its %d tests hold", tests)
}

func printMistake(p *printer, path, kind string, m mistake) {
	if m.Line == 0 {
		p.line("%s: %s%s", path, kind, m.Message)
		return
	}
	p.line("%s:%d:%d: %s%s", path, m.Line, m.Column, kind, m.Message)
	if m.Excerpt != "" {
		p.block("", m.Excerpt)
	}
}
