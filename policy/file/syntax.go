package file

import (
	"bytes"
	"strings"
)

// SyntaxHint says what may be wrong with a line of which a YAML reader has
// complained: the line's number, from 1, and the reader's words. "": nothing more
// than those is known.
func SyntaxHint(text []byte, line int, message string) string {
	lines := bytes.Split(text, []byte("\n"))
	if line < 1 || line > len(lines) {
		return ""
	}
	at := string(lines[line-1])
	switch {
	case strings.HasPrefix(strings.TrimLeft(at, " "), "\t"):
		return "the line is indented with a tab; YAML takes blanks alone"
	case strings.Contains(message, "expected ',' or '}'"):
		return "a brace is not closed, or a comma is missing, as in {one: 1, two: 2}"
	case strings.Contains(message, "expected ',' or ']'"):
		return "a bracket is not closed, or a comma is missing, as in [one, two]"
	case strings.Contains(message, "mapping values are not allowed") && strings.Count(at, ": ")+strings.Count(at, ":\t") > 1:
		return "two names with a colon on one line: put the second on a line of its own below, with two blanks more before it, or in braces, as in group: {name: value}"
	case strings.Contains(message, "mapping values are not allowed"), strings.Contains(message, "expected key"), strings.Contains(message, "block mapping"):
		return "the line begins at another column than those it belongs to: all of one group begin at the same one, two blanks further in than the group's name"
	}
	return ""
}
