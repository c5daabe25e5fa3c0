package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"ipsecagent/policy/gpipsec"
)

// Target is what a policy is assigned to: exactly one of its fields is given.
type Target struct {
	// GPO is a group policy object, by its name, its GUID or its DN (Active
	// Directory).
	GPO string
	// OU is an organizational unit or the domain, by its DN, or by its name if
	// that is clear. In Active Directory it stands for the one group policy
	// object that is linked to it, and to nothing else.
	OU string
	// Host is a host or a group of hosts, by its DN or its name (elsewhere than
	// in Active Directory).
	Host string
}

// purpose is what a target is looked for: to assign this policy; "": to unassign
// what is there.
type purpose struct{ policy string }

// target finds the entry that has or will have the assignment.
func (s *Session) target(ctx context.Context, t Target, to purpose) (Entry, error) {
	ad := s.config.Kind == ActiveDirectory
	switch {
	case t.GPO != "" && !ad:
		return Entry{}, errors.New("this directory has no group policy: assign to a host, a group or an entry above them (--host, --ou)")
	case t.Host != "" && ad:
		return Entry{}, errors.New("single hosts are assigned no policy in Active Directory: use a group policy object (--gpo) that is linked to the host's organizational unit and whose security filtering names the host")
	case t.GPO != "":
		return s.findGPO(ctx, t.GPO)
	case t.OU != "":
		e, err := s.findEntry(ctx, t.OU, "(|(objectClass=organizationalUnit)(objectClass=domain)(objectClass=dcObject)(objectClass=organization)(objectClass=container))", "ou", "dc", "o", "cn")
		if err != nil || !ad {
			return e, err
		}
		return s.linkedGPO(ctx, &e, to)
	case t.Host != "":
		return s.findEntry(ctx, t.Host, "(objectClass=*)", "cn", "uid")
	}
	return Entry{}, errors.New("what to assign to is not said (--gpo, --ou or --host)")
}

// findEntry finds an entry by its DN, or by the value of one of these
// attributes.
func (s *Session) findEntry(ctx context.Context, name, filter string, attributes ...string) (Entry, error) {
	want := []string{attrClass, attrPointer, "gPLink"}
	if strings.Contains(name, "=") {
		return s.Read(ctx, name, want...)
	}
	var any strings.Builder
	for _, a := range attributes {
		any.WriteString("(" + a + "=" + Escape(name) + ")")
	}
	found, err := s.Search(ctx, Query{Base: s.Base(), Scope: Subtree, Filter: "(&" + filter + "(|" + any.String() + "))", Attributes: want, Limit: 20})
	if err != nil {
		return Entry{}, err
	}
	return only(found, name)
}

// only returns the one entry that was found under a name.
func only(found []Entry, name string) (Entry, error) {
	switch len(found) {
	case 0:
		return Entry{}, fmt.Errorf("%q: %w", name, ErrNotFound)
	case 1:
		return found[0], nil
	}
	var dns []string
	for _, e := range found {
		dns = append(dns, strconv.Quote(e.DN))
	}
	return Entry{}, fmt.Errorf("%q: %w: it may be any of %s; give the whole name", name, ErrAmbiguous, strings.Join(dns, ", "))
}

// gpoAttributes are read of a group policy object that is to be changed.
func gpoAttributes() []string {
	return []string{attrClass, "displayName", "versionNumber", "gPCMachineExtensionNames", "gPCFileSysPath", "gPCFunctionalityVersion", "flags", "gPCWQLFilter"}
}

// findGPO finds a group policy object.
func (s *Session) findGPO(ctx context.Context, name string) (Entry, error) {
	if strings.Contains(name, "=") {
		e, err := s.Read(ctx, name, gpoAttributes()...)
		if err == nil && !e.has(attrClass, "groupPolicyContainer") {
			err = fmt.Errorf("%q is no group policy object", e.DN)
		}
		return e, err
	}
	filter := "(displayName=" + Escape(name) + ")"
	if g, err := gpipsec.ParseGUID(name); err == nil {
		filter = "(cn=" + Escape(g.String()) + ")"
	}
	found, err := s.Search(ctx, Query{Base: policiesPath + s.Base(), Scope: OneLevel, Filter: "(&(objectClass=groupPolicyContainer)" + filter + ")", Attributes: gpoAttributes(), Limit: 20})
	if err != nil {
		return Entry{}, err
	}
	e, err := only(found, name)
	if err != nil {
		err = fmt.Errorf("group policy object %w", err)
	}
	return e, err
}

// ErrNotLinked: no group policy object is linked where a policy is to be
// assigned.
var ErrNotLinked = errors.New("no group policy object is linked there")

