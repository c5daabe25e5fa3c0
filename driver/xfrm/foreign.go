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
// namespace; exempt is Config.Exempt. Policies of single sockets are left out.
func LookAtForeign(exempt uint32) (Foreign, error) {
	c, err := dial()
	if err != nil {
		return Foreign{}, fmt.Errorf("xfrm: %w", err)
	}
	defer c.Close()
	e := &engine{cfg: Config{Exempt: exempt}.withDefaults(), link: link{c}}
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
			s := p.Selector
			words := fmt.Sprintf("%s %s -> %s, priority %d", p.Dir, s.Src, s.Dst, p.Priority)
			f.Policies = append(f.Policies, ForeignPolicy{words, p.Priority, p.Priority < least})
		}
	}
	for _, s := range states {
		if e.oursState(s) {
			f.OurStates++
			continue
		}
		f.States = append(f.States, fmt.Sprintf("%s from %s to %s, SPI %s", s.ID.Proto, s.Src, s.ID.Dst, s.ID.SPI))
	}
	return f
}
