package netsh

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// view is how much a show command prints of each object.
type view struct {
	full bool // one line for each fact, else one line for each object
}

// view reads level= and format=: an object asked for by name is shown in full,
// many in a line each, unless the line says so.
func (a *args) view(full bool) view {
	v := view{full}
	a.choice("level", "verbose", "normal", &v.full)
	a.choice("format", "list", "table", &v.full)
	var wide bool
	a.flag("wide", &wide)
	return v
}

// choice sets whether a tag gives the first of two words.
func (a *args) choice(tag, yes, no string, into *bool) {
	v, ok := a.get(tag)
	if !ok {
		return
	}
	switch {
	case strings.EqualFold(v, yes):
		*into = true
	case strings.EqualFold(v, no):
		*into = false
	default:
		a.fail(fmt.Errorf("%s=%q is neither %s nor %s", tag, v, yes, no))
	}
}

// fact prints one line of an object shown in full; an empty value is left out.
func (m *machine) fact(name, format string, values ...any) {
	if text := fmt.Sprintf(format, values...); text != "" {
		fmt.Fprintf(&m.out, "%-26s: %s\n", name, oneLine(text))
	}
}

func oneLine(text string) string { return strings.ReplaceAll(text, "\n", " ") }

func (m *machine) row(format string, values ...any) {
	m.out.WriteString(strings.TrimRight(fmt.Sprintf(format, values...), " ") + "\n")
}

// chosen returns the objects that a show command asks for.
func (m *machine) chosen(s *shelf, a *args) ([]*object, error) {
	if a.every() || !a.has("name") {
		return s.all, a.err
	}
	found := s.named(a.need("name"))
	if len(found) == 0 {
		_, err := m.find(s, a.need("name"))
		return nil, err
	}
	return found, a.err
}

func showFilterList(m *machine, a *args) error {
	v := a.view(a.has("name") && !a.every())
	var resolve bool
	if a.flag("resolvedns", &resolve); resolve {
		return errors.New("resolvedns=yes: names are not resolved here; what those in force stand for says: ipsecctl policy show --effective")
	}
	found, err := m.chosen(&m.lists, a)
	if err != nil {
		return err
	}
	for _, o := range found {
		m.showList(o, v)
	}
	m.row("Filter lists: %d", len(found))
	return nil
}

func (m *machine) showList(o *object, v view) {
	l := o.list
	if !v.full {
		m.row("%-40s filters: %-6d %s", l.Name, len(l.Filters), oneLine(l.Description))
		return
	}
	m.showObject("Filter list", o, l.Description)
	m.fact("Filters", "%d", len(l.Filters))
	for i, f := range l.Filters {
		m.row("  %4d  %s", i+1, describeFilter(f))
	}
	m.row("")
}

// showObject prints what lists and actions have in common.
func (m *machine) showObject(kind string, o *object, description string) {
	m.fact(kind+" name", "%s", o.name())
	m.fact("Description", "%s", description)
	m.fact("GUID", "%s", o.guid())
	m.fact("Used by", "%s", strings.Join(m.users(o), ", "))
}

func describeFilter(f policy.Filter) string {
	arrow := "->"
	if f.Mirrored {
		arrow = "<->"
	}
	s := fmt.Sprintf("%s %s %s, protocol %s", endpointWord(f.From), arrow, endpointWord(f.To), sadb.ProtoName(f.Protocol))
	if sadb.HasPorts(f.Protocol) {
		s += fmt.Sprintf(", source port %v, destination port %v", f.FromPorts, f.ToPorts)
	}
	if f.ICMPType.Set {
		s += fmt.Sprintf(", type %v, code %v", f.ICMPType, f.ICMPCode)
	}
	if f.Description != "" {
		s += " (" + oneLine(f.Description) + ")"
	}
	return s
}

func endpointWord(e policy.Endpoint) string {
	switch e.Kind {
	case policy.Addresses:
		return e.Addrs.String()
	case policy.Name:
		return e.Name
	}
	return e.Kind.String()
}

func showFilterAction(m *machine, a *args) error {
	v := a.view(a.has("name") && !a.every())
	found, err := m.chosen(&m.actions, a)
	if err != nil {
		return err
	}
	for _, o := range found {
		m.showAction(o, v)
	}
	m.row("Filter actions: %d", len(found))
	return nil
}

func (m *machine) showAction(o *object, v view) {
	act := o.action
	if !v.full {
		m.row("%-40s %-9v  %s", act.Name, act.Kind, oneLine(act.Description))
		return
	}
	m.showObject("Filter action", o, act.Description)
	m.fact("Action", "%v", act.Kind)
	if act.Kind == sadb.Negotiate {
		m.fact("Accept unsecured", "%s", yesNo(act.AcceptUnsecured))
		m.fact("Fall back to clear", "%s", yesNo(act.AllowClear))
		m.fact("Session key PFS", "%s", yesNo(act.SessionKeyPFS))
		m.showMethods(act.Methods)
	}
	m.row("")
}

func (m *machine) showMethods(methods []policy.SecurityMethod) {
	m.fact("Security methods", "%d", len(methods))
	for i, method := range methods {
		word, _ := formatQuickMode(method)
		m.row("  %4d  %s", i+1, word)
	}
}

