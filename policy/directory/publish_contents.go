package directory

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ipsecagent/policy"
	"ipsecagent/policy/gpipsec"
	"ipsecagent/sadb"
)

// contents is what the container of policies holds.
type contents struct {
	container string
	now       time.Time // when it was read; zero: the age of objects is not looked at
	objects   []gpipsec.Object
	at        map[gpipsec.Ref]*gpipsec.Object
	entries   map[gpipsec.Ref]Entry
	names     map[className][]*gpipsec.Object
	// referrers are the objects that refer to one.
	referrers map[gpipsec.Ref][]gpipsec.Ref
	// sealed are the objects that the account may see and not read.
	sealed []gpipsec.Ref
	// broken are the values that cannot be read.
	broken []brokenValue
	// decoded is what the objects say.
	decoded gpipsec.Result
	// lists are the filter lists that were read, by GUID.
	lists map[string]policy.FilterList
	// canonical are the objects as this program writes what they say.
	canonical map[gpipsec.Ref]gpipsec.Object
}

// attrCreated is when an entry was made (RFC 4512 §3.4.4); Active Directory knows
// it too.
const attrCreated = "createTimestamp"

// settled is how old an object has to be before it counts as left behind: in
// fewer minutes somebody may still be publishing what it belongs to. The clocks
// of the server and of this host may differ.
const settled = 15 * time.Minute

// fresh reports whether an object was made so lately that what refers to it may
// still come.
func (c *contents) fresh(r gpipsec.Ref) bool {
	e := c.entries[r]
	const form = "20060102150405" // in UTC; what follows are parts of a second
	stamp := e.get(attrCreated)
	made, err := time.Parse(form, stamp[:min(len(stamp), len(form))])
	return err == nil && !c.now.IsZero() && c.now.Sub(made) < settled
}

// className is what people call an object of a class.
type className struct {
	class gpipsec.Class
	name  string
}

// brokenValue is a value of an entry that makes no sense, mostly a reference to
// something that is no object.
type brokenValue struct {
	of        gpipsec.Ref
	attribute string
	value     []byte
	why       error
}

// contentsOf sorts the entries of a container.
func contentsOf(container string, entries []Entry) *contents {
	c := &contents{container: container, at: map[gpipsec.Ref]*gpipsec.Object{}, entries: map[gpipsec.Ref]Entry{},
		names: map[className][]*gpipsec.Object{}, referrers: map[gpipsec.Ref][]gpipsec.Ref{}, lists: map[string]policy.FilterList{}}
	for _, e := range entries {
		ref, err := gpipsec.ReadDN(e.DN)
		if err != nil {
			continue // what others keep there
		}
		o := gpipsec.Object{Ref: ref}
		c.broken = append(c.broken, take(&o, e)...)
		if len(o.Data) == 0 {
			c.sealed = append(c.sealed, o.Ref)
		}
		c.entries[o.Ref] = e
		c.objects = append(c.objects, o)
	}
	c.index()
	c.decoded = gpipsec.Decode(c.objects)
	for _, p := range append(c.decoded.Store.Policies, policy.Policy{FilterLists: c.decoded.Store.FilterLists}) {
		for _, l := range p.FilterLists {
			c.lists[l.GUID] = l
		}
	}
	c.canonical = canonical(c.decoded)
	return c
}

// index finds objects by what they are called and by what refers to them.
func (c *contents) index() {
	for i := range c.objects {
		o := &c.objects[i]
		c.at[o.Ref] = o
		called := className{o.Class, o.Name}
		c.names[called] = append(c.names[called], o)
		for _, to := range o.Refs {
			c.referrers[to] = append(c.referrers[to], o.Ref)
		}
	}
}

// take reads an entry into an object and returns what it cannot read: mostly
// references to objects that were deleted. In place of one that the object
// needs, one to nothing is taken, so that nobody takes it for whole.
func take(o *gpipsec.Object, e Entry) (broken []brokenValue) {
	for _, a := range e.Attributes {
		name, _, _ := strings.Cut(a.Name, ";")
		for _, v := range a.Values {
			err := o.Take(gpipsec.Value{Attribute: name, Bytes: v})
			if err == nil {
				continue
			}
			broken = append(broken, brokenValue{o.Ref, name, v, err})
			if class, needs := gpipsec.ReferredClass(name); needs {
				o.Refs = append(o.Refs, gpipsec.Ref{Class: class})
			}
		}
	}
	return broken
}

// isBroken reports whether an attribute of an object has values that cannot be
// read.
func (c *contents) isBroken(r gpipsec.Ref, attribute string) bool {
	return slices.ContainsFunc(c.broken, func(b brokenValue) bool { return b.of == r && strings.EqualFold(b.attribute, attribute) })
}

