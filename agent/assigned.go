package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"ipsecagent/auth"
	"ipsecagent/policy"
)

// ErrInUse is a state file that a running agent holds.
var ErrInUse = errors.New("a running agent uses the file")

// Assigned returns the policy that is assigned by a state file, for who looks at
// a host on which no agent runs: an agent holds its file (ErrInUse). It changes
// nothing. A file that is not there assigns none.
func Assigned(stateFile string, library Library) (policy.Assignment, error) {
	none := policy.Assignment{State: policy.None}
	if _, err := os.Stat(stateFile); errors.Is(err, fs.ErrNotExist) {
		return none, nil
	}
	as, err := readAssigned(stateFile)
	if err != nil {
		return none, fmt.Errorf("agent: read what is assigned from %s: %w", stateFile, err)
	}
	if as == nil {
		return none, nil
	}
	got, err := (&localSource{library: library}).load(*as)
	if err != nil {
		return none, fmt.Errorf("agent: load the assigned policy %q: %w", as.Name, err)
	}
	return got, nil
}

// readAssigned reads the assignment alone; nil: nobody has said anything.
func readAssigned(path string) (as *assignment, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			as, err = nil, fmt.Errorf("%w: %v", errDamaged, r)
		}
	}()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: openTimeout})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, ErrInUse
	}
	if err != nil {
		return nil, classify(err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		state := tx.Bucket(stateBucket())
		if state == nil {
			return nil
		}
		return decode(state.Get(assignedKey()), &as)
	})
	return as, err
}

// Unprovable is a rule some of whose authentication methods this host cannot
// use.
type Unprovable struct {
	// Rule names it, as "rule NAME" or "the default response rule".
	Rule string
	// Why has a text for each such method.
	Why []string
	// All: it can use none of them, and secures nothing.
	All bool
}

// UnprovableRules returns the rules of a policy some of whose authentication
// methods this host cannot use, in the policy's order. unusable says why the
// host cannot satisfy a requirement; "": it can.
func UnprovableRules(p *policy.Policy, unusable func(auth.Requirement) string) []Unprovable {
	var found []Unprovable
	t := trial{unusable: unusable, done: map[provable]string{}}
	for _, r := range p.Rules {
		if !r.Disabled && p.Negotiates(r) {
			found = t.add(found, fmt.Sprintf("rule %q", r.Name), r.Authentication)
		}
	}
	if p.DefaultResponse.Active {
		found = t.add(found, "the default response rule", p.DefaultResponse.Authentication)
	}
	return found
}
