package file

import (
	"slices"

	"go.yaml.in/yaml/v4"
)

// same reports whether two encodings say the same; the order of fields says
// nothing.
func same(a, b *yaml.Node) bool {
	if a == nil || b == nil {
		return a == b
	}
	if a.Kind != b.Kind || a.Value != b.Value || len(a.Content) != len(b.Content) {
		return false
	}
	return slices.EqualFunc(a.Content, b.Content, same) || a.Kind == yaml.MappingNode && sameFields(a, b)
}

func sameFields(a, b *yaml.Node) bool {
	values := map[string]*yaml.Node{}
	for i := 0; i+1 < len(a.Content); i += 2 {
		values[a.Content[i].Value] = a.Content[i+1]
	}
	for i := 0; i+1 < len(b.Content); i += 2 {
		if v, ok := values[b.Content[i].Value]; !ok || !same(v, b.Content[i+1]) {
			return false
		}
	}
	return len(values) == len(b.Content)/2
}

// merge returns the node of a document, which says what base says, changed to
// say what want says. What did not change keeps its comments, order and form.
// The document and base may be nil: there is none yet.
func merge(doc, base, want *yaml.Node) *yaml.Node {
	switch {
	case doc == nil:
		return want
	case base != nil && same(base, want):
		return doc
	}
	merged := *want
	merged.HeadComment, merged.LineComment, merged.FootComment = doc.HeadComment, doc.LineComment, doc.FootComment
	if doc.Kind != want.Kind {
		return &merged
	}
	if want.Kind != yaml.ScalarNode && len(doc.Content) > 0 {
		merged.Style = doc.Style
	}
	switch want.Kind {
	case yaml.MappingNode:
		merged.Content = mergePairs(doc, base, want)
	case yaml.SequenceNode:
		merged.Content = mergeItems(doc, base, want)
	}
	return &merged
}

// mergePairs keeps the order of the document and what stands there without
// need; a new field follows the one it follows in want.
func mergePairs(doc, base, want *yaml.Node) []*yaml.Node {
	var pairs []*yaml.Node
	for i := 0; i+1 < len(doc.Content); i += 2 {
		key, value := doc.Content[i], doc.Content[i+1]
		b, w := child(base, key.Value), child(want, key.Value)
		switch {
		case w != nil:
			pairs = append(pairs, key, merge(value, b, w))
		case b == nil:
			pairs = append(pairs, key, value)
		}
	}
	at := 0
	for i := 0; i+1 < len(want.Content); i += 2 {
		key := want.Content[i]
		if here := indexOf(pairs, key.Value); here >= 0 {
			at = here + 2
			continue
		}
		pairs = slices.Insert(pairs, at, key, want.Content[i+1])
		at += 2
	}
	return pairs
}

// indexOf returns the place of a key among pairs, -1 if it is not there.
func indexOf(pairs []*yaml.Node, key string) int {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i].Value == key {
			return i
		}
	}
	return -1
}

func mergeItems(doc, base, want *yaml.Node) []*yaml.Node {
	if base == nil || len(base.Content) != len(doc.Content) {
		return want.Content
	}
	var items []*yaml.Node
	for j, from := range align(base.Content, want.Content) {
		w := want.Content[j]
		if from >= 0 {
			w = merge(doc.Content[from], base.Content[from], w)
		}
		items = append(items, w)
	}
	return items
}

// align returns for each item of want the item of base that it was, -1 for a
// new one: the equal one, the one of the same name, or, where as many items
// were replaced as there were between two that stayed, the one in its place.
func align(base, want []*yaml.Node) []int {
	from := make([]int, len(want))
	taken := make([]bool, len(base))
	byName, byText := index(base)
	for j, w := range want {
		from[j] = -1
		candidates := byText[spelled(w)]
		if n := child(w, "name"); n != nil {
			candidates = byName[n.Value]
		}
		for _, i := range candidates {
			if !taken[i] {
				from[j], taken[i] = i, true
				break
			}
		}
	}
	return pairGaps(from, taken)
}

// index returns where items stand by their name, and by all they say.
func index(items []*yaml.Node) (byName, byText map[string][]int) {
	byName, byText = map[string][]int{}, map[string][]int{}
	for i, n := range items {
		if name := child(n, "name"); name != nil {
			byName[name.Value] = append(byName[name.Value], i)
		}
		byText[spelled(n)] = append(byText[spelled(n)], i)
	}
	return byName, byText
}

// spelled returns all that a node says, in a form that only equal nodes share.
func spelled(n *yaml.Node) string {
	b := []byte{byte(n.Kind)}
	b = append(b, n.Value...)
	b = append(b, 0)
	for _, c := range n.Content {
		b = append(b, spelled(c)...)
	}
	return string(append(b, 1))
}

// pairGaps lets new items take the places of those that are gone, where a gap
// has as many of the one as of the other.
func pairGaps(from []int, taken []bool) []int {
	before := -1 // the last item of base that stayed
	for j := 0; j < len(from); {
		if from[j] >= 0 {
			before = from[j]
			j++
			continue
		}
		end := j
		for end < len(from) && from[end] < 0 {
			end++
		}
		next := len(taken)
		if end < len(from) {
			next = from[end]
		}
		if next-before-1 == end-j && !slices.Contains(taken[before+1:next], true) {
			for k := j; k < end; k++ {
				from[k] = before + 1 + k - j
			}
		}
		j = end
	}
	return from
}
