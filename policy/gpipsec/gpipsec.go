// Package gpipsec speaks the storage format of Windows' IPSec policies: the
// five kinds of ipsecData values ([MS-GPIPSEC], as real directories have them),
// the objects that carry them, their LDIF and registry exports, and the way
// from those objects to the policy model and back.
//
// It is pure: it reads no directory and no registry, resolves no name and keeps
// no secret. Whether a policy can be enforced is not its question:
// policy.Validate answers that.
package gpipsec

import (
	"fmt"
	"slices"

	"ipsecagent/sadb"
)

// Class is the class of an object, spelled as the directory schema spells it.
type Class string

// The five classes of the schema, and the pointer that assigns a policy.
const (
	ClassPolicy      Class = "ipsecPolicy"
	ClassISAKMP      Class = "ipsecISAKMPPolicy"
	ClassNFA         Class = "ipsecNFA" // a rule: negotiation filter association
	ClassNegotiation Class = "ipsecNegotiationPolicy"
	ClassFilter      Class = "ipsecFilter"
	// ClassAssignment is no class of the schema: it is what a group policy
	// object's CN=IPSEC or the registry's ActivePolicy says. Its one reference
	// is the policy.
	ClassAssignment Class = "assignment"
)

func storedClasses() []Class {
	return []Class{ClassPolicy, ClassISAKMP, ClassNFA, ClassNegotiation, ClassFilter}
}

func (c Class) stored() bool { return slices.Contains(storedClasses(), c) }

// String returns what administrators call an object of the class.
func (c Class) String() string {
	switch c {
	case ClassPolicy:
		return "policy"
	case ClassISAKMP:
		return "key exchange settings"
	case ClassNFA:
		return "rule"
	case ClassNegotiation:
		return "filter action"
	case ClassFilter:
		return "filter list"
	case ClassAssignment:
		return "assignment"
	}
	return fmt.Sprintf("object of class %q", string(c))
}

// Ref names an object: what its DN or key path says.
type Ref struct {
	Class Class
	GUID  GUID
}

// String returns "ipsecNFA{72385232-70FA-11D1-864C-14A300000000}", the RDN's
// value and the key's name.
func (r Ref) String() string { return string(r.Class) + r.GUID.String() }

// Object is one object of a policy store, whatever keeps the store.
type Object struct {
	Ref
	// Name and Description are the administrator's words (ipsecName,
	// description); key exchange settings and the default response rule have
	// none.
	Name, Description string
	// DataType is ipsecDataType: 256, and 598 in the objects every Active
	// Directory is born with.
	DataType uint32
	// Data is the ipsecData value; nil: the object was read without it.
	Data []byte
	// Type and Action are those of a filter action, zero else.
	Type, Action GUID
	// Refs are the objects that this one needs: of a policy its key exchange
	// settings and rules, of a rule its filter action and filter lists.
	Refs []Ref
	// Owners are the objects that need this one (ipsecOwnersReference).
	Owners []Ref
}

// what names the object in messages: `rule "Require Security" {…}`.
func (o *Object) what() string {
	if o.Name == "" {
		return fmt.Sprintf("%s %s", o.Class, o.GUID)
	}
	return fmt.Sprintf("%s %q %s", o.Class, o.Name, o.GUID)
}

// The values of ipsecDataType that exist.
const (
	dataType    = 0x100 // what everything writes
	dataType598 = 0x256 // the predefined objects of Active Directory
)

// Problem is one thing that is wrong with an object, or cannot be carried over.
type Problem struct {
	// Object names the object, for example `filter list "All IP Traffic" {…}`.
	Object string
	// Message is what is wrong and what follows from it or is to be done.
	Message string
	// Warning: the object was taken nevertheless. Else it was left out, and
	// with it every policy that needs it, whole.
	Warning bool
}

// Error returns "object: message".
func (p Problem) Error() string { return p.Object + ": " + p.Message }

// report collects the problems of one object.
type report struct {
	object   string
	problems []Problem
}

func (r *report) warn(format string, args ...any) {
	r.problems = append(r.problems, Problem{r.object, fmt.Sprintf(format, args...), true})
}

func (r *report) fail(format string, args ...any) {
	r.problems = append(r.problems, Problem{r.object, fmt.Sprintf(format, args...), false})
}

func (r *report) failed() bool {
	return slices.ContainsFunc(r.problems, func(p Problem) bool { return !p.Warning })
}

// Secret is a preshared key that a rule of Windows carries in clear.
type Secret struct {
	Name   string // what the authentication method of the rule calls it
	Policy string // the policy of the rule
	Rule   string // the rule; empty: the default response rule
	Key    sadb.Secret
}
