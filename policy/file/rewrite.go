package file

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// rewrite returns the text of a document with what differs between base, which
// says what the document says, and want changed in it. Lines that say what did
// not change stay as they are, comments and empty lines too.
func rewrite(doc *document, base, want *yaml.Node) ([]byte, error) {
	r := &rewriter{lines: doc.decoder.src.lines}
	if block(doc.root) {
		r.mapping(doc.root, base, want, len(r.lines))
		if changed := r.apply(); r.err == nil && says(doc.path, changed, want) {
			return changed, nil
		}
	}
	changed, err := dump(merge(doc.root, base, want))
	if err == nil && !says(doc.path, changed, want) {
		err = errors.New("what would be written does not say what it should")
	}
	if err != nil {
		return nil, fmt.Errorf("file: %s cannot be edited in the form it has; change it by hand: %w", doc.path, err)
	}
	return changed, nil
}

// says reports whether a text says what want says.
func says(path string, data []byte, want *yaml.Node) bool {
	doc := newDocument(path, data)
	return doc.root != nil && same(doc.own(), want)
}

func dump(n *yaml.Node) ([]byte, error) {
	return yaml.Dump(n, yaml.WithLineWidth(-1))
}

// block reports whether a list or mapping is written on lines of its own.
func block(n *yaml.Node) bool {
	return n.Kind != yaml.ScalarNode && n.Style&yaml.FlowStyle == 0 && len(n.Content) > 0
}

// splice replaces the lines from … to-1, counted from 0.
type splice struct {
	from, to int
	text     []byte
}

// rewriter collects changes of lines.
type rewriter struct {
	lines   [][]byte
	splices []splice
	err     error
}

func (r *rewriter) apply() []byte {
	slices.SortStableFunc(r.splices, func(a, b splice) int { return a.from - b.from })
	var out []byte
	at := 0
	keep := func(to int) {
		for ; at < to; at++ {
			out = append(out, r.lines[at]...)
			if at < len(r.lines)-1 {
				out = append(out, '\n')
			}
		}
	}
	for _, s := range r.splices {
		keep(s.from)
		if len(out) > 0 && out[len(out)-1] != '\n' && len(s.text) > 0 {
			out = append(out, '\n')
		}
		out = append(out, s.text...)
		at = max(at, s.to)
	}
	keep(len(r.lines))
	return out
}

// entry is one field of a mapping or item of a list: its lines without the
// comments around it.
type entry struct {
	key, value *yaml.Node // key is nil for an item
	from, to   int
}

// span makes an entry of the lines up to limit, without the empty lines and
// comments at the end, which belong to what follows.
func (r *rewriter) span(key, value *yaml.Node, from, limit int) entry {
	for limit > from+1 && r.idle(limit-1) {
		limit--
	}
	return entry{key, value, from, limit}
}

// idle reports whether a line is empty or a comment.
func (r *rewriter) idle(line int) bool {
	s := bytes.TrimSpace(r.lines[line])
	return len(s) == 0 || s[0] == '#'
}

func (r *rewriter) fields(n *yaml.Node, limit int) map[string]entry {
	all := map[string]entry{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		end := limit
		if i+2 < len(n.Content) {
			end = n.Content[i+2].Line - 1
		}
		all[n.Content[i].Value] = r.span(n.Content[i], n.Content[i+1], n.Content[i].Line-1, end)
	}
	return all
}

// mapping changes the fields of a mapping that ends before the line limit.
func (r *rewriter) mapping(n, base, want *yaml.Node, limit int) {
	known := r.fields(n, limit)
	indent := n.Content[0].Column - 1
	after := n.Content[0].Line - 1
	for i := 0; i+1 < len(want.Content); i += 2 {
		key, w := want.Content[i], want.Content[i+1]
		e, ok := known[key.Value]
		if ok {
			after = e.to
		}
		switch b := child(base, key.Value); {
		case b != nil && same(b, w):
		case ok:
			r.field(e, b, w)
		default:
			r.put(after, after, indent, pair(key, w))
		}
	}
	for i := 0; i+1 < len(base.Content); i += 2 {
		key := base.Content[i].Value
		if e, ok := known[key]; ok && child(want, key) == nil {
			r.remove(e, indent)
		}
	}
}

