package file

import (
	"fmt"

	"go.yaml.in/yaml/v4"

	"ipsecagent/policy"
)

// sharedKind is the kind of a document that holds lists and actions for every
// policy of its folder.
const sharedKind = "Shared"

// Shared is what a document of that kind holds: filter lists and filter
// actions that the policies of the folder use by name.
type Shared struct {
	FilterLists   []policy.FilterList
	FilterActions []policy.FilterAction
}

func (d *decoder) shared(n *yaml.Node) *Shared {
	s := &Shared{}
	var version, what string
	d.mapping(n, "", fields{
		"apiVersion":    d.text(&version),
		"kind":          d.text(&what),
		"filterLists":   named(d, &s.FilterLists, d.filterList),
		"filterActions": named(d, &s.FilterActions, d.filterAction),
	})
	d.header(n, "apiVersion", version, apiVersion)
	return s
}

// validateShared checks the lists and actions as those of a policy without
// rules. A list may still be empty: a policy that uses it is then refused.
func (d *decoder) validateShared(s *Shared) {
	p := &policy.Policy{Name: sharedKind, FilterActions: s.FilterActions}
	for _, l := range s.FilterLists {
		if len(l.Filters) == 0 {
			l.Filters = []policy.Filter{{}}
		}
		p.FilterLists = append(p.FilterLists, l)
	}
	for _, problem := range policy.Problems(policy.Validate(p)) {
		d.problem(problem)
	}
}

// definition is one list or action of a shared document.
type definition struct {
	doc *document
	// path is where it stands in its document, "filterLists[2]".
	path string
	// index is its place in the document's lists or actions.
	index int
	// useless: the name is defined twice.
	useless bool
}

// place returns "shared.yaml:12".
func (f definition) place() string {
	return fmt.Sprintf("%s:%d", f.doc.path, f.doc.decoder.positions[f.path].Line)
}

// library is what the shared documents of a folder define, by name.
type library struct{ lists, actions map[string]definition }

// newLibrary collects the definitions. A name that two documents define is an
// error of both, and nobody can use it.
func newLibrary(docs []*document) *library {
	lib := &library{map[string]definition{}, map[string]definition{}}
	for _, doc := range docs {
		if doc.shared == nil {
			continue
		}
		for i, l := range doc.shared.FilterLists {
			collect(lib.lists, "filter list", l.Name, definition{doc: doc, path: fmt.Sprintf("filterLists[%d]", i), index: i})
		}
		for i, a := range doc.shared.FilterActions {
			collect(lib.actions, "filter action", a.Name, definition{doc: doc, path: fmt.Sprintf("filterActions[%d]", i), index: i})
		}
	}
	return lib
}

func collect(known map[string]definition, what, name string, f definition) {
	first, twice := known[name]
	if !twice {
		known[name] = f
		return
	}
	first.useless = true
	known[name] = first
	first.doc.clash(first.path, what, name, f)
	f.doc.clash(f.path, what, name, first)
}

// clash reports that another document defines what stands at path, too.
func (doc *document) clash(path, what, name string, other definition) {
	doc.decoder.fail(doc.decoder.positions[path], path, "%s %q is also defined at %s; one name means one thing: rename one of the two", what, name, other.place())
}

// loan is a list or action that a policy has from a shared document.
type loan struct {
	from *decoder
	path string // there
}

// borrow completes a policy with what its rules name and shared documents
// define, and refuses a name that both define. What is borrowed stands behind
// the policy's own.
func (doc *document) borrow(lib *library) {
	p := doc.policy
	var own, used []string
	for _, l := range p.FilterLists {
		own = append(own, l.Name)
	}
	for _, r := range p.Rules {
		used = append(used, r.FilterList)
	}
	for _, f := range doc.needed("filterList", own, used, lib.lists) {
		p.FilterLists = append(p.FilterLists, cloneList(f.doc.shared.FilterLists[f.index]))
	}
	own, used = nil, nil
	for _, a := range p.FilterActions {
		own = append(own, a.Name)
	}
	for _, r := range p.Rules {
		used = append(used, r.FilterAction)
	}
	for _, f := range doc.needed("filterAction", own, used, lib.actions) {
		p.FilterActions = append(p.FilterActions, cloneAction(f.doc.shared.FilterActions[f.index]))
	}
}

// needed returns the definitions that the rules use, rule i used[i], and the
// policy does not have. field is filterList or filterAction.
func (doc *document) needed(field string, own, used []string, known map[string]definition) (all []definition) {
	section := field + "s"
	what := map[string]string{"filterList": "filter list", "filterAction": "filter action"}[field]
	has := map[string]bool{}
	for i, name := range own {
		has[name] = true
		if f, ok := known[name]; ok {
			doc.clash(fmt.Sprintf("%s[%d]", section, i), what, name, f)
		}
	}
	for i, name := range used {
		f, ok := known[name]
		if !ok || has[name] {
			continue
		}
		has[name] = true
		if f.useless || len(f.doc.decoder.errs) > 0 {
			path := fmt.Sprintf("rules[%d].%s", i, field)
			doc.decoder.fail(doc.decoder.positions[path], path, "%s %q is defined at %s, in a document that has errors of its own", what, name, f.place())
			continue
		}
		doc.decoder.loans[fmt.Sprintf("%s[%d]", section, len(own)+len(all))] = loan{f.doc.decoder, f.path}
		all = append(all, f)
	}
	return all
}