// canonical writes what was read, each policy by itself, so that one that
// cannot be written is no obstacle to the others.
func canonical(r gpipsec.Result) map[gpipsec.Ref]gpipsec.Object {
	keys := map[string]sadb.Secret{}
	for _, s := range r.Secrets {
		keys[s.Name] = s.Key
	}
	all := map[gpipsec.Ref]gpipsec.Object{}
	rest := r.Store
	rest.Policies, rest.Assigned = nil, ""
	stores := []policy.Store{rest}
	for _, p := range r.Store.Policies {
		stores = append(stores, policy.Store{Policies: []policy.Policy{p}})
	}
	for _, s := range stores {
		objects, _, err := gpipsec.Encode(s, gpipsec.Options{Keys: keys, KeyNames: true})
		if err != nil {
			continue
		}
		for _, o := range objects {
			all[o.Ref] = o
		}
	}
	return all
}

// dn returns where an object is or will be.
func (c *contents) dn(r gpipsec.Ref) string {
	if e, ok := c.entries[r]; ok {
		return e.DN
	}
	return "CN=" + r.String() + "," + c.container
}

// written returns the values of an attribute of from that refer to to, as they
// stand there.
func (c *contents) written(from gpipsec.Ref, attribute string, to gpipsec.Ref) [][]byte {
	var all [][]byte
	e := c.entries[from]
	for _, v := range e.Values(attribute) {
		if r, err := gpipsec.ReadDN(string(v)); err == nil && r == to {
			all = append(all, v)
		}
	}
	return all
}

// says reports whether an object is there and says the same as o, its owners
// aside.
func (c *contents) says(o gpipsec.Object) bool {
	have := c.at[o.Ref]
	if have == nil || len(have.Data) == 0 {
		return false
	}
	if alike(*have, o) {
		return true
	}
	written, ok := c.canonical[o.Ref]
	return ok && alike(written, o) && sameRefs(have.Refs, o.Refs)
}

// alike compares all but owners and ipsecDataType.
func alike(a, b gpipsec.Object) bool {
	return a.Name == b.Name && a.Description == b.Description && a.Type == b.Type && a.Action == b.Action &&
		slices.Equal(a.Data, b.Data) && sameRefs(a.Refs, b.Refs)
}

// sameRefs compares references, which have no order.
func sameRefs(a, b []gpipsec.Ref) bool {
	return len(missing(a, b)) == 0 && len(missing(b, a)) == 0
}

// missing returns what is in a and not in b.
func missing(a, b []gpipsec.Ref) []gpipsec.Ref {
	var all []gpipsec.Ref
	for _, r := range a {
		if !slices.Contains(b, r) && !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	return all
}

// named returns the objects of a class and name, those in first at the front.
func (c *contents) named(class gpipsec.Class, name string, first map[gpipsec.Ref]bool) []*gpipsec.Object {
	var front, back []*gpipsec.Object
	for _, o := range c.names[className{class, name}] {
		if first[o.Ref] {
			front = append(front, o)
			continue
		}
		back = append(back, o)
	}
	return append(front, back...)
}

// policyNamed returns the policy of a name or GUID.
func (c *contents) policyNamed(name string) (*gpipsec.Object, error) {
	if g, err := gpipsec.ParseGUID(name); err == nil {
		if o := c.at[gpipsec.Ref{Class: gpipsec.ClassPolicy, GUID: g}]; o != nil {
			return o, nil
		}
	}
	found := c.named(gpipsec.ClassPolicy, name, nil)
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("policy %q below %s: %w; there are: %s", name, c.container, ErrNotFound, c.policyNames())
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("%d policies are named %q below %s: %w: say which by its GUID: %s", len(found), name, c.container, ErrAmbiguous, guids(found))
}

func (c *contents) policyNames() string {
	var names []string
	for _, o := range c.objects {
		if o.Class == gpipsec.ClassPolicy {
			names = append(names, fmt.Sprintf("%q", o.Name))
		}
	}
	if len(names) == 0 {
		return "none"
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func guids(objects []*gpipsec.Object) string {
	var all []string
	for _, o := range objects {
		all = append(all, o.GUID.String())
	}
	return strings.Join(all, ", ")
}

// describe names an object in messages: `rule "Require Security" {…}`.
func (c *contents) describe(r gpipsec.Ref) string {
	if o := c.at[r]; o != nil && o.Name != "" {
		return fmt.Sprintf("%s %q %s", r.Class, o.Name, r.GUID)
	}
	return fmt.Sprintf("%s %s", r.Class, r.GUID)
}

// below returns what a policy is made of: the references of the policy, and
// theirs.
func (c *contents) below(o *gpipsec.Object) map[gpipsec.Ref]bool {
	all := map[gpipsec.Ref]bool{}
	for _, r := range o.Refs {
		all[r] = true
		if next := c.at[r]; next != nil {
			for _, r := range next.Refs {
				all[r] = true
			}
		}
	}
	return all
}

// has reports whether an attribute has a value, in any case of its letters.
func (e *Entry) has(name, value string) bool {
	return slices.ContainsFunc(e.Values(name), func(v []byte) bool { return strings.EqualFold(string(v), value) })
}
