package directory

import (
	"fmt"
	"slices"

	"ipsecagent/policy/gpipsec"
)

// planner makes the steps of publishing.
type planner struct {
	*graft
	plan Plan
	will map[gpipsec.Ref]gpipsec.Object // what the policy is made of afterwards
}

func (b *planner) add(s ...Step) { b.plan.Steps = append(b.plan.Steps, s...) }

// build puts the steps in order. Objects come after those that they refer to,
// and name their owners once these are there.
func (b *planner) build(objects []gpipsec.Object) {
	for _, class := range []gpipsec.Class{gpipsec.ClassFilter, gpipsec.ClassNegotiation, gpipsec.ClassISAKMP, gpipsec.ClassNFA} {
		for _, o := range objects {
			if o.Class == class && b.at[o.Ref] == nil {
				b.add(b.adding(o))
			}
		}
	}
	now, later := b.owners(objects)
	b.add(now...)
	if rule, ok := b.will[b.changed]; ok && !b.unchanged {
		b.add(b.changing(rule))
	}
	for _, o := range objects {
		if o.Class == gpipsec.ClassPolicy {
			b.commit(o)
		}
	}
	b.add(later...)
	b.sweep()
}

// waits reports whether the owners of an object are written after the policy:
// it is not there before.
func (b *planner) waits(o gpipsec.Object) bool {
	return b.old == nil && (o.Class == gpipsec.ClassNFA || o.Class == gpipsec.ClassISAKMP)
}

// early reports whether the owners of a new object are there before it.
func (b *planner) early(o gpipsec.Object) bool {
	return b.old != nil && (o.Class == gpipsec.ClassNFA || o.Class == gpipsec.ClassISAKMP)
}

// adding is the step that makes an object.
func (b *planner) adding(o gpipsec.Object) Step {
	if !b.early(o) {
		o.Owners = nil
	}
	return Step{Kind: StepAdd, DN: b.dn(o.Ref), What: "add " + named(o), Attributes: b.attributes(o)}
}

// named names an object in messages: `rule "Require Security" {…}`.
func named(o gpipsec.Object) string {
	if o.Name == "" {
		return fmt.Sprintf("%s %s", o.Class, o.GUID)
	}
	return fmt.Sprintf("%s %q %s", o.Class, o.Name, o.GUID)
}

// attributes are those of a new entry.
func (b *planner) attributes(o gpipsec.Object) []Attribute {
	all := []Attribute{{attrClass, texts("top", "ipsecBase", string(o.Class))}, {"cn", texts(o.Ref.String())}}
	return append(all, grouped(o.Values(b.dn))...)
}

func texts(all ...string) [][]byte {
	var values [][]byte
	for _, t := range all {
		values = append(values, []byte(t))
	}
	return values
}

// grouped joins the values of each attribute.
func grouped(values []gpipsec.Value) []Attribute {
	var all []Attribute
	for _, v := range values {
		i := slices.IndexFunc(all, func(a Attribute) bool { return a.Name == v.Attribute })
		if i < 0 {
			all, i = append(all, Attribute{Name: v.Attribute}), len(all)
		}
		all[i].Values = append(all[i].Values, v.Bytes)
	}
	return all
}

// owners adds the references back that are missing: some now, some once the
// policy is there.
func (b *planner) owners(objects []gpipsec.Object) (now, later []Step) {
	for _, o := range objects {
		there := o.Owners
		if have := b.at[o.Ref]; have != nil {
			there = have.Owners
		} else if !b.early(o) {
			there = nil
		}
		lacks := missing(o.Owners, there)
		switch {
		case len(lacks) == 0:
		case b.waits(o):
			later = append(later, b.owning(o, lacks))
		default:
			now = append(now, b.owning(o, lacks))
		}
	}
	return now, later
}

