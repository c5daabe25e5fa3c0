package gpipsec

import (
	"fmt"
	"strings"
)

// OwnersAttribute is the attribute by which an object names those that need it.
const OwnersAttribute = attrOwners

// ReferenceAttribute returns the attribute by which an object refers to objects
// of a class.
func ReferenceAttribute(c Class) string { return refAttribute(c) }

// ReferredClass returns the class of the objects that an attribute refers to;
// false: it is none of the references that an object needs.
func ReferredClass(attribute string) (Class, bool) {
	for _, c := range []Class{ClassISAKMP, ClassNFA, ClassNegotiation, ClassFilter} {
		if strings.EqualFold(attribute, refAttribute(c)) {
			return c, true
		}
	}
	return "", false
}

// Value is one value of an object's entry in a directory.
type Value struct {
	Attribute string
	Bytes     []byte
}

// Values returns the values of an object's entry, references in both directions
// among them, but for its name and its class; dn says how references are
// written.
func (o *Object) Values(dn func(Ref) string) []Value {
	var all []Value
	for _, a := range o.attributes() {
		value := a.bytes
		if value == nil {
			value = []byte(a.text)
		}
		all = append(all, Value{a.name, value})
	}
	for _, r := range o.Refs {
		all = append(all, Value{refAttribute(r.Class), []byte(dn(r))})
	}
	for _, r := range o.Owners {
		all = append(all, Value{attrOwners, []byte(dn(r))})
	}
	return all
}

// Take reads one value of the object's entry. Attributes of no interest here
// are passed over.
func (o *Object) Take(v Value) error {
	if err := o.set(v.Attribute, v.Bytes, parseDN); err != nil {
		return fmt.Errorf("gpipsec: read %s: %w", o.Ref, err)
	}
	return nil
}

// VersionObject is the GUID of an object that stands among the rules of every
// Active Directory, is none and belongs to no policy.
func VersionObject() GUID { return versionObject() }
