package directory

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"ipsecagent/policy"
	"ipsecagent/policy/gpipsec"
	"ipsecagent/sadb"
)

// PublishOptions are what publishing needs beside the policy.
type PublishOptions struct {
	// Names are the addresses of the DNS names in filters and tunnel settings:
	// Windows resolves a name once, when it is written.
	Names map[string][]netip.Addr
	// Keys are the texts of preshared keys by name. Everyone who can read the
	// policy can read them: give them only when that is meant.
	Keys map[string]sadb.Secret
	// KeyNames writes preshared keys by their names alone: hosts with this
	// program find them among their own, Windows does not.
	KeyNames bool
	// Rename lets a policy that is there under the same GUID get another name.
	Rename bool
}

func (o PublishOptions) encoding() gpipsec.Options {
	return gpipsec.Options{Names: o.Names, Keys: o.Keys, KeyNames: o.KeyNames}
}

// Plan is what is to be changed in a directory, step by step.
type Plan struct {
	// Steps before Commit are taken back should one fail; that step puts what
	// is new in force; those behind it remove what is no longer needed. -1:
	// nothing new comes in force. A plan without steps changes nothing.
	Steps  []Step
	Commit int
	// Warnings say what hosts will see differently, Notes what else is good to
	// know.
	Warnings, Notes []string
}

// StepKind is what a step does with its entry.
type StepKind uint8

// The kinds.
const (
	StepAdd StepKind = iota
	StepModify
	StepDelete
)

// Step is one change of a directory.
type Step struct {
	Kind StepKind
	DN   string
	// What says it in words: `add filter list "web" {…}`.
	What       string
	Attributes []Attribute // StepAdd
	Changes    []Change    // StepModify
	undo       []Change    // of a StepModify before the commit
	// unless is the attribute by which others may refer to what a StepDelete
	// deletes; one does: it stays.
	unless string
	// unassigned: a StepDelete of a policy fails if something assigns it.
	unassigned bool
}

// PlanPublish reads the container and says what publishing a policy would do.
// It fails if the policy cannot be written (gpipsec.Encode), if its name is not
// clear (ErrAmbiguous), if hosts could not read it (ErrOversized), or if this
// account cannot read all that is there.
func (s *Session) PlanPublish(ctx context.Context, p policy.Policy, o PublishOptions) (Plan, error) {
	c, err := s.contents(ctx)
	if err != nil {
		return Plan{}, err
	}
	return planPublish(c, p, o)
}

// contents reads the container.
func (s *Session) contents(ctx context.Context) (*contents, error) {
	entries, err := s.Objects(ctx)
	if err != nil {
		return nil, err
	}
	c := contentsOf(s.Container(), entries)
	c.now = s.config.Clock()
	return c, nil
}

// ErrNotPermitted: this account may not read what is to be changed, nor what may
// depend on it.
var ErrNotPermitted = errors.New("this account may not read all policy objects")

// whole refuses to change what cannot be read whole: what is not seen might
// refer to what is changed.
func (c *contents) whole() error {
	if len(c.sealed) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d of those below %s, %s for one; use an account that may read them all", ErrNotPermitted, len(c.sealed), c.container, c.describe(c.sealed[0]))
}

func planPublish(c *contents, p policy.Policy, o PublishOptions) (Plan, error) {
	if err := c.whole(); err != nil {
		return Plan{}, err
	}
	g, objects, warnings, err := graftOn(c, p, o)
	if err != nil {
		return Plan{}, err
	}
	b := &planner{graft: g, will: map[gpipsec.Ref]gpipsec.Object{}, plan: Plan{Commit: -1}}
	for _, w := range warnings {
		b.plan.Warnings = append(b.plan.Warnings, w.Error())
	}
	for _, o := range objects {
		b.will[o.Ref] = o
	}
	b.build(objects)
	return b.plan, readable(b.plan)
}

// maxObject bounds one object, in bytes: an answer of a server that is larger
// than a message is not read, by hosts nor by this program, whatever else the
// container holds.
const maxObject = gpipsec.MaxData

// ErrOversized: hosts could not read what was to be written.
var ErrOversized = errors.New("it is larger than hosts read")

// readable refuses a plan that would write what nobody can read any more.
func readable(p Plan) error {
	for _, s := range p.Steps {
		size := 0
		for _, a := range s.Attributes {
			size += sizeOf(a)
		}
		for _, c := range s.Changes {
			if c.Kind != DeleteValues {
				size += sizeOf(c.Attribute)
			}
		}
		if size > maxObject {
			return fmt.Errorf("%s: %w: %d bytes, of at most %d. Part a filter list that is too long into several, each with a rule of its own", s.What, ErrOversized, size, maxObject)
		}
	}
	return nil
}

// sizeOf is about what an attribute takes in a message.
func sizeOf(a Attribute) int {
	const framing = 16 // of a value and its length
	n := len(a.Name)
	for _, v := range a.Values {
		n += len(v) + framing
	}
	return n
}
