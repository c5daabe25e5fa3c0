package gpipsec

import (
	"fmt"
	"slices"
	"time"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// builder puts one policy together.
type builder struct {
	*decoder
	report  report
	object  *Object
	policy  policy.Policy
	secrets []Secret
	// The names of lists and actions, which a policy uses by name.
	lists, actions names
	have           map[Ref]bool
	options        uint32 // of the key exchange settings
	responses      int
}

// policy reads a policy with all that it refers to.
func (d *decoder) policy(o *Object) {
	b := &builder{decoder: d, report: report{object: o.what()}, object: o, have: map[Ref]bool{}}
	if len(o.Data) > 0 { // else it was reported
		b.header()
		b.references()
	}
	if b.responses > 1 {
		b.report.fail("it has %d default response rules", b.responses)
	}
	d.problems = append(d.problems, b.report.problems...)
	if len(o.Data) == 0 || b.report.failed() {
		return
	}
	b.strict()
	d.policies = append(d.policies, taken{o, b.policy, b.secrets})
}

func (b *builder) header() {
	o := b.object
	b.policy = policy.Policy{GUID: o.GUID.String(), Name: clean(o.Name), Description: clean(o.Description), Uplift: true}
	if b.policy.Name == "" {
		b.policy.Name = o.GUID.String()
		b.report.warn("it has no name; it is called %q here", b.policy.Name)
	}
	data, ok := parse(&b.report, ParsePolicy, o.Data)
	if !ok {
		return
	}
	b.policy.PollingInterval = time.Duration(data.Polling) * time.Second
	if data.Polling == 0 {
		b.policy.PollingInterval = longPolling
	}
	b.policy.PollingInterval = within(&b.report, "polling interval", b.policy.PollingInterval, minPolling, maxPolling)
	x := extPolicy{}
	if b.report.extend(o.Data, data.Tail, &x) {
		b.policy.PollingInterval, b.policy.Uplift, b.policy.Tests = time.Duration(x.Polling), x.Uplift, x.Tests
		if x.Polling != 0 {
			b.policy.PollingInterval = within(&b.report, "polling interval", b.policy.PollingInterval, minPolling, maxPolling)
		}
	}
}

func (b *builder) references() {
	settings := 0
	for _, ref := range unique(b.object.Refs) {
		switch ref.Class {
		case ClassISAKMP:
			settings++
			b.settings(ref)
		case ClassNFA:
			b.rule(ref)
		default:
			b.report.fail("it refers to %s, which is neither a rule nor key exchange settings", ref)
		}
	}
	if settings != 1 {
		b.report.fail("it refers to %d key exchange settings, not to one", settings)
	}
}

// find returns the object that from refers to. Its back reference is not
// needed: Windows follows references forward, and other tools forget to write it.
func (b *builder) find(from *Object, ref Ref) *Object {
	o := b.objects[ref]
	if o == nil {
		who := from.what()
		if from == b.object {
			who = "it"
		}
		b.report.fail("%s refers to %s, which is not there", who, ref)
		return nil
	}
	if !b.owned[link{ref, from.Ref}] {
		b.report.warn("%s does not refer back to %s; Windows' tools may take it for unused", o.what(), from.Ref)
	}
	return o
}

func unreadable(o *Object) string { return o.what() + " cannot be used; see there" }

func (b *builder) settings(ref Ref) {
	o := b.find(b.object, ref)
	if o == nil {
		return
	}
	k, ok := b.decoder.settings[ref.GUID]
	if !ok {
		b.report.fail("%s", unreadable(o))
		return
	}
	b.policy.KeyExchange = k
	if d, err := ParseISAKMP(o.Data); err == nil {
		b.options = d.Header.Options
	}
}

func (b *builder) rule(ref Ref) {
	if ref.GUID == versionObject() {
		return
	}
	o := b.find(b.object, ref)
	if o == nil {
		return
	}
	n, ok := b.rules[ref.GUID]
	if !ok {
		b.report.fail("%s", unreadable(o))
		return
	}
	actions, lists := ofClass(o.Refs, ClassNegotiation), ofClass(o.Refs, ClassFilter)
	if len(actions) != 1 || len(lists) > 1 || len(actions)+len(lists) != len(unique(o.Refs)) {
		b.report.fail("%s refers to %d filter actions, %d filter lists and %d objects in all; a rule has one action and one list",
			o.what(), len(actions), len(lists), len(unique(o.Refs)))
		return
	}
	action := b.find(o, actions[0])
	if action == nil {
		return
	}
	if _, ok := b.decoder.actions[action.GUID]; !ok {
		b.report.fail("%s", unreadable(action))
		return
	}
	if action.Type == typeResponse() && len(lists) > 0 {
		b.report.fail("%s is the default response by the type of its filter action, and has a filter list, which would be left out: give it a filter action of its own", o.what())
		return
	}
	if action.Type == typeResponse() {
		b.response(o, n, action)
		return
	}
	b.plainRule(o, n, action, lists)
}

func ofClass(refs []Ref, c Class) []Ref {
	return slices.DeleteFunc(unique(refs), func(r Ref) bool { return r.Class != c })
}

func (b *builder) plainRule(o *Object, n nfa, action *Object, lists []Ref) {
	if len(lists) == 0 {
		b.report.fail("%s refers to no filter list", o.what())
		return
	}
	list := b.find(o, lists[0])
	if list == nil {
		return
	}
	if _, ok := b.decoder.lists[list.GUID]; !ok {
		b.report.fail("%s", unreadable(list))
		return
	}
	rule := policy.Rule{
		GUID: o.GUID.String(), Name: clean(o.Name), Description: clean(o.Description), Disabled: !n.active,
		FilterList: b.list(list), FilterAction: b.action(action), Tunnel: n.tunnel, Connections: n.connections,
	}
	rule.Authentication = b.authentication(o, rule.Name, n)
	b.policy.Rules = append(b.policy.Rules, rule)
}

// response reads the default response rule.
func (b *builder) response(o *Object, n nfa, action *Object) {
	b.responses++
	a := b.decoder.actions[action.GUID]
	b.policy.DefaultResponse = policy.DefaultResponse{
		GUID: o.GUID.String(), ActionGUID: action.GUID.String(), Active: n.active,
		Methods: a.Methods, Authentication: b.authentication(o, "", n), SessionKeyPFS: a.SessionKeyPFS, PFSGroup: a.PFSGroup,
	}
}

// list takes a filter list into the policy and returns its name.
func (b *builder) list(o *Object) string {
	name := b.lists.give(b.decoder, o)
	if !b.have[o.Ref] {
		l := b.decoder.lists[o.GUID]
		l.Name, l.Description = name, clean(l.Description)
		b.policy.FilterLists = append(b.policy.FilterLists, l)
	}
	b.have[o.Ref] = true
	return name
}

func (b *builder) action(o *Object) string {
	a := b.decoder.actions[o.GUID]
	if a.Name = clean(a.Name); builtin(a) {
		return a.Name
	}
	if b.actions == nil {
		b.actions = names{"permit": GUID{}, "block": GUID{}}
	}
	a.Name, a.Description = b.actions.give(b.decoder, o), clean(a.Description)
	if !b.have[o.Ref] {
		b.policy.FilterActions = append(b.policy.FilterActions, a)
	}
	b.have[o.Ref] = true
	return a.Name
}

// authentication takes the preshared keys out of the methods of a rule.
func (b *builder) authentication(o *Object, rule string, n nfa) []policy.AuthMethod {
	methods := slices.Clone(n.auth)
	for i, text := range n.keys {
		m := &methods[i]
		if m.Kind != policy.PresharedKey {
			continue
		}
		if text == "" && n.named { // the hosts have it
			continue
		}
		if m.Key == "" {
			m.Key = fmt.Sprintf("%s-%d", keyName(o.GUID), i+1)
		}
		if text == "" {
			b.report.warn("%s names a preshared key without its text; keep it as %q with the secrets of the hosts", o.what(), m.Key)
			continue
		}
		b.secrets = append(b.secrets, Secret{Name: m.Key, Policy: b.policy.Name, Rule: rule, Key: sadb.NewSecret([]byte(text))})
	}
	return methods
}

// strict gives what the key exchange settings ask of all certificates to each
// certificate method.
func (b *builder) strict() {
	set := func(methods []policy.AuthMethod) {
		for i := range methods {
			m := &methods[i]
			if m.Kind == policy.Certificate {
				m.MapToAccount = m.MapToAccount || b.options&optionMapping != 0
				m.ExcludeCAName = m.ExcludeCAName || b.options&optionNoRequest != 0
			}
		}
	}
	for i := range b.policy.Rules {
		set(b.policy.Rules[i].Authentication)
	}
	set(b.policy.DefaultResponse.Authentication)
}
