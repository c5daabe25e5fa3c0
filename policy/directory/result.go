package directory

import (
	"fmt"
	"reflect"
	"time"

	"ipsecagent/policy"
	"ipsecagent/policy/gpipsec"
)

// Result is the resultant set of policy of one computer: what was considered
// and what won.
type Result struct {
	Computer Computer
	// Considered are the places that can assign a policy, the one that decides
	// first at the front: the first of them that assigns one wins.
	Considered []Candidate
	// Winner is the index of the winner in Considered; -1: no policy is
	// assigned.
	Winner int
	// Server and Site are the server that answered and the site in which it
	// sees the connection; "": it knows no sites.
	Server, Site string
	// At is when it was read.
	At time.Time

	scopes []string // the entries that links or pointers can stand at, with or without
}

// Won returns the candidate that won; nil: no policy is assigned.
func (r *Result) Won() *Candidate {
	if r.Winner < 0 {
		return nil
	}
	return &r.Considered[r.Winner]
}

// Candidate is a place that can assign a policy: in Active Directory a link to
// a group policy object, elsewhere an entry that points to a policy.
type Candidate struct {
	// Scope is the kind of the entry that has the link or pointer: "site",
	// "domain", "OU", "host", "group", "parent".
	Scope string
	// At is the name of that entry.
	At string
	// GPO and Name are the DN and the display name of the group policy object;
	// "" in other directories.
	GPO, Name string
	// Enforced: the link is enforced, so that it goes before those further
	// down, and cannot be blocked.
	Enforced bool
	// Policy is the DN of the policy that it assigns; "": none.
	Policy string
	// PolicyName is what the assignment calls the policy; it may be out of
	// date.
	PolicyName string
	// Applies: it counts for this computer. Else Why says why not; of one that
	// counts, it says whether it won.
	Applies bool
	Why     string
}

// Answer is what a directory says about a host, all of it read from one server
// within moments.
type Answer struct {
	Result *Result
	// State is None or Assigned.
	State policy.State
	// Policy is what is assigned; nil: nothing.
	Policy *policy.Policy
	// Secrets are the preshared keys that the rules of the policy carry in the
	// directory.
	Secrets []gpipsec.Secret
	// Warnings are what is wrong with the objects without harm to the policy.
	Warnings []string
	// Objects is how many objects of the directory the policy is made of.
	Objects int

	seen seen
}

// Origin says in words where the policy comes from.
func (a *Answer) Origin() string { return a.Result.origin() }

// origin says where the winner of a result comes from.
func (r *Result) origin() string {
	w := r.Won()
	if w == nil {
		return fmt.Sprintf("no policy is assigned in the directory (%s)", r.Server)
	}
	if w.GPO != "" {
		return fmt.Sprintf("group policy object %q, linked to the %s %q, from %s", w.title(), w.Scope, w.At, r.Server)
	}
	return fmt.Sprintf("%s %q, from %s", w.Scope, w.At, r.Server)
}

// same reports whether two answers say the same of what is assigned, and why.
func (a *Answer) same(b *Answer) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.State == b.State && a.Origin() == b.Origin() && reflect.DeepEqual(a.Policy, b.Policy)
}
