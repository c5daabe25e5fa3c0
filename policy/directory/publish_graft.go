package directory

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"ipsecagent/policy"
	"ipsecagent/policy/gpipsec"
)

// ErrAmbiguous: a name stands for several things.
var ErrAmbiguous = errors.New("the name is not clear")

// graft gives the objects of a policy that is to be published their GUIDs. What
// the directory has already and says the same keeps its GUID, its bytes and its
// other users. What is new or differs gets a GUID of its own, so that what is in
// force is never half changed: the one change of the policy object itself, from
// the old objects to the new ones, puts it in force whole.
//
// A GUID that is given here follows from what the object says: publishing the
// same again after an interruption finds what was already written.
type graft struct {
	*contents
	asked   policy.Policy // as it is to be, with the GUIDs that it came with
	want    policy.Policy // with those that it gets
	options PublishOptions
	salt    int
	// old is the policy as it stands there, used what it is made of; nil: it is
	// new.
	old  *gpipsec.Object
	used map[gpipsec.Ref]bool
	// unchanged: nothing but owners is to be written.
	unchanged bool
	// changed is the only rule that differs, if nothing else does: it is
	// changed in place, so that it is the same rule and what it secures stays
	// secured. Zero: none, or more.
	changed gpipsec.Ref
}

// maxSalt bounds the search for GUIDs that are free.
const maxSalt = 16

// graftOn finds the objects to be, and what Windows will see differently.
func graftOn(c *contents, want policy.Policy, o PublishOptions) (*graft, []gpipsec.Object, []gpipsec.Problem, error) {
	g := &graft{contents: c, asked: want, options: o}
	if err := g.findOld(); err != nil {
		return nil, nil, nil, err
	}
	for g.salt = range maxSalt {
		objects, warnings, err := g.attempt()
		if err != nil {
			return nil, nil, nil, err
		}
		if !g.collides(objects) {
			return g, objects, warnings, nil
		}
	}
	return nil, nil, nil, fmt.Errorf("no free GUIDs for the objects of policy %q below %s", want.Name, c.container)
}

// findOld finds the policy that is to be changed: by its GUID, else by its name.
func (g *graft) findOld() error {
	twins := g.named(gpipsec.ClassPolicy, g.asked.Name, nil)
	if g.asked.GUID == "" {
		if len(twins) > 1 {
			return fmt.Errorf("%w: %d policies are named %q already: %s; rename or delete all but one", ErrAmbiguous, len(twins), g.asked.Name, guids(twins))
		}
		if len(twins) == 0 {
			return nil
		}
		g.asked.GUID = twins[0].GUID.String()
	}
	id, err := gpipsec.ParseGUID(g.asked.GUID)
	if err != nil {
		return fmt.Errorf("policy %q: %w", g.asked.Name, err)
	}
	for _, t := range twins {
		if t.GUID != id {
			return fmt.Errorf("%w: another policy, %s, is named %q already, and hosts would take neither; rename one of them", ErrAmbiguous, t.GUID, g.asked.Name)
		}
	}
	g.old = g.at[gpipsec.Ref{Class: gpipsec.ClassPolicy, GUID: id}]
	if g.old == nil {
		return nil
	}
	if g.old.Name != g.asked.Name && !g.options.Rename {
		return fmt.Errorf("%w: policy %q has the GUID of policy %q, which is there: take the GUID out of it to publish another policy beside that one, or say that it is to be renamed (--rename)", ErrAmbiguous, g.asked.Name, g.old.Name)
	}
	g.used = g.below(g.old)
	return nil
}

// attempt gives all GUIDs and returns the objects.
func (g *graft) attempt() ([]gpipsec.Object, []gpipsec.Problem, error) {
	g.want = clonePolicy(g.asked)
	if g.want.GUID == "" {
		g.want.GUID = g.made("policy", g.want.Name)
	}
	for i := range g.want.FilterLists {
		if err := g.list(&g.want.FilterLists[i]); err != nil {
			return nil, nil, err
		}
	}
	for i := range g.want.FilterActions {
		if err := g.action(&g.want.FilterActions[i]); err != nil {
			return nil, nil, err
		}
	}
	former := g.formerParts()
	objects, _, err := g.encode()
	if err != nil {
		return nil, nil, err
	}
	g.settle(former, objects)
	return g.encode()
}

// clonePolicy copies what attempts change.
func clonePolicy(p policy.Policy) policy.Policy {
	p.FilterLists, p.FilterActions, p.Rules = slices.Clone(p.FilterLists), slices.Clone(p.FilterActions), slices.Clone(p.Rules)
	return p
}

func (g *graft) encode() ([]gpipsec.Object, []gpipsec.Problem, error) {
	return gpipsec.Encode(policy.Store{Policies: []policy.Policy{g.want}}, g.options.encoding())
}

// encodeOne returns the object of a store that has one.
func (g *graft) encodeOne(s policy.Store) (gpipsec.Object, error) {
	objects, _, err := gpipsec.Encode(s, g.options.encoding())
	if err != nil {
		return gpipsec.Object{}, err
	}
	return objects[0], nil
}

