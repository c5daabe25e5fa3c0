package directory

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"ipsecagent/policy"
	"ipsecagent/policy/gpipsec"
)

// Finding is one thing that is wrong with the policies of a directory.
type Finding struct {
	// Object names what it is about.
	Object string
	// Message is what is wrong, what follows from it and what to do.
	Message string
	// Warning: hosts can work nevertheless.
	Warning bool
	// Repair are the steps that put it right; nil: somebody has to decide how.
	Repair []Step
}

// String returns "object: message".
func (f Finding) String() string { return f.Object + ": " + f.Message }

// Check looks for what is wrong: references that lead nowhere or are missing,
// objects that cannot be read or understood, assignments of what is not there,
// preshared keys in clear. In Active Directory it asks whether a computer can
// read the policies: the one that is named as in Config.Computer, or, without,
// one that is in no group but Domain Computers.
func (s *Session) Check(ctx context.Context, computer string) ([]Finding, error) {
	c, err := s.contents(ctx)
	if err != nil {
		return nil, err
	}
	if s.config.Kind != ActiveDirectory {
		assigned, err := s.pointers(ctx)
		if err != nil {
			return nil, err
		}
		return c.check(assigned, ""), nil
	}
	g, err := s.groupPolicy(ctx)
	if err != nil {
		return nil, err
	}
	advice := accessAdvice(c.container, s.config.Domain)
	all := append(c.check(g.assigned(), "\n"+advice), g.check(s.Base())...)
	if len(c.objects) == 0 {
		all = append(all, Finding{Object: c.container, Message: "this account sees no policy there, while every Active Directory is born with some. This gives computers the right to read, once for all policies:\n" + advice})
	}
	closed, err := s.checkAccess(ctx, computer)
	return append(all, closed...), err
}

// RepairPlan is the plan that repairs all findings that can be.
func RepairPlan(findings []Finding) Plan {
	p := Plan{Commit: -1}
	for _, f := range findings {
		p.Steps = append(p.Steps, f.Repair...)
	}
	return p
}

// checker looks at the contents of a container.
type checker struct {
	*contents
	found []Finding
	gone  map[gpipsec.Ref]bool // what the repairs remove
	// coming is what somebody may be publishing just now.
	coming map[gpipsec.Ref]bool
}

func (c *checker) fail(object, format string, args ...any) {
	c.found = append(c.found, Finding{Object: object, Message: fmt.Sprintf(format, args...)})
}

// warn reports something that hosts can live with, and how to repair it.
func (c *checker) warn(object string, repair []Step, format string, args ...any) {
	c.found = append(c.found, Finding{Object: object, Message: fmt.Sprintf(format, args...), Warning: true, Repair: repair})
}

// check looks at everything but access; advice is how to get the right to read.
func (c *contents) check(assigned []Assigned, advice string) []Finding {
	k := &checker{contents: c, gone: map[gpipsec.Ref]bool{}, coming: map[gpipsec.Ref]bool{}}
	k.assignments(assigned)
	if len(c.sealed) > 0 {
		k.fail(fmt.Sprintf("%d objects, %s for one", len(c.sealed), c.describe(c.sealed[0])),
			"this account sees that they are there and may not read them: use one that may, or give computers the right. Nothing else about them was checked%s", advice)
		return k.found
	}
	k.brokenValues()
	k.orphans()
	k.owners()
	k.meaning()
	k.keys()
	return k.found
}

// assignments looks for those of a policy that is not there.
func (c *checker) assignments(all []Assigned) {
	for _, a := range all {
		ref, err := gpipsec.ReadDN(a.Policy)
		o := c.at[ref]
		object := fmt.Sprintf("the assignment at %q", a.Name)
		switch {
		case err != nil:
			c.fail(object, "it names %q, which is no policy: assign one, or unassign", a.Policy)
		case o == nil && below(a.Policy, c.container):
			c.fail(object, "it names %q, which is not there, or this account may not see it: hosts that it is for keep what they have and complain. Assign another policy, or unassign", a.Policy)
		case a.Silent:
			c.warn(object, nil, "it names %q, but the group policy object does not say that it has an IPsec part, so that no host looks: assign it again, or unassign", a.Policy)
		case o != nil && a.PolicyName != "" && a.PolicyName != o.Name:
			c.warn(object, nil, "it calls the policy %q, whose name is %q now: assign it again", a.PolicyName, o.Name)
		}
	}
}

