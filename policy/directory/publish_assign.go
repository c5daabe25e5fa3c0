package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"ipsecagent/policy/gpipsec"
)

// toolExtension is the tool that edits the IPsec part of a group policy object.
const toolExtension = "{DEA8AFA0-CC85-11D0-9CE2-0080C7221EBD}"

// pointerClass is the class that lets an entry point to a policy.
const pointerClass = "ipsecAssignment"

// ErrNothing: there is nothing to unassign.
var ErrNothing = errors.New("nothing is assigned there")

// PlanAssign says what assigning a policy, by its name or GUID, would do.
func (s *Session) PlanAssign(ctx context.Context, name string, to Target) (Plan, error) {
	c, err := s.contents(ctx)
	if err != nil {
		return Plan{}, err
	}
	o, err := c.policyNamed(name)
	if err != nil {
		return Plan{}, err
	}
	e, err := s.target(ctx, to, purpose{name})
	if err != nil {
		return Plan{}, err
	}
	if s.config.Kind == LDAP {
		return pointing(&e, o, c.dn(o.Ref)), nil
	}
	return s.planGPO(ctx, &e, o, c.dn(o.Ref))
}

// PlanUnassign says what taking away whatever is assigned there would do.
func (s *Session) PlanUnassign(ctx context.Context, from Target) (Plan, error) {
	e, err := s.target(ctx, from, purpose{})
	if err != nil {
		return Plan{}, err
	}
	if s.config.Kind == LDAP {
		return unpointing(&e)
	}
	return s.planClear(ctx, &e)
}

// extends reports whether extension names say that there is an IPsec part.
func extends(names string) bool { return strings.Contains(strings.ToUpper(names), "["+extension) }

// pointing makes an entry point to a policy.
func pointing(e *Entry, o *gpipsec.Object, dn string) Plan {
	if sameDN(e.get(attrPointer), dn) {
		return Plan{Commit: -1}
	}
	s := Step{Kind: StepModify, DN: e.DN, What: fmt.Sprintf("assign %s to %q", named(*o), e.DN)}
	if !e.has(attrClass, pointerClass) {
		s.Changes = append(s.Changes, Change{AddValues, Attribute{attrClass, texts(pointerClass)}})
	}
	s.Changes = append(s.Changes, Change{ReplaceValues, Attribute{attrPointer, texts(dn)}})
	return Plan{Steps: []Step{s}}
}

// unpointing takes the pointer away.
func unpointing(e *Entry) (Plan, error) {
	if e.get(attrPointer) == "" {
		return Plan{}, fmt.Errorf("%q: %w", e.DN, ErrNothing)
	}
	s := Step{Kind: StepModify, DN: e.DN, What: fmt.Sprintf("unassign %q from %q", e.get(attrPointer), e.DN),
		Changes: []Change{{ReplaceValues, Attribute{Name: attrPointer}}}}
	if e.has(attrClass, pointerClass) {
		s.Changes = append(s.Changes, Change{DeleteValues, Attribute{attrClass, texts(pointerClass)}})
	}
	return Plan{Steps: []Step{s}}, nil
}

// planGPO writes the assignment of a group policy object ([MS-GPIPSEC] 3.1.4.1):
// first the object that names the policy, then that there is one.
func (s *Session) planGPO(ctx context.Context, gpo *Entry, o *gpipsec.Object, dn string) (Plan, error) {
	have, missing, err := s.assignmentOf(ctx, gpo)
	if err != nil {
		return Plan{}, err
	}
	p := Plan{Commit: -1}
	for _, dn := range missing {
		class := "container"
		if strings.EqualFold(dn, assignmentPath+gpo.DN) {
			class = string(gpipsec.ClassPolicy)
		}
		p.Steps = append(p.Steps, Step{Kind: StepAdd, DN: dn, What: fmt.Sprintf("add %q", dn), Attributes: []Attribute{{attrClass, texts("top", class)}}})
	}
	if sameDN(have.get(attrOwners), dn) && have.get(attrName) == o.Name && extends(gpo.get("gPCMachineExtensionNames")) {
		return Plan{Commit: -1}, nil
	}
	say := Step{Kind: StepModify, DN: assignmentPath + gpo.DN, What: fmt.Sprintf("assign %s in group policy object %q", named(*o), gpo.title())}
	for _, v := range [][2]string{{attrOwners, dn}, {attrName, o.Name}, {"description", o.Description}} {
		name, value := v[0], v[1]
		a := Attribute{Name: name}
		if value != "" {
			a.Values = texts(value)
		}
		if value != "" || have.get(name) != "" {
			say.change(Change{ReplaceValues, a}, Change{ReplaceValues, Attribute{name, have.Values(name)}})
		}
	}
	change, version, err := gpo.raised(true)
	if err != nil {
		return Plan{}, err
	}
	p.Commit = len(p.Steps) + 1
	p.Steps = append(p.Steps, say, change)
	p.Notes = gpo.sysvolNote(version)
	return p, s.noteObstacles(ctx, gpo, &p)
}

// noteObstacles notes why no host takes what a group policy object assigns, if
// that is so.
func (s *Session) noteObstacles(ctx context.Context, gpo *Entry, p *Plan) error {
	why, err := gpo.idle()
	if err != nil {
		return err
	}
	if why != "" {
		p.Notes = append(p.Notes, fmt.Sprintf("no host takes the policy from group policy object %q: %s", gpo.title(), why))
	}
	links, err := s.allLinks(ctx)
	if err == nil && len(links[foldDN(gpo.DN)]) == 0 {
		p.Notes = append(p.Notes, fmt.Sprintf("group policy object %q is linked to nothing: no host has the policy until it is", gpo.title()))
	}
	return err
}

