package gpipsec

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// Options are what an export needs beside the store.
type Options struct {
	// Names are the addresses of the DNS names in filters and tunnel settings:
	// Windows resolves a name once, when it is written.
	Names map[string][]netip.Addr
	// Keys are the texts of preshared keys by name. Everyone who can read a
	// rule can read its key: give them only when that is meant.
	Keys map[string]sadb.Secret
	// KeyNames writes rules with preshared keys that are not in Keys without
	// the key: hosts with this program find it by its name, Windows does not.
	KeyNames bool
}

// Encode writes a store as objects, Windows' part of each as near as Windows
// can come, and as an extension record what it cannot say. Objects without a
// GUID get one that is the same on every export. The warnings say what Windows
// will see differently; an error joins values of type *Problem.
func Encode(s policy.Store, o Options) (objects []Object, warnings []Problem, err error) {
	s, problems := complete(s)
	e := &encoder{options: o, problems: problems, have: map[Ref]int{}}
	for i := range s.Policies {
		e.policy(&s.Policies[i])
	}
	for _, l := range s.FilterLists {
		e.list(l)
	}
	for _, a := range s.FilterActions {
		e.action(a)
	}
	e.assignment(s)
	return e.result()
}

type encoder struct {
	options  Options
	objects  []Object
	have     map[Ref]int // where in objects
	problems []Problem
}

func (e *encoder) result() ([]Object, []Problem, error) {
	var errs []error
	var warnings []Problem
	for i, p := range e.problems {
		if p.Warning {
			warnings = append(warnings, p)
			continue
		}
		errs = append(errs, &e.problems[i])
	}
	if len(errs) > 0 {
		return nil, warnings, errors.Join(errs...)
	}
	return e.objects, warnings, nil
}

// add puts an object with the data that write makes among the others. One that
// is there already must say the same.
func (e *encoder) add(o Object, write func(r *report) []byte) Ref {
	r := &report{object: o.what()}
	o.DataType, o.Data = dataType, write(r)
	if len(o.Data) > MaxData {
		r.fail("its data are %d bytes, more than the %d that hosts read: part it, a long filter list into several with a rule for each", len(o.Data), MaxData)
	}
	if i, ok := e.have[o.Ref]; ok {
		have := e.objects[i]
		if o.Name != have.Name || o.Description != have.Description || o.Action != have.Action || !slices.Equal(o.Data, have.Data) {
			r.fail("another one has the same GUID and differs; give one of them another GUID, or none")
			e.problems = append(e.problems, r.problems...)
		}
		return o.Ref
	}
	e.problems = append(e.problems, r.problems...)
	e.have[o.Ref] = len(e.objects)
	e.objects = append(e.objects, o)
	return o.Ref
}

// refer writes a reference in both directions.
func (e *encoder) refer(from, to Ref) {
	f, t := &e.objects[e.have[from]], &e.objects[e.have[to]]
	f.Refs, t.Owners = append(f.Refs, to), append(t.Owners, from)
}

func (e *encoder) policy(p *policy.Policy) {
	object := Object{Ref: Ref{ClassPolicy, mustGUID(p.GUID)}, Name: p.Name, Description: p.Description}
	if _, ok := e.have[object.Ref]; ok {
		e.problems = append(e.problems, Problem{object.what(), "another policy has the same GUID; take it away from the copy", false})
		return
	}
	me := e.add(object, func(r *report) []byte {
		r.reportMode(p.Mode)
		return encodePolicy(p)
	})
	settings := Object{Ref: Ref{ClassISAKMP, mustGUID(p.KeyExchange.GUID)}}
	e.refer(me, e.add(settings, func(r *report) []byte {
		r.object = fmt.Sprintf("policy %q", p.Name)
		return r.encodeKeyExchange(p.KeyExchange, strictOptions(p))
	}))
	lists, actions := map[string]*policy.FilterList{}, map[string]*policy.FilterAction{}
	for i := range p.FilterLists {
		lists[p.FilterLists[i].Name] = &p.FilterLists[i]
	}
	for i := range p.FilterActions {
		actions[p.FilterActions[i].Name] = &p.FilterActions[i]
	}
	for _, rule := range p.Rules {
		e.rule(me, rule, lists[rule.FilterList], actions[rule.FilterAction])
	}
	e.response(me, p)
}

// reportMode is a matter of the host that tries a policy out: no store carries
// it, so that nobody is opened by what he fetches.
func (r *report) reportMode(mode policy.Enforcement) {
	if mode == policy.ReportOnly {
		r.warn("its report mode is not written: whoever takes it over enforces it")
	}
}

func encodePolicy(p *policy.Policy) []byte {
	polling := p.PollingInterval
	if polling == 0 {
		polling = longPolling
	}
	value := (&PolicyData{Polling: seconds(polling), Tail: trailer()}).Canonical()
	x := extPolicy{span(p.PollingInterval), p.Uplift, p.Tests}
	if same(x, extPolicy{span(time.Duration(seconds(polling)) * time.Second), true, nil}) {
		return value
	}
	return extended(value, x)
}

