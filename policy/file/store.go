package file

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"go.yaml.in/yaml/v4"

	"ipsecagent/policy"
)

// Folder is the documents of a folder, all valid, to be changed as one store.
type Folder struct {
	path string
	docs []*document
}

// OpenFolder reads a folder to change it; one that is not there is empty. A document
// that is not valid is an error: what an edit would do to the policies could
// not be told.
func OpenFolder(path string) (*Folder, error) {
	docs, err := documents(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &Folder{path: path}, nil
	}
	finish(docs)
	errs := []error{err}
	for _, doc := range docs {
		errs = append(errs, doc.err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Folder{path, docs}, nil
}

// Store returns what the folder holds: every policy whole, and beside them the
// shared lists and actions that no policy uses.
func (f *Folder) Store() policy.Store {
	var s policy.Store
	lists, actions := map[string]bool{}, map[string]bool{}
	for _, doc := range f.docs {
		if doc.policy == nil {
			continue
		}
		p := clonePolicy(*doc.policy)
		s.Policies = append(s.Policies, p)
		for _, l := range p.FilterLists[doc.lists:] {
			lists[l.Name] = true
		}
		for _, a := range p.FilterActions[doc.actions:] {
			actions[a.Name] = true
		}
	}
	for _, doc := range f.docs {
		if doc.shared == nil {
			continue
		}
		for _, l := range doc.shared.FilterLists {
			if !lists[l.Name] {
				s.FilterLists = append(s.FilterLists, cloneList(l))
			}
		}
		for _, a := range doc.shared.FilterActions {
			if !actions[a.Name] {
				s.FilterActions = append(s.FilterActions, cloneAction(a))
			}
		}
	}
	return s
}

// Shares reports whether a shared document has a filter list of that name.
func (f *Folder) Shares(list string) bool {
	return slices.ContainsFunc(f.docs, func(doc *document) bool {
		return doc.shared != nil && slices.ContainsFunc(doc.shared.FilterLists, func(l policy.FilterList) bool { return l.Name == list })
	})
}

// SharesAction reports whether a shared document has a filter action of that
// name.
func (f *Folder) SharesAction(action string) bool {
	return slices.ContainsFunc(f.docs, func(doc *document) bool {
		return doc.shared != nil && slices.ContainsFunc(doc.shared.FilterActions, func(a policy.FilterAction) bool { return a.Name == action })
	})
}

// own encodes what a document itself holds.
func (doc *document) own() *yaml.Node {
	if doc.shared != nil {
		return encodeShared(doc.shared)
	}
	p := *doc.policy
	p.FilterLists, p.FilterActions = p.FilterLists[:doc.lists], p.FilterActions[:doc.actions]
	return encodePolicy(&p)
}

// Change is one file that differs from what the folder holds.
type Change struct {
	Path string
	Old  []byte // nil: the file is new
	New  []byte // nil: the file goes
}

// Changes returns what has to be written so that the folder holds s: only
// documents that differ, and in them only what differs. A new list or action
// that one policy has goes to its document; one that several have, or none, is
// shared. The error says what is not valid, by the lines that would be written.
func (f *Folder) Changes(s policy.Store) ([]Change, error) {
	p := f.plan(s)
	if err := p.place("filterLists", "filter list", encodeLists(s.FilterLists)); err != nil {
		return nil, err
	}
	if err := p.place("filterActions", "filter action", encodeActions(s.FilterActions)); err != nil {
		return nil, err
	}
	var changes []Change
	for _, t := range p.trees {
		c, err := t.change()
		if err != nil {
			return nil, errors.Join(err, faults(s))
		}
		if !bytes.Equal(c.Old, c.New) {
			changes = append(changes, c)
		}
	}
	return changes, f.check(changes)
}

// faults says what is not valid where no document could be written: a name
// twice in one policy.
func faults(s policy.Store) error {
	var errs []error
	for i := range s.Policies {
		for _, problem := range policy.Problems(policy.Validate(&s.Policies[i])) {
			errs = append(errs, fmt.Errorf("policy %q: %w", s.Policies[i].Name, problem))
		}
	}
	return errors.Join(errs...)
}

// check reads the folder as it will be.
func (f *Folder) check(changes []Change) error {
	changed := map[string]bool{}
	var docs []*document
	for _, c := range changes {
		changed[c.Path] = true
		if c.New != nil {
			docs = append(docs, newDocument(c.Path, c.New))
		}
	}
	for _, doc := range f.docs {
		if !changed[doc.path] {
			docs = append(docs, newDocument(doc.path, doc.decoder.src.data))
		}
	}
	if len(docs) > maxFiles {
		return fmt.Errorf("file: %s would hold more than %d documents", f.path, maxFiles)
	}
	finish(docs)
	var errs []error
	for _, doc := range docs {
		errs = append(errs, doc.err)
	}
	return errors.Join(errs...)
}
