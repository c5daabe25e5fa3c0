package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"ipsecagent/policy"
)

// tree is a document as it is and as it shall be.
type tree struct {
	doc  *document // nil: a new one
	path string
	name string     // of the policy
	base *yaml.Node // nil: a new one
	want *yaml.Node // nil: it goes
}

// plan is the documents of the folder to be, policies first.
type plan struct {
	folder *Folder
	trees  []*tree
	shared []*tree // those of them that are shared
}

func (f *Folder) plan(s policy.Store) *plan {
	p := &plan{folder: f}
	left := slices.Clone(s.Policies)
	for _, doc := range f.docs {
		t := &tree{doc: doc, path: doc.path, base: doc.own()}
		if doc.shared != nil {
			t.want = encodeShared(&Shared{})
			p.shared = append(p.shared, t)
			continue
		}
		p.trees = append(p.trees, t)
		if i := successor(doc.policy, left, s.Policies); i >= 0 {
			t.name, t.want = left[i].Name, encodePolicy(&left[i])
			left = slices.Delete(left, i, i+1)
		}
	}
	for i := range left {
		p.trees = append(p.trees, &tree{path: p.newPath(left[i].Name), name: left[i].Name, want: encodePolicy(&left[i])})
	}
	p.trees = append(p.trees, p.shared...)
	return p
}

// successor returns which of the policies left is old, by its name, or, if no
// policy has that any more, the one that differs in the name alone; -1: none.
func successor(old *policy.Policy, left, all []policy.Policy) int {
	named := func(p policy.Policy) bool { return p.Name == old.Name }
	if slices.ContainsFunc(all, named) {
		return slices.IndexFunc(left, named)
	}
	was := encodePolicy(old)
	return slices.IndexFunc(left, func(p policy.Policy) bool {
		p.Name = old.Name
		return same(encodePolicy(&p), was)
	})
}

// newPath returns a path for a new document that no other has.
func (p *plan) newPath(name string) string {
	word := fileWord(name)
	for i := 1; ; i++ {
		path := filepath.Join(p.folder.path, word+extension)
		if i > 1 {
			path = filepath.Join(p.folder.path, fmt.Sprintf("%s-%d%s", word, i, extension))
		}
		taken := func(t *tree) bool { return t.path == path }
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) && !slices.ContainsFunc(p.trees, taken) && !slices.ContainsFunc(p.shared, taken) {
			return path
		}
	}
}

