package file

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v4"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// document is one file of a folder. It is read in two steps: alone, and with
// what the shared documents define.
type document struct {
	path    string
	root    *yaml.Node // nil: it cannot be read at all
	decoder *decoder
	policy  *policy.Policy // nil unless it is one
	shared  *Shared        // nil unless it is one
	// lists and actions are how many of the policy's are its own; those
	// behind them are of shared documents.
	lists, actions int
	err            error
}

// newDocument reads data alone; its mistakes are kept for finish.
func newDocument(path string, data []byte) *document {
	src := newSource(path, data)
	doc := &document{path: path, decoder: newDecoder(src)}
	root, err := src.nodes()
	if err != nil {
		doc.err = err
		return doc
	}
	doc.decoder.walk(root)
	if len(doc.decoder.errs) > 0 {
		doc.err = doc.decoder.err()
		return doc
	}
	doc.root = root
	if kindIn(root) == sharedKind {
		doc.shared = doc.decoder.shared(root)
		doc.decoder.validateShared(doc.shared)
		return doc
	}
	doc.policy = doc.decoder.policy(root)
	doc.lists, doc.actions = len(doc.policy.FilterLists), len(doc.policy.FilterActions)
	return doc
}

// kindIn returns what a document says it is; "" if it does not.
func kindIn(root *yaml.Node) string {
	if n := child(root, "kind"); n != nil {
		return n.Value
	}
	return ""
}

// child returns the value of a key; nil if n is no mapping that has it.
func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// lacks reports whether a rule names a list or action that the policy does not
// define.
func (doc *document) lacks() bool {
	p := doc.policy
	if p == nil {
		return false
	}
	has := map[string]bool{"action " + sadb.Permit.String(): true, "action " + sadb.Block.String(): true}
	for _, l := range p.FilterLists {
		has["list "+l.Name] = true
	}
	for _, a := range p.FilterActions {
		has["action "+a.Name] = true
	}
	for _, r := range p.Rules {
		if !has["list "+r.FilterList] || !has["action "+r.FilterAction] {
			return true
		}
	}
	return false
}

// finish reads the document with what shared ones define and validates it.
func (doc *document) finish(lib *library) {
	switch {
	case doc.err != nil:
		return
	case doc.policy != nil:
		doc.borrow(lib)
		for _, problem := range policy.Problems(policy.Validate(doc.policy)) {
			doc.decoder.problem(problem)
		}
	}
	if doc.err = doc.decoder.err(); doc.err != nil {
		doc.policy, doc.shared = nil, nil
	}
}

// finish finishes the documents of a folder, shared ones first, and gives each
// name to the first policy that has it.
func finish(docs []*document) {
	lib := newLibrary(docs)
	for _, doc := range docs {
		if doc.policy == nil {
			continue
		}
		doc.finish(lib)
	}
	owner := map[string]string{}
	for _, doc := range docs {
		switch {
		case doc.shared != nil:
			doc.finish(lib)
		case doc.policy != nil:
			doc.claim(owner)
		}
	}
}

// claim takes the policy's name, or fails if another document or a predefined
// policy has it.
func (doc *document) claim(owner map[string]string) {
	name := doc.policy.Name
	if _, predefined := policy.Predefined(name); predefined {
		doc.policy, doc.err = nil, fmt.Errorf("file: policy %q of %s has the name of a predefined policy; give it another name", name, doc.path)
		return
	}
	if first, taken := owner[name]; taken {
		doc.policy, doc.err = nil, fmt.Errorf("file: policy %q of %s is already defined in %s; give it another name", name, doc.path, first)
		return
	}
	owner[name] = doc.path
}

// documents reads the documents of a folder, each alone. The error says that
// there are more than are read.
func documents(path string) ([]*document, error) {
	paths, err := documentPaths(path)
	var docs []*document
	for _, p := range paths {
		data, readErr := read(p)
		if readErr != nil {
			docs = append(docs, &document{path: p, decoder: newDecoder(newSource(p, nil)), err: fmt.Errorf("file: read policy: %w", readErr)})
			continue
		}
		docs = append(docs, newDocument(p, data))
	}
	return docs, err
}

// documentPaths returns the files of a folder that are documents.
func documentPaths(path string) ([]string, error) {
	files, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("file: list policies: %w", err)
	}
	var paths []string
	for _, f := range files {
		if f.IsDir() || strings.HasPrefix(f.Name(), ".") || filepath.Ext(f.Name()) != extension {
			continue
		}
		if len(paths) == maxFiles {
			return paths, fmt.Errorf("file: list policies: %s holds more than %d documents; the rest is not read", path, maxFiles)
		}
		paths = append(paths, filepath.Join(path, f.Name()))
	}
	return paths, nil
}

// sharedBeside reads the shared documents of the folder that a file is in, the
// file itself left out.
func sharedBeside(path string) ([]*document, error) {
	docs, err := documents(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var shared []*document
	for _, doc := range docs {
		if doc.shared != nil && doc.path != filepath.Clean(path) {
			shared = append(shared, doc)
		}
	}
	return shared, nil
}
