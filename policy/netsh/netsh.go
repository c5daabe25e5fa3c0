// Package netsh reads and writes scripts of "netsh ipsec static", the command
// language of Windows for the objects of an IPSec policy, and executes their
// lines on a policy.Store. What the words of Windows cannot say (modern
// algorithms above all) it says in words of this project, which Windows refuses
// line by line.
//
// It is pure: no I/O, no name is resolved. It does not change the running
// system (the dynamic commands are refused) and does not decide whether a
// policy as a whole can be enforced: policy.Validate does.
package netsh

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// Bounds of a script.
const (
	maxScript   = 16 << 20 // bytes
	maxLine     = 64 << 10 // bytes, continuation lines included
	maxProblems = 1000
)

// Result is what a script has made of a store.
type Result struct {
	// Store is the store after every line that could be executed.
	Store policy.Store
	// Secrets are the preshared keys of the script. They are never part of
	// the store, whose rules name them.
	Secrets []Secret
	// Output is what the show commands print.
	Output string
	// Problems are the lines that were not executed, in order. A line is
	// executed whole or not at all.
	Problems []LineProblem
}

// Secret is a preshared key that a line carried.
type Secret struct {
	Name   string // what the authentication method of the rule calls it
	Policy string // the policy of the rule
	Rule   string // the rule; empty: the default response rule
	Key    sadb.Secret
}

// LineProblem is a line that was not executed.
type LineProblem struct {
	Line   int    // from 1; of a continued line the first
	Reason string // never text of the line that may be a preshared key
}

// Error returns "line 12: …".
func (p LineProblem) Error() string { return fmt.Sprintf("line %d: %s", p.Line, p.Reason) }

// Run executes a script on a copy of store: a file for "netsh -f", or a batch
// file of netsh commands, in UTF-8 or in UTF-16 with a byte order mark. A line
// that fails does not stop it.
func Run(store policy.Store, script []byte) Result {
	m := newMachine(store)
	text, err := decode(script)
	if err != nil {
		return Result{Store: store, Problems: []LineProblem{{1, err.Error()}}}
	}
	var problems []LineProblem
	for _, l := range joined(text) {
		err := m.line(l.text)
		if err == nil {
			continue
		}
		problems = append(problems, LineProblem{l.number, err.Error()})
		if len(problems) == maxProblems {
			problems = append(problems, LineProblem{l.number, fmt.Sprintf("more than %d lines failed; the rest was not read", maxProblems)})
			break
		}
	}
	return m.result(problems)
}

// Exec executes one line, with or without "netsh ipsec static" before it, on a
// copy of store. On an error nothing has changed; the text of the error never
// holds a preshared key.
func Exec(store policy.Store, line string) (Result, error) {
	m := newMachine(store)
	if strings.ContainsAny(line, "\r\n") {
		return Result{Store: store}, fmt.Errorf("netsh: more than one line")
	}
	if err := m.line(line); err != nil {
		return Result{Store: store}, fmt.Errorf("netsh: %w", err)
	}
	return m.result(nil), nil
}

// decode returns the text of a script, from UTF-16 where its byte order mark
// says so.
func decode(script []byte) (string, error) {
	if len(script) > maxScript {
		return "", fmt.Errorf("the script is larger than %d MiB; split it", maxScript>>20)
	}
	text := string(script)
	switch {
	case strings.HasPrefix(text, "\xff\xfe"):
		return fromUTF16(script[2:], 1, 0)
	case strings.HasPrefix(text, "\xfe\xff"):
		return fromUTF16(script[2:], 0, 1)
	}
	return strings.TrimPrefix(text, "\ufeff"), nil
}

func fromUTF16(b []byte, high, low int) (string, error) {
	if len(b)%2 != 0 {
		return "", fmt.Errorf("the script is UTF-16 and ends in the middle of a character")
	}
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = uint16(b[2*i+high])<<8 | uint16(b[2*i+low])
	}
	return string(utf16.Decode(units)), nil
}

// scriptLine is a line with its continuation lines.
type scriptLine struct {
	number int
	text   string
}

// joined splits a script into lines; a caret at the end of a line of a batch
// file continues it.
func joined(text string) []scriptLine {
	var all []scriptLine
	open := false
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimRight(line, "\r")
		body, more := strings.CutSuffix(line, "^")
		if open {
			all[len(all)-1].text += body
		} else {
			all = append(all, scriptLine{i + 1, body})
		}
		open = more && len(all[len(all)-1].text) <= maxLine
	}
	return all
}

// checkLine refuses what no command can hold.
func checkLine(line string) error {
	if len(line) > maxLine {
		return fmt.Errorf("the line is longer than %d bytes", maxLine)
	}
	if !utf8.ValidString(line) {
		return fmt.Errorf("the line is not UTF-8; save the script as UTF-8 or as UTF-16 with a byte order mark")
	}
	for _, c := range line {
		if !unicode.IsPrint(c) && c != '\t' {
			return fmt.Errorf("the line holds a control character (%U)", c)
		}
	}
	return nil
}

// comment reports whether a line says nothing: empty, a comment of a netsh
// script or of a batch file, or what a batch file prints.
func comment(line string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "@"), " ")
	switch strings.ToLower(first) {
	case "", "rem", "echo":
		return true
	}
	return strings.HasPrefix(first, "#") || strings.HasPrefix(first, "::")
}
