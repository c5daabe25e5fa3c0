package xfrm

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// variantBits are the bits of the packet's mark by which policies of the same
// selector are told apart: variant n looks at those of n's bits, all of which
// must be zero. Variant 0 looks at none.
const (
	variantBits  = 0xe0000000
	variantShift = 29
	variants     = 8
)

// key is the identity of a policy in the kernel.
type key struct {
	sel  wire.Selector
	dir  wire.Direction
	mark wire.Mark
}

func keyOf(p wire.Policy) key { return key{p.Selector, p.Dir, p.Mark} }

// item is one entry of the list that is enforced: a filter, an overlay or the
// shape of a filter for one peer.
type item struct {
	name     string // unique; the same for the same entry of the next list
	filter   sadb.Filter
	root     sadb.FilterID // the filter that overlays and shapes narrow
	group    sadb.FilterID // root, but "" of overlays that narrow none
	reqid    uint32
	shape    []sadb.Proto // inner first; nil: ESP
	dirs     sadb.Directions
	variant  int
	priority uint32
	policies []wire.Policy
}

// list is what is to be in force, in order.
type list struct {
	items  []*item
	byKey  map[key]*item
	byRoot map[sadb.FilterID][]*item // in order
}

// compose makes the list of filters, overlays and the shapes of associations.
func (e *engine) compose(filters, overlays []sadb.Filter) (*list, error) {
	l := e.itemsOf(sadb.Splice(filters, overlays), map[sadb.Selector]sadb.Directions{})
	slots, err := e.fill(l)
	if err != nil {
		return nil, err
	}
	priorities, ok := prioritise(slots)
	if !ok {
		priorities = spread(len(slots))
		err = e.claimBelow(l, priorities)
	}
	l.stand(priorities)
	return l, err
}

// itemsOf makes the items of a list, or of a part of one below others that
// decide what is seen, without policies.
func (e *engine) itemsOf(filters []sadb.Filter, seen map[sadb.Selector]sadb.Directions) *list {
	l := &list{byKey: map[key]*item{}, byRoot: map[sadb.FilterID][]*item{}}
	for _, f := range filters {
		if shadowed(seen, f) {
			continue
		}
		root, group := f.ID, f.ID
		switch {
		case f.Overlay():
			root, group = f.Parent, f.Parent
		case !f.Expires.IsZero():
			group = ""
		}
		base := &item{name: string(f.ID), filter: f, root: root, group: group, reqid: e.reqids.id(root), dirs: f.Dir}
		if f.Action.Kind == sadb.Negotiate {
			for _, s := range shapesOf(e.sas.byRoot[root]) {
				if it, ok := base.shaped(s); ok {
					l.add(it)
				}
			}
		}
		l.add(base)
	}
	return l
}

func (l *list) add(it *item) {
	l.items = append(l.items, it)
	l.byRoot[it.root] = append(l.byRoot[it.root], it)
}

// shadowed reports whether a filter never decides, because one above it has the
// same selector and does not expire; and notes those that do.
func shadowed(seen map[sadb.Selector]sadb.Directions, f sadb.Filter) bool {
	if seen[f.Selector]&f.Dir == f.Dir {
		return true
	}
	if f.Expires.IsZero() && f.Connections == sadb.AllConnections {
		seen[f.Selector] |= f.Dir
	}
	return false
}

// fill gives every item its policies and its variant, and returns the slots of
// the list.
func (e *engine) fill(l *list) ([]slot, error) {
	slots := make([]slot, len(l.items))
	n := 0
	for i, it := range l.items {
		if err := it.expand(now(), e.cfg.Exempt, e.own); err != nil {
			return nil, fmt.Errorf("filter %s (%s): %w", it.filter.ID, it.filter.Name, err)
		}
		if n += len(it.policies); n > maxPolicies {
			return nil, fmt.Errorf("filter %s (%s), the %d. of %d: the list needs more than %d policies (this host forwards and has %d addresses, each of which is Me; 0: it does not): use fewer filters, or prefixes instead of Me and of ranges", it.filter.ID, it.filter.Name, i+1, len(l.items), maxPolicies, len(e.own))
		}
		slots[i] = slot{now: e.places[it.name].Priority, overlay: it.filter.Overlay() || it.shape != nil}
	}
	return slots, e.claimAll(l)
}

// stand gives the items their priorities.
func (l *list) stand(priorities []uint32) {
	for i, it := range l.items {
		it.priority = priorities[i]
		for j := range it.policies {
			it.policies[j].Priority = it.priority
		}
	}
}

