package file

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"ipsecagent/policy"
)

// Document is a policy, or what is shared, with the places where its parts are
// written.
type Document struct {
	Policy  *policy.Policy // nil if Shared is not
	Shared  *Shared        // nil unless it is a document of that kind
	decoder *decoder
}

// Open reads and validates the document in a file, with the shared documents
// beside it.
func Open(path string) (*Document, error) {
	data, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("file: read policy: %w", err)
	}
	doc := newDocument(path, data)
	beside, err := sharedBeside(path)
	if err != nil && (doc.policy == nil || doc.lacks()) {
		return nil, err
	}
	return doc.finished(newLibrary(append(beside, doc)))
}

// Read reads and validates the policy in data, as Parse does.
func Read(name string, data []byte) (*Document, error) {
	doc := newDocument(name, data)
	if doc.shared != nil {
		return nil, noPolicy(doc.decoder)
	}
	return doc.finished(newLibrary(nil))
}

func (doc *document) finished(lib *library) (*Document, error) {
	if doc.finish(lib); doc.err != nil {
		return nil, doc.err
	}
	return &Document{doc.policy, doc.shared, doc.decoder}, nil
}

// Locate says where in the document a problem of its policy is.
func (d *Document) Locate(p *policy.Problem) *Error { return d.decoder.locate(p) }

// Check compiles the policy as for no host in particular, every tunnel endpoint
// in reach, and runs its tests. The error joins one *Error for each problem that
// has a place. What is shared is right once it is read.
func (d *Document) Check() error {
	if d.Policy == nil {
		return nil
	}
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

// ReadIn reads and validates the policy in data as if it stood in a folder: what
// its rules name and it does not define is of the folder's shared documents, and
// what both define is an error. name stands for the file in errors.
func ReadIn(folder, name string, data []byte) (*policy.Policy, error) {
	doc := newDocument(name, data)
	if doc.shared != nil {
		return nil, noPolicy(doc.decoder)
	}
	beside, err := sharedBeside(filepath.Join(folder, "document"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	d, err := doc.finished(newLibrary(append(beside, doc)))
	if err != nil {
		return nil, err
	}
	return d.Policy, nil
}

// Replace makes data the whole text of a file, new or not, with the permissions
// and owner the file had. It does not look at what the text says.
func Replace(path string, data []byte) error {
	old, err := read(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("file: save policy: %w", err)
	}
	f := Folder{path: filepath.Dir(path)}
	return f.Write([]Change{{Path: path, Old: old, New: data}})
}
