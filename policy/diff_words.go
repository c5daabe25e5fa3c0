package policy

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"ipsecagent/sadb"
)

// described is an object as its fields in words, in order.
type described struct {
	name   string
	fields []field
}

// field is one setting in the words of the policy document; "": left out. many:
// it is one of several of that name.
type field struct {
	name, value string
	many        bool
}

// described returns everything that a policy says but its tests: what is left out
// as what it means.
func (p *Policy) described() []described {
	k, _ := p.effectiveKeyExchange(false)
	all := []described{
		{"policy", []field{{name: "name", value: p.Name}, {name: "guid", value: p.GUID}, {name: "description", value: p.Description},
			{name: "pollingInterval", value: cmp.Or(p.PollingInterval, defaultPolling).String()}, {name: "uplift", value: yes(p.Uplift)},
			{name: "mode", value: p.Mode.String()}, {name: "reportUntil", value: deadlineWords(p.ReportUntil)}}},
		{"key exchange", []field{{name: "methods", value: joined(k.Methods)}, {name: "lifetime", value: duration(k.Lifetime)},
			{name: "sessions", value: number0(k.Sessions)}, {name: "masterKeyPFS", value: yes(k.MasterKeyPFS)}}},
	}
	for i := range p.Rules {
		all = append(all, p.Rules[i].described())
	}
	for i := range p.FilterLists {
		all = append(all, p.FilterLists[i].described())
	}
	for i := range p.FilterActions {
		all = append(all, p.FilterActions[i].described())
	}
	return append(all, p.DefaultResponse.described())
}

func (d *DefaultResponse) described() described {
	methods := d.Methods
	if d.Active && len(methods) == 0 {
		methods = modernMethods()
	}
	return described{"default response rule", []field{{name: "active", value: yes(d.Active)},
		{name: "methods", value: joined(methods)}, {name: "authentication", value: authenticationWords(d.Authentication)},
		{name: "sessionKeyPFS", value: pfs(d.SessionKeyPFS, d.PFSGroup)}}}
}

func (r *Rule) described() described {
	d := described{name: fmt.Sprintf("rule %q", r.label()), fields: []field{
		{name: "guid", value: r.GUID}, {name: "description", value: r.Description}, {name: "disabled", value: yes(r.Disabled)},
		{name: "filterList", value: r.FilterList}, {name: "filterAction", value: r.FilterAction},
		{name: "authentication", value: authenticationWords(r.Authentication)}}}
	if !r.Tunnel.IsZero() {
		d.fields = append(d.fields, field{name: "tunnel", value: r.Tunnel.String()})
	}
	if r.Connections != sadb.AllConnections {
		d.fields = append(d.fields, field{name: "connections", value: r.Connections.String()})
	}
	if r.Mode != Unsaid {
		d.fields = append(d.fields, field{name: "mode", value: r.Mode.String()}, field{name: "reportUntil", value: deadlineWords(r.ReportUntil)})
	}
	return d
}

func deadlineWords(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return FormatDeadline(t)
}

func (l *FilterList) described() described {
	d := described{name: fmt.Sprintf("filter list %q", l.Name), fields: []field{{name: "guid", value: l.GUID}, {name: "description", value: l.Description}}}
	for _, f := range l.Filters {
		d.fields = append(d.fields, field{name: "filter", value: f.String(), many: true})
	}
	return d
}

func (a *FilterAction) described() described {
	return described{name: fmt.Sprintf("filter action %q", a.Name), fields: []field{
		{name: "guid", value: a.GUID}, {name: "description", value: a.Description}, {name: "action", value: a.Kind.String()},
		{name: "methods", value: joined(a.Methods)}, {name: "acceptUnsecured", value: yes(a.AcceptUnsecured)},
		{name: "allowClear", value: yes(a.AllowClear)}, {name: "clearDelay", value: duration(a.ClearDelay)},
		{name: "sessionKeyPFS", value: pfs(a.SessionKeyPFS, a.PFSGroup)}}}
}

func pfs(on bool, group sadb.Group) string {
	if on && group != 0 {
		return group.String()
	}
	return yes(on)
}

// String returns the filter as the document writes it, for example
// "from me, to any, protocol tcp, sourcePort 1433".
func (f Filter) String() string {
	words := []string{"from " + f.From.String(), "to " + f.To.String()}
	add := func(name, value string, set bool) {
		if set {
			words = append(words, name+" "+value)
		}
	}
	add("protocol", sadb.ProtoName(f.Protocol), f.Protocol != 0)
	add("sourcePort", f.FromPorts.String(), !f.FromPorts.IsAny())
	add("destinationPort", f.ToPorts.String(), !f.ToPorts.IsAny())
	add("icmpType", f.ICMPType.String(), f.ICMPType.Set)
	add("icmpCode", f.ICMPCode.String(), f.ICMPCode.Set)
	add("mirrored", "false", !f.Mirrored)
	add("description", strconv.Quote(f.Description), f.Description != "")
	add("guid", f.GUID, f.GUID != "")
	return strings.Join(words, ", ")
}

// String returns the method as the document writes it, limits that are not the
// usual ones in brackets.
func (m SecurityMethod) String() string {
	p := proposals([]SecurityMethod{m})[0]
	var suites, limits []string
	for _, s := range p.Suites {
		suites = append(suites, s.String())
	}
	if p.Lifetime.Time != defaultLifetime {
		limits = append(limits, p.Lifetime.Time.String())
	}
	if p.Lifetime.Bytes != defaultBytesOf(p.Suites) {
		limits = append(limits, byteWords(p.Lifetime.Bytes))
	}
	s := strings.Join(suites, " and ")
	if len(limits) > 0 {
		s += " (" + strings.Join(limits, ", ") + ")"
	}
	return s
}

// byteWords returns a number of bytes in the largest unit that divides it.
func byteWords(n uint64) string {
	for _, u := range []struct {
		of   uint64
		name string
	}{{1_000_000_000, "GB"}, {1_000_000, "MB"}, {1000, "kB"}} {
		if n%u.of == 0 {
			return fmt.Sprintf("%d%s", n/u.of, u.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

func joined[T fmt.Stringer](list []T) string {
	var words []string
	for _, m := range list {
		words = append(words, m.String())
	}
	return strings.Join(words, ", ")
}

func authenticationWords(methods []AuthMethod) string {
	var words []string
	for _, m := range methods {
		words = append(words, m.words())
	}
	return strings.Join(words, ", ")
}

// yes, duration and number0 return nothing for what the document leaves out.
func yes(b bool) string {
	if b {
		return "true"
	}
	return ""
}

func duration(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

func number0(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}
