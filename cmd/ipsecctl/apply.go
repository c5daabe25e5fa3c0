package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
)

const applyHelp = `apply puts the policy of a document in force, in place of the one before. Once it
is in force for good, the agent keeps the document in its policies folder under
the policy's name, and the policy is assigned by that name.

With --confirm the policy before is in force again after that time, unless
'ipsecctl confirm' comes: who is cut off by the new policy gets in again by
waiting. The agent keeps the time, so that the end of this session changes
nothing; an agent that is started anew meanwhile goes on with the policy before.
Confirm from a new session, made after the policy was applied: one that was open
before may live on where no other can begin.

'ipsecctl rollback' goes back at once, also after the policy was confirmed.
With --dry-run nothing is changed and the agent says what would be.`

type applyFlags struct {
	auth            string
	confirm         time.Duration
	replace, dryRun bool
}

func applyCommand(e *env) *cobra.Command {
	var f applyFlags
	c := &cobra.Command{
		Use:   "apply FILE",
		Short: "Put the policy of a document in force, until it is confirmed or for good",
		Long:  applyHelp,
		Example: `  ipsecctl apply sql.yaml --confirm 60s
  ipsecctl confirm
  ipsecctl apply sql.yaml --dry-run`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := f.request(args[0], cmd.Flags().Changed("confirm"))
			if err != nil {
				return err
			}
			v, err := e.agent().Apply(cmd.Context(), r)
			if err != nil {
				return err
			}
			return e.showApplied(v)
		},
	}
	flags := c.Flags()
	flags.StringVar(&f.auth, "auth", "", "authenticate by this method instead of the policy's: "+control.AuthWords)
	flags.DurationVar(&f.confirm, "confirm", 0, "go back to the policy before after this time, unless confirmed")
	flags.BoolVar(&f.replace, "replace", false, "take the place of another policy of that name in the policies folder")
	flags.BoolVar(&f.dryRun, "dry-run", false, "change nothing, say what would change")
	c.RegisterFlagCompletionFunc("auth", completeAuth)
	return e.withFormat(c)
}

// request reads the file and the flags.
func (f applyFlags) request(path string, confirm bool) (control.ApplyRequest, error) {
	r := control.ApplyRequest{Replace: f.replace, DryRun: f.dryRun, Confirm: int(f.confirm / time.Second)}
	if confirm && (f.confirm < control.MinConfirm || f.confirm > control.MaxConfirm || f.confirm%time.Second != 0) {
		return r, usage("--confirm %v: it is a number of whole seconds between %v and %v", f.confirm, control.MinConfirm, control.MaxConfirm)
	}
	var as control.AssignRequest
	as.Policy = path // addAuth looks at the whole request
	if f.auth != "" {
		as.Policy = "applied"
		if err := addAuth(&as, f.auth); err != nil {
			return r, err
		}
	}
	r.Auth, r.Keys = as.Auth, as.Keys
	text, err := readDocument(path)
	if err != nil {
		return r, err
	}
	r.Document, r.Source = text, path
	return r, r.Validate()
}

// maxDocument leaves room for what goes with a document in a request.
const maxDocument = control.MaxRequest / 2

func readDocument(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", unreadable(path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", unreadable(path, err)
	}
	if !info.Mode().IsRegular() {
		return "", invalid("%s is not a regular file", path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err != nil {
		return "", unreadable(path, err)
	}
	if len(text) > maxDocument {
		return "", invalid("%s is larger than %d bytes, too large to be applied: copy it into the policies folder and assign it", path, maxDocument)
	}
	return string(text), nil
}

// showApplied says what is in force, or would be, and what is to be done.
func (e *env) showApplied(v control.ApplyResult) error {
	return e.show(v, func(p *printer) {
		switch {
		case v.DryRun:
			printDryRun(p, v)
		case v.Policy == "":
			p.line("No policy is in force: traffic passes in clear.")
		default:
			p.line("Policy %q (%s) is in force: %s.", v.Policy, v.Origin, count(uint64(v.Filters), "filter"))
		}
		if v.Pending != nil {
			p.line("It is NOT CONFIRMED: %s is in force again in %s, at %s, unless you say, from a new session:",
				beforeWords(v.Pending), v.Pending.Until.Sub(v.Pending.Applied).Round(time.Second), p.at(v.Pending.Until))
			p.line("  ipsecctl confirm")
		}
		for _, w := range v.Warnings {
			p.line("Note: %s", w)
		}
	})
}

func printDryRun(p *printer, v control.ApplyResult) {
	p.line("Policy %q would be in force: %s. Nothing is changed.", v.Policy, count(uint64(v.Filters), "filter"))
	if len(v.Changes) == 0 {
		p.line("No traffic would be treated differently.")
	}
	for _, c := range v.Changes {
		p.line("  %s", c)
	}
}

// beforeWords names what is in force again if nobody confirms.
func beforeWords(v *control.Pending) string {
	if v.Before == "" {
		return "no policy"
	}
	return fmt.Sprintf("policy %q", v.Before)
}
