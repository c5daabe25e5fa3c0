package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"ipsecagent/auth/psk"
	"ipsecagent/policy"
)

// check validates policies, secrets and what this host proves itself by; the
// settings are valid already. notes is what could not be looked at, or what is
// allowed but weak.
func check(ctx context.Context, s *settings) (summary string, notes []string, err error) {
	policies, errPolicies := checkPolicies(s.PoliciesDir)
	groups, notes, errKeys := checkKeys(s.SecretsDir)
	proofs := checkIdentities(s)
	errDirectory := checkDirectory(s)
	lacking, errInUse := proofs.checkRules(ctx, s, policies)
	summary = fmt.Sprintf("valid: settings, %s, %s, %s", plural(len(policies), "policy", "policies"), plural(groups, "group of keys", "groups of keys"), proofs.counts())
	return summary, slices.Concat(notes, proofs.notes, lacking, driverNotes(ctx, s)), errors.Join(errPolicies, errKeys, proofs.err, errInUse, errDirectory)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// checkPolicies compiles every policy of the folder and runs its tests. It
// returns those that are valid.
func checkPolicies(dir string) (valid []*policy.Policy, err error) {
	entries, err := policyFiles(dir)
	errs := []error{err}
	for _, e := range entries {
		if e.Err != nil {
			errs = append(errs, e.Err)
			continue
		}
		if e.Shared != nil {
			continue
		}
		if err := tryPolicy(e.Policy); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", e.Path, err))
			continue
		}
		valid = append(valid, e.Policy)
	}
	return valid, errors.Join(errs...)
}

func tryPolicy(p *policy.Policy) error {
	c, err := policy.Compile(p, policy.Host{}.Reachable(p))
	if err != nil {
		return err
	}
	return policy.RunTests(c, p.Tests)
}

// checkKeys reads the preshared keys. Whoever may not read them is told so, and
// that is no error.
func checkKeys(dir string) (groups int, notes []string, err error) {
	ring, err := psk.Load(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, nil, nil
	case errors.Is(err, fs.ErrPermission):
		return 0, []string{fmt.Sprintf("the keys in %s are not checked: this user may not read them, root may", dir)}, nil
	case err != nil:
		return 0, nil, err
	}
	return len(ring.Names()), ring.Warnings(), nil
}

// lines writes an error that joins several as one line for each.
func lines(err error) string {
	return strings.TrimRight(err.Error(), "\n")
}