// brokenValues are values that make no sense: mostly references to what was
// deleted.
func (c *checker) brokenValues() {
	for _, b := range c.broken {
		o := c.at[b.of]
		if strings.EqualFold(b.attribute, gpipsec.OwnersAttribute) {
			step := Step{Kind: StepModify, DN: c.dn(b.of), What: "take references to nothing from " + named(*o),
				Changes: []Change{{ReplaceValues, Attribute{b.attribute, c.dnsOf(o.Owners)}}}}
			c.warn(named(*o), []Step{step}, "it names %q as an owner, which is no policy object or was deleted", b.value)
			continue
		}
		c.fail(named(*o), "%s is %q, which is no policy object or was deleted: publish the policy anew, or correct it with the tool that wrote it", b.attribute, b.value)
	}
}

// orphans are parts of policies that belong to none: rules and key exchange
// settings, then the actions of default response rules among them, which have no
// name.
func (c *checker) orphans() {
	for _, class := range []gpipsec.Class{gpipsec.ClassNFA, gpipsec.ClassISAKMP, gpipsec.ClassNegotiation} {
		for _, o := range c.objects {
			own := o.Class == class && (class != gpipsec.ClassNegotiation || o.Name == "") && o.GUID != gpipsec.VersionObject()
			if !own || len(c.users(o.Ref)) > 0 {
				continue
			}
			if c.fresh(o.Ref) {
				c.coming[o.Ref] = true
				c.warn(named(o), nil, "it belongs to no policy, and was made just now: somebody may be publishing what it belongs to. A quarter of an hour after it was made, --repair removes it")
				continue
			}
			c.gone[o.Ref] = true
			c.warn(named(o), []Step{c.deleting(o)},
				"it belongs to no policy: a tool was interrupted, or a policy was deleted without it")
		}
	}
}

// users are the objects that refer to one and stay.
func (c *checker) users(r gpipsec.Ref) []gpipsec.Ref {
	return slices.DeleteFunc(slices.Clone(c.referrers[r]), func(by gpipsec.Ref) bool { return c.gone[by] })
}

// owners are the references back.
func (c *checker) owners() {
	for _, o := range c.objects {
		if o.Class == gpipsec.ClassPolicy || c.gone[o.Ref] || c.coming[o.Ref] || o.GUID == gpipsec.VersionObject() {
			continue
		}
		lacks, former := missing(c.users(o.Ref), o.Owners), missing(o.Owners, c.users(o.Ref))
		var changes []Change
		var names []string
		for _, r := range lacks {
			names = append(names, "not "+c.describe(r))
			changes = append(changes, Change{AddValues, Attribute{gpipsec.OwnersAttribute, texts(c.dn(r))}})
		}
		for _, r := range former {
			names = append(names, c.describe(r)+", which does not refer to it")
			changes = append(changes, Change{DeleteValues, Attribute{gpipsec.OwnersAttribute, c.written(o.Ref, gpipsec.OwnersAttribute, r)}})
		}
		if len(changes) > 0 {
			c.warn(named(o), []Step{{Kind: StepModify, DN: c.dn(o.Ref), What: "correct the owners of " + named(o), Changes: changes}},
				"as its owners it names %s; Windows' tools go by that when they delete", strings.Join(names, "; "))
		}
	}
}

// meaning reports what hosts would make of the rest: of the objects as they
// are once repaired, so that nothing is said twice.
func (c *checker) meaning() {
	var repaired []gpipsec.Object
	for _, o := range c.objects {
		if c.gone[o.Ref] || c.coming[o.Ref] {
			continue
		}
		o.Owners = slices.DeleteFunc(c.users(o.Ref), func(r gpipsec.Ref) bool { return c.coming[r] })
		repaired = append(repaired, o)
	}
	r := gpipsec.Decode(repaired)
	for _, p := range r.Problems {
		if strings.Contains(p.Message, gpipsec.GUID{}.String()) {
			continue // a broken reference, which was reported
		}
		c.found = append(c.found, Finding{Object: p.Object, Message: p.Message, Warning: p.Warning})
	}
	for _, p := range r.Store.Policies {
		if err := policy.Validate(&p); err != nil {
			c.fail(fmt.Sprintf("policy %q", p.Name), "hosts refuse it: %v", err)
		}
	}
}

// keys are preshared keys that everybody can read who can read the policy.
func (c *checker) keys() {
	for _, s := range c.decoded.Secrets {
		rule := fmt.Sprintf("rule %q of policy %q", s.Rule, s.Policy)
		if s.Rule == "" {
			rule = fmt.Sprintf("the default response rule of policy %q", s.Policy)
		}
		c.warn(rule, nil, "it holds a preshared key in clear, which every computer that can read the policy can read: use Kerberos or certificates, or publish it with --key-names")
	}
}
