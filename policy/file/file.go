// Package file reads and writes policies as local YAML documents, lists a
// folder of them, saves what changed in it and hints when it changes. Every mistake of a document is
// reported at once, with line, column and the line itself.
//
// It owns the language alone: what a policy means and whether it is right is
// policy's to say. It holds no keys: a document names them.
package file

import (
	"errors"
	"fmt"
	"io"
	"os"

	"ipsecagent/policy"
)

// maxFiles bounds the documents of one folder.
const maxFiles = 1000

// extension is what a policy's file name ends with in a folder.
const extension = ".yaml"

// Load reads and validates the policy in a file. Lists and actions that its
// rules name and that it does not define are those of the shared documents
// beside it. The error joins values of type *Error when the document is at
// fault.
func Load(path string) (*policy.Policy, error) {
	d, err := Open(path)
	if err != nil {
		return nil, err
	}
	if d.Shared != nil {
		return nil, noPolicy(d.decoder)
	}
	return d.Policy, nil
}

// noPolicy is the error of a document that holds lists and actions alone.
func noPolicy(d *decoder) error {
	return d.src.errorAt(1, 1, "the document is of kind Shared: it holds lists and actions for policies and is none itself")
}

func read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// One byte more than allowed: Parse sees that it is too much.
	return io.ReadAll(io.LimitReader(f, maxSize+1))
}

// Entry is one document of a folder.
type Entry struct {
	Path   string
	Policy *policy.Policy // nil if Err is set or Shared is
	Shared *Shared        // nil unless it is a document of that kind
	Err    error
}

// Dir reads every *.yaml of a folder, in the order of their names; hidden
// files and subfolders are left out. Policies are whole: what their rules name
// and a shared document defines is part of them. What is wrong with one
// document stands in its Entry and does not hide the others. A name that an
// earlier document or a predefined policy has is an error.
func Dir(path string) ([]Entry, error) {
	docs, err := documents(path)
	finish(docs)
	var entries []Entry
	for _, doc := range docs {
		e := Entry{Path: doc.path, Policy: doc.policy, Shared: doc.shared, Err: doc.err}
		if e.Err != nil {
			e.Policy, e.Shared = nil, nil
		}
		entries = append(entries, e)
	}
	return entries, err
}

// Parse reads and validates the policy in data, which stands alone; name
// stands for the file in errors. The error joins one *Error for each mistake,
// in the order of the document.
func Parse(name string, data []byte) (*policy.Policy, error) {
	d, err := Read(name, data)
	if err != nil {
		return nil, err
	}
	return d.Policy, nil
}

// Errors returns every *Error in an error of Load, Parse or Dir.
func Errors(err error) []*Error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []*Error
		for _, e := range joined.Unwrap() {
			all = append(all, Errors(e)...)
		}
		return all
	}
	var e *Error
	if errors.As(err, &e) {
		return []*Error{e}
	}
	return nil
}