// list gives a filter list the GUID of one that is there and says the same.
func (g *graft) list(l *policy.FilterList) error {
	for _, have := range g.named(gpipsec.ClassFilter, l.Name, g.used) {
		as := *l
		as.GUID = have.GUID.String()
		as.Filters = g.filterGUIDs(as)
		o, err := g.encodeOne(policy.Store{FilterLists: []policy.FilterList{as}})
		if err != nil {
			return err
		}
		if g.says(o) {
			*l = as
			return nil
		}
	}
	o, err := g.encodeOne(policy.Store{FilterLists: []policy.FilterList{*l}})
	l.GUID = g.guid(l.GUID, o)
	return err
}

// filterGUIDs gives filters without a GUID those of the list that is there.
func (g *graft) filterGUIDs(l policy.FilterList) []policy.Filter {
	filters := slices.Clone(l.Filters)
	have, ok := g.lists[l.GUID]
	if !ok || len(have.Filters) != len(filters) {
		return filters
	}
	for i, f := range filters {
		f.GUID = have.Filters[i].GUID
		if filters[i].GUID == "" && reflect.DeepEqual(f, have.Filters[i]) {
			filters[i] = f
		}
	}
	return filters
}

// action gives a filter action the GUID of one that is there and says the same.
func (g *graft) action(a *policy.FilterAction) error {
	for _, have := range g.named(gpipsec.ClassNegotiation, a.Name, g.used) {
		as := *a
		as.GUID = have.GUID.String()
		o, err := g.encodeOne(policy.Store{FilterActions: []policy.FilterAction{as}})
		if err != nil {
			return err
		}
		if g.says(o) {
			*a = as
			return nil
		}
	}
	o, err := g.encodeOne(policy.Store{FilterActions: []policy.FilterAction{*a}})
	a.GUID = g.guid(a.GUID, o)
	return err
}

// parts are the objects that a policy is made of and shares with none.
type parts struct {
	rules            []gpipsec.Ref // beside those of the policy; zero: it is new
	response, action gpipsec.Ref
	settings         gpipsec.Ref
	count            int // of rules that the policy has there
}

// formerParts finds the parts that are there and gives their GUIDs to those of
// the policy, by the names of the rules; new ones get one for the time being.
func (g *graft) formerParts() parts {
	f := parts{rules: make([]gpipsec.Ref, len(g.want.Rules))}
	unmatched := g.oldParts(&f)
	for i := range g.want.Rules {
		r := &g.want.Rules[i]
		at := slices.IndexFunc(unmatched, func(ref gpipsec.Ref) bool { return g.at[ref].Name == r.Name })
		r.GUID = g.made("rule", g.want.GUID, fmt.Sprint(i))
		if at >= 0 {
			f.rules[i] = unmatched[at]
			unmatched = slices.Delete(unmatched, at, at+1)
			r.GUID = f.rules[i].GUID.String()
		}
	}
	if g.hasResponse() {
		d := &g.want.DefaultResponse
		d.GUID, d.ActionGUID = g.made("response", g.want.GUID), g.made("response action", g.want.GUID)
		if !f.response.GUID.IsZero() {
			d.GUID, d.ActionGUID = f.response.GUID.String(), f.action.GUID.String()
		}
	}
	g.want.KeyExchange.GUID = g.made("settings", g.want.GUID)
	if !f.settings.GUID.IsZero() {
		g.want.KeyExchange.GUID = f.settings.GUID.String()
	}
	return f
}

// hasResponse reports whether the policy says anything of the default response
// rule.
func (g *graft) hasResponse() bool {
	return !reflect.DeepEqual(g.asked.DefaultResponse, policy.DefaultResponse{})
}

// oldParts reads the references of the policy that is there and returns its
// rules but for the default response.
func (g *graft) oldParts(f *parts) (rules []gpipsec.Ref) {
	if g.old == nil {
		return nil
	}
	for _, ref := range g.old.Refs {
		o := g.at[ref]
		switch {
		case o == nil || ref.GUID == gpipsec.VersionObject():
		case ref.Class == gpipsec.ClassISAKMP:
			f.settings = ref
		case ref.Class != gpipsec.ClassNFA:
		case g.isResponse(o) && len(o.Refs) == 1:
			f.response, f.action = ref, o.Refs[0]
			f.count++
		default:
			rules = append(rules, ref)
			f.count++
		}
	}
	return rules
}

// isResponse reports whether a rule is a default response rule: it has no
// filter list.
func (c *contents) isResponse(o *gpipsec.Object) bool {
	return !slices.ContainsFunc(o.Refs, func(r gpipsec.Ref) bool { return r.Class == gpipsec.ClassFilter })
}

