package directory

import (
	"slices"
	"strings"
	"testing"

	"ipsecagent/policy/gpipsec"
)

// A policy whose references this account may not read looks like one without
// rules, which protects nothing: that is said.
func TestAPolicyWithoutRulesIsSaidToProtectNothing(t *testing.T) {
	s := newShelf()
	publish(t, s, webPolicy())
	object := s.objectOf(t, gpipsec.ClassPolicy, "web")
	warned := func() bool {
		var a Answer
		if err := a.decode(object.DN, s.all()); err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(a.Warnings, func(w string) bool { return strings.Contains(w, "has no rules and protects nothing") })
	}
	if warned() {
		t.Error("said of a policy that has rules")
	}
	object.Attributes = slices.DeleteFunc(object.Attributes, func(a Attribute) bool { return strings.EqualFold(a.Name, "ipsecNFAReference") })
	if !warned() {
		t.Error("not said")
	}
}
