// Package groups reads the policy group files of libreswan (private,
// private-or-clear, clear-or-private, clear and block, in
// /etc/ipsec.d/policies) to a policy.
//
// It is pure: no I/O. It does not read ipsec.conf, where libreswan says how the
// hosts of a group authenticate and which algorithms they use.
package groups

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// The files, and what they mean in the words of the policy model.
const (
	private        = "private"          // secured or not at all
	privateOrClear = "private-or-clear" // request security, else clear
	clearOrPrivate = "clear-or-private" // clear, but answer who asks for security
	clear          = "clear"            // permit
	block          = "block"            // block
)

// Names returns the names of the files that Read knows.
func Names() []string { return []string{private, privateOrClear, clearOrPrivate, clear, block} }

// Bounds of the files together.
const (
	maxFile     = 16 << 20 // bytes
	maxFilters  = 100_000
	maxProblems = 1000
)

// Options is what the files do not say.
type Options struct {
	Name string // of the policy
	// Authentication of the hosts of private, private-or-clear and
	// clear-or-private; empty: Kerberos.
	Authentication []policy.AuthMethod
}

// Problem is a line that could not be read, or that says what the policy model
// cannot.
type Problem struct {
	File   string
	Line   int // from 1; 0: the file as a whole
	Reason string
}

// Error returns "private:12: …".
func (p Problem) Error() string {
	if p.Line == 0 {
		return p.File + ": " + p.Reason
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Reason)
}

// Read makes a policy of the files, which are given by their names. The policy
// holds what could be read; with a problem it is not what the files say.
func Read(files map[string][]byte, o Options) (policy.Policy, []Problem) {
	r := &reader{at: map[spot]entry{}, entries: map[string][]entry{}}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		switch {
		case !slices.Contains(Names(), name):
			r.fail(entry{file: name}, "not a policy group: libreswan's are private, private-or-clear, clear-or-private, clear and block")
		case len(files[name]) > maxFile:
			r.fail(entry{file: name}, "larger than %d MiB", maxFile>>20)
		default:
			r.file(name, files[name])
		}
	}
	r.checkAnswers()
	if r.count == 0 && len(r.problems) == 0 {
		r.fail(entry{file: "policy groups"}, "no file says anything but comments")
	}
	if len(o.Authentication) == 0 {
		o.Authentication = []policy.AuthMethod{{Kind: policy.Kerberos}}
	}
	return r.policy(o), r.problems
}

// entry is one line: which traffic, and where it stands.
type entry struct {
	spot
	file string
	line int
}

// reader collects the entries of all files.
type reader struct {
	entries  map[string][]entry // by file
	at       map[spot]entry     // the line that says something of that traffic
	count    int
	problems []Problem
}

func (r *reader) fail(e entry, format string, args ...any) {
	if len(r.problems) < maxProblems {
		r.problems = append(r.problems, Problem{e.file, e.line, fmt.Sprintf(format, args...)})
	}
}

func (r *reader) file(name string, data []byte) {
	for i, line := range bytes.Split(data, []byte("\n")) {
		e := entry{file: name, line: i + 1}
		s, ok, err := parseLine(line)
		if err != nil {
			r.fail(e, "%v", err)
			continue
		}
		if !ok {
			continue
		}
		e.spot = s
		if (name == private || name == privateOrClear) && s.group() {
			r.fail(e, "%s is multicast or broadcast, for which nobody can negotiate security; put it into clear or block", s.prefix)
			continue
		}
		if before, double := r.at[s]; double {
			r.fail(e, "%s stands in %s, line %d, already", s, before.file, before.line)
			continue
		}
		if r.count++; r.count > maxFilters {
			r.fail(e, "more than %d lines", maxFilters)
			return
		}
		r.at[s] = e
		r.entries[name] = append(r.entries[name], e)
	}
}

// checkAnswers refuses lines of clear-or-private that lie within what another
// group secures or blocks. Hosts of clear-or-private have no filter (only so
// does the default response rule answer them), and the wider one would decide.
func (r *reader) checkAnswers() {
	wider := map[netip.Prefix][]entry{}
	for _, name := range []string{private, privateOrClear, clear, block} {
		for _, e := range r.entries[name] {
			wider[e.prefix] = append(wider[e.prefix], e)
		}
	}
	for _, e := range r.entries[clearOrPrivate] {
		if o, ok := covering(wider, e); ok {
			r.fail(e, "%s lies within %s of %s, line %d, which would decide; the policy model has no exception from a filter that still answers: put it into clear, or into private-or-clear",
				e.spot, o.spot, o.file, o.line)
		}
	}
}

// covering returns an entry of a prefix at least as wide whose traffic meets
// that of e.
func covering(wider map[netip.Prefix][]entry, e entry) (entry, bool) {
	for bits := e.prefix.Bits(); bits >= 0; bits-- {
		p, err := e.prefix.Addr().Prefix(bits)
		if err != nil {
			return entry{}, false
		}
		for _, o := range wider[p] {
			if o.meets(e.spot) {
				return o, true
			}
		}
	}
	return entry{}, false
}

// policy makes the policy of what was read.
func (r *reader) policy(o Options) policy.Policy {
	p := policy.Policy{Name: o.Name, Description: "From the policy groups of libreswan."}
	methods := policy.Client().DefaultResponse.Methods
	r.rule(&p, private, o, policy.FilterAction{Kind: sadb.Negotiate, Methods: methods})
	r.rule(&p, privateOrClear, o, policy.FilterAction{Kind: sadb.Negotiate, Methods: methods, AcceptUnsecured: true, AllowClear: true})
	r.rule(&p, clear, Options{}, policy.FilterAction{Kind: sadb.Permit})
	r.rule(&p, block, Options{}, policy.FilterAction{Kind: sadb.Block})
	if len(r.entries[clearOrPrivate]) > 0 {
		p.DefaultResponse = policy.DefaultResponse{Active: true, Authentication: o.Authentication}
	}
	return p
}

// rule adds the rule of one group, if it has an entry. Permit and block are
// built in.
func (r *reader) rule(p *policy.Policy, group string, o Options, a policy.FilterAction) {
	if len(r.entries[group]) == 0 {
		return
	}
	list := policy.FilterList{Name: group}
	for _, e := range r.entries[group] {
		list.Filters = append(list.Filters, e.filter())
	}
	a.Name = a.Kind.String()
	if a.Kind == sadb.Negotiate {
		a.Name = group
		p.FilterActions = append(p.FilterActions, a)
	}
	p.FilterLists = append(p.FilterLists, list)
	p.Rules = append(p.Rules, policy.Rule{Name: group, FilterList: group, FilterAction: a.Name, Authentication: o.Authentication})
}