// strictOptions says for all certificates of a policy what all its certificate
// methods say.
func strictOptions(p *policy.Policy) uint32 {
	all := slices.Clone(p.DefaultResponse.Authentication)
	for _, r := range p.Rules {
		all = append(all, r.Authentication...)
	}
	certificates, mapped, excluded := 0, 0, 0
	for _, m := range all {
		if m.Kind != policy.Certificate {
			continue
		}
		certificates++
		if m.MapToAccount {
			mapped++
		}
		if m.ExcludeCAName {
			excluded++
		}
	}
	options := uint32(0)
	if certificates > 0 && mapped == certificates {
		options |= optionMapping
	}
	if certificates > 0 && excluded == certificates {
		options |= optionNoRequest
	}
	return options
}

// rule writes a rule of the policy owner; nil: its list or action is not defined.
func (e *encoder) rule(owner Ref, rule policy.Rule, list *policy.FilterList, action *policy.FilterAction) {
	object := Object{Ref: Ref{ClassNFA, mustGUID(rule.GUID)}, Name: rule.Name, Description: rule.Description}
	if _, ok := e.have[object.Ref]; ok {
		e.problems = append(e.problems, Problem{object.what(), "another rule has the same GUID; take it away from the copy", false})
		return
	}
	if list == nil || action == nil {
		e.problems = append(e.problems, Problem{object.what(), fmt.Sprintf("filter list %q or filter action %q is not defined in its policy", rule.FilterList, rule.FilterAction), false})
		return
	}
	me := e.add(object, func(r *report) []byte {
		if !rule.Tunnel.IsZero() && slices.ContainsFunc(list.Filters, func(f policy.Filter) bool { return f.Mirrored }) {
			r.warn("Windows cannot use a tunnel rule whose filters are mirrored: it needs two rules, one for each direction")
		}
		r.reportMode(rule.Mode)
		n := nfa{auth: rule.Authentication, tunnel: rule.Tunnel, connections: rule.Connections, active: !rule.Disabled}
		n.keys = e.keys(r, rule.Authentication)
		return r.encodeNFA(n, e.options.Names)
	})
	e.refer(owner, me)
	e.refer(me, e.action(*action))
	e.refer(me, e.list(*list))
}

func (e *encoder) response(owner Ref, p *policy.Policy) {
	if !hasResponse(*p) {
		return
	}
	d, what := p.DefaultResponse, fmt.Sprintf("the default response rule of policy %q", p.Name)
	me := e.add(Object{Ref: Ref{ClassNFA, mustGUID(d.GUID)}}, func(r *report) []byte {
		r.object = what
		return r.encodeNFA(nfa{auth: d.Authentication, keys: e.keys(r, d.Authentication), active: d.Active}, nil)
	})
	e.refer(owner, me)
	action := policy.FilterAction{Kind: sadb.Negotiate, Methods: d.Methods, SessionKeyPFS: d.SessionKeyPFS, PFSGroup: d.PFSGroup}
	object := Object{Ref: Ref{ClassNegotiation, mustGUID(d.ActionGUID)}, Type: typeResponse(), Action: actionNegotiate()}
	e.refer(me, e.add(object, func(r *report) []byte {
		r.object = what
		return r.encodeAction(action)
	}))
}

// keys returns the texts of the preshared keys among methods, if they are to be
// written at all.
func (e *encoder) keys(r *report, methods []policy.AuthMethod) []string {
	texts := make([]string, len(methods))
	for i, m := range methods {
		if m.Kind != policy.PresharedKey {
			continue
		}
		key, ok := e.options.Keys[m.Key]
		switch {
		case ok:
			texts[i] = string(key.Bytes())
			r.warn("preshared key %q stands in it in clear, for everyone who can read the rule", m.Key)
		case e.options.KeyNames:
			r.warn("Windows cannot use it: preshared key %q is not in it", m.Key)
		default:
			r.fail("it authenticates by preshared key %q, which Windows keeps in clear where everyone can read it; use Kerberos or certificates, or force the export", m.Key)
		}
	}
	return texts
}

func (e *encoder) list(l policy.FilterList) Ref {
	object := Object{Ref: Ref{ClassFilter, mustGUID(l.GUID)}, Name: l.Name, Description: l.Description}
	return e.add(object, func(r *report) []byte { return r.encodeFilters(l, e.options.Names) })
}

func (e *encoder) action(a policy.FilterAction) Ref {
	object := Object{Ref: Ref{ClassNegotiation, mustGUID(a.GUID)}, Name: a.Name, Description: a.Description, Type: typeStandard(), Action: actionID(a)}
	return e.add(object, func(r *report) []byte { return r.encodeAction(a) })
}

func (e *encoder) assignment(s policy.Store) {
	if s.Assigned == "" {
		return
	}
	for _, p := range s.Policies {
		if p.Name == s.Assigned {
			e.objects = append(e.objects, Object{Ref: Ref{Class: ClassAssignment}, Refs: []Ref{{ClassPolicy, mustGUID(p.GUID)}}})
			return
		}
	}
	e.problems = append(e.problems, Problem{"the store", fmt.Sprintf("policy %q is assigned and not among the policies", s.Assigned), false})
}

// mustGUID is for what complete has checked.
func mustGUID(s string) GUID {
	g, _ := ParseGUID(s)
	return g
}
