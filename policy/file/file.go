// Package file reads and writes policies as local YAML documents, lists a
// folder of them and hints when it changes. Every mistake of a document is
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
	"path/filepath"
	"strings"

	"ipsecagent/policy"
)

// maxFiles bounds the documents of one folder.
const maxFiles = 1000

// extension is what a policy's file name ends with in a folder.
const extension = ".yaml"

// Load reads and validates the policy in a file. The error joins values of
// type *Error when the document is at fault.
func Load(path string) (*policy.Policy, error) {
	data, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("file: read policy: %w", err)
	}
	return Parse(path, data)
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
	Policy *policy.Policy // nil if Err is set
	Err    error
}

// Dir reads every *.yaml of a folder, in the order of their names; hidden
// files and subfolders are left out. What is wrong with one document stands in
// its Entry and does not hide the others. A name that an earlier document or a
// predefined policy has is an error.
func Dir(path string) ([]Entry, error) {
	files, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("file: list policies: %w", err)
	}
	var entries []Entry
	owner := map[string]string{}
	for _, f := range files {
		if f.IsDir() || strings.HasPrefix(f.Name(), ".") || filepath.Ext(f.Name()) != extension {
			continue
		}
		if len(entries) == maxFiles {
			return entries, fmt.Errorf("file: list policies: %s holds more than %d documents; the rest is not read", path, maxFiles)
		}
		e := Entry{Path: filepath.Join(path, f.Name())}
		e.Policy, e.Err = Load(e.Path)
		if e.Err == nil {
			e.claim(owner)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// claim takes the policy's name, or fails if another document or a predefined
// policy has it.
func (e *Entry) claim(owner map[string]string) {
	name := e.Policy.Name
	if _, predefined := policy.Predefined(name); predefined {
		e.Policy, e.Err = nil, fmt.Errorf("file: policy %q of %s has the name of a predefined policy; give it another name", name, e.Path)
		return
	}
	if first, taken := owner[name]; taken {
		e.Policy, e.Err = nil, fmt.Errorf("file: policy %q of %s is already defined in %s; give it another name", name, e.Path, first)
		return
	}
	owner[name] = e.Path
}

// Parse reads and validates the policy in data; name stands for the file in
// errors. The error joins one *Error for each mistake, in the order of the
// document.
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
