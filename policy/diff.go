package policy

// Side is one of two policies that are compared, compiled with the same facts.
type Side struct {
	Policy   *Policy
	Compiled *Compiled
}

// Difference is what two policies differ in.
type Difference struct {
	// Objects are the changes of what is written: rules, filter lists, filter
	// actions, settings. Tests are no part of them.
	Objects []ObjectChange
	// Flows are the traffic that is treated differently; MoreFlows is how
	// many there are besides.
	Flows     []FlowChange
	MoreFlows int
	// Whole: all traffic was compared; false: there are too many filters.
	Whole bool
}

// Empty reports whether the two policies are the same.
func (d Difference) Empty() bool { return len(d.Objects)+len(d.Flows) == 0 && d.Whole }

// Change says what became of an object or a field.
type Change string

// The changes.
const (
	Added   Change = "added"
	Removed Change = "removed"
	Changed Change = "changed"
)

// ObjectChange is one object that was added, removed or changed.
type ObjectChange struct {
	// Object names it, for example `rule "database traffic"`.
	Object string
	Change Change
	// Fields are what of it changed.
	Fields []FieldChange
}

// FieldChange is one field of an object, in the names of the policy document.
// Before is empty for what was added, After for what was removed.
type FieldChange struct {
	Field         string
	Before, After string
}

// Diff says what makes two policies differ, as they are written and as they treat
// traffic.
func Diff(a, b Side) Difference {
	var d Difference
	d.Objects = diffObjects(a.Policy, b.Policy)
	d.Flows, d.MoreFlows, d.Whole = diffFlows(a.Compiled, b.Compiled)
	return d
}

func diffObjects(a, b *Policy) []ObjectChange {
	old, new := a.described(), b.described()
	former, present := map[string][]field{}, map[string]bool{}
	for _, o := range old {
		former[o.name] = o.fields
	}
	var added, changes []ObjectChange
	later := map[string][]field{}
	for _, n := range new {
		later[n.name], present[n.name] = n.fields, true
		if _, was := former[n.name]; !was {
			added = append(added, ObjectChange{Object: n.name, Change: Added, Fields: diffFields(nil, n.fields)})
		}
	}
	for _, o := range old {
		if !present[o.name] {
			changes = append(changes, ObjectChange{Object: o.name, Change: Removed})
		} else if fields := diffFields(o.fields, later[o.name]); len(fields) > 0 {
			changes = append(changes, ObjectChange{Object: o.name, Change: Changed, Fields: fields})
		}
	}
	return append(changes, added...)
}

// diffFields returns what became of the fields of an object. Of those that stand
// many times, each value is one by itself.
func diffFields(old, new []field) []FieldChange {
	key := func(f field) field {
		if !f.many {
			f.value = ""
		}
		return f
	}
	former := map[field][]string{}
	for _, f := range old {
		former[key(f)] = append(former[key(f)], f.value)
	}
	var changes []FieldChange
	for _, f := range new {
		was := former[key(f)]
		before := ""
		if len(was) > 0 {
			before, former[key(f)] = was[0], was[1:]
		}
		if before != f.value {
			changes = append(changes, FieldChange{Field: f.name, Before: before, After: f.value})
		}
	}
	for _, f := range old {
		if left := former[key(f)]; len(left) > 0 {
			former[key(f)] = left[1:]
			if f.value != "" {
				changes = append(changes, FieldChange{Field: f.name, Before: f.value})
			}
		}
	}
	return changes
}
