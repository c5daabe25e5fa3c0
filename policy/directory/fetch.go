package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"ipsecagent/policy"
	"ipsecagent/policy/gpipsec"
)

// maxReads is how often a policy that changes while it is read is read anew.
const maxReads = 3

// Fetch resolves what is assigned to this host and reads it: all of it as it
// stood at one moment. With ErrUnreadable there is an answer too, for Watch,
// which says as much as could be read.
func (s *Session) Fetch(ctx context.Context) (*Answer, error) {
	for range maxReads {
		before, err := s.version(ctx)
		if err != nil {
			return nil, err
		}
		a, failed := s.fetch(ctx)
		if failed != nil && (!errors.Is(failed, ErrUnreadable) || cutOff(failed) || a.seen.computer == "") {
			return a, failed // to look for changes would give no other answer
		}
		a.seen.version = before
		moved, err := s.movedMeanwhile(ctx, a)
		if err != nil {
			return nil, err
		}
		if !moved {
			return a, failed // else what is missing may be of before, or is still to come
		}
	}
	return nil, fmt.Errorf("directory: %w: it was read %d times, and each time somebody wrote to it meanwhile", ErrChanging, maxReads)
}

// fetch reads once.
func (s *Session) fetch(ctx context.Context) (*Answer, error) {
	r, err := s.Resolve(ctx, "", "")
	a := &Answer{Result: r, State: policy.None}
	a.seen.of(r)
	w := r.Won()
	if err != nil {
		return a, fmt.Errorf("directory: resolve: %w", err)
	}
	if w == nil {
		return a, nil
	}
	entries, err := s.policyEntries(ctx, w.Policy)
	for _, e := range entries {
		a.seen.entries = append(a.seen.entries, e.DN)
	}
	if err != nil {
		return a, fmt.Errorf("directory: read policy of %s: %w", r.origin(), err)
	}
	a.Objects = len(entries)
	if err := a.decode(w.Policy, entries); err != nil {
		return a, fmt.Errorf("directory: read policy of %s: %w", r.origin(), err)
	}
	return a, nil
}

// decode makes the policy of its objects: the whole of it, or an error.
func (a *Answer) decode(dn string, entries []Entry) error {
	all, err := objects(entries)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	got := gpipsec.Decode(all)
	var wrong []string
	for _, p := range got.Problems {
		if p.Warning {
			a.Warnings = append(a.Warnings, p.Error())
			continue
		}
		wrong = append(wrong, p.Error())
	}
	ref, err := gpipsec.ReadDN(dn)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	i := slices.IndexFunc(got.Store.Policies, func(p policy.Policy) bool { return strings.EqualFold(p.GUID, ref.GUID.String()) })
	if i < 0 || len(wrong) > 0 {
		return fmt.Errorf("%w: %q is not sound: %s", ErrUnreadable, dn, strings.Join(wrong, "; "))
	}
	a.State, a.Policy = policy.Assigned, &got.Store.Policies[i]
	if len(a.Policy.Rules) == 0 && a.Policy.DefaultResponse.GUID == "" {
		a.Warnings = append(a.Warnings, fmt.Sprintf("policy %q has no rules and protects nothing; if it should, this account may not read its ipsecNFAReference", a.Policy.Name))
	}
	a.Secrets = slices.DeleteFunc(got.Secrets, func(s gpipsec.Secret) bool { return s.Policy != a.Policy.Name })
	for _, s := range a.Secrets {
		a.Warnings = append(a.Warnings, fmt.Sprintf("rule %q of policy %q has its preshared key in the directory, where everyone who may read the policy can read it: it is not taken from there; keep it as %q with the secrets of the hosts, or use another method", s.Rule, s.Policy, s.Name))
	}
	return nil
}

// seen is what an answer was made of, so that it can be asked whether any of it
// has changed.
type seen struct {
	version    version
	others     bool // what has changed since is found each time, and is of others
	computer   string
	groups     []string // identities of the computer, sorted
	assignment string   // DN of the winner's assignment; "": none
	scopes     []string // DNs of entries with links or pointers
	entries    []string // DNs of everything else
}

// of takes what a result was made of.
func (w *seen) of(r *Result) {
	w.computer, w.groups, w.scopes = r.Computer.DN, r.Computer.Groups, r.scopes
	for _, c := range r.Considered {
		if c.GPO != "" && !containsDN(w.entries, c.GPO) {
			w.entries = append(w.entries, c.GPO, assignmentPath+c.GPO)
		}
	}
	if won := r.Won(); won != nil && won.GPO != "" {
		w.assignment = assignmentPath + won.GPO
	}
}

// ours returns the names of all that the answer was made of, as foldDN has them.
func (w *seen) ours() map[string]bool {
	all := map[string]bool{foldDN(w.computer): true}
	for _, dn := range slices.Concat(w.scopes, w.entries) {
		all[foldDN(dn)] = true
	}
	return all
}

// errVersion is a server that does not say how far its changes go.
var errVersion = errors.New("the server does not say how far its changes go")

// version is how far the changes of a server go.
type version struct {
	usn uint64 // Active Directory: highestCommittedUSN
	csn string // elsewhere: contextCSN, one or several
}

// version asks for it.
func (s *Session) version(ctx context.Context) (version, error) {
	if s.config.Kind == LDAP {
		return s.contextVersion(ctx)
	}
	e, err := s.Read(ctx, "", "highestCommittedUSN")
	if err != nil {
		return version{}, err
	}
	usn, err := e.number("highestCommittedUSN")
	if err == nil && usn == 0 {
		err = fmt.Errorf("%w: highestCommittedUSN is missing", errVersion)
	}
	return version{usn: usn}, err
}

// contextVersion reads contextCSN, which rises with every change of the tree.
func (s *Session) contextVersion(ctx context.Context) (version, error) {
	e, err := s.Read(ctx, s.root.base, "contextCSN")
	if err != nil {
		return version{}, err
	}
	all := e.all("contextCSN") // one for each server that is written to
	if len(all) == 0 {
		return version{}, fmt.Errorf("%w: let this account read contextCSN of %q, which the overlay syncprov keeps", errVersion, s.root.base)
	}
	slices.Sort(all)
	return version{csn: strings.Join(all, " ")}, nil
}
