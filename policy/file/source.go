package file

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v4"
)

// Error is one mistake of a document.
type Error struct {
	File         string
	Line, Column int // from 1; columns count characters
	Message      string
	// Excerpt is the line and, below it, a caret at the column; empty when
	// there is no such line.
	Excerpt string
}

// Error returns "file:line:column: message", and the excerpt below it.
func (e *Error) Error() string {
	s := fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
	if e.Excerpt != "" {
		s += "\n" + e.Excerpt
	}
	return s
}

// source is a document as text, for excerpts.
type source struct {
	name  string
	data  []byte
	lines [][]byte
}

// Bounds of one document. Nodes of YAML are a hundred times larger than their
// text, so size alone is none.
const (
	maxSize        = 4 << 20 // bytes
	maxSeparators  = 700_000 // commas and ends of line: 100,000 filters of one line each
	maxCollections = 250_000
	maxDepth       = 16 // of each style; deeper than any policy nests
)

// limits is the part of the bounds that the YAML parser checks on its way.
type limits struct{ collections int }

// CheckDepth is called at the start of every list and mapping.
func (l *limits) CheckDepth(depth int, _ *yaml.DepthContext) error {
	l.collections++
	switch {
	case depth > maxDepth:
		return fmt.Errorf("nested deeper than %d levels", maxDepth)
	case l.collections > maxCollections:
		return fmt.Errorf("more than %d lists and mappings", maxCollections)
	}
	return nil
}

// CheckAlias is called when an alias is resolved, which never happens: walk
// refuses them.
func (l *limits) CheckAlias(int, int) error { return nil }

func newSource(name string, data []byte) *source {
	return &source{name: name, data: data, lines: bytes.Split(data, []byte("\n"))}
}

func (s *source) errorAt(line, column int, message string) *Error {
	return &Error{File: s.name, Line: line, Column: column, Message: message, Excerpt: s.excerpt(line, column)}
}

// The part of a longer line that an excerpt shows, in characters.
const (
	excerptWidth  = 100
	excerptBefore = 60
	indent        = "    "
)

// excerpt returns a line, cut around the column if it is long, and a caret
// below it. What could move a terminal's cursor is replaced.
func (s *source) excerpt(line, column int) string {
	if line < 1 || line > len(s.lines) || column < 1 {
		return ""
	}
	text := []rune(strings.TrimRight(strings.Map(plain, string(s.lines[line-1])), " "))
	if len(text) == 0 {
		return ""
	}
	caret := min(column-1, len(text))
	before, after := "", ""
	if len(text) > excerptWidth {
		start := max(0, min(caret-excerptBefore, len(text)-excerptWidth))
		end := start + excerptWidth
		before, after = dots(start > 0), dots(end < len(text))
		text, caret = text[start:end], caret-start
	}
	caret += len([]rune(before))
	return indent + before + string(text) + after + "\n" + indent + strings.Repeat(" ", caret) + "^"
}

// Excerpt returns line and column of a document, both from 1, as Error shows
// them: the line, cut around the column if it is long, and a caret below it; ""
// where there is no such line.
func Excerpt(text []byte, line, column int) string {
	return newSource("", text).excerpt(line, column)
}

// dots stands where a line is cut.
func dots(cut bool) string {
	if cut {
		return "…"
	}
	return ""
}

func plain(c rune) rune {
	switch {
	case c == '\t' || c == '\r':
		return ' '
	case !unicode.IsPrint(c):
		return '?'
	}
	return c
}

// nodes parses the text to a tree of nodes and returns its root value.
func (s *source) nodes() (*yaml.Node, error) {
	if len(s.data) > maxSize {
		return nil, s.errorAt(1, 1, fmt.Sprintf("the document is larger than %d bytes", maxSize))
	}
	if bytes.Count(s.data, []byte(","))+len(s.lines) > maxSeparators {
		return nil, s.errorAt(1, 1, fmt.Sprintf("the document has more than %d values", maxSeparators))
	}
	if len(bytes.TrimSpace(s.data)) == 0 {
		return nil, s.errorAt(1, 1, "the document is empty")
	}
	var document yaml.Node
	if err := yaml.Load(s.data, &document, yaml.WithPlugin(&limits{})); err != nil {
		return nil, s.syntax(err)
	}
	if len(document.Content) != 1 {
		return nil, s.errorAt(1, 1, "the document is empty")
	}
	return document.Content[0], nil
}

// syntax turns the error of the YAML parser into ours.
func (s *source) syntax(err error) error {
	var load *yaml.LoadError
	if !errors.As(err, &load) {
		return s.errorAt(1, 1, err.Error())
	}
	message := strings.TrimPrefix(load.Message, "yaml: ")
	if load.ContextMsg != "" {
		message = load.ContextMsg + ": " + message
		if load.ContextMark.Line > 0 {
			message += fmt.Sprintf(" (it began at line %d)", load.ContextMark.Line)
		}
	}
	if hint := SyntaxHint(s.data, load.Mark.Line, message); hint != "" {
		message += ": " + hint
	}
	return s.errorAt(max(1, load.Mark.Line), max(1, load.Mark.Column), message)
}
