package gpipsec

import (
	"fmt"
	"slices"
	"time"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// maxObjects bounds the objects of one store.
const maxObjects = 100_000

// longPolling is what a polling interval of 0 means.
const longPolling = 3 * time.Hour

// Result is what the objects of a store say.
type Result struct {
	// Store holds the policies that are whole and, beside them, the filter
	// lists and filter actions that no rule uses.
	Store policy.Store
	// Secrets are the preshared keys of the rules. They are never part of the
	// store, whose rules name them.
	Secrets []Secret
	// Problems are what is wrong, in the order of the objects.
	Problems []Problem
}

// Decode reads the objects of one store into the model. A policy is taken whole
// or, when anything that it needs is wrong, not at all. All policies are those
// of Windows: they have Uplift set.
func Decode(objects []Object) Result {
	d := newDecoder()
	if len(objects) > maxObjects {
		d.problems = []Problem{{Object: "the store", Message: fmt.Sprintf("%d objects, more than %d", len(objects), maxObjects)}}
		return d.result()
	}
	d.index(objects)
	for _, o := range d.ordered {
		d.parse(o)
	}
	for _, o := range d.ordered {
		if o.Class == ClassPolicy {
			d.policy(o)
		}
	}
	d.refuseTwins()
	d.unused()
	d.assigned(objects)
	return d.result()
}

// decoder holds the objects by their names and what was made of each; what could
// not be read is not there.
type decoder struct {
	ordered  []*Object
	objects  map[Ref]*Object
	lists    map[GUID]policy.FilterList
	actions  map[GUID]policy.FilterAction
	settings map[GUID]policy.KeyExchange
	rules    map[GUID]nfa
	used     map[Ref]bool  // what some rule or policy refers to
	owned    map[link]bool // what refers back
	policies []taken
	store    policy.Store
	secrets  []Secret
	problems []Problem
}

// link is a reference.
type link struct{ from, to Ref }

// taken is a policy that was read whole, with what came with it.
type taken struct {
	object  *Object
	policy  policy.Policy
	secrets []Secret
}

func newDecoder() *decoder {
	return &decoder{
		objects: map[Ref]*Object{}, lists: map[GUID]policy.FilterList{}, actions: map[GUID]policy.FilterAction{},
		settings: map[GUID]policy.KeyExchange{}, rules: map[GUID]nfa{}, used: map[Ref]bool{}, owned: map[link]bool{},
	}
}

func (d *decoder) result() Result {
	for _, t := range d.policies {
		d.store.Policies = append(d.store.Policies, t.policy)
		d.secrets = append(d.secrets, t.secrets...)
	}
	return Result{d.store, d.secrets, d.problems}
}

func (d *decoder) fail(o *Object, format string, args ...any) {
	d.problems = append(d.problems, Problem{o.what(), fmt.Sprintf(format, args...), false})
}

func (d *decoder) warn(o *Object, format string, args ...any) {
	d.problems = append(d.problems, Problem{o.what(), fmt.Sprintf(format, args...), true})
}

// index finds the objects; of two with one name neither is taken.
func (d *decoder) index(objects []Object) {
	twice := map[Ref]bool{}
	for i := range objects {
		o := &objects[i]
		if !o.Class.stored() || o.GUID == versionObject() {
			continue
		}
		if d.objects[o.Ref] != nil {
			if !twice[o.Ref] {
				d.fail(o, "it is there twice")
			}
			twice[o.Ref] = true
			continue
		}
		d.objects[o.Ref] = o
		d.ordered = append(d.ordered, o)
	}
	d.ordered = slices.DeleteFunc(d.ordered, func(o *Object) bool { return twice[o.Ref] })
}

// parse reads one object by itself.
func (d *decoder) parse(o *Object) {
	for _, r := range o.Refs {
		d.used[r] = true
	}
	for _, r := range o.Owners {
		d.owned[link{o.Ref, r}] = true
	}
	r := &report{object: o.what()}
	r.header(o)
	if !r.failed() {
		d.data(r, o)
	}
	d.problems = append(d.problems, r.problems...)
}

// header checks what every object has.
func (r *report) header(o *Object) {
	if len(o.Data) == 0 {
		r.fail("it has no ipsecData; whoever read it may not be permitted to read more than its name")
		return
	}
	if o.DataType != dataType && o.DataType != dataType598 {
		r.warn("ipsecDataType is %d, neither %d nor %d", o.DataType, dataType, dataType598)
	}
}

func (d *decoder) data(r *report, o *Object) {
	switch o.Class {
	case ClassFilter:
		keep(r, d.lists, o, r.filterList(o))
	case ClassNegotiation:
		keep(r, d.actions, o, r.action(o))
	case ClassISAKMP:
		keep(r, d.settings, o, r.keyExchange(o))
	case ClassNFA:
		keep(r, d.rules, o, r.nfa(o))
	}
}

func keep[T any](r *report, to map[GUID]T, o *Object, v T) {
	if !r.failed() {
		to[o.GUID] = v
	}
}

// refuseTwins leaves out policies of one name: which of them is meant, nobody
// here can know.
func (d *decoder) refuseTwins() {
	named := map[string]int{}
	for _, t := range d.policies {
		named[t.policy.Name]++
	}
	d.policies = slices.DeleteFunc(d.policies, func(t taken) bool {
		twin := named[t.policy.Name] > 1
		if twin {
			d.fail(t.object, "another policy has the same name; rename one of them")
		}
		return twin
	})
}

// unused keeps the lists and actions that nothing refers to and names other
// objects that nothing owns.
func (d *decoder) unused() {
	var lists, actions names
	for _, o := range d.ordered {
		if d.used[o.Ref] || o.Class == ClassPolicy || len(o.Data) == 0 {
			continue
		}
		list, isList := d.lists[o.GUID]
		action, isAction := d.actions[o.GUID]
		switch {
		case o.Class == ClassFilter && isList:
			list.Name = lists.give(d, o)
			list.Description = clean(list.Description)
			d.store.FilterLists = append(d.store.FilterLists, list)
		case o.Class == ClassNegotiation && isAction && o.Type != typeResponse():
			if action.Name = actions.give(d, o); !builtin(action) {
				action.Description = clean(action.Description)
				d.store.FilterActions = append(d.store.FilterActions, action)
			}
		case o.Class == ClassNFA || o.Class == ClassISAKMP || o.Type == typeResponse():
			d.warn(o, "no policy refers to it; it is left out")
		}
	}
}

// assigned reads which policy the store says is assigned.
func (d *decoder) assigned(objects []Object) {
	for _, o := range objects {
		if o.Class != ClassAssignment || len(o.Refs) == 0 {
			continue
		}
		name := d.nameOf(o.Refs[0])
		switch {
		case name == "":
			d.problems = append(d.problems, Problem{"the assignment", fmt.Sprintf("it names %s, which is not there or was left out", o.Refs[0]), false})
		case d.store.Assigned != "" && d.store.Assigned != name:
			d.problems = append(d.problems, Problem{"the assignment", fmt.Sprintf("both %q and %q are assigned, by different group policy objects; the first is taken", d.store.Assigned, name), true})
		default:
			d.store.Assigned = name
		}
	}
}

func (d *decoder) nameOf(r Ref) string {
	for _, t := range d.policies {
		if t.object.Ref == r {
			return t.policy.Name
		}
	}
	return ""
}

// builtin reports whether a is what every policy has without a definition.
func builtin(a policy.FilterAction) bool {
	return a.Name == "permit" && a.Kind == sadb.Permit || a.Name == "block" && a.Kind == sadb.Block
}

// names gives each object a name of its own.
type names map[string]GUID

// give returns the object's name, or one with its GUID where it has none or
// another object has it already.
func (n *names) give(d *decoder, o *Object) string {
	if *n == nil {
		*n = names{}
	}
	name := clean(o.Name)
	if name == "" {
		name = o.GUID.String()
	}
	if owner, ok := (*n)[name]; ok && owner != o.GUID {
		unique := name + " " + o.GUID.String()
		d.warn(o, "another %s has the same name; it is called %q here", o.Class, unique)
		name = unique
	}
	(*n)[name] = o.GUID
	return name
}
