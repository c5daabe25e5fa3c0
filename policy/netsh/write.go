package netsh

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

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
			w.names[o] = free(o.name())
		}
	}
	free := w.namer("policy")
	for _, h := range w.policies {
		w.policyNames[h] = free(h.Name)
	}
	return w
}

// namer returns a function that gives each object of a kind a name of its own,
// as Windows compares them.
func (w *writer) namer(kind string) func(string) string {
	taken := map[string]bool{all: true}
	return func(name string) string {
		given := freeName(plainText(name), maxName, func(s string) bool { return taken[strings.ToLower(s)] })
		taken[strings.ToLower(given)] = true
		if given != name {
			w.lose(fmt.Sprintf("%s %q", kind, name), fmt.Sprintf("the name is taken or not sayable, and written as %q", given))
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

// output is a line in the making.
type output struct {
	w      *writer
	object string   // for losses
	words  []string // of the line
	own    []string // words that Windows does not know
}

func (w *writer) statement(command string) *output {
	return &output{w: w, words: []string{command}}
}

// of says what the line is about.
func (s *output) of(object string, name string) *output {
	s.object = fmt.Sprintf("%s %q", object, name)
	return s
}

// text adds free text, quoted.
func (s *output) text(tag, value string) *output {
	if plainText(value) != value {
		s.w.lose(s.object, tag+"= holds characters that netsh cannot say; they are written as blanks")
	}
	return s.word(tag, quote(value))
}

// word adds a value as it is.
func (s *output) word(tag, value string) *output {
	s.words = append(s.words, tag+"="+value)
	return s
}

// ours adds a word that Windows does not know.
func (s *output) ours(tag, value string) *output {
	s.own = append(s.own, tag+"="+value)
	return s.word(tag, value)
}

// description adds a description if there is one.
func (s *output) description(text string) *output {
	if text == "" {
		return s
	}
	return s.text("description", text)
}

// flag adds yes or no where it is not what netsh takes by itself.
func (s *output) flag(tag string, value, normal bool) *output {
	if value == normal {
		return s
	}
	return s.word(tag, yesNo(value))
}

func yesNo(v bool) string {
	if v {
		return "yes"
	}
	return "no"
}

func (s *output) end() {
	if s.own != nil {
		s.w.lose(s.object, "Windows does not know these words and refuses the line: "+strings.Join(s.own, " "))
	}
	s.w.print(strings.Join(s.words, " "))
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

func (s *output) ports(tag string, p sadb.Ports) *output {
	if p == (sadb.Ports{}) {
		return s
	}
	if p.From == p.To {
		return s.word(tag, fmt.Sprint(p.From))
	}
	return s.word(tag, fmt.Sprintf("%d-%d", p.From, p.To))
}

func (s *output) endpoint(tag, maskTag string, e policy.Endpoint) *output {
	switch e.Kind {
	case policy.Addresses:
		return s.addresses(tag, maskTag, e.Addrs)
	case policy.Name:
		return s.text(tag, nameWord(e.Name))
	}
	for _, k := range keywords() {
		if k.kind == e.Kind {
			return s.word(tag, k.word)
		}
	}
	return s
}

// nameWord writes a DNS name that is one of netsh's words with a dot behind
// it, which means the same name.
func nameWord(name string) string {
	for _, k := range keywords() {
		if strings.EqualFold(name, k.word) {
			return name + "."
		}
	}
	return name
}

func (s *output) addresses(tag, maskTag string, a sadb.Addrs) *output {
	if one, ok := a.Single(); ok {
		return s.word(tag, one.String())
	}
	p, ok := a.Prefix()
	if !ok {
		return s.word(tag, a.String())
	}
	return s.word(tag, p.Addr().String()).word(maskTag, maskWord(p))
}

func maskWord(p netip.Prefix) string {
	if !p.Addr().Is4() {
		return fmt.Sprint(p.Bits())
	}
	mask := ^uint32(0) << (32 - p.Bits())
	return netip.AddrFrom4([4]byte{byte(mask >> 24), byte(mask >> 16), byte(mask >> 8), byte(mask)}).String()
}

func (w *writer) action(o *object) {
	a := o.action
	s := w.statement("add filteraction").of("filter action", a.Name).text("name", w.names[o]).description(a.Description)
	if a.Kind != sadb.Negotiate {
		s.word("action", a.Kind.String()).end()
		return
	}
	if a.PFSGroup != 0 {
		s.ours("qmpfs", a.PFSGroup.String())
	} else {
		s.flag("qmpfs", a.SessionKeyPFS, false)
	}
	s.flag("inpass", a.AcceptUnsecured, false).flag("soft", a.AllowClear, false)
	if a.ClearDelay != 0 {
		s.ours("cleardelay", a.ClearDelay.String())
	}
	s.word("action", "negotiate").quickModes(a.Methods).end()
}

func (s *output) quickModes(methods []policy.SecurityMethod) *output {
	return methodWords(s, "qmsecmethods", methods, formatQuickMode)
}

// methodWords adds methods; the words of ours among them are noted.
func methodWords[T any](s *output, tag string, methods []T, format func(T) (string, bool)) *output {
	if len(methods) == 0 {
		return s.ours(tag, modern)
	}
	var words []string
	for _, m := range methods {
		word, windows := format(m)
		words = append(words, word)
		if !windows {
			s.own = append(s.own, word)
		}
	}
	return s.word(tag, `"`+strings.Join(words, " ")+`"`)
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

func (s *output) minutes(tag string, d time.Duration) *output {
	switch {
	case d == 0:
		return s
	case d%time.Minute == 0:
		return s.word(tag, fmt.Sprint(int64(d/time.Minute)))
	}
	return s.ours(tag, fmt.Sprintf("%ds", d/time.Second))
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
	if !d.Active && d.Methods == nil && d.Authentication == nil || sameResponse(d, defaultResponse()) {
		return
	}
	s := w.statement("set defaultrule").of("the default response rule of policy", h.Name).text("policy", w.policyNames[h])
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
	return a.Active == b.Active && slices.EqualFunc(a.Methods, b.Methods, sameMethod) &&
		slices.EqualFunc(a.Authentication, b.Authentication, sameAuth)
}

func sameAuth(a, b policy.AuthMethod) bool {
	return a.Kind == b.Kind && a.CA == b.CA && a.Key == b.Key && slices.Equal(a.AcceptPrincipals, b.AcceptPrincipals) &&
		a.ExcludeCAName == b.ExcludeCAName && a.MapToAccount == b.MapToAccount
}

// authentication adds methods in order; none at all is said too.
func (s *output) authentication(methods []policy.AuthMethod) *output {
	if len(methods) == 0 {
		return s.word("kerberos", "no")
	}
	for _, m := range methods {
		switch m.Kind {
		case policy.Kerberos:
			s.word("kerberos", "yes")
		case policy.Certificate:
			s.text("rootca", fmt.Sprintf("%s certmap:%s excludecaname:%s", m.CA, yesNo(m.MapToAccount), yesNo(m.ExcludeCAName)))
		case policy.PresharedKey:
			s.w.lose(s.object, "the key itself is no part of a store; for Windows put psk= with the key in the place of pskname=")
			s.text("pskname", m.Key)
		}
		for _, p := range m.AcceptPrincipals {
			s.ours("acceptprincipal", quote(p))
		}
	}
	return s
}

func (w *writer) rules(h *held) {
	free := w.namer("rule of policy " + h.Name + ",")
	for i := range h.Rules {
		r := &h.Rules[i]
		if r.Name == "" {
			w.rule(h, r, free(r.GUID))
			continue
		}
		w.rule(h, r, free(r.Name))
	}
}

func (w *writer) rule(h *held, r *policy.Rule, name string) {
	list, action := w.names[h.list(r.FilterList)], w.names[h.action(r.FilterAction)]
	if action == "" && builtin(r.FilterAction) {
		action = r.FilterAction
	}
	s := w.statement("add rule").of("policy "+w.policyNames[h]+", rule", name)
	if list == "" || action == "" {
		w.lose(s.object, fmt.Sprintf("it is not written, because its policy does not carry filter list %q or filter action %q", r.FilterList, r.FilterAction))
		return
	}
	s.text("name", name).text("policy", w.policyNames[h]).description(r.Description)
	s.text("filterlist", list).text("filteraction", action)
	if t := r.Tunnel; t.Name != "" {
		s.text("tunnel", t.Name)
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