func showPolicy(m *machine, a *args) error {
	v := a.view(a.has("name") && !a.every())
	if a.err != nil {
		return a.err
	}
	found := m.policies
	if a.has("name") && !a.every() {
		h, err := m.policyOf(a)
		if err != nil {
			return err
		}
		found = []*held{h}
	}
	for _, h := range found {
		m.showHeld(h, v)
	}
	m.row("Policies: %d", len(found))
	return nil
}

func (m *machine) showHeld(h *held, v view) {
	assigned := m.assigned == h.Name
	if !v.full {
		m.row("%-40s rules: %-3d  assigned: %-3s  %s", h.Name, len(h.Rules), yesNo(assigned), oneLine(h.Description))
		return
	}
	m.fact("Policy name", "%s", h.Name)
	m.fact("Description", "%s", h.Description)
	m.fact("GUID", "%s", h.GUID)
	m.fact("Assigned", "%s", yesNo(assigned))
	m.fact("Polling interval", "%d minutes", orDefault(h.PollingInterval, 3*time.Hour)/time.Minute)
	m.fact("Main mode lifetime", "%d minutes", orDefault(h.KeyExchange.Lifetime, 8*time.Hour)/time.Minute)
	m.fact("Quick modes per main mode", "%d (0: no limit)", h.KeyExchange.Sessions)
	m.fact("Master key PFS", "%s", yesNo(h.KeyExchange.MasterKeyPFS))
	var words []string
	for _, s := range h.KeyExchange.Methods {
		word, _ := formatMainMode(s)
		words = append(words, word)
	}
	m.fact("Main mode methods", "%s", strings.Join(append(words, modern)[:max(1, len(words))], " "))
	m.row("")
	for i := range h.Rules {
		m.showRule(h, i, view{true})
	}
	m.showDefault(h)
}

func orDefault(d, normal time.Duration) time.Duration {
	if d == 0 {
		return normal
	}
	return d
}

func (m *machine) showDefault(h *held) {
	d := h.DefaultResponse
	m.fact("Default response rule", "%s", map[bool]string{true: "active", false: "not active"}[d.Active])
	if d.Active {
		m.fact("Authentication", "%s", authWords(d.Authentication))
		m.showMethods(d.Methods)
		m.fact("Session key PFS", "%s", yesNo(d.SessionKeyPFS))
	}
	m.row("")
}

func authWords(methods []policy.AuthMethod) string {
	var words []string
	for _, a := range methods {
		words = append(words, a.String())
	}
	return strings.Join(words, ", then ")
}

func showRule(m *machine, a *args) error {
	v := a.view(!a.every())
	tunnels := false
	a.choice("type", "tunnel", "transport", &tunnels)
	name := a.need("policy")
	if a.err != nil {
		return a.err
	}
	h, err := m.policyNamed(name)
	if err != nil {
		return err
	}
	if slices.Contains(a.words, "default") {
		m.showDefault(h)
		return nil
	}
	if !a.every() {
		_, i, err := m.ruleOf(a)
		if err == nil {
			m.showRule(h, i, v)
		}
		return err
	}
	for i := range h.Rules {
		if !a.has("type") || tunnels == !h.Rules[i].Tunnel.IsZero() {
			m.showRule(h, i, v)
		}
	}
	m.showDefault(h)
	return nil
}

func (m *machine) showRule(h *held, i int, v view) {
	r := &h.Rules[i]
	if !v.full {
		m.row("%4d  %-34s active: %-3s  %s: %s", i+1, r.Name, yesNo(!r.Disabled), r.FilterList, r.FilterAction)
		return
	}
	m.fact("Rule ID", "%d", i+1)
	m.fact("Rule name", "%s", r.Name)
	m.fact("Description", "%s", r.Description)
	m.fact("Active", "%s", yesNo(!r.Disabled))
	m.fact("Filter list", "%s", r.FilterList)
	m.fact("Filter action", "%s", r.FilterAction)
	m.fact("Connection type", "%v", r.Connections)
	switch {
	case r.Tunnel.Name != "":
		m.fact("Tunnel endpoint", "%s", r.Tunnel.Name)
	case r.Tunnel.Endpoint.IsValid():
		m.fact("Tunnel endpoint", "%v", r.Tunnel.Endpoint)
	}
	m.fact("Authentication", "%s", authWords(r.Authentication))
	m.row("")
}

func showAll(m *machine, a *args) error {
	v := a.view(true)
	if a.err != nil {
		return a.err
	}
	for _, h := range m.policies {
		m.showHeld(h, v)
	}
	for _, o := range m.lists.all {
		m.showList(o, v)
	}
	for _, o := range m.actions.all {
		m.showAction(o, v)
	}
	m.row("Policies: %d, filter lists: %d, filter actions: %d", len(m.policies), len(m.lists.all), len(m.actions.all))
	return nil
}

func showStore(m *machine, _ *args) error {
	m.fact("Store", "local")
	m.fact("Assigned policy", "%s", map[bool]string{true: "none", false: m.assigned}[m.assigned == ""])
	return nil
}
