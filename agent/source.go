package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/policy"
)

// PolicySource says which policy is assigned to this host.
type PolicySource interface {
	// Fetch returns what is assigned, with the state None or Assigned. An
	// error says that it cannot be known now.
	Fetch(ctx context.Context) (policy.Assignment, error)
	// Changed hints that Fetch may answer differently now.
	Changed() <-chan struct{}
}

// Library is the policies of this host that can be assigned by name, beside
// the predefined ones, and the form in which they are kept. cmd fills it.
type Library struct {
	// Load returns the policy of that name and where it comes from. An error
	// that is fs.ErrNotExist: there is none.
	Load func(name string) (*policy.Policy, string, error)
	// List returns what Load finds, those that do not load with their error.
	List func() ([]Entry, error)
	// Marshal writes a policy as a document, Parse reads one.
	Marshal func(*policy.Policy) ([]byte, error)
	Parse   func(name string, document []byte) (*policy.Policy, error)
	// Read reads the text of a document as if it stood in the folder; name
	// stands for its file in errors.
	Read func(name string, document []byte) (*policy.Policy, error)
	// Document returns the text in which the folder holds the policy of that
	// name, and where. An error that is fs.ErrNotExist: there is none.
	Document func(name string) (text []byte, origin string, err error)
	// Save makes document the text of the policy of that name, in the place
	// of the one Document returns, and says where it is.
	Save func(name string, document []byte) (origin string, err error)
	// Changed hints that Load may answer differently now; may be nil.
	Changed <-chan struct{}
}

// Entry is a policy in a Library.
type Entry struct {
	Name, Description, Origin string
	// Err: it does not load.
	Err error
}

// localSource is the policy source of a host of its own: the name that its
// administrator assigned.
type localSource struct {
	library  Library
	assigned assignment
}

var _ PolicySource = (*localSource)(nil)

// Changed hints that a document of the policies folder was written.
func (s *localSource) Changed() <-chan struct{} { return s.library.Changed }

// Fetch returns the assigned policy by its name.
func (s *localSource) Fetch(context.Context) (policy.Assignment, error) {
	return s.load(s.assigned)
}

// load returns the policy of an assignment, with its authentication replaced
// where the assignment says so.
func (s *localSource) load(as assignment) (policy.Assignment, error) {
	if as.Name == "" {
		return policy.Assignment{State: policy.None, Fetched: time.Now()}, nil
	}
	p, origin, err := s.findCompat(as)
	if err != nil {
		return policy.Assignment{}, err
	}
	p, err = withAuth(p, as.Auth)
	return policy.Assignment{State: policy.Assigned, Policy: p, Origin: origin, Fetched: time.Now()}, err
}

// findCompat returns the policy of an assignment, that of Windows 2000 where it
// asks for it.
func (s *localSource) findCompat(as assignment) (*policy.Policy, string, error) {
	if as.Compat == "" {
		return s.find(as.Name)
	}
	p, ok := policy.Original(as.Name)
	if !ok {
		return nil, "", fmt.Errorf("no policy of Windows 2000 is called %q: client, server and secure-server are: %w", as.Name, fs.ErrNotExist)
	}
	return p, "predefined, as Windows 2000 has it", nil
}

// find returns the policy of that name, a predefined one first: no file can
// change what "client" means.
func (s *localSource) find(name string) (*policy.Policy, string, error) {
	if p, ok := policy.Predefined(name); ok {
		return p, "predefined", nil
	}
	if s.library.Load == nil {
		return nil, "", fmt.Errorf("policy %q: %w", name, fs.ErrNotExist)
	}
	p, origin, err := s.library.Load(name)
	if err == nil && p == nil {
		err = errors.New("the library returned nothing")
	}
	return p, origin, err
}

// withAuth returns p with its authentication replaced in the words of an
// assignment: "" leaves it.
func withAuth(p *policy.Policy, how string) (*policy.Policy, error) {
	if how == "" {
		return p, nil
	}
	m, err := authOf(how)
	if err != nil {
		return nil, err
	}
	return policy.WithAuthentication(p, []policy.AuthMethod{m}), nil
}

// authOf reads the word of an assignment for an authentication method.
func authOf(how string) (policy.AuthMethod, error) {
	ca, certificate := strings.CutPrefix(how, control.AuthCertificate)
	switch {
	case how == control.AuthPSKFile:
		return policy.AuthMethod{Kind: policy.PresharedKey}, nil
	case how == control.AuthKerberos:
		return policy.AuthMethod{Kind: policy.Kerberos}, nil
	case certificate && strings.TrimSpace(ca) != "":
		return policy.AuthMethod{Kind: policy.Certificate, CA: ca}, nil
	}
	return policy.AuthMethod{}, fmt.Errorf("authentication %q is not known; known: %s", how, control.AuthWords)
}

// restore returns the last policy that was good, from its kept document.
func (s *localSource) restore(last *lastGood) (policy.Assignment, error) {
	if s.library.Parse == nil {
		return policy.Assignment{}, errors.New("kept documents cannot be read")
	}
	p, err := s.library.Parse("the kept copy of "+last.Name, last.Document)
	if err != nil {
		return policy.Assignment{}, err
	}
	return policy.Assignment{State: policy.Assigned, Policy: p, Origin: last.Origin, Fetched: last.Applied, Cached: true}, nil
}