// field changes the value of one field, inside it if it can.
func (r *rewriter) field(e entry, base, want *yaml.Node) {
	if filters := child(e.value, "filters"); filters != nil && block(e.value) && want.Kind == yaml.SequenceNode {
		e = r.fields(e.value, e.to)["filters"] // the long form of a list without need
	}
	n := e.value
	inside := base != nil && block(n) && n.Kind == base.Kind && n.Kind == want.Kind
	switch {
	case inside && n.Kind == yaml.MappingNode:
		r.mapping(n, base, want, e.to)
	case inside && len(want.Content) > 0 && r.items(n, base, want, e.to):
	default:
		r.put(e.from, e.to, e.key.Column-1, pair(e.key, merge(n, base, want)))
	}
}

// items changes a list. It returns false, with nothing changed, if the order
// of what stays is another.
func (r *rewriter) items(n, base, want *yaml.Node, limit int) bool {
	if len(base.Content) != len(n.Content) {
		return false
	}
	origin := align(base.Content, want.Content)
	stays := slices.DeleteFunc(slices.Clone(origin), func(i int) bool { return i < 0 })
	if !slices.IsSorted(stays) {
		return false
	}
	indent := n.Column - 1
	entries := r.entries(n, limit)
	after := entries[0].from
	for j, i := range origin {
		w := want.Content[j]
		if i < 0 {
			r.put(after, after, indent, item(w))
			continue
		}
		after = entries[i].to
		if !same(base.Content[i], w) {
			r.put(entries[i].from, entries[i].to, indent, item(merge(n.Content[i], base.Content[i], w)))
		}
	}
	for i, e := range entries {
		if !slices.Contains(stays, i) {
			r.remove(e, indent)
		}
	}
	return true
}

func (r *rewriter) entries(n *yaml.Node, limit int) []entry {
	starts := make([]int, len(n.Content))
	for i, c := range n.Content {
		starts[i] = r.dash(c.Line-1, n.Column-1)
	}
	var all []entry
	for i, c := range n.Content {
		end := limit
		if i+1 < len(starts) {
			end = starts[i+1]
		}
		all = append(all, r.span(nil, c, starts[i], end))
	}
	return all
}

// dash returns the line of the dash of an item that begins at a line.
func (r *rewriter) dash(line, column int) int {
	for l := line; l >= 0; l-- {
		if s := r.lines[l]; len(s) > column && s[column] == '-' && len(bytes.TrimSpace(s[:column])) == 0 {
			return l
		}
	}
	return line
}

// remove takes an entry out, with the comments directly above it.
func (r *rewriter) remove(e entry, indent int) {
	from := e.from
	for from > 0 && r.commentAt(from-1, indent) {
		from--
	}
	r.splices = append(r.splices, splice{from: from, to: e.to})
}

// commentAt reports whether a line is a comment that begins at a column.
func (r *rewriter) commentAt(line, column int) bool {
	s := r.lines[line]
	return len(s) > column && s[column] == '#' && len(bytes.TrimSpace(s[:column])) == 0
}

// put replaces lines by a mapping or list of one entry.
func (r *rewriter) put(from, to, indent int, n *yaml.Node) {
	data, err := dump(n)
	if err != nil {
		r.err = err
		return
	}
	var out []byte
	for line := range strings.Lines(string(data)) {
		out = append(out, strings.Repeat(" ", indent)+line...)
	}
	r.splices = append(r.splices, splice{from, to, out})
}

// pair and item make what put writes, without the comments that stand in lines
// around the entry.

func pair(key, value *yaml.Node) *yaml.Node {
	return &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{withoutHead(key), withoutFoot(value)}}
}

func item(value *yaml.Node) *yaml.Node {
	return &yaml.Node{Kind: yaml.SequenceNode, Content: []*yaml.Node{withoutFoot(withoutHead(value))}}
}

// withoutHead copies a node without the comment above it, which may be held by
// its first field.
func withoutHead(n *yaml.Node) *yaml.Node {
	c := *n
	c.HeadComment = ""
	if len(c.Content) > 0 {
		c.Content = slices.Clone(c.Content)
		c.Content[0] = withoutHead(c.Content[0])
	}
	return &c
}

// withoutFoot copies a node without the comment below it, which may be held by
// its last value.
func withoutFoot(n *yaml.Node) *yaml.Node {
	c := *n
	c.FootComment = ""
	if last := len(c.Content) - 1; last >= 0 {
		c.Content = slices.Clone(c.Content)
		c.Content[last] = withoutFoot(c.Content[last])
		if c.Kind == yaml.MappingNode {
			key := *c.Content[last-1]
			key.FootComment = ""
			c.Content[last-1] = &key
		}
	}
	return &c
}
