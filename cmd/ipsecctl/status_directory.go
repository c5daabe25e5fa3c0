package main

import (
	"fmt"

	"ipsecagent/agent/control"
)

// directoryLine says how it stands with the directory.
func directoryLine(p *printer, d *control.DirectoryStatus) string {
	assigns := "it assigns no policy"
	if d.Assigned != "" {
		assigns = fmt.Sprintf("it assigns %s", d.Assigned)
	}
	next := ""
	if !d.Next.IsZero() {
		next = ", asked again " + p.in(d.Next)
	}
	switch d.State {
	case control.DirectoryFresh:
		site := ""
		if d.Site != "" {
			site = fmt.Sprintf(" (site %s)", d.Site)
		}
		server := d.Server
		if server == "" {
			server = "the server"
		}
		return fmt.Sprintf("%s%s answers: %s, confirmed %s%s", server, site, assigns, p.ago(d.Confirmed), next)
	case control.DirectoryPending:
		if d.Server == "" {
			return "it has not been heard yet" + next
		}
		return d.Server + " assigns no policy; that counts when it says so again" + next
	}
	said := "not heard since the agent has started"
	if !d.Since.IsZero() {
		said = fmt.Sprintf("last heard %s", p.ago(d.Confirmed))
	}
	return fmt.Sprintf("%s, %s%s (see problems)", d.State, said, next)
}

// sourceWords says who assigned the policy in force, if that is not the
// administrator of this host.
func sourceWords(p *printer, s control.Status) string {
	switch {
	case s.Policy.From == "persistent":
		return "the persistent policy: nothing else is assigned"
	case s.Policy.From != "directory":
		return ""
	case s.Policy.Cached && s.Directory != nil && !s.Directory.Copied.IsZero():
		return fmt.Sprintf("assigned by the directory; the copy kept %s, for the directory does not say so now", p.ago(s.Directory.Copied))
	case s.Policy.Cached:
		return "assigned by the directory; the last that it said"
	}
	return "assigned by the directory, which overrides what is assigned on this host"
}
