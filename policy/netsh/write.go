package netsh

import (
	"fmt"
	"slices"
	"strings"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// Loss is something that the words of Windows cannot say.
type Loss struct {
	Object string // 'filter action "Require"'
	// Reason is what is lost, or what words of ours say instead, so that Run
	// reads it and Windows refuses the line.
	Reason string
}

// String returns the object and the reason.
func (l Loss) String() string { return l.Object + ": " + l.Reason }

// Write returns a script that makes the store anew, for Run or for
// "netsh -f", and what of it is lost or not understood by Windows; the script
// has a comment at each such place. GUIDs are not written: whoever executes the
// script gives new ones. Preshared keys are no part of a store: the script names
// them by pskname=.
func Write(store policy.Store) (script []byte, losses []Loss) {
	w := newWriter(store)
	w.print("# IPSec policies, in the words of \"netsh ipsec static\"")
	w.print("pushd ipsec static")
	for _, o := range w.lists.all {
		w.list(o)
	}
	for _, name := range w.builtins() {
		w.statement("add filteraction").text("name", name).word("action", name).end()
	}
	for _, o := range w.actions.all {
		w.action(o)
	}
	for _, h := range w.policies {
		w.policy(h)
	}
	for _, h := range w.policies {
		if h.Name == store.Assigned {
			w.statement("set policy").text("name", w.policyNames[h]).word("assign", "yes").end()
			break
		}
	}
	w.print("popd")
	return []byte(w.b.String()), w.losses
}

// writer writes the objects of a store under names that netsh can tell apart.
type writer struct {
	*objects
	b           strings.Builder
	losses      []Loss
	names       map[*object]string
	policyNames map[*held]string
}

func newWriter(store policy.Store) *writer {
	w := &writer{objects: takeApart(store), names: map[*object]string{}, policyNames: map[*held]string{}}
	for _, s := range []*shelf{&w.lists, &w.actions} {
		free := w.namer(s.kind)
		for _, o := range s.all {
			w.names[o] = free(o.name(), misleading(o))
		}
	}
	free := w.namer("policy")
	for _, h := range w.policies {
		w.policyNames[h] = free(h.Name, false)
	}
	return w
}

// misleading reports whether an action has, for Windows, the name of a built-in
// one and does something else.
func misleading(o *object) bool {
	name := strings.ToLower(o.name())
	return o.action != nil && builtin(name) && o.action.Kind.String() != name
}

// namer returns a function that gives each object of a kind a name of its own,
// as Windows compares them; it may be told to avoid the one the object has.
func (w *writer) namer(kind string) func(name string, avoid bool) string {
	taken := map[string]bool{all: true}
	return func(name string, avoid bool) string {
		if avoid {
			taken[strings.ToLower(name)] = true
		}
		given := freeName(plainText(name), maxName, func(s string) bool { return taken[strings.ToLower(s)] })
		taken[strings.ToLower(given)] = true
		if given != name {
			w.lose(fmt.Sprintf("%s %q", kind, name), fmt.Sprintf("the name is taken or cannot be said, and is written as %q", given))
		}
		return given
	}
}

func (w *writer) print(line string) { w.b.WriteString(line + "\n") }

// lose notes a loss, in the script too.
func (w *writer) lose(object, reason string) {
	l := Loss{object, reason}
	w.losses = append(w.losses, l)
	w.print("# " + plainText(l.String()))
}

// builtins returns the built-in actions that rules name.
func (w *writer) builtins() []string {
	var names []string
	for _, h := range w.policies {
		for _, r := range h.Rules {
			if builtin(r.FilterAction) && h.action(r.FilterAction) == nil && !slices.Contains(names, r.FilterAction) {
				names = append(names, r.FilterAction)
			}
		}
	}
	slices.Sort(names)
	return names
}

func (w *writer) list(o *object) {
	w.statement("add filterlist").of("filter list", o.name()).text("name", w.names[o]).description(o.list.Description).end()
	for _, f := range o.list.Filters {
		w.filter(w.names[o], f)
	}
}

func (w *writer) filter(list string, f policy.Filter) {
	s := w.statement("add filter").of("filter list", list).text("filterlist", list)
	s.endpoint("srcaddr", "srcmask", f.From).endpoint("dstaddr", "dstmask", f.To)
	if f.Protocol != 0 {
		s.word("protocol", protocolWord(f.Protocol))
	}
	s.ports("srcport", f.FromPorts).ports("dstport", f.ToPorts)
	if f.ICMPType.Set {
		s.ours("icmptype", fmt.Sprintf("%d-%d", f.ICMPType.From, f.ICMPType.To))
	}
	if f.ICMPCode.Set {
		s.ours("icmpcode", fmt.Sprintf("%d-%d", f.ICMPCode.From, f.ICMPCode.To))
	}
	s.flag("mirrored", f.Mirrored, true).description(f.Description).end()
}

func protocolWord(p uint8) string {
	switch p {
	case sadb.ICMP, sadb.TCP, sadb.UDP:
		return strings.ToUpper(sadb.ProtoName(p))
	case rawProtocol:
		return "RAW"
	}
	return fmt.Sprint(p)
}

func (w *writer) action(o *object) {
	a := o.action
	s := w.statement("add filteraction").of("filter action", a.Name).text("name", w.names[o]).description(a.Description)
	if a.Kind != sadb.Negotiate {
		s.word("action", a.Kind.String()).end()
		return
	}
	s.pfs(a.SessionKeyPFS, a.PFSGroup)
	s.flag("inpass", a.AcceptUnsecured, false).flag("soft", a.AllowClear, false)
	if a.ClearDelay != 0 {
		s.ours("cleardelay", a.ClearDelay.String())
	}
	s.word("action", "negotiate").quickModes(a.Methods).end()
}

func (w *writer) policy(h *held) {
	name := w.policyNames[h]
	s := w.statement("add policy").of("policy", h.Name).text("name", name).description(h.Description)
	k := h.KeyExchange
	s.flag("mmpfs", k.MasterKeyPFS, false)
	if k.Sessions != 0 {
		s.word("qmpermm", fmt.Sprint(k.Sessions))
	}
	s.minutes("mmlifetime", k.Lifetime).minutes("pollinginterval", h.PollingInterval)
	s.flag("activatedefaultrule", h.DefaultResponse.Active, true)
	methodWords(s, "mmsecmethods", k.Methods, formatMainMode)
	w.uplift(s, h)
	s.end()
	if n := len(h.Tests); n > 0 {
		w.lose(s.object, fmt.Sprintf("its %d tests are not written", n))
	}
	w.defaultRule(h)
	w.rules(h)
}

// uplift says that a policy has no uplift where Windows refuses the line
// anyway; a policy that Windows understands stays so.
func (w *writer) uplift(s *output, h *held) {
	switch {
	case h.Uplift:
	case s.own != nil:
		s.ours("uplift", "no")
	default:
		w.lose(s.object, "that it has no uplift is not written; read again it has")
	}
}

func (w *writer) defaultRule(h *held) {
	d := h.DefaultResponse
	if !d.Active && d.Methods == nil && d.Authentication == nil && !d.SessionKeyPFS || sameResponse(d, defaultResponse()) {
		return
	}
	s := w.statement("set defaultrule").of("the default response rule of policy", h.Name).text("policy", w.policyNames[h])
	s.pfs(d.SessionKeyPFS, d.PFSGroup)
	s.word("activate", yesNo(d.Active))
	if d.Methods != nil || d.Active {
		s.quickModes(d.Methods)
	}
	s.authentication(d.Authentication).end()
}

func sameResponse(a, b policy.DefaultResponse) bool {
	sameMethod := func(m, n policy.SecurityMethod) bool {
		return m.Lifetime == n.Lifetime && m.Bytes == n.Bytes && slices.Equal(m.Suites, n.Suites)
	}
	return a.Active == b.Active && a.SessionKeyPFS == b.SessionKeyPFS && a.PFSGroup == b.PFSGroup && slices.EqualFunc(a.Methods, b.Methods, sameMethod) &&
		slices.EqualFunc(a.Authentication, b.Authentication, sameAuth)
}

func sameAuth(a, b policy.AuthMethod) bool {
	return a.Kind == b.Kind && a.CA == b.CA && a.Key == b.Key && slices.Equal(a.AcceptPrincipals, b.AcceptPrincipals) &&
		a.ExcludeCAName == b.ExcludeCAName && a.MapToAccount == b.MapToAccount
}

func (w *writer) rules(h *held) {
	free := w.namer(fmt.Sprintf("policy %q, rule", h.Name))
	for i := range h.Rules {
		r := &h.Rules[i]
		name := r.Name
		if name == "" {
			name = r.GUID
			w.lose(fmt.Sprintf("policy %q, rule %s", h.Name, r.GUID), "it has no name, and gets its GUID for one")
		}
		w.rule(h, r, free(name, false))
	}
}

func (w *writer) rule(h *held, r *policy.Rule, name string) {
	list, action := w.names[h.list(r.FilterList)], w.names[h.action(r.FilterAction)]
	if action == "" && builtin(r.FilterAction) {
		action = r.FilterAction
	}
	s := w.statement("add rule").of(fmt.Sprintf("policy %q, rule", h.Name), name)
	if list == "" || action == "" {
		w.lose(s.object, fmt.Sprintf("it is not written, because its policy does not carry filter list %q or filter action %q", r.FilterList, r.FilterAction))
		return
	}
	s.text("name", name).text("policy", w.policyNames[h]).description(r.Description)
	s.text("filterlist", list).text("filteraction", action)
	if t := r.Tunnel; t.Name != "" {
		s.dnsName("tunnel", t.Name)
	} else if t.Endpoint.IsValid() {
		s.word("tunnel", t.Endpoint.String())
	}
	switch r.Connections {
	case sadb.LAN:
		s.word("conntype", "lan")
	case sadb.RemoteAccess:
		s.word("conntype", "dialup")
	}
	s.flag("activate", !r.Disabled, true).authentication(r.Authentication).end()
}
