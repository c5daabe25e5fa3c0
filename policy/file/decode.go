package file

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"go.yaml.in/yaml/v4"

	"ipsecagent/policy"
)

// maxErrors ends a list of errors that nobody reads.
const maxErrors = 100

// positions is where in the document each path of the model stands.
type positions map[string]*yaml.Node

// decoder turns nodes into the model. It goes on after a mistake, to report
// all of them.
type decoder struct {
	src       *source
	positions positions
	errs      []*Error
	// failed are the paths that could not be read and above all paths above
	// them: what policy says about those follows from the mistake.
	failed, above map[string]bool
	// loans are the paths of what came from a shared document.
	loans map[string]loan
}

func newDecoder(src *source) *decoder {
	return &decoder{src: src, positions: positions{}, failed: map[string]bool{}, above: map[string]bool{}, loans: map[string]loan{}}
}

// fail reports a mistake at a node that stands for path.
func (d *decoder) fail(n *yaml.Node, path, format string, args ...any) {
	d.errs = append(d.errs, d.src.errorAt(n.Line, n.Column, fmt.Sprintf(format, args...)))
	d.failed[path] = true
	for p := path; p != ""; p = parent(p) {
		d.above[p] = true
	}
}

// problem reports what policy found, unless it follows from a mistake.
func (d *decoder) problem(p *policy.Problem) {
	if d.above[p.Path] {
		return
	}
	for path := p.Path; path != ""; path = parent(path) {
		if d.failed[path] {
			return
		}
	}
	d.errs = append(d.errs, d.locate(p))
}

// locate says where in the document a problem is: at its path, or at the nearest
// thing above that is written out.
func (d *decoder) locate(p *policy.Problem) *Error {
	src, n := d.find(p.Path)
	return src.errorAt(n.Line, n.Column, p.Message)
}

// find returns where a path, or the nearest one above it, stands.
func (d *decoder) find(path string) (*source, *yaml.Node) {
	for here := path; here != ""; here = parent(here) {
		if n, ok := d.positions[here]; ok {
			return d.src, n
		}
		if l, ok := d.loans[here]; ok {
			return l.from.find(l.path + path[len(here):])
		}
	}
	return d.src, &yaml.Node{Line: 1, Column: 1}
}

// parent returns the path one step up: "rules[2].name" to "rules[2]" to
// "rules" to "".
func parent(path string) string {
	return path[:max(0, strings.LastIndexAny(path, ".["))]
}

// err returns the mistakes in the order of the document, the first hundred.
func (d *decoder) err() error {
	sort.SliceStable(d.errs, func(i, j int) bool {
		a, b := d.errs[i], d.errs[j]
		if a.Line != b.Line {
			return a.Line < b.Line
		}
		return a.Column < b.Column
	})
	var all []error
	for i, e := range d.errs {
		if i == maxErrors {
			all = append(all, fmt.Errorf("%s: and %d more", d.src.name, len(d.errs)-maxErrors))
			break
		}
		all = append(all, e)
	}
	return errors.Join(all...)
}

// walk refuses the parts of YAML that a policy has no use for and that make a
// document mean what it does not show.
func (d *decoder) walk(n *yaml.Node) {
	switch {
	case n.Kind == yaml.AliasNode:
		d.fail(n, "", "an alias (*%s) is not part of the policy language; write the value out", n.Value)
	case n.Anchor != "":
		d.fail(n, "", "an anchor (&%s) is not part of the policy language; remove it", n.Anchor)
	case n.Style&yaml.TaggedStyle != 0:
		d.fail(n, "", "a tag (%s) is not part of the policy language; remove it", n.Tag)
	}
	for _, c := range n.Content {
		d.walk(c)
	}
}

// field reads the value of one field, which stands for path.
type field func(n *yaml.Node, path string)

// fields are the fields of a mapping by name.
type fields map[string]field

func (f fields) names() string {
	names := make([]string, 0, len(f))
	for name := range f {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// mapping reads a mapping of known fields. An unknown or repeated field is a
// mistake.
func (d *decoder) mapping(n *yaml.Node, path string, known fields) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "a mapping (field: value) is expected, not %s (fields: %s)", kindOf(n), known.names())
		return
	}
	d.pairs(n, path, func(key, value *yaml.Node) {
		here := strings.TrimPrefix(path+"."+key.Value, ".")
		read, ok := known[key.Value]
		if !ok {
			d.fail(key, here, "unknown field %q (known: %s)", key.Value, known.names())
			return
		}
		d.positions[here] = value
		read(value, here)
	})
}

// pairs visits the keys and values of a mapping, each key once.
func (d *decoder) pairs(n *yaml.Node, path string, visit func(key, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "%s is expected, not %s", "a mapping (field: value)", kindOf(n))
		return
	}
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			d.fail(key, path, "a field name is expected, not %s", kindOf(key))
			continue
		}
		if first, repeated := lines[key.Value]; repeated {
			d.fail(key, path, "%q is given twice, first in line %d", key.Value, first)
			continue
		}
		lines[key.Value] = key.Line
		visit(key, value)
	}
}

// sequence reads a list, each element by one. An element that cannot be read
// keeps its place, so that paths stay right.
func sequence[T any](d *decoder, to *[]T, one func(n *yaml.Node, path string) T) field {
	return func(n *yaml.Node, path string) {
		if n.Kind != yaml.SequenceNode {
			d.fail(n, path, "a list is expected, not %s", kindOf(n))
			return
		}
		for i, c := range n.Content {
			here := fmt.Sprintf("%s[%d]", path, i)
			d.positions[here] = c
			*to = append(*to, one(c, here))
		}
	}
}

// scalar returns the text of a single value; ok is false, and the mistake
// reported, when n is none.
func (d *decoder) scalar(n *yaml.Node, path string) (text string, ok bool) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		d.fail(n, path, "a value is expected, not %s", kindOf(n))
		return "", false
	}
	return n.Value, true
}

// value reads a scalar by parse.
func value[T any](d *decoder, to *T, parse func(string) (T, error)) field {
	return func(n *yaml.Node, path string) {
		text, ok := d.scalar(n, path)
		if !ok {
			return
		}
		v, err := parse(text)
		if err != nil {
			d.fail(n, path, "%v", err)
			return
		}
		*to = v
	}
}

func (d *decoder) text(to *string) field {
	return value(d, to, func(s string) (string, error) { return s, nil })
}

func (d *decoder) bool(to *bool) field {
	return value(d, to, parseBool)
}

func kindOf(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!null":
		return "nothing"
	}
	return fmt.Sprintf("%q", shortened(n.Value))
}

// maxQuoted is how many characters of a value an error quotes.
const maxQuoted = 60

func shortened(s string) string {
	if r := []rune(s); len(r) > maxQuoted {
		return string(r[:maxQuoted]) + "…"
	}
	return s
}