// ErrShared: the group policy object that is linked where a policy is to be
// assigned is linked elsewhere too.
var ErrShared = errors.New("it is for other hosts as well")

// linkedGPO is the group policy object that an organizational unit or the domain
// stands for: of those whose links there count the only one that assigns a
// policy, or else, to assign one, the only one. One that is linked elsewhere too
// would reach more hosts than were named.
func (s *Session) linkedGPO(ctx context.Context, at *Entry, to purpose) (Entry, error) {
	if kind := kindOfRDN(at.DN); kind != "OU" && kind != "DC" {
		return Entry{}, fmt.Errorf("%q is no organizational unit: hosts there get the group policy of what is above it alone. Move them to an organizational unit, or assign to the domain", at.DN)
	}
	all, err := s.linkedTo(ctx, at)
	if err != nil {
		return Entry{}, err
	}
	ours := slices.DeleteFunc(slices.Clone(all), func(e Entry) bool { return !extends(e.get("gPCMachineExtensionNames")) })
	switch {
	case len(ours) > 0:
		all = ours
	case to.policy == "":
		return Entry{}, fmt.Errorf("no group policy object that is linked to %q assigns a policy: %w", at.DN, ErrNothing)
	}
	switch len(all) {
	case 0:
		return Entry{}, fmt.Errorf("%q: %w. Make one%s", at.DN, ErrNotLinked, s.howToMake(at, to))
	case 1:
		return all[0], s.linkedHereAlone(ctx, &all[0], at)
	}
	var names []string
	for _, e := range all {
		names = append(names, strconv.Quote(e.title()))
	}
	err = fmt.Errorf("%d group policy objects are linked to %q: %w: say which (--gpo): %s", len(all), at.DN, ErrAmbiguous, strings.Join(names, ", "))
	if len(ours) == 0 {
		err = fmt.Errorf("%w. Or make one for the policy%s", err, s.howToMake(at, to))
	}
	return Entry{}, err
}

// linkedTo reads the group policy objects whose links to an entry count.
func (s *Session) linkedTo(ctx context.Context, at *Entry) ([]Entry, error) {
	links, err := parseLinks(at.get("gPLink"))
	if err != nil {
		return nil, fmt.Errorf("%q: %w", at.DN, err)
	}
	var all []Entry
	for _, l := range links {
		if l.disabled {
			continue
		}
		gpo, err := s.Read(ctx, l.gpo, gpoAttributes()...)
		switch {
		case errors.Is(err, ErrNotFound), errors.Is(err, ErrReferral): // it is gone, or of another domain
		case err != nil:
			return nil, err
		default:
			all = append(all, gpo)
		}
	}
	return all, nil
}

// linkedHereAlone refuses to change what hosts elsewhere get.
func (s *Session) linkedHereAlone(ctx context.Context, gpo, at *Entry) error {
	links, err := s.allLinks(ctx)
	if err != nil {
		return err
	}
	var elsewhere []string
	for _, dn := range links[foldDN(gpo.DN)] {
		if !sameDN(dn, at.DN) {
			elsewhere = append(elsewhere, strconv.Quote(dn))
		}
	}
	if len(elsewhere) == 0 {
		return nil
	}
	return fmt.Errorf("group policy object %q, linked to %q: %w, those of %s. If that is meant, say --gpo %s", gpo.title(), at.DN, ErrShared, strings.Join(elsewhere, ", "), quoted(gpo.title()))
}

// howToMake returns the commands that make a group policy object, link it and
// assign a policy by it. They are left to the tools of the domain: it has a
// folder in SYSVOL, too, which is reached by SMB, and a Windows computer that does
// not find it takes no group policy at all (event 1058).
func (s *Session) howToMake(at *Entry, to purpose) string {
	name, server := "IPsec "+nameOfRDN(at.DN), "-H ldap://"+s.server+" -U Administrator"
	return strings.Join([]string{
		" with the tools of the domain, which make its folder in SYSVOL too, where LDAP does not reach and without which Windows hosts take no group policy at all:",
		fmt.Sprintf("  Windows:  New-GPO -Name %s | New-GPLink -Target %s", quotedPS(name), quotedPS(at.DN)),
		fmt.Sprintf("  Samba:    samba-tool gpo setlink %s \"$(samba-tool gpo create %s %s | grep -o '{.*}')\" %s", quoted(at.DN), quoted(name), server, server),
		fmt.Sprintf("  then:     ipsecctl directory assign %s --gpo %s", quoted(to.policy), quoted(name)),
	}, "\n")
}

// quoted puts a name in quotes for the shell, quotedPS for PowerShell.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func quotedPS(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