// claimAll gives every item its variant: first those that are in force already
// theirs, then the others what is free.
func (e *engine) claimAll(l *list) error {
	var fresh []*item
	for _, it := range l.items {
		if was, known := e.places[it.name]; !known || !e.claim(l, it, was.Variant) {
			fresh = append(fresh, it)
		}
	}
	for _, it := range fresh {
		if !e.claimFree(l, it, 0) {
			return fmt.Errorf("filter %s (%s): too many filters and temporary ones have its selector: the kernel driver tells %d apart", it.filter.ID, it.filter.Name, variants)
		}
	}
	return nil
}

// claimBelow gives the items of a list that is to stand lower than before their
// variants anew. Those that would move down get one that is not in force: their
// policies come as new ones, and what is in force decides until it goes, last.
func (e *engine) claimBelow(l *list, priorities []uint32) error {
	l.byKey = map[key]*item{}
	var fresh []*item
	for i, it := range l.items {
		was, known := e.places[it.name]
		if !known || was.Priority < priorities[i] || !e.claim(l, it, was.Variant) {
			fresh = append(fresh, it)
		}
	}
	for _, it := range fresh {
		name := it.name
		it.name = "" // of no policy in force
		ok := e.claimFree(l, it, 0)
		it.name = name
		if !ok {
			return fmt.Errorf("filter %s (%s): no room for more priorities, and too many filters and temporary ones have its selector for all to be put in force anew", it.filter.ID, it.filter.Name)
		}
	}
	return nil
}

// claimFree takes the first variant that is free for an item.
func (e *engine) claimFree(l *list, it *item, first int) bool {
	for n := range variants {
		if e.claim(l, it, (first+n)%variants) {
			return true
		}
	}
	return false
}

// claim takes a variant for an item if none of its policies is an exempt one and
// no other item has or had one of them: one that is in force for another filter would change its place in
// the order, and might uncover what stands between.
func (e *engine) claim(l *list, it *item, variant int) bool {
	it.mark(variant)
	for _, p := range it.policies {
		k := keyOf(p)
		if l.byKey[k] != nil || e.isExempt(k) || !e.free(k, it.name) {
			return false
		}
	}
	for _, p := range it.policies {
		l.byKey[keyOf(p)] = it
	}
	return true
}

// free reports whether a policy is not in force, or is for the item of a name.
// When the driver opens, the book says whose all are.
func (e *engine) free(k key, name string) bool {
	if e.list == nil {
		return true
	}
	if owner := e.list.byKey[k]; owner != nil {
		return owner.name == name
	}
	_, there := e.have[k]
	return !there
}

// isExempt reports whether a policy has the identity of one that is always exempt.
func (e *engine) isExempt(k key) bool {
	return slices.ContainsFunc(e.exempt, func(p wire.Policy) bool { return keyOf(p) == k })
}

// mark makes variant v of the item's policies.
func (it *item) mark(v int) {
	it.variant = v
	for i := range it.policies {
		p := &it.policies[i]
		p.Mark.Mask = p.Mark.Mask&^variantBits | uint32(v)<<variantShift
	}
}

// expand makes the item's policies, without priority and variant. own are the
// addresses of a host that forwards; nil: it does not, and what leaves is its own.
func (it *item) expand(at time.Time, exempt uint32, own []netip.Addr) error {
	f := it.filter
	if f.Connections == sadb.RemoteAccess {
		return nil // there is no such interface
	}
	sels, err := selectors(f.Selector)
	if err != nil {
		return err
	}
	var life sadb.Lifetime
	if !f.Expires.IsZero() {
		life.Hard.Time = max(f.Expires.Sub(at), time.Second)
	}
	for _, s := range sels {
		if len(it.policies) > maxPolicies {
			break // the caller says so
		}
		for _, d := range it.directions() {
			it.policies = append(it.policies, it.policiesOf(d, s, own)...)
		}
	}
	for i := range it.policies {
		it.policies[i].Mark, it.policies[i].Lifetime, it.policies[i].Use.Added = wire.Mark{Mask: exempt}, life, at
	}
	return nil
}