// settle compares the policy, written as if each part were the one that is
// there, with what is there, and gives what differs its GUID.
func (g *graft) settle(f parts, objects []gpipsec.Object) {
	by := map[gpipsec.Ref]gpipsec.Object{}
	for _, o := range objects {
		by[o.Ref] = o
	}
	var differ []int
	for i, r := range g.want.Rules {
		if !g.says(by[refOf(gpipsec.ClassNFA, r.GUID)]) {
			differ = append(differ, i)
		}
	}
	response := g.sameResponse(f, by)
	rest := response && g.sameHeader(by) && g.says(by[refOf(gpipsec.ClassISAKMP, g.want.KeyExchange.GUID)]) && g.ruleCount() == f.count && len(g.leftovers()) == 0
	g.unchanged = rest && len(differ) == 0
	if g.unchanged {
		return
	}
	g.changed = gpipsec.Ref{}
	if rest && len(differ) == 1 && len(g.referrers[f.rules[differ[0]]]) == 1 {
		g.changed, differ = f.rules[differ[0]], nil
	}
	for _, i := range differ {
		r := &g.want.Rules[i]
		r.GUID = g.guid(g.asked.Rules[i].GUID, by[refOf(gpipsec.ClassNFA, r.GUID)])
	}
	if !response {
		g.newResponse(by)
	}
	g.newSettings(f, by)
}

func refOf(c gpipsec.Class, guid string) gpipsec.Ref {
	id, err := gpipsec.ParseGUID(guid)
	if err != nil {
		return gpipsec.Ref{}
	}
	return gpipsec.Ref{Class: c, GUID: id}
}

// ruleCount is the number of rules that the policy will have.
func (g *graft) ruleCount() int {
	if g.hasResponse() {
		return len(g.want.Rules) + 1
	}
	return len(g.want.Rules)
}

func (g *graft) sameResponse(f parts, by map[gpipsec.Ref]gpipsec.Object) bool {
	if !g.hasResponse() {
		return f.response.GUID.IsZero()
	}
	d := g.want.DefaultResponse
	return g.says(by[refOf(gpipsec.ClassNFA, d.GUID)]) && g.says(by[refOf(gpipsec.ClassNegotiation, d.ActionGUID)])
}

// sameHeader compares what the policy object says itself.
func (g *graft) sameHeader(by map[gpipsec.Ref]gpipsec.Object) bool {
	if g.old == nil || slices.ContainsFunc(g.old.Refs, func(r gpipsec.Ref) bool { return g.at[r] == nil }) {
		return false
	}
	o := by[g.old.Ref]
	o.Refs = g.old.Refs
	return g.says(o)
}

// newResponse gives the default response rule and its action new GUIDs.
func (g *graft) newResponse(by map[gpipsec.Ref]gpipsec.Object) {
	if !g.hasResponse() {
		return
	}
	d, asked := &g.want.DefaultResponse, g.asked.DefaultResponse
	rule, action := by[refOf(gpipsec.ClassNFA, d.GUID)], by[refOf(gpipsec.ClassNegotiation, d.ActionGUID)]
	d.ActionGUID = g.guid(asked.ActionGUID, action)
	rule.Refs = []gpipsec.Ref{refOf(gpipsec.ClassNegotiation, d.ActionGUID)}
	d.GUID = g.guid(asked.GUID, rule)
}

// newSettings gives the key exchange settings a new GUID, whatever has changed:
// the reference to them is what then changes in the policy in any case, so that
// Windows hosts, which look at the policy object alone, notice, and so that two
// who publish at once notice each other.
func (g *graft) newSettings(f parts, by map[gpipsec.Ref]gpipsec.Object) {
	o := by[refOf(gpipsec.ClassISAKMP, g.want.KeyExchange.GUID)]
	o.Owners = nil
	o.Refs = []gpipsec.Ref{f.settings} // not the same twice
	g.want.KeyExchange.GUID = g.guid(g.asked.KeyExchange.GUID, o)
}

// guid returns the GUID that an object came with if nothing has it yet, else one
// that is made of what the object says.
func (g *graft) guid(own string, o gpipsec.Object) string {
	if ref := refOf(o.Class, own); g.salt == 0 && !ref.GUID.IsZero() && g.at[ref] == nil {
		return own
	}
	content := []string{string(o.Class), o.Name, o.Description, o.Type.String(), o.Action.String(), string(o.Data)}
	if o.Class == gpipsec.ClassNFA || o.Class == gpipsec.ClassISAKMP {
		content = append(content, g.want.GUID)
	}
	for _, r := range o.Refs {
		content = append(content, r.String())
	}
	return g.made(content...)
}

// made is a GUID of these words (RFC 9562 §5.8).
func (g *graft) made(words ...string) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %d", words, g.salt)
	id := gpipsec.GUID(h.Sum(nil)[:len(gpipsec.GUID{})])
	const version, variant = 7, 8 // the version is in the third group, which is little-endian
	id[version] = id[version]&0x0f | 0x80
	id[variant] = id[variant]&0x3f | 0x80
	return id.String()
}

// collides reports whether an object that would be new is there already and
// says something else: somebody has changed one that this program wrote.
func (g *graft) collides(objects []gpipsec.Object) bool {
	return slices.ContainsFunc(objects, func(o gpipsec.Object) bool {
		if o.Class == gpipsec.ClassPolicy {
			return g.old == nil && g.at[o.Ref] != nil
		}
		return o.Ref != g.changed && g.at[o.Ref] != nil && !g.says(o)
	})
}
