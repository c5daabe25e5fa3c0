package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"ipsecagent/agent"
	"ipsecagent/agent/control"
	"ipsecagent/auth"
	"ipsecagent/auth/gss"
	"ipsecagent/policy"
	"ipsecagent/policy/file"
)

// proofs is what --check finds of what this host proves itself by.
type proofs struct {
	ids *identities // nil: the settings do not say
	authorities, own,
	lists, principals int
	// hidden: some of it may not be read by this user.
	hidden map[auth.Method]bool
	notes  []string // what expires, what is weak or cannot be read
	err    error    // what has expired or does not load
}

// checkIdentities reads certificates, revocation lists and the key table.
func checkIdentities(s *settings) proofs {
	p := proofs{hidden: map[auth.Method]bool{}}
	ids, problem, err := openIdentities(s, nil, "")
	if err != nil {
		return p // an error of the settings, said already
	}
	p.ids = ids
	p.checkKeyTable(s)
	p.authorities, p.own, p.lists = ids.certs.Store().Size()
	if errors.Is(problem, fs.ErrPermission) {
		for _, m := range []auth.Method{auth.RSA, auth.ECDSA256, auth.ECDSA384, auth.ECDSA521} {
			p.hidden[m] = true
		}
		p.notes = append(p.notes, fmt.Sprintf("the certificates in %s are not checked in full: this user may not read all of them, root may: %v", s.Certificates.Dir, problem))
		return p
	}
	errs := []error{problem}
	for _, n := range ids.certs.Expiring(time.Now()) {
		if n.Days == 0 {
			errs = append(errs, errors.New(n.String()))
			continue
		}
		p.notes = append(p.notes, n.String())
	}
	p.err = errors.Join(errs...)
	return p
}

// checkKeyTable reads the key table, if there is one: what is wrong with it is
// wrong for policies of Kerberos alone.
func (p *proofs) checkKeyTable(s *settings) {
	table, err := gss.ReadKeytab(s.Kerberos.Keytab)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		p.hidden[auth.Kerberos] = true
		p.notes = append(p.notes, fmt.Sprintf("the key table %s is not checked: this user may not read it, root may", s.Kerberos.Keytab))
		return
	case err == nil:
		p.principals = len(table.Principals())
	}
	if _, err := p.ids.kerberos.Identity(); err != nil {
		p.notes = append(p.notes, fmt.Sprintf("the key table %s cannot be used: %s", s.Kerberos.Keytab, words(err)))
	}
}

// counts says how much there is.
func (p *proofs) counts() string {
	return strings.Join([]string{
		plural(p.own, "certificate of this host", "certificates of this host"), plural(p.authorities, "authority", "authorities"),
		plural(p.lists, "revocation list", "revocation lists"), plural(p.principals, "principal in the key table", "principals in the key table")}, ", ")
}

// unusable says why this host cannot satisfy a requirement; "": it can, or this
// user may not know.
func (p *proofs) unusable(r auth.Requirement) string {
	if p.hidden[r.Method] {
		return ""
	}
	return p.ids.unusable(r)
}

// checkRules holds the rules of policies against what this host can prove. A
// rule of the policy in use that can secure nothing is an error, anything else
// a note: the folder may hold policies for other hosts.
func (p *proofs) checkRules(ctx context.Context, s *settings, policies []*policy.Policy) (notes []string, err error) {
	if p.ids == nil {
		return nil, nil
	}
	inUse, err := policyInUse(ctx, s)
	if errors.Is(err, agent.ErrInUse) {
		notes, err = append(notes, fmt.Sprintf("the policy in use is not checked: %v, and none answers on %s", err, s.Socket)), nil
	}
	if err != nil {
		err = fmt.Errorf("the policy in use is not checked: %w", err)
	}
	errs, said := []error{err}, map[string]bool{}
	if inUse != nil {
		for _, u := range agent.UnprovableRules(inUse, p.unusable) {
			words := fmt.Sprintf("policy %q: %s", inUse.Name, lackingWords(u))
			said[words] = true
			if u.All {
				errs = append(errs, errors.New(words+" (it is assigned to this host)"))
				continue
			}
			notes = append(notes, words)
		}
	}
	for _, one := range policies {
		for _, u := range agent.UnprovableRules(one, p.unusable) {
			words := fmt.Sprintf("policy %q: %s", one.Name, lackingWords(u))
			if !said[words] {
				notes = append(notes, words)
			}
		}
	}
	return notes, errors.Join(errs...)
}

func lackingWords(u agent.Unprovable) string {
	extent := "cannot use all of its authentication methods on this host"
	if u.All {
		extent = "can secure nothing on this host"
	}
	return fmt.Sprintf("%s %s: %s", u.Rule, extent, strings.Join(u.Why, "; "))
}

// policyInUse returns the policy that is assigned: as the running agent says,
// or as it was kept; nil: none, or this user may not know.
func policyInUse(ctx context.Context, s *settings) (*policy.Policy, error) {
	view, err := control.NewClient(s.Socket, 10*time.Second).Policy(ctx, "", false)
	if err == nil {
		return file.Parse("the policy in force", []byte(view.Document))
	}
	var said *control.Error
	if !errors.As(err, &said) || said.Code != control.NotReachable {
		return nil, unlessHidden(err, said)
	}
	got, err := agent.Assigned(s.stateFile(), library(s.PoliciesDir, nil))
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	return got.Policy, err
}

// unlessHidden is the error of an agent, but for the answers that none is
// assigned and that it is not for this user.
func unlessHidden(err error, said *control.Error) error {
	if said != nil && (said.Code == control.NotFound || said.Code == control.NotPermitted) {
		return nil
	}
	return err
}