// policiesOf returns the policies of a direction for one selector: one, but for
// what leaves a host that forwards, where Me is each of its addresses.
func (it *item) policiesOf(d wire.Direction, s wire.Selector, own []netip.Addr) []wire.Policy {
	p := wire.Policy{Selector: s, Dir: d}
	if it.filter.Action.Kind == sadb.Block {
		p.Action = wire.Block
	}
	if it.filter.Action.Kind == sadb.Negotiate {
		p.Templates = it.templates(d, s.Family())
	}
	switch {
	case d != wire.Out:
		p.Selector = mirror(s)
	case own != nil && it.filter.Selector.Local.IsMe():
		var out []wire.Policy
		for _, a := range own {
			if wire.FamilyOf(a) == s.Family() {
				p.Selector.Src = netip.PrefixFrom(a, a.BitLen())
				out = append(out, p)
			}
		}
		return out
	}
	return []wire.Policy{p}
}

// asOf returns a policy as it is to be written at a time: with what is left until
// its end, which its lifetime and the time it counts from say together.
func asOf(p wire.Policy, at time.Time) wire.Policy {
	if p.Lifetime.Hard.Time != 0 {
		p.Lifetime.Hard.Time = max(endOf(p).Sub(at), time.Second)
	}
	p.Index, p.Use = 0, wire.Use{Added: at}
	return p
}

// endOf returns when the kernel ends a policy, the zero time where it does not.
func endOf(p wire.Policy) time.Time {
	if p.Lifetime.Hard.Time == 0 {
		return time.Time{}
	}
	return p.Use.Added.Add(p.Lifetime.Hard.Time)
}

// endSlack is by how much two ends of a policy may differ that are the same: the
// kernel counts whole seconds.
const endSlack = 2 * time.Second

// rewritten returns the steps that write policies of an item again: those for
// which the condition holds.
func (it *item) rewritten(holds func(wire.Policy) bool) []step {
	var steps []step
	for _, p := range it.policies {
		if holds(p) {
			steps = append(steps, step{typ: wire.MsgUpdatePolicy, policy: p, before: &p})
		}
	}
	return steps
}

// directions returns the kernel's lists that the item stands in. What this host
// forwards to one side of a filter came from the other; Me forwards nothing.
func (it *item) directions() []wire.Direction {
	var out []wire.Direction
	if it.dirs&sadb.Out != 0 {
		out = append(out, wire.Out)
	}
	if it.dirs&sadb.In != 0 {
		out = append(out, wire.In)
		if !it.filter.Selector.Local.IsMe() {
			out = append(out, wire.Forward)
		}
	}
	return out
}

// templates returns what policies of a direction and family want applied, the
// inner first. A bundle has one IP header more at most: its outer part is in
// transport mode.
func (it *item) templates(d wire.Direction, family wire.Family) []wire.Template {
	f := it.filter
	protos := it.shape
	if protos == nil {
		protos = []sadb.Proto{sadb.ESP}
	}
	var out []wire.Template
	for i, proto := range protos {
		t := wire.Template{Family: family, Proto: proto, ReqID: it.reqid,
			Optional: d == wire.Out && f.Action.AllowClear || d != wire.Out && f.Action.PassThrough}
		if f.Mode == sadb.Tunnel {
			t.Family = wire.FamilyOf(f.TunnelRemote)
		}
		if f.Mode == sadb.Tunnel && i == 0 {
			t.Mode, t.Src, t.Dst = sadb.Tunnel, f.TunnelLocal, f.TunnelRemote
			if d != wire.Out {
				t.Src, t.Dst = t.Dst, t.Src
			}
		}
		out = append(out, t)
	}
	return out
}

// same reports whether the kernel would do the same for two policies of one
// identity.
func same(p, q wire.Policy) bool {
	return p.Action == q.Action && p.Priority == q.Priority && slices.EqualFunc(p.Templates, q.Templates, sameTemplate) &&
		(p.Lifetime.Hard.Time == 0) == (q.Lifetime.Hard.Time == 0) && endOf(p).Sub(endOf(q)).Abs() <= endSlack
}

func sameTemplate(t, u wire.Template) bool {
	return t.Proto == u.Proto && t.ReqID == u.ReqID && t.Mode == u.Mode && t.Optional == u.Optional && t.Family == u.Family &&
		set(t.Src) == set(u.Src) && set(t.Dst) == set(u.Dst)
}

// set returns the zero Addr for an unspecified one: the kernel does not tell
// them apart.
func set(a netip.Addr) netip.Addr {
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// rootOf returns the filter that an overlay narrows in the end.
func rootOf(id sadb.FilterID, overlays []sadb.Filter) sadb.FilterID {
	for range len(overlays) {
		i := slices.IndexFunc(overlays, func(o sadb.Filter) bool { return o.ID == id })
		if i < 0 || overlays[i].Parent == "" {
			return id
		}
		id = overlays[i].Parent
	}
	return id
}
