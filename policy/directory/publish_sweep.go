package directory

import (
	"fmt"
	"slices"
	"strings"

	"ipsecagent/policy"
	"ipsecagent/policy/gpipsec"
)

// sweep removes what the policy was made of and nothing needs any more, and
// what an interrupted publishing has left. Filter lists and filter actions are
// an administrator's own things: they go only where the policy has another one
// of the name now.
func (b *planner) sweep() {
	dead := b.dead()
	var deletions []Step
	for _, o := range b.objects {
		if o.Class != gpipsec.ClassFilter && o.Class != gpipsec.ClassNegotiation {
			continue
		}
		users := b.usersAfter(o.Ref, dead)
		former := b.formerOwners(o, dead)
		switch _, used := b.will[o.Ref]; {
		case used || len(users) > 0:
			b.disown(o, former)
			if !used && b.used[o.Ref] {
				b.keeps(o, users)
			}
		case b.replaced(o) && (b.used[o.Ref] || len(former) > 0):
			deletions = append(deletions, b.deleting(o))
		case b.used[o.Ref]:
			b.disown(o, former)
			b.note("%s %q is used by no rule any more; it stays until it is deleted", o.Class, o.Name)
		default:
			b.disown(o, former)
		}
	}
	for _, r := range dead {
		b.add(b.deleting(*b.at[r]))
	}
	b.add(deletions...)
}

// deleting is the step that deletes an object that nothing refers to.
func (c *contents) deleting(o gpipsec.Object) Step {
	return Step{Kind: StepDelete, DN: c.dn(o.Ref), What: "delete " + named(o), unless: gpipsec.ReferenceAttribute(o.Class)}
}

func (b *planner) note(format string, args ...any) {
	b.plan.Notes = append(b.plan.Notes, fmt.Sprintf(format, args...))
}

// dead are the rules and key exchange settings that are no longer needed.
func (b *planner) dead() []gpipsec.Ref {
	if b.old == nil {
		return nil
	}
	all := b.leftovers()
	for _, r := range b.old.Refs {
		shared := slices.ContainsFunc(b.referrers[r], func(by gpipsec.Ref) bool { return by != b.old.Ref })
		if b.at[r] != nil && !shared && !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	return slices.DeleteFunc(all, func(r gpipsec.Ref) bool {
		_, stays := b.will[r]
		return stays
	})
}

// leftovers are the rules and key exchange settings that say that they belong
// to the policy while it does not name them: of a publishing that did not end.
func (g *graft) leftovers() []gpipsec.Ref {
	var all []gpipsec.Ref
	for _, o := range g.objects {
		part := o.Class == gpipsec.ClassNFA || o.Class == gpipsec.ClassISAKMP
		if part && g.old != nil && len(g.referrers[o.Ref]) == 0 && slices.Contains(o.Owners, g.old.Ref) {
			all = append(all, o.Ref)
		}
	}
	return all
}

// usersAfter are the rules that refer to an object when all is done, the
// policy's own aside.
func (b *planner) usersAfter(r gpipsec.Ref, dead []gpipsec.Ref) []gpipsec.Ref {
	return slices.DeleteFunc(slices.Clone(b.referrers[r]), func(by gpipsec.Ref) bool {
		_, ours := b.will[by]
		return ours || slices.Contains(dead, by)
	})
}

// formerOwners are the rules that an object names as its owners and that do not
// refer to it when all is done.
func (b *planner) formerOwners(o gpipsec.Object, dead []gpipsec.Ref) []gpipsec.Ref {
	var former []gpipsec.Ref
	for _, owner := range o.Owners {
		rule, ours := b.will[owner]
		if ours && !slices.Contains(rule.Refs, o.Ref) || b.at[owner] == nil && !ours || slices.Contains(dead, owner) {
			former = append(former, owner)
		}
	}
	return former
}

// disown takes owners away, and whatever else is named as an owner.
func (b *planner) disown(o gpipsec.Object, former []gpipsec.Ref) {
	change := Change{DeleteValues, Attribute{Name: gpipsec.OwnersAttribute}}
	for _, r := range former {
		change.Values = append(change.Values, b.written(o.Ref, gpipsec.OwnersAttribute, r)...)
	}
	if b.isBroken(o.Ref, gpipsec.OwnersAttribute) { // what leads nowhere has no name to take it away by
		stay := missing(append(slices.Clone(o.Owners), b.will[o.Ref].Owners...), former)
		change = Change{ReplaceValues, Attribute{gpipsec.OwnersAttribute, b.dnsOf(stay)}}
	} else if len(change.Values) == 0 {
		return
	}
	b.add(Step{Kind: StepModify, DN: b.dn(o.Ref), What: "take former owners from " + named(o), Changes: []Change{change}})
}

// replaced reports whether the policy has another object of the kind and name,
// or, for the action of a default response rule, none of it: that one has no
// name and no other use.
func (b *planner) replaced(o gpipsec.Object) bool {
	if predefined(o.Ref) {
		return false
	}
	if o.Class == gpipsec.ClassNegotiation && o.Name == "" {
		return true
	}
	for _, w := range b.will {
		if w.Class == o.Class && w.Name == o.Name && w.Ref != o.Ref {
			return true
		}
	}
	return false
}

// keeps says that other policies do not follow.
func (b *planner) keeps(o gpipsec.Object, users []gpipsec.Ref) {
	var names []string
	for _, rule := range users {
		for _, p := range b.referrers[rule] {
			if name := fmt.Sprintf("%q", b.at[p].Name); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	if len(names) > 0 {
		b.note("%s %q stays as it is for policy %s, which uses it too", o.Class, o.Name, strings.Join(names, ", "))
	}
}

// predefined reports whether an object is one of those that every Active
// Directory is born with.
func predefined(r gpipsec.Ref) bool {
	var guids []string
	for _, name := range policy.PredefinedNames() {
		p, ok := policy.Original(name)
		if !ok {
			continue
		}
		for _, l := range p.FilterLists {
			guids = append(guids, l.GUID)
		}
		for _, a := range p.FilterActions {
			guids = append(guids, a.GUID)
		}
	}
	return slices.Contains(guids, r.GUID.String())
}