// owning adds owners to an object.
func (b *planner) owning(o gpipsec.Object, owners []gpipsec.Ref) Step {
	a := Attribute{gpipsec.OwnersAttribute, b.dnsOf(owners)}
	return Step{Kind: StepModify, DN: b.dn(o.Ref), What: "name the owners of " + named(o),
		Changes: []Change{{AddValues, a}}, undo: []Change{{DeleteValues, a}}}
}

// commit is the step that puts what is new in force.
func (b *planner) commit(o gpipsec.Object) {
	switch {
	case b.unchanged:
		return
	case b.old == nil:
		b.plan.Commit = len(b.plan.Steps)
		b.add(b.adding(o))
	default:
		b.plan.Commit = len(b.plan.Steps)
		b.add(b.changing(o))
	}
}

// changing is the step that makes an object that is there say what o says,
// owners aside. All is taken away by its value: should another writer have
// changed any of it, the server refuses the whole step.
func (b *planner) changing(o gpipsec.Object) Step {
	have := *b.at[o.Ref]
	s := Step{Kind: StepModify, DN: b.dn(o.Ref), What: "change " + named(o)}
	for _, class := range []gpipsec.Class{gpipsec.ClassISAKMP, gpipsec.ClassNFA, gpipsec.ClassNegotiation, gpipsec.ClassFilter} {
		b.refer(&s, class, have, o)
	}
	before, after := b.plain(have), b.plain(o)
	for _, a := range before {
		if !equalValues(a.Values, valuesOf(after, a.Name)) {
			s.take(a.Name, a.Values)
		}
	}
	for _, a := range after {
		if !equalValues(a.Values, valuesOf(before, a.Name)) {
			s.put(a.Name, a.Values)
		}
	}
	return s
}

// refer changes the references to objects of a class.
func (b *planner) refer(s *Step, class gpipsec.Class, have, want gpipsec.Object) {
	other := func(r gpipsec.Ref) bool { return r.Class != class }
	from, to := slices.DeleteFunc(slices.Clone(have.Refs), other), slices.DeleteFunc(slices.Clone(want.Refs), other)
	name := gpipsec.ReferenceAttribute(class)
	e := b.entries[have.Ref]
	if b.isBroken(have.Ref, name) { // what leads nowhere has no name to take it away by
		s.change(Change{ReplaceValues, Attribute{name, b.dnsOf(to)}}, Change{ReplaceValues, Attribute{name, e.Values(name)}})
		return
	}
	for _, r := range missing(from, to) {
		s.take(name, b.written(have.Ref, name, r))
	}
	if added := missing(to, from); len(added) > 0 {
		s.put(name, b.dnsOf(added))
	}
}

// dnsOf returns where objects are or will be.
func (c *contents) dnsOf(refs []gpipsec.Ref) [][]byte {
	var all [][]byte
	for _, r := range refs {
		all = append(all, []byte(c.dn(r)))
	}
	return all
}

// take and put change values in a way that can be taken back.
func (s *Step) take(name string, values [][]byte) {
	a := Attribute{name, values}
	s.change(Change{DeleteValues, a}, Change{AddValues, a})
}

func (s *Step) put(name string, values [][]byte) {
	a := Attribute{name, values}
	s.change(Change{AddValues, a}, Change{DeleteValues, a})
}

// change adds a change, and before all others what takes it back.
func (s *Step) change(do, undo Change) {
	s.Changes, s.undo = append(s.Changes, do), append([]Change{undo}, s.undo...)
}

// plain are the attributes of an object that are no references.
func (b *planner) plain(o gpipsec.Object) []Attribute {
	o.Refs, o.Owners = nil, nil
	return grouped(o.Values(b.dn))
}

func valuesOf(all []Attribute, name string) [][]byte {
	for _, a := range all {
		if a.Name == name {
			return a.Values
		}
	}
	return nil
}

func equalValues(a, b [][]byte) bool {
	return slices.EqualFunc(a, b, func(x, y []byte) bool { return slices.Equal(x, y) })
}
