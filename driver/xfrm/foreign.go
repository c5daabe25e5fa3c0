package xfrm

import (
	"fmt"

	"ipsecagent/driver/xfrm/wire"
)

// Foreign is what others have in XFRM of a network namespace.
type Foreign struct {
	// Policies in words, those that decide before any filter first.
	Policies []ForeignPolicy
	// States in words.
	States []string
	// Marked are those of them, in words, that ask for the exempt mark or set it.
	Marked []string
	// Ours are how many policies and states the kernel driver has there.
	OurPolicies, OurStates int
}

// ForeignPolicy is a policy of another program.
type ForeignPolicy struct {
	Words    string
	Priority uint32
	// Before: it decides before policies of filters.
	Before bool
}

// LookAtForeign lists what others have in XFRM of the calling thread's network
// namespace. Ours is what a driver with this configuration would take up, also
// under an exempt mark of before. Policies of single sockets are left out.
func LookAtForeign(cfg Config) (Foreign, error) {
	c, err := dial()
	if err != nil {
		return Foreign{}, fmt.Errorf("xfrm: %w", err)
	}
	defer c.Close()
	e := &engine{cfg: cfg.withDefaults(), link: link{c}}
	e.marks = e.cfg.marksOfBefore()
	policies, err := e.link.policies()
	if err != nil {
		return Foreign{}, wrap(err, "look at policies of others")
	}
	states, err := e.link.states()
	if err != nil {
		return Foreign{}, wrap(err, "look at states of others")
	}
	return e.sort(policies, states), nil
}

// sort tells ours from others'.
func (e *engine) sort(policies []wire.Policy, states []wire.State) (f Foreign) {
	least := uint32(priorityFirst)
	for _, p := range policies {
		if e.ours(p) {
			f.OurPolicies++
			if p.Priority > priorityExempt {
				least = min(least, p.Priority)
			}
		}
	}
	for _, p := range policies {
		if !e.ours(p) {
			words := foreignWords(p)
			f.Policies = append(f.Policies, ForeignPolicy{words, p.Priority, p.Priority < least && p.IfID == 0})
			if exempt := e.cfg.Exempt; p.Mark.Mask&exempt != 0 && p.Mark.Value&^exempt == 0 {
				f.Marked = append(f.Marked, "the policy "+words)
			}
		}
	}
	for _, s := range states {
		if e.oursState(s) {
			f.OurStates++
			continue
		}
		words := fmt.Sprintf("%s from %s to %s, SPI %s", s.ID.Proto, s.Src, s.ID.Dst, s.ID.SPI)
		f.States = append(f.States, words)
		if s.SetMark.Value&e.cfg.Exempt != 0 {
			f.Marked = append(f.Marked, fmt.Sprintf("the association %s, whose packets get mark %#x", words, s.SetMark.Value))
		}
	}
	return f
}

// foreignWords is a policy in words, with what narrows it beside its selector.
func foreignWords(p wire.Policy) string {
	words := fmt.Sprintf("%s %s -> %s, priority %d", p.Dir, p.Selector.Src, p.Selector.Dst, p.Priority)
	if p.Mark.Mask != 0 {
		words += fmt.Sprintf(", mark %#x/%#x", p.Mark.Value, p.Mark.Mask)
	}
	if p.IfID != 0 {
		words += fmt.Sprintf(", interface ID %d", p.IfID)
	}
	return words
}
