package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
	"ipsecagent/policy/file"
)

// inForce names the policy that the agent enforces, where a policy is asked for.
const inForce = "in-force"

// policiesDir is where the documents of a host lie.
const policiesDir = "/etc/ipsecagent/policies.d"

// found is a policy that a command was asked about.
type found struct {
	policy *policy.Policy
	origin string
}

// findPolicy returns the policy that an argument names: a file, in-force, a
// predefined policy, one of the policies folder, or one that the agent has from
// elsewhere, in this order.
func (e *env) findPolicy(ctx context.Context, arg string) (found, error) {
	if arg == inForce {
		return e.policyInForce(ctx)
	}
	if isFile(arg) {
		p, err := file.Load(arg)
		if err != nil {
			return found{}, unreadable(arg, err)
		}
		return found{p, arg}, nil
	}
	if p, ok := policy.Predefined(arg); ok {
		return found{p, "predefined"}, nil
	}
	f, err := inFolder(policiesDir, arg)
	if err == nil {
		return f, nil
	}
	if v, errAgent := e.agent().Policy(ctx, arg, false); errAgent == nil {
		return ofAgent(v)
	}
	return found{}, err
}

// isFile reports whether an argument means a file and not a name: it looks like
// a path that no name of a policy is, or there is such a file. A name may have a
// slash, as names of Windows do.
func isFile(arg string) bool {
	if filepath.IsAbs(arg) || strings.HasPrefix(arg, ".") || filepath.Ext(arg) == ".yaml" {
		return true
	}
	info, err := os.Stat(arg)
	return err == nil && (info.Mode().IsRegular() || strings.ContainsRune(arg, filepath.Separator))
}

func unreadable(arg string, err error) error {
	switch {
	case len(file.Errors(err)) > 0:
		return &control.Error{Code: control.Invalid, Message: fmt.Sprintf("%s is not valid:\n%v", arg, err)}
	case errors.Is(err, fs.ErrNotExist):
		return &control.Error{Code: control.NotFound, Message: fmt.Sprintf("there is no file %s", arg)}
	case errors.Is(err, fs.ErrPermission):
		return &control.Error{Code: control.NotPermitted, Message: fmt.Sprintf("not permitted to read %s", arg)}
	}
	return err
}

// inFolder finds a document of a folder by the name of its policy.
func inFolder(dir, name string) (found, error) {
	entries, err := file.Dir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return found{}, unreadable(dir, err)
	}
	var broken []string
	for _, entry := range entries {
		switch {
		case entry.Err != nil:
			broken = append(broken, entry.Path)
		case entry.Policy != nil && entry.Policy.Name == name:
			return found{entry.Policy, entry.Path}, nil
		}
	}
	also := ""
	if len(broken) > 0 {
		also = fmt.Sprintf(" (not valid, so its name is not known: %s)", strings.Join(broken, ", "))
	}
	return found{}, &control.Error{Code: control.NotFound, Message: fmt.Sprintf(
		"there is no policy %q: it is not a file, not predefined (%s), and not in %s%s", name, strings.Join(policy.PredefinedNames(), ", "), dir, also)}
}

// policyInForce asks the agent for the policy it enforces.
func (e *env) policyInForce(ctx context.Context) (found, error) {
	v, err := e.agent().Policy(ctx, "", false)
	if err != nil {
		return found{}, err
	}
	v.Origin += ", in force"
	return ofAgent(v)
}

// ofAgent reads a policy that the agent shows.
func ofAgent(v control.PolicyView) (found, error) {
	p, err := file.Parse(v.Name, []byte(v.Document))
	if err != nil {
		return found{}, fmt.Errorf("the agent's document of policy %q is not understood; is ipsecctl as new as the agent? %w", v.Name, err)
	}
	return found{p, v.Origin}, nil
}

// compile compiles a policy as for no host in particular: every tunnel endpoint
// is in reach. Report mode is as it is now.
func (f found) compile() (*policy.Compiled, error) {
	host := policy.Host{Now: f.policy.Moment(time.Now())}
	c, err := policy.Compile(f.policy, host.Reachable(f.policy))
	if err != nil {
		return nil, &control.Error{Code: control.Invalid, Message: fmt.Sprintf("%s is not valid: %v", f.origin, err)}
	}
	return c, nil
}
