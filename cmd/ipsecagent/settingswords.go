package main

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"ipsecagent/policy/file"
)

// settingsErrors writes the errors of the YAML reader as FILE:LINE:COLUMN: and
// words about the setting that stands there.
type settingsErrors struct {
	settingsText
	doc *yaml.Node // nil: the text is no YAML
}

// maxMistakes is how many mistakes of a file are named.
const maxMistakes = 20

// words rewrites an error; one of another kind has no place but the file.
func (s settingsErrors) words(err error) error {
	var many *yaml.LoadErrors
	var one *yaml.LoadError
	switch {
	case errors.As(err, &many):
		var errs []error
		for i, e := range many.Errors {
			if i == maxMistakes {
				errs = append(errs, fmt.Errorf("%s: and %d more", s.path, len(many.Errors)-i))
				break
			}
			errs = append(errs, s.placed(e))
		}
		return errors.Join(errs...)
	case errors.As(err, &one):
		return s.placed(one)
	}
	return fmt.Errorf("%s: %w", s.path, err)
}

func (s settingsErrors) placed(e *yaml.LoadError) error {
	return s.errorAt(e.Mark.Line, e.Mark.Column, s.message(e))
}

// misfit is how the reader says that a value is not of its setting's type,
// misfitLevel how it says so of a log level.
var (
	misfit      = regexp.MustCompile("^cannot construct !!([a-z]+)(?: `(.*)`)? into (.+)$")
	misfitLevel = regexp.MustCompile(`slog: level string ("[^"]*")`)
)

func (s settingsErrors) message(e *yaml.LoadError) string {
	// The reader names the Go type that has no such field.
	if _, _, ok := strings.Cut(e.Message, " not found in type "); ok {
		return unknownSetting(place{e.Mark.Line, e.Mark.Column, true}.setting(s.doc, ""))
	}
	name := place{e.Mark.Line, e.Mark.Column, false}.setting(s.doc, "")
	if m := misfitLevel.FindStringSubmatch(e.Message); m != nil {
		return fmt.Sprintf("%s: %s is no level; the levels are debug, info, warn and error", name, m[1])
	}
	m := misfit.FindStringSubmatch(e.Message)
	if m == nil { // something is wrong with it as YAML
		if hint := file.SyntaxHint(s.text, e.Mark.Line, e.Message); hint != "" {
			return e.Message + ": " + hint
		}
		return e.Message
	}
	if name == "" {
		return "the file holds no settings: it has lines like 'runDir: /run/ipsecagent'"
	}
	words := fmt.Sprintf("%s: %s is not %s", name, valueWords(m[1], m[2]), typeWords(m[3]))
	if before, after, ok := strings.Cut(m[2], ":"); ok && m[1] == "str" {
		words += fmt.Sprintf(": is a blank missing after the colon, %s: %s?", before, after)
	}
	return words
}

// valueWords says what stands in the file.
func valueWords(kind, value string) string {
	switch kind {
	case "seq":
		return "a list"
	case "map":
		return "a group of settings"
	}
	return fmt.Sprintf("%q", value)
}

// typeWords says what a setting of a Go type takes.
func typeWords(goType string) string {
	switch goType {
	case "time.Duration":
		return "a duration with a unit, as in 5m or 30s"
	case "bool":
		return "true or false"
	case "int":
		return "a whole number"
	case "uint16":
		return "a whole number from 0 to 65535"
	case "uint32":
		return "a whole number from 0 to 4294967295"
	case "string":
		return "one text"
	case "[]string":
		return "a list of texts, as in [one, two]"
	case "map[string]string":
		return "a group of texts by name, as in {name: text}"
	}
	return "a group of settings, as in {name: value}"
}

// place is where the name of a setting (key), or its value, begins.
type place struct {
	line, column int
	key          bool
}