// fileWord makes a file name of a policy's: letters, digits and dashes.
func fileWord(name string) string {
	var b strings.Builder
	for _, c := range strings.ToLower(name) {
		switch {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
			b.WriteRune(c)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	word := strings.Trim(b.String()[:min(b.Len(), 60)], "-")
	if word == "" {
		return "policy"
	}
	return word
}

// place puts each list or action into the document where it belongs. loose are
// those that stand beside the policies.
func (p *plan) place(section, what string, loose *yaml.Node) error {
	carriers := map[string][]*tree{}
	var names []string
	note := func(n *yaml.Node, t *tree) {
		for i := 0; n != nil && i+1 < len(n.Content); i += 2 {
			name := n.Content[i].Value
			if carriers[name] == nil {
				names = append(names, name)
			}
			carriers[name] = append(carriers[name], t)
		}
	}
	for _, t := range p.trees {
		if !slices.Contains(p.shared, t) {
			note(child(t.want, section), t)
		}
	}
	note(loose, &tree{want: &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{textNode(section), loose}}})
	for _, s := range p.shared {
		p.restore(s, section, carriers)
	}
	for _, name := range names {
		if err := p.settle(section, what, name, carriers); err != nil {
			return err
		}
	}
	return nil
}

// restore keeps the names of a shared document that somebody still has, in
// their order.
func (p *plan) restore(s *tree, section string, carriers map[string][]*tree) {
	old := child(s.base, section)
	kept := &yaml.Node{Kind: yaml.MappingNode}
	for i := 0; old != nil && i+1 < len(old.Content); i += 2 {
		if carriers[old.Content[i].Value] != nil {
			kept.Content = append(kept.Content, old.Content[i], old.Content[i+1])
		}
	}
	mapping{s.want}.put(section, kept)
}

// settle decides where one name stands, of those that carry it.
func (p *plan) settle(section, what, name string, all map[string][]*tree) error {
	carriers := all[name]
	value := child(child(carriers[0].want, section), name)
	home := p.home(section, name)
	if home == nil && !slices.ContainsFunc(carriers, func(t *tree) bool { return t.had(section, name) }) {
		home = p.renamed(section, value, all)
	}
	for _, t := range carriers[1:] {
		if same(child(child(t.want, section), name), value) {
			continue
		}
		if home != nil || t.path == "" {
			return fmt.Errorf("file: %s %q would be one thing in %s and another in %s; one name means one thing: use another name, or change both", what, name, carriers[0], t.at(home))
		}
		return nil // each policy has its own
	}
	if home == nil && (len(carriers) == 1 && carriers[0].path != "" || !slices.ContainsFunc(carriers, func(t *tree) bool { return !t.had(section, name) })) {
		return nil
	}
	if home == nil {
		home = p.newShared()
	}
	for _, t := range carriers {
		drop(t.want, section, name)
	}
	put(home.want, section, name, value)
	return nil
}

// String names a document for an error.
func (t *tree) String() string {
	if t.path == "" {
		return "what stands beside the policies"
	}
	return fmt.Sprintf("policy %q", t.name)
}

// at names the document where a list or action stands, or would: its home, for
// what belongs to no policy.
func (t *tree) at(home *tree) string {
	if t.path == "" && home != nil {
		return home.path
	}
	return t.String()
}

// had reports whether the document itself defined a name before.
func (t *tree) had(section, name string) bool { return child(child(t.base, section), name) != nil }

// home returns the shared document that has a name, nil if none has.
func (p *plan) home(section, name string) *tree {
	for _, s := range p.shared {
		if s.had(section, name) {
			return s
		}
	}
	return nil
}

// renamed returns the shared document that had a value, new in all documents,
// under a name which nobody carries any more: the same value, or the only name
// that is gone. nil if none had.
func (p *plan) renamed(section string, value *yaml.Node, carriers map[string][]*tree) *tree {
	var home *tree
	gone := 0
	for _, s := range p.shared {
		old := child(s.base, section)
		for i := 0; old != nil && i+1 < len(old.Content); i += 2 {
			if carriers[old.Content[i].Value] != nil {
				continue
			}
			if same(old.Content[i+1], value) {
				return s
			}
			home, gone = s, gone+1
		}
	}
	if gone == 1 {
		return home
	}
	return nil
}

// newShared returns the document for what is shared anew.
func (p *plan) newShared() *tree {
	if len(p.shared) == 0 {
		t := &tree{path: p.newPath("shared"), want: encodeShared(&Shared{})}
		p.shared = append(p.shared, t)
		p.trees = append(p.trees, t)
	}
	return p.shared[0]
}

// drop takes a name out of a section, and the section if it was the last.
func drop(n *yaml.Node, section, name string) {
	s := child(n, section)
	rest := &yaml.Node{Kind: yaml.MappingNode}
	for i := 0; s != nil && i+1 < len(s.Content); i += 2 {
		if s.Content[i].Value != name {
			rest.Content = append(rest.Content, s.Content[i], s.Content[i+1])
		}
	}
	i := indexOf(n.Content, section)
	if len(rest.Content) == 0 && i >= 0 {
		n.Content = slices.Delete(n.Content, i, i+2)
	} else if i >= 0 {
		n.Content[i+1] = rest
	}
}

// put sets a name of a section.
func put(n *yaml.Node, section, name string, value *yaml.Node) {
	s := child(n, section)
	if s == nil {
		s = &yaml.Node{Kind: yaml.MappingNode}
		n.Content = append(n.Content, textNode(section), s)
	}
	if i := indexOf(s.Content, name); i >= 0 {
		s.Content[i+1] = value
		return
	}
	s.Content = append(s.Content, textNode(name), value)
}

func (t *tree) change() (Change, error) {
	c := Change{Path: t.path}
	if t.doc != nil {
		c.Old = t.doc.decoder.src.data
	}
	var err error
	switch {
	case t.want == nil:
	case t.base == nil:
		c.New, err = dump(t.want)
	case same(t.base, t.want):
		c.New = c.Old
	default:
		c.New, err = rewrite(t.doc, t.base, t.want)
	}
	return c, err
}
