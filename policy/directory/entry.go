package directory

import (
	"fmt"
	"strconv"
	"strings"
)

// Entry is an entry as it was read: what the account may not read is not there.
type Entry struct {
	DN         string
	Attributes []Attribute
}

// Attribute is an attribute with its values.
type Attribute struct {
	Name   string
	Values [][]byte
}

// Values returns the values of an attribute, whose name tells no case; nil: it
// has none, or this account may not read them.
func (e *Entry) Values(name string) [][]byte {
	for _, a := range e.Attributes {
		if strings.EqualFold(a.Name, name) {
			return a.Values
		}
	}
	return nil
}

// size is how many bytes of memory it takes: names and values, and what keeps
// them, which is more than they are where a server sends many that are empty.
func (e *Entry) size() int {
	const kept = 32
	n := len(e.DN)
	for _, a := range e.Attributes {
		n += len(a.Name) + kept
		for _, v := range a.Values {
			n += len(v) + kept
		}
	}
	return n
}

// get returns the first value as text; "": there is none.
func (e *Entry) get(name string) string {
	if v := e.Values(name); len(v) > 0 {
		return string(v[0])
	}
	return ""
}

// all returns the values as text.
func (e *Entry) all(name string) []string { return text(e.Values(name)) }

// number returns a value that is a number; 0 if there is none.
func (e *Entry) number(name string) (uint64, error) {
	s := e.get(name)
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64) // flags are signed there
	if err != nil {
		return 0, fmt.Errorf("%w: %s of %q is %q, no number", errAttribute, name, e.DN, s)
	}
	return uint64(n), nil
}