// setting returns the setting at the place, with the groups it is in, as in
// "dataPath.tun"; "": none is there. name is that of the node.
func (p place) setting(n *yaml.Node, name string) string {
	if n == nil {
		return ""
	}
	if n.Kind != yaml.MappingNode {
		for _, c := range n.Content {
			if found := p.value(c, name); found != "" {
				return found
			}
		}
		return ""
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, below := n.Content[i], strings.TrimPrefix(name+"."+n.Content[i].Value, ".")
		if p.key && key.Line == p.line && key.Column == p.column {
			return below
		}
		if found := p.value(n.Content[i+1], below); found != "" {
			return found
		}
	}
	return ""
}

// value looks at a value of the setting of that name, and within.
func (p place) value(n *yaml.Node, name string) string {
	if !p.key && n.Line == p.line && n.Column == p.column {
		return name
	}
	return p.setting(n, name)
}

// settingNames returns the names of all settings, those of groups with their
// group's, and of the groups, in the order of the sample file.
func settingNames() (names, groups []string) {
	var collect func(t reflect.Type, above string)
	collect = func(t reflect.Type, above string) {
		for f := range t.Fields() {
			name := above + f.Tag.Get("yaml")
			if f.Type.Kind() == reflect.Struct {
				groups = append(groups, name)
				collect(f.Type, name+".")
				continue
			}
			names = append(names, name)
		}
	}
	collect(reflect.TypeFor[settings](), "")
	return names, groups
}

// unknownSetting says what may have been meant, or what there is.
func unknownSetting(name string) string {
	names, groups := settingNames()
	if hint := misplaced(name, names, groups); hint != "" {
		return fmt.Sprintf("unknown setting %s: %s", name, hint)
	}
	for _, known := range slices.Concat(names, groups) {
		if resembles(name, known) {
			return fmt.Sprintf("unknown setting %s: did you mean %s?", name, known)
		}
	}
	group, _, grouped := cutLast(name)
	names = slices.DeleteFunc(names, func(n string) bool { return grouped && !strings.HasPrefix(n, group+".") })
	return fmt.Sprintf("unknown setting %s; the settings are %s", name, strings.Join(names, ", "))
}

// misplaced says that a setting stands outside its group, or that its line is not
// of the form of settings; "": neither.
func misplaced(name string, names, groups []string) string {
	if before, after, ok := cutAny(name, ":={"); ok {
		_, before, _ := cutLast(strings.TrimSpace(before))
		if strings.Contains(name, "{") {
			after = "{name: value}"
		}
		return fmt.Sprintf("between a name and its value stand a colon and a blank, as in %s: %s", before, strings.Trim(after, ":= "))
	}
	for _, known := range names {
		group, last, grouped := cutLast(known)
		switch {
		case !grouped:
		case name == known:
			return fmt.Sprintf("settings of a group are written below it, or as %s: {%s: value}", group, last)
		case name == last && !slices.Contains(groups, name):
			return fmt.Sprintf("it is of the group %s: put it below '%s:' with two blanks before it, or write %s: {%s: value}", group, group, group, last)
		}
	}
	return ""
}

// cutAny cuts a text at the first of some characters.
func cutAny(text, characters string) (before, after string, found bool) {
	i := strings.IndexAny(text, characters)
	if i < 0 {
		return text, "", false
	}
	return text[:i], text[i+1:], true
}

// maxSetting is longer than any setting's name; what is longer resembles none.
const maxSetting = 64

// resembles reports whether a name may be meant for a known one: a slip of the
// fingers away from it, or right but in another group.
func resembles(name, known string) bool {
	if len(name) > maxSetting {
		return false
	}
	name, known = strings.ToLower(name), strings.ToLower(known)
	_, last, _ := cutLast(name)
	_, knownLast, _ := cutLast(known)
	return distance(name, known) <= 2 || distance(last, knownLast) <= 1
}

// cutLast parts the name of a setting from its group.
func cutLast(name string) (group, last string, grouped bool) {
	i := strings.LastIndexByte(name, '.')
	if i < 0 {
		return "", name, false
	}
	return name[:i], name[i+1:], true
}

// distance is how many letters are to be put in, taken out or exchanged to make
// one word of the other (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			exchange := diagonal
			if a[i] != b[j] {
				exchange++
			}
			diagonal = row[j+1]
			row[j+1] = min(exchange, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
