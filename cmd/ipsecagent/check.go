package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"ipsecagent/auth/psk"
	"ipsecagent/policy"
)

// check validates policies and secrets; the settings are valid already. notes
// is what could not be looked at, or what is allowed but weak.
func check(s *settings) (summary string, notes []string, err error) {
	policies, errPolicies := checkPolicies(s.PoliciesDir)
	groups, notes, errKeys := checkKeys(s.SecretsDir)
	more, errCerts := checkCertificates(s)
	summary = fmt.Sprintf("valid: settings, %s, %s", plural(policies, "policy", "policies"), plural(groups, "group of keys", "groups of keys"))
	return summary, append(notes, more...), errors.Join(errPolicies, errKeys, errCerts)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// checkPolicies compiles every policy of the folder and runs its tests.
func checkPolicies(dir string) (n int, err error) {
	entries, err := policyFiles(dir)
	errs := []error{err}
	for _, e := range entries {
		if e.Err != nil {
			errs = append(errs, e.Err)
			continue
		}
		if err := tryPolicy(e.Policy); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", e.Path, err))
			continue
		}
		n++
	}
	return n, errors.Join(errs...)
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

// checkCertificates reads the certificates. notes is what expires; what has
// expired is an error.
func checkCertificates(s *settings) (notes []string, err error) {
	ids, problem, err := openIdentities(s, nil, "")
	switch {
	case err != nil:
		return nil, nil // an error of the settings, said already
	case errors.Is(problem, fs.ErrPermission):
		return []string{fmt.Sprintf("the certificates in %s are not checked in full: this user may not read all of them, root may: %v", s.Certificates.Dir, problem)}, nil
	}
	errs := []error{problem}
	notes = checkKeyTable(s, ids)
	for _, n := range ids.certs.Expiring(time.Now()) {
		if n.Days == 0 {
			errs = append(errs, errors.New(n.String()))
			continue
		}
		notes = append(notes, n.String())
	}
	return notes, errors.Join(errs...)
}

// checkKeyTable reads the key table, if there is one: what is wrong with it is
// wrong for policies of Kerberos alone.
func checkKeyTable(s *settings, ids *identities) (notes []string) {
	f, err := os.Open(s.Kerberos.Keytab)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return []string{fmt.Sprintf("the key table is not checked: %v", err)}
	}
	f.Close()
	if _, err := ids.kerberos.Identity(); err != nil {
		return []string{fmt.Sprintf("the key table %s cannot be used: %s", s.Kerberos.Keytab, words(err))}
	}
	return nil
}

// lines writes an error that joins several as one line for each.
func lines(err error) string {
	return strings.TrimRight(err.Error(), "\n")
}
