package netsh

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// arg is one tag=value of a line. The tag is in lower case.
type arg struct{ tag, value string }

// statement is a line taken apart: the words of the command, then its
// arguments in order.
type statement struct {
	words []string // in lower case
	args  []arg
}

// maxArgs bounds the arguments of one line.
const maxArgs = 256

// scanner reads a line from left to right.
type scanner struct {
	text string
	at   int
}

// tokenize takes a line apart. Errors never hold its text: it may be a
// preshared key.
func tokenize(line string) (statement, error) {
	s := &scanner{text: line}
	var st statement
	for n := 1; ; n++ {
		if s.spaces(); s.done() || redirection(s.text[s.at:]) {
			return st, nil
		}
		if n > maxArgs {
			return statement{}, fmt.Errorf("more than %d words", maxArgs)
		}
		head := s.bare()
		if head != "" && s.equals() {
			value, err := s.value()
			if err != nil {
				return statement{}, fmt.Errorf("word %d, %w", n, err)
			}
			st.args = append(st.args, arg{strings.ToLower(head), value})
			continue
		}
		if head == "" || len(st.args) > 0 || !s.atSpace() {
			return statement{}, fmt.Errorf("word %d is not of the form tag=value; put a value with spaces in double quotes", n)
		}
		st.words = append(st.words, strings.ToLower(head))
	}
}

// redirection reports whether a line of a batch file goes on with where its
// output goes.
func redirection(rest string) bool {
	return strings.HasPrefix(rest, ">") || strings.HasPrefix(rest, "1>") || strings.HasPrefix(rest, "2>")
}

func (s *scanner) done() bool { return s.at == len(s.text) }

func space(c byte) bool { return c == ' ' || c == '\t' }

func (s *scanner) atSpace() bool { return s.done() || space(s.text[s.at]) }

// spaces skips white space and reports whether there was any.
func (s *scanner) spaces() bool {
	start := s.at
	for !s.done() && space(s.text[s.at]) {
		s.at++
	}
	return s.at > start
}

// bare reads up to white space, a quote or an equals sign.
func (s *scanner) bare() string {
	start := s.at
	for !s.done() && !strings.ContainsRune(" \t\"=", rune(s.text[s.at])) {
		s.at++
	}
	return s.text[start:s.at]
}

// equals skips an equals sign, with white space before it.
func (s *scanner) equals() bool {
	start := s.at
	s.spaces()
	if !s.done() && s.text[s.at] == '=' {
		s.at++
		return true
	}
	s.at = start
	return false
}

// value reads what follows "tag=": a word of quoted and unquoted parts. Within
// quotes \' is a double quote.
func (s *scanner) value() (string, error) {
	apart := s.spaces()
	if s.done() {
		return "", errors.New(`nothing follows the equals sign; write "" for an empty value`)
	}
	var b strings.Builder
	quoted, plain := false, true
	for ; !s.done() && (quoted || !space(s.text[s.at])); s.at++ {
		switch {
		case s.text[s.at] == '"':
			quoted, plain = !quoted, false
		case quoted && strings.HasPrefix(s.text[s.at:], `\'`):
			b.WriteByte('"')
			s.at++
		default:
			b.WriteByte(s.text[s.at])
		}
	}
	if quoted {
		return "", errors.New("a double quote is not closed")
	}
	if apart && plain && strings.Contains(b.String(), "=") {
		return "", errors.New(`a value is missing: another tag follows the equals sign; write "" for an empty value`)
	}
	return b.String(), nil
}

// quote writes a value so that tokenize reads it back. What stands in the way
// of that, a backslash before an apostrophe, and control characters it replaces.
func quote(s string) string {
	s = strings.ReplaceAll(plainText(s), `"`, `\'`)
	return `"` + s + `"`
}

// Join makes one line of words that a shell has taken apart: quotes that the
// shell has eaten stand around values with blanks again. A single word is the
// line.
func Join(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	line := make([]string, len(words))
	for i, w := range words {
		line[i] = w
		tag, value, ok := strings.Cut(w, "=")
		if ok && !strings.ContainsAny(tag, " \t\"") && !strings.Contains(value, `"`) && (value == "" || strings.ContainsAny(value, " \t")) {
			line[i] = tag + `="` + value + `"`
		}
	}
	return strings.Join(line, " ")
}

// plainText returns s without what a quoted value cannot hold.
func plainText(s string) string {
	s = strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(s, "?"))
	return strings.ReplaceAll(s, `\'`, `'`)
}
