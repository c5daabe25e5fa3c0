package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
	"ipsecagent/policy/file"
)

// lintFlags are what policy lint was told.
type lintFlags struct {
	offline, strict bool
	servers         []string
}

func lintCommand(e *env) *cobra.Command {
	var f lintFlags
	c := &cobra.Command{
		Use:   "lint [FILE|NAME|in-force]",
		Short: "Find what is allowed in a policy and probably not meant",
		Long: `lint finds filters that never decide, that are there twice or that Windows would
put in no order; weak methods; rules that can never negotiate; and a policy that
would cut off your own SSH session (SSH_CONNECTION; else SSH in general) or servers
that the host needs. Without an argument it looks at the policy in force.

If the agent answers, what this host knows of itself is looked at too: its keys,
certificates and key table, its data path, routes, DNS servers, and with whom it
is secured. The exit code is 6 when there is an error, with --strict also for a
warning; notes never count.`,
		Example: `  ipsecctl policy lint
  ipsecctl policy lint database-servers.yaml --strict --server dns=10.0.0.53 --server kdc=10.0.0.10`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := e.lint(cmd.Context(), strings.Join(args, ""), f)
			if err != nil {
				return err
			}
			if err := e.show(v, func(p *printer) { printLint(p, v) }); err != nil {
				return err
			}
			return verdict(v, f.strict)
		},
	}
	c.Flags().BoolVar(&f.offline, "offline", false, "do not ask the agent what this host knows of itself")
	c.Flags().BoolVar(&f.strict, "strict", false, "exit code 6 for warnings, too")
	c.Flags().StringSliceVar(&f.servers, "server", nil, "a server that the host has to reach: dns=, kdc= or ldap= and its address")
	return e.withFormat(c)
}

func (e *env) lint(ctx context.Context, arg string, f lintFlags) (control.LintResult, error) {
	r := control.LintRequest{SSH: sshFlow(e.getenv("SSH_CONNECTION")), Servers: f.servers}
	local, err := r.Environment()
	if err != nil {
		return control.LintResult{}, usage("%v", err)
	}
	document, err := openDocument(arg)
	if err != nil {
		return control.LintResult{}, err
	}
	if f.offline {
		return e.lintOffline(ctx, arg, document, local)
	}
	v, err := e.lintOnline(ctx, arg, r, document)
	var coded *control.Error
	if unreached := errors.As(err, &coded) && (coded.Code == control.NotReachable || coded.Code == control.NotPermitted); unreached && arg != "" && arg != inForce {
		return e.lintOffline(ctx, arg, document, local)
	}
	return v, err
}

// openDocument reads the file that an argument means; nil: it is a name.
func openDocument(arg string) (*file.Document, error) {
	if arg == "" || arg == inForce || !isFile(arg) {
		return nil, nil
	}
	d, err := file.Open(arg)
	switch {
	case err != nil:
		return nil, unreadable(arg, err)
	case d.Policy == nil:
		return nil, &control.Error{Code: control.Invalid, Message: fmt.Sprintf("%s holds what policies share and is none itself; name a policy that uses it", arg)}
	}
	return d, nil
}

func (e *env) lintOnline(ctx context.Context, arg string, r control.LintRequest, d *file.Document) (control.LintResult, error) {
	if d == nil {
		if arg != inForce {
			r.Policy = arg
		}
		return e.agent().Lint(ctx, r)
	}
	whole, err := file.Marshal(d.Policy) // with what it borrows from shared documents
	if err != nil {
		return control.LintResult{}, err
	}
	r.Document = string(whole)
	v, err := e.agent().Lint(ctx, r)
	v.Origin = arg
	locate(v, d)
	return v, err
}

func (e *env) lintOffline(ctx context.Context, arg string, d *file.Document, env policy.Environment) (control.LintResult, error) {
	if arg == "" {
		return control.LintResult{}, usage("policy lint --offline: which policy? name a file or a policy")
	}
	p := found{origin: arg}
	if d != nil {
		p.policy = d.Policy
	} else {
		var err error
		if p, err = e.findPolicy(ctx, arg); err != nil {
			return control.LintResult{}, err
		}
	}
	findings, err := policy.Lint(p.policy, env)
	if err != nil {
		return control.LintResult{}, &control.Error{Code: control.Invalid, Message: fmt.Sprintf("%s is not valid: %v", arg, err)}
	}
	v := control.LintResult{SchemaVersion: control.SchemaVersion, Policy: p.policy.Name, Origin: p.origin, Findings: control.Findings(findings)}
	if d != nil {
		locate(v, d)
	}
	return v, nil
}

// locate adds where in the document each finding is.
func locate(v control.LintResult, d *file.Document) {
	for i := range v.Findings {
		f := &v.Findings[i]
		place := d.Locate(&policy.Problem{Path: f.Path})
		f.Line, f.Column = place.Line, place.Column
	}
}

// sshFlow returns the session of SSH_CONNECTION as a flow that comes in; "": there
// is none. The variable holds the client's address and port and the server's.
func sshFlow(connection string) string {
	w := strings.Fields(connection)
	if len(w) != 4 {
		return ""
	}
	for _, i := range []int{0, 2} {
		w[i], _, _ = strings.Cut(w[i], "%") // the zone of a link-local address
		w[i] = strings.TrimPrefix(w[i], "::ffff:")
	}
	return fmt.Sprintf("tcp %s -> me=%s", net.JoinHostPort(w[0], w[1]), net.JoinHostPort(w[2], w[3]))
}

// countOf returns how many findings are of a severity.
func countOf(v control.LintResult, s policy.Severity) (n uint64) {
	for _, f := range v.Findings {
		if f.Severity == s.String() {
			n++
		}
	}
	return n
}

// verdict makes errors, and if strict warnings, the exit code.
func verdict(v control.LintResult, strict bool) error {
	errs, warnings := countOf(v, policy.ErrorSeverity), countOf(v, policy.WarningSeverity)
	if errs > 0 || strict && warnings > 0 {
		return &control.Error{Code: control.Invalid, Message: fmt.Sprintf("policy %q: %s, %s", v.Policy, count(errs, "error"), count(warnings, "warning"))}
	}
	return nil
}

func printLint(p *printer, v control.LintResult) {
	for _, f := range v.Findings {
		place := ""
		if f.Line > 0 {
			place = fmt.Sprintf("%s:%d:%d: ", v.Origin, f.Line, f.Column)
		}
		p.line("%s%s: %s [%s]", place, f.Severity, sentence(f), f.Code)
		p.line("    do: %s", f.Do)
	}
	about := "the facts of a host were not looked at"
	if v.Host {
		about = "with the facts of this host"
	}
	if len(v.Findings) == 0 {
		p.line("%s (%s): nothing to say, %s", v.Policy, v.Origin, about)
		return
	}
	p.gap()
	p.line("%s (%s): %s, %s, %s; %s", v.Policy, v.Origin, count(countOf(v, policy.ErrorSeverity), "error"),
		count(countOf(v, policy.WarningSeverity), "warning"), count(countOf(v, policy.NoteSeverity), "note"), about)
}

// sentence joins what a finding is about and what it says, unless the one names
// the other.
func sentence(f control.Finding) string {
	if f.Object == f.Path || strings.Contains(f.Message, f.Object) {
		return f.Message
	}
	return f.Object + " " + f.Message
}
