package policy

import (
	"errors"
	"fmt"
)

// Problem is one thing that is wrong with a policy.
type Problem struct {
	// Path is where, in the field names of the policy document, for example
	// "rules[2].filterAction" or "filterLists[0].filters[3].to".
	Path string
	// Message is what is wrong, with which named object, and what to do.
	Message string
}

// Error returns "rules[2].filterAction: …".
func (p *Problem) Error() string { return p.Path + ": " + p.Message }

// Problems returns every Problem in an error of Validate, Compile or RunTests,
// in the order found.
func Problems(err error) []*Problem {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []*Problem
		for _, e := range joined.Unwrap() {
			all = append(all, Problems(e)...)
		}
		return all
	}
	var p *Problem
	if errors.As(err, &p) {
		return []*Problem{p}
	}
	return Problems(errors.Unwrap(err))
}

// report collects problems; each is reported once, however many rules share
// the object that has it.
type report struct {
	problems []error
	seen     map[Problem]bool
}

func (r *report) add(path, format string, args ...any) {
	p := Problem{path, fmt.Sprintf(format, args...)}
	if r.seen[p] {
		return
	}
	if r.seen == nil {
		r.seen = map[Problem]bool{}
	}
	r.seen[p] = true
	r.problems = append(r.problems, &p)
}

func (r *report) err() error { return errors.Join(r.problems...) }

// at returns the path of an element, "rules[2]", and with a field below it
// "rules[2].name".
func at(list string, i int, field string) string {
	if field == "" {
		return fmt.Sprintf("%s[%d]", list, i)
	}
	return fmt.Sprintf("%s[%d].%s", list, i, field)
}
