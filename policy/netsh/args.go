package netsh

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// args is the arguments of a line, read by tag. The first error stays in err:
// a command reads all it needs, looks at err, and only then changes anything.
type args struct {
	words []string // behind the command
	list  []arg
	err   error
}

func (a *args) fail(err error) {
	if a.err == nil {
		a.err = err
	}
}

// has reports whether a tag is there.
func (a *args) has(tag string) bool {
	_, ok := a.get(tag)
	return ok
}

func (a *args) get(tag string) (string, bool) {
	for _, g := range a.list {
		if g.tag == tag {
			return g.value, true
		}
	}
	return "", false
}

const (
	maxName        = 255  // bytes
	maxDescription = 4096 // bytes
)

// need returns the value of a tag that must be there.
func (a *args) need(tag string) string {
	v, ok := a.get(tag)
	if !ok || strings.TrimSpace(v) == "" {
		a.fail(fmt.Errorf("%s= is missing", tag))
	}
	return v
}

// newName returns the name of an object to be made, from name= or newname=.
func (a *args) newName(tag string) string {
	v := a.need(tag)
	switch {
	case len(v) > maxName:
		a.fail(fmt.Errorf("the name has %d bytes, more than %d", len(v), maxName))
	case strings.EqualFold(v, all):
		a.fail(errors.New(`"all" is no name: commands mean every object by it`))
	case strings.ContainsFunc(v, unicode.IsControl):
		a.fail(errors.New("the name holds a tab"))
	}
	return v
}

// text sets what a tag gives, if it is there.
func (a *args) text(tag string, into *string) {
	v, ok := a.get(tag)
	if !ok {
		return
	}
	if len(v) > maxDescription {
		a.fail(fmt.Errorf("%s= has %d bytes, more than %d", tag, len(v), maxDescription))
	}
	*into = v
}

// flag sets what yes or no a tag gives, if it is there.
func (a *args) flag(tag string, into *bool) {
	v, ok := a.get(tag)
	if !ok {
		return
	}
	switch strings.ToLower(v) {
	case "yes", "y":
		*into = true
	case "no", "n":
		*into = false
	default:
		a.fail(fmt.Errorf("%s=%q is neither yes nor no", tag, v))
	}
}

// minutes sets a duration from a number of minutes, or of seconds with an "s"
// behind it, which Windows does not know. 0: the default.
func (a *args) minutes(tag string, into *time.Duration) {
	v, ok := a.get(tag)
	if !ok {
		return
	}
	digits, seconds := strings.CutSuffix(strings.ToLower(v), "s")
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil {
		a.fail(fmt.Errorf("%s=%q is not a number of minutes", tag, v))
		return
	}
	*into = time.Duration(n) * time.Minute
	if seconds {
		*into = time.Duration(n) * time.Second
	}
}

// count sets a number.
func (a *args) count(tag string, into *int) {
	v, ok := a.get(tag)
	if !ok {
		return
	}
	n, err := strconv.ParseUint(v, 10, 31)
	if err != nil {
		a.fail(fmt.Errorf("%s=%q is not a number", tag, v))
		return
	}
	*into = int(n)
}

// all is the word for every object of a kind.
const all = "all"

// every reports whether the line means every object: the word "all", or
// name=all.
func (a *args) every() bool {
	name, _ := a.get("name")
	return strings.EqualFold(name, all) || len(a.words) == 1 && a.words[0] == all
}
