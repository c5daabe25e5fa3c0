package directory

import (
	"fmt"
	"maps"
	"slices"
)

// check looks for group policy objects that were half made, or that assign a
// policy to nobody, and for links to what is not there. What the assignments
// name is checked with the policies.
func (g *groupPolicy) check(base string) []Finding {
	var all []Finding
	for i := range g.objects {
		all = append(all, g.checkObject(&g.objects[i])...)
	}
	return append(all, g.checkLinks(base)...)
}

// checkObject looks at one group policy object, if it has to do with IPsec.
func (g *groupPolicy) checkObject(o *Entry) []Finding {
	assignment, says := g.assignments[foldDN(o.DN)], extends(o.get("gPCMachineExtensionNames"))
	if assignment == nil && !says {
		return nil
	}
	var all []Finding
	warn := func(format string, args ...any) {
		all = append(all, Finding{Object: fmt.Sprintf("group policy object %q", o.title()), Warning: true, Message: fmt.Sprintf(format, args...)})
	}
	if assignment == nil || assignment.get(attrOwners) == "" {
		warn("no policy is named in it: a tool was interrupted. Assign one, or unassign (--gpo)")
		if says {
			all[0].Message, all[0].Warning = "it says that it assigns an IPsec policy, but not which one: hosts that it is for keep what they have and complain. Assign one, or unassign (--gpo)", false
		}
	}
	if o.get("gPCFileSysPath") == "" {
		warn("it has no folder in SYSVOL (gPCFileSysPath is empty): Windows hosts that it is for take no group policy at all. Make another one with the tools of the domain, and delete this")
	}
	if why, err := o.idle(); err != nil {
		warn("%v", err)
	} else if why != "" {
		warn("no host with this program takes a policy from it: %s", why)
	}
	return all
}

// checkLinks looks for links to group policy objects that are not there or of
// another domain.
func (g *groupPolicy) checkLinks(base string) []Finding {
	there := map[string]bool{}
	for _, o := range g.objects {
		there[foldDN(o.DN)] = true
	}
	var all []Finding
	for _, gpo := range slices.Sorted(maps.Keys(g.links)) {
		if there[gpo] {
			continue
		}
		message := "it links to group policy object %q, which is not there, or this account may not see it: hosts pass over it. Take the link away with the tools of the domain"
		if !sameDN(domainOf(gpo), domainOf(base)) {
			message = "it links to group policy object %q of another domain: hosts with this program do not look there. If it assigns an IPsec policy, assign one by a group policy object of this domain"
		}
		for _, at := range g.links[gpo] {
			all = append(all, Finding{Object: fmt.Sprintf("%q", at), Warning: true, Message: fmt.Sprintf(message, gpo)})
		}
	}
	return all
}
