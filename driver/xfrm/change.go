package xfrm

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"ipsecagent/driver/xfrm/wire"
)

// step is one message to the kernel and what takes it back.
type step struct {
	typ    uint16
	policy wire.Policy
	before *wire.Policy // of an update or a deletion
}

// plan returns the steps from what is in force to what is wanted: from the top
// down what comes or changes, then from the bottom up what goes.
func plan(have map[key]wire.Policy, want []wire.Policy) []step {
	var steps []step
	wanted := make(map[key]bool, len(want))
	for _, p := range want {
		k := keyOf(p)
		wanted[k] = true
		old, there := have[k]
		switch {
		case !there:
			steps = append(steps, step{typ: wire.MsgNewPolicy, policy: p})
		case !same(old, p):
			steps = append(steps, step{typ: wire.MsgUpdatePolicy, policy: p, before: &old})
		}
	}
	var gone []step
	for k, p := range have {
		if !wanted[k] {
			gone = append(gone, step{typ: wire.MsgDelPolicy, policy: p, before: &p})
		}
	}
	slices.SortFunc(gone, func(a, b step) int { return cmp.Compare(b.policy.Priority, a.policy.Priority) })
	return append(steps, gone...)
}

// carry sends steps. On an error those sent are taken back, in reverse.
func (e *engine) carry(steps []step) error {
	for i, s := range steps {
		if err := e.send(s); err != nil {
			e.stray()
			return errors.Join(err, e.takeBack(steps[:i]))
		}
	}
	return nil
}

// stray notes that a change has failed. Taking it back may have failed, too, and
// what an answer says that was lost nobody knows: until all of it has been looked
// at and put in force anew, nothing counts as in force.
func (e *engine) stray() { e.suspect, e.astray = true, true }

func (e *engine) takeBack(steps []step) error {
	for _, s := range slices.Backward(steps) {
		undo := step{typ: wire.MsgDelPolicy, policy: s.policy}
		switch s.typ {
		case wire.MsgUpdatePolicy:
			undo = step{typ: wire.MsgUpdatePolicy, policy: *s.before}
		case wire.MsgDelPolicy:
			undo = step{typ: wire.MsgNewPolicy, policy: *s.before}
		}
		if err := e.send(undo); err != nil {
			return fmt.Errorf("take back what was done: %w", err)
		}
	}
	return nil
}

// send makes one step and keeps the account of what is in force.
func (e *engine) send(s step) error {
	p := asOf(s.policy, now())
	if s.typ == wire.MsgDelPolicy {
		if err := e.link.deletePolicy(p); err != nil {
			return fmt.Errorf("delete the policy %s: %w", describe(p), err)
		}
		delete(e.have, keyOf(p))
		return nil
	}
	err := e.link.request(s.typ, p.Append(nil))
	if errors.Is(err, unix.EEXIST) {
		e.suspect = true
		return fmt.Errorf("write the policy %s: another program has made one with this selector and mark (ip xfrm policy): delete it there: %w", describe(p), err)
	}
	if err != nil {
		return fmt.Errorf("write the policy %s: %w", describe(p), err)
	}
	e.have[keyOf(p)] = p
	return nil
}

// describe names a policy as "ip xfrm policy" does.
func describe(p wire.Policy) string {
	return fmt.Sprintf("%s %s -> %s protocol %d priority %d", p.Dir, p.Selector.Src, p.Selector.Dst, p.Selector.Proto, p.Priority)
}

// ours reports whether a policy was made by this driver: it looks at the exempt
// mark, or at that of an earlier process whose policies are in force.
func (e *engine) ours(p wire.Policy) bool {
	mark := p.Mark.Mask &^ variantBits
	return p.Mark.Value == 0 && p.IfID == 0 && (mark == e.cfg.Exempt || slices.Contains(e.marks, mark))
}

// policiesOf returns all policies that are in force with a list, in order.
func (e *engine) policiesOf(l *list) []wire.Policy {
	return append(slices.Clone(e.exempt), l.policies()...)
}

// apply puts a list in force and remembers it.
func (e *engine) apply(l *list) error {
	if err := e.carry(plan(e.have, e.policiesOf(l))); err != nil {
		return err
	}
	e.list = l
	e.places = make(map[string]standing, len(l.items))
	for _, it := range l.items {
		e.places[it.name] = standing{Priority: it.priority, Variant: it.variant}
	}
	return nil
}
