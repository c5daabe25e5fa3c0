package gpipsec

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// ReadEntry reads an object of a directory from its entry: the DN and the values
// of its attributes, whose names tell no case. A value that was not read is
// empty in the object. Attributes of no interest here are passed over, and
// owners that are no policy objects any more.
func ReadEntry(dn string, attributes map[string][][]byte) (Object, error) {
	r, err := parseDN(dn)
	if err != nil {
		return Object{}, fmt.Errorf("gpipsec: read entry: %w", err)
	}
	o := Object{Ref: r}
	for name, values := range attributes {
		for _, v := range values {
			if !strings.EqualFold(name, attrData) && !utf8.Valid(v) {
				continue // no text, and so none of ours
			}
			err := o.set(name, v, parseDN)
			if err != nil && !strings.EqualFold(name, attrOwners) { // of these, one that was deleted: nothing is read by them
				return Object{}, fmt.Errorf("gpipsec: read entry %s: %w", r, err)
			}
		}
	}
	return o, nil
}

// ReadDN returns the object that a distinguished name names.
func ReadDN(dn string) (Ref, error) {
	r, err := parseDN(dn)
	if err != nil {
		return Ref{}, fmt.Errorf("gpipsec: read name: %w", err)
	}
	return r, nil
}
