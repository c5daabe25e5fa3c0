package file

import (
	"errors"
	"fmt"

	"ipsecagent/policy"
)

// Document is a policy with the places where its parts are written.
type Document struct {
	Policy  *policy.Policy
	decoder *decoder
}

// Open reads and validates the document in a file, as Load does.
func Open(path string) (*Document, error) {
	data, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("file: read policy: %w", err)
	}
	return Read(path, data)
}

// Read reads and validates the document in data, as Parse does.
func Read(name string, data []byte) (*Document, error) {
	src := newSource(name, data)
	root, err := src.nodes()
	if err != nil {
		return nil, err
	}
	d := newDecoder(src)
	d.walk(root)
	if len(d.errs) > 0 {
		return nil, d.err()
	}
	p := d.policy(root)
	for _, problem := range policy.Problems(policy.Validate(p)) {
		d.problem(problem)
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	return &Document{p, d}, nil
}

// Locate says where in the document a problem of its policy is.
func (d *Document) Locate(p *policy.Problem) *Error { return d.decoder.locate(p) }

// Check compiles the policy as for no host in particular, every tunnel endpoint
// in reach, and runs its tests. The error joins one *Error for each problem that
// has a place.
func (d *Document) Check() error {
	c, err := policy.Compile(d.Policy, policy.Host{}.Reachable(d.Policy))
	if err == nil {
		err = policy.RunTests(c, d.Policy.Tests)
	}
	problems := policy.Problems(err)
	if len(problems) == 0 {
		return err
	}
	var located []error
	for _, p := range problems {
		located = append(located, d.Locate(p))
	}
	return errors.Join(located...)
}
