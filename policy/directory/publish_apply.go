package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ipsecagent/policy/gpipsec"
)

// editor changes a directory: a Session, and what tests put in its place.
type editor interface {
	Add(ctx context.Context, dn string, attributes []Attribute) error
	Modify(ctx context.Context, dn string, changes ...Change) error
	Delete(ctx context.Context, dn string) error
	// refers reports whether any policy object refers to dn by an attribute.
	refers(ctx context.Context, attribute, dn string) (bool, error)
	// assigns reports whether anything assigns the policy dn.
	assigns(ctx context.Context, dn string) (bool, error)
	// names returns which policy objects are there.
	names(ctx context.Context) (map[gpipsec.Ref]bool, error)
}

// refers looks for references to an entry.
func (s *Session) refers(ctx context.Context, attribute, dn string) (bool, error) {
	found, err := s.Search(ctx, Query{Base: s.Container(), Scope: OneLevel, Filter: "(" + attribute + "=" + Escape(dn) + ")", Attributes: []string{attrClass}})
	return len(found) > 0, err
}

// names asks for the names of the container's objects.
func (s *Session) names(ctx context.Context) (map[gpipsec.Ref]bool, error) {
	found, err := s.Search(ctx, Query{Base: s.Container(), Scope: OneLevel, Attributes: []string{"cn"}})
	all := map[gpipsec.Ref]bool{}
	for _, e := range found {
		if ref, err := gpipsec.ReadDN(e.DN); err == nil {
			all[ref] = true
		}
	}
	return all, err
}

// ErrLeftovers: something was written that nothing refers to, or something that
// is no longer needed was not removed. The next publishing of the policy, or a
// repair, removes it.
var ErrLeftovers = errors.New("objects that nothing needs are left in the directory; publishing again, or fsck --repair, removes them")

// undoTime is how long taking back may take, whatever became of the rest. It
// ends with the first step that fails.
const undoTime = 10 * time.Minute

// Apply carries a plan out. If a step up to the commit fails, those before it
// are taken back; if one behind it fails, or taking back does, the error is
// ErrLeftovers as well. Applied reports whether what is new is in force.
func (s *Session) Apply(ctx context.Context, p Plan) (applied bool, err error) {
	return apply(ctx, s, p)
}

func apply(ctx context.Context, to editor, p Plan) (applied bool, err error) {
	for i, s := range p.Steps {
		var err error
		if i == p.Commit {
			err = present(ctx, to, p.Steps[:i], &p.Steps[i])
		}
		if err == nil {
			err = s.do(ctx, to)
		}
		if err != nil {
			err = fmt.Errorf("directory: %s: %w", s.What, err)
			switch {
			case p.Commit < 0:
				return false, err
			case i > p.Commit:
				return true, errors.Join(err, ErrLeftovers)
			}
			return false, errors.Join(err, takeBack(ctx, to, p.Steps[:i]))
		}
	}
	return p.Commit >= 0, nil
}

// present fails if any of the policy objects that steps have added, or that they
// and the commit refer to, is gone: some servers let a policy refer to what is
// not there, and hosts could not read it.
func present(ctx context.Context, to editor, steps []Step, commit *Step) error {
	needed := commit.refers()
	for i := range steps {
		if s := &steps[i]; s.Kind == StepAdd {
			needed = append(needed, s.DN)
		}
		needed = append(needed, steps[i].refers()...)
	}
	needed = slices.DeleteFunc(needed, func(dn string) bool { _, err := gpipsec.ReadDN(dn); return err != nil })
	if len(needed) == 0 {
		return nil
	}
	there, err := to.names(ctx)
	if err != nil {
		return err
	}
	for _, dn := range needed {
		if ref, _ := gpipsec.ReadDN(dn); !there[ref] {
			return fmt.Errorf("%w: %q, which is needed: somebody has removed it", ErrNotFound, dn)
		}
	}
	return nil
}

// refers returns what an entry refers to anew by a step.
func (s *Step) refers() []string {
	all := slices.Clone(s.Attributes)
	for _, c := range s.Changes {
		if c.Kind != DeleteValues {
			all = append(all, c.Attribute)
		}
	}
	var dns []string
	for _, a := range all {
		if _, ok := gpipsec.ReferredClass(a.Name); ok {
			dns = append(dns, text(a.Values)...)
		}
	}
	return dns
}

func (s *Step) do(ctx context.Context, to editor) error {
	switch s.Kind {
	case StepAdd:
		return to.Add(ctx, s.DN, s.Attributes)
	case StepModify:
		return to.Modify(ctx, s.DN, s.Changes...)
	}
	var used bool
	var err error
	switch {
	case s.unassigned:
		if used, err = to.assigns(ctx, s.DN); used {
			return fmt.Errorf("%w: it has just been assigned", ErrInUse)
		}
	case s.unless != "":
		used, err = to.refers(ctx, s.unless, s.DN)
	}
	if err != nil || used { // used: somebody has just begun to
		return err
	}
	return to.Delete(ctx, s.DN)
}

// takeBack undoes steps, the last one first.
func takeBack(ctx context.Context, to editor, steps []Step) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	for i := len(steps) - 1; i >= 0; i-- {
		var err error
		switch s := steps[i]; s.Kind {
		case StepAdd:
			err = to.Delete(ctx, s.DN)
		case StepModify:
			err = to.Modify(ctx, s.DN, s.undo...)
		}
		if err != nil && !errors.Is(err, ErrNotFound) { // what is gone needs no taking back
			return fmt.Errorf("taking back %q: %w: %w", steps[i].What, err, ErrLeftovers)
		}
	}
	return nil
}
