package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"ipsecagent/policy/file"
)

// badSetting is a value that cannot be used. Its error begins with the name of
// the setting.
type badSetting struct {
	name string // as in "boot.mode"; of a group, where no one setting is wrong
	error
}

// Error says that it is about the settings.
func (b badSetting) Error() string { return "settings: " + b.error.Error() }

// Unwrap returns the error itself.
func (b badSetting) Unwrap() error { return b.error }

// wrong makes a badSetting.
func wrong(name, format string, args ...any) error {
	return badSetting{name, fmt.Errorf(name+format, args...)}
}

// meantWord says which of some words a value may be meant for; "": none.
func meantWord(value string, known []string) string {
	for _, w := range known {
		if d := distance(strings.ToLower(value[:min(len(value), maxSetting)]), w); d <= 2 && 2*d <= len(value) {
			return fmt.Sprintf(": did you mean %s?", w)
		}
	}
	return ""
}

// settingsText is a file of settings as it was read.
type settingsText struct {
	path string
	text []byte
}

// each returns the errors that an error joins.
func each(err error) (all []error) {
	many, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return append(all, err)
	}
	for _, e := range many.Unwrap() {
		all = append(all, each(e)...)
	}
	return all
}

// placed gives those of the errors now their place that are of the files, too:
// the others are of the command line.
func placed(files []settingsText, ofFiles, now error) error {
	if now == nil || ofFiles == nil {
		return now
	}
	errs, inFiles := each(now), each(ofFiles)
	for i, e := range errs {
		var bad badSetting
		if errors.As(e, &bad) && slices.ContainsFunc(inFiles, func(f error) bool { return f.Error() == e.Error() }) {
			errs[i] = bad.placedIn(files)
		}
	}
	return errors.Join(errs...)
}

// placedIn names the last file that sets it, which counts; b itself where none
// does.
func (b badSetting) placedIn(files []settingsText) error {
	for _, f := range slices.Backward(files) {
		doc := new(yaml.Node)
		if yaml.Unmarshal(f.text, doc) != nil || len(doc.Content) == 0 {
			continue
		}
		if n := valueOf(doc.Content[0], b.name); n != nil {
			return f.errorAt(n.Line, n.Column, b.error.Error())
		}
	}
	return b
}

// errorAt is an error with the line that it is about.
func (f settingsText) errorAt(line, column int, words string) error {
	return &file.Error{File: f.path, Line: line, Column: column, Message: words, Excerpt: file.Excerpt(f.text, line, column)}
}

// valueOf returns the value of a setting in a document; nil: it is not set.
func valueOf(n *yaml.Node, name string) *yaml.Node {
	first, rest, grouped := strings.Cut(name, ".")
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		switch {
		case n.Content[i].Value != first:
		case grouped:
			return valueOf(n.Content[i+1], rest)
		default:
			return n.Content[i+1]
		}
	}
	return nil
}