// assignmentOf returns the entry that says what a group policy object assigns,
// empty if there is none, and which entries on the way to it are missing.
func (s *Session) assignmentOf(ctx context.Context, gpo *Entry) (have Entry, missing []string, err error) {
	path := strings.Split(strings.TrimSuffix(assignmentPath, ","), ",")
	for i := len(path) - 1; i >= 0; i-- {
		dn := strings.Join(append(slices.Clone(path[i:]), gpo.DN), ",")
		have, err = s.Read(ctx, dn, attrClass, attrOwners, attrName, "description")
		if errors.Is(err, ErrNotFound) {
			missing = append(missing, dn)
			continue
		}
		if err != nil {
			return Entry{}, nil, err
		}
	}
	if len(missing) > 0 {
		have = Entry{DN: assignmentPath + gpo.DN}
	}
	return have, missing, nil
}

// planClear takes the assignment out of a group policy object.
func (s *Session) planClear(ctx context.Context, gpo *Entry) (Plan, error) {
	have, missing, err := s.assignmentOf(ctx, gpo)
	if err != nil {
		return Plan{}, err
	}
	said := extends(gpo.get("gPCMachineExtensionNames"))
	if !said && len(missing) > 0 {
		return Plan{}, fmt.Errorf("group policy object %q: %w", gpo.title(), ErrNothing)
	}
	change, version, err := gpo.raised(false)
	if err != nil {
		return Plan{}, err
	}
	p := Plan{Steps: []Step{change}, Notes: gpo.sysvolNote(version)}
	if len(missing) == 0 {
		p.Steps = append(p.Steps, Step{Kind: StepDelete, DN: have.DN, What: fmt.Sprintf("delete the assignment of group policy object %q", gpo.title())})
	}
	return p, nil
}

// title names a group policy object for people.
func (e *Entry) title() string {
	if name := e.get("displayName"); name != "" {
		return name
	}
	return e.DN
}

// raised changes whether a group policy object has an IPsec part, and raises its
// version for computers, by which hosts notice.
func (e *Entry) raised(present bool) (Step, uint64, error) {
	before, err := e.number("versionNumber")
	if err != nil {
		return Step{}, 0, err
	}
	names, err := withExtension(e.get("gPCMachineExtensionNames"), present)
	if err != nil {
		return Step{}, 0, fmt.Errorf("%q: %w", e.DN, err)
	}
	version := nextVersion(uint32(before))
	s := Step{Kind: StepModify, DN: e.DN, What: fmt.Sprintf("raise the version of group policy object %q", e.title())}
	s.exchange(e, "gPCMachineExtensionNames", names)
	s.exchange(e, "versionNumber", fmt.Sprint(int32(version)))
	return s, uint64(version), nil
}

// exchange puts one value, "" for none, in the place of what an entry has. The
// old one is taken away by its value: should another tool have changed it
// meanwhile, the server refuses the step.
func (s *Step) exchange(e *Entry, name, value string) {
	before := e.Values(name)
	if e.get(name) == value && len(before) <= 1 {
		return
	}
	if len(before) > 0 {
		s.take(name, before)
	}
	if value != "" {
		s.put(name, texts(value))
	}
}

// nextVersion raises the half for computers, which is never 0 then: that means
// empty.
func nextVersion(v uint32) uint32 {
	const computers = 0xffff
	next := (v + 1) & computers
	if next == 0 {
		next = 1
	}
	return v&^computers | next
}

// withExtension puts the IPsec part among the extension names of a group policy
// object, sorted as Windows wants them, or takes it out ([MS-GPOL] 2.2.4).
func withExtension(names string, present bool) (string, error) {
	const most = 1 << 16 // bytes: each extension of Windows has 78
	if len(names) > most {
		return "", fmt.Errorf("%w: gPCMachineExtensionNames of %d bytes", errAttribute, len(names))
	}
	var all []string
	for rest := strings.TrimSpace(names); rest != ""; {
		end := strings.IndexByte(rest, ']')
		if rest[0] != '[' || end < 0 {
			return "", fmt.Errorf("%w: gPCMachineExtensionNames %q", errAttribute, names)
		}
		if one := rest[:end+1]; !extends(one) {
			all = append(all, one)
		}
		rest = strings.TrimSpace(rest[end+1:])
	}
	if present {
		all = append(all, "["+extension+toolExtension+"]")
	}
	slices.SortFunc(all, func(a, b string) int { return strings.Compare(strings.ToUpper(a), strings.ToUpper(b)) })
	return strings.Join(all, ""), nil
}

// sysvolNote says what Windows hosts need beside the directory: the version also
// stands in a file that LDAP does not reach.
func (e *Entry) sysvolNote(version uint64) []string {
	path := e.get("gPCFileSysPath")
	if path == "" {
		return nil
	}
	return []string{fmt.Sprintf(`Windows hosts compare the version with a file: set Version=%d in %s\gpt.ini`, version, path)}
}

// ComputerNamed returns how Resolve and Check know the computer that people call
// by a name: its short or full DNS name, its account, or its entry.
func (s *Session) ComputerNamed(ctx context.Context, name string) (string, error) {
	if s.config.Kind == LDAP {
		e, err := s.findEntry(ctx, name, "(objectClass=*)", "cn", "uid")
		return e.DN, err
	}
	switch {
	case strings.ContainsAny(name, "$/"):
		return name, nil
	case strings.Contains(name, "."):
		return "host/" + name, nil
	}
	return strings.ToUpper(name) + "$", nil
}
