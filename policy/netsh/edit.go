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

// newList adds an empty list whose name is free.
func (m *machine) newList(l policy.FilterList) (*object, error) {
	if m.lists.has(l.Name) {
		return nil, fmt.Errorf("there is a filter list %q already", l.Name)
	}
	if len(m.lists.all) >= maxObjects {
		return nil, fmt.Errorf("the store holds %d filter lists already", maxObjects)
	}
	o := listObject(l)
	m.lists.add(o)
	return o, nil
}

func addFilterList(m *machine, a *args) error {
	l := policy.FilterList{Name: a.newName("name")}
	a.text("description", &l.Description)
	if a.err != nil {
		return a.err
	}
	_, err := m.newList(l)
	return err
}

func setFilterList(m *machine, a *args) error {
	o, err := m.target(&m.lists, a)
	if err != nil {
		return err
	}
	l := *o.list
	a.text("description", &l.Description)
	newName, err := m.newNameOf(&m.lists, o, a)
	if err != nil {
		return err
	}
	*o.list = l
	m.rename(&m.lists, o, newName)
	return nil
}

// target returns the object that name= or guid= means.
func (m *machine) target(s *shelf, a *args) (*object, error) {
	if guid, ok := a.get("guid"); ok && !a.has("name") {
		return s.findGUID(guid)
	}
	name := a.need("name")
	if a.err != nil {
		return nil, a.err
	}
	return m.find(s, name)
}

// newNameOf returns the name that o is to have, which is free, and any error
// of the line so far.
func (m *machine) newNameOf(s *shelf, o *object, a *args) (string, error) {
	name := o.name()
	if a.has("newname") {
		name = a.newName("newname")
	}
	switch {
	case a.err != nil:
		return "", a.err
	case name != o.name() && s.has(name):
		return "", fmt.Errorf("there is a %s %q already", s.kind, name)
	case s == &m.actions && name != o.name() && builtin(name):
		return "", errBuiltin(name)
	}
	return name, nil
}

// rename renames an object, also in the rules that name it.
func (m *machine) rename(s *shelf, o *object, name string) {
	old := o.name()
	for _, h := range m.policies {
		for i := range h.Rules {
			r := &h.Rules[i]
			if h.list(old) == o && r.FilterList == old {
				r.FilterList = name
			}
			if h.action(old) == o && r.FilterAction == old {
				r.FilterAction = name
			}
		}
	}
	s.rename(o, name)
}

func deleteFilterList(m *machine, a *args) error { return m.deleteObjects(&m.lists, a) }

func deleteFilterAction(m *machine, a *args) error { return m.deleteObjects(&m.actions, a) }

// deleteObjects deletes one object or all, none of them if a rule names one.
func (m *machine) deleteObjects(s *shelf, a *args) error {
	chosen := slices.Clone(s.all)
	if !a.every() {
		o, err := m.target(s, a)
		if err != nil {
			return err
		}
		chosen = []*object{o}
	}
	for _, o := range chosen {
		if users := m.users(o); len(users) > 0 {
			return fmt.Errorf("%s %q is used by %s; delete or change that first", s.kind, o.name(), users[0])
		}
	}
	for _, o := range chosen {
		m.delete(s, o)
	}
	return nil
}

// builtin reports whether a name is that of an action that exists without a
// definition.
func builtin(name string) bool {
	return name == sadb.Permit.String() || name == sadb.Block.String()
}

func errBuiltin(name string) error {
	return fmt.Errorf("the action %q is built in: it does what its name says, without a description; use another name", name)
}

func addFilterAction(m *machine, a *args) error {
	act := policy.FilterAction{Name: a.newName("name"), Kind: sadb.Negotiate}
	if err := a.action(&act); err != nil {
		return err
	}
	if builtin(act.Name) {
		if act.Kind.String() != act.Name || act.Description != "" {
			return errBuiltin(act.Name)
		}
		return nil
	}
	if m.actions.has(act.Name) {
		return fmt.Errorf("there is a filter action %q already", act.Name)
	}
	if len(m.actions.all) >= maxObjects {
		return fmt.Errorf("the store holds %d filter actions already", maxObjects)
	}
	m.actions.add(actionObject(act))
	return nil
}

// action sets what the tags of a filter action give, and checks the whole.
// Settings of a negotiation mean nothing in an action of another kind: as in
// Windows they are ignored there.
func (a *args) action(act *policy.FilterAction) error {
	a.text("description", &act.Description)
	a.actionKind(&act.Kind)
	a.flag("inpass", &act.AcceptUnsecured)
	a.flag("soft", &act.AllowClear)
	a.pfs(&act.SessionKeyPFS, &act.PFSGroup)
	a.delay(&act.ClearDelay)
	a.quickModes(&act.Methods)
	if a.err != nil {
		return a.err
	}
	switch {
	case act.Kind != sadb.Negotiate:
		*act = policy.FilterAction{GUID: act.GUID, Name: act.Name, Description: act.Description, Kind: act.Kind}
	case act.Methods == nil && strings.EqualFold(a.value("qmsecmethods"), modern):
		act.Methods = policy.Client().DefaultResponse.Methods
	case act.Methods == nil:
		act.Methods = defaultQuickModes()
	}
	if builtin(act.Name) {
		return nil
	}
	p := scratch()
	p.FilterActions = []policy.FilterAction{*act}
	p.FilterActions[0].Name = "it"
	return firstProblem(p)
}

func (a *args) value(tag string) string {
	v, _ := a.get(tag)
	return v
}

// defaultQuickModes is the methods of an action that negotiates and lists
// none: those with encryption of the default response rule.
func defaultQuickModes() []policy.SecurityMethod {
	var encrypting []policy.SecurityMethod
	for _, m := range defaultResponse().Methods {
		if m.Suites[0].Encrypts() {
			encrypting = append(encrypting, m)
		}
	}
	return encrypting
}

// defaultResponse is the default response rule of a policy that Windows makes.
func defaultResponse() policy.DefaultResponse {
	client, _ := policy.Original(policy.ClientName)
	d := client.DefaultResponse
	d.GUID, d.ActionGUID = "", ""
	return d
}

func (a *args) actionKind(into *sadb.ActionKind) {
	v, ok := a.get("action")
	if !ok {
		return
	}
	for _, k := range []sadb.ActionKind{sadb.Permit, sadb.Block, sadb.Negotiate} {
		if strings.EqualFold(v, k.String()) {
			*into = k
			return
		}
	}
	a.fail(fmt.Errorf("action=%q is not permit, block or negotiate", v))
}

// pfs sets session key PFS: yes, no, or in words of ours the name of a group.
func (a *args) pfs(on *bool, group *sadb.Group) {
	v, ok := a.get("qmpfs")
	if !ok {
		return
	}
	if g, err := sadb.ParseGroup(strings.ToLower(v)); err == nil {
		*on, *group = true, g
		return
	}
	*group = 0
	a.flag("qmpfs", on)
}

// delay sets how long traffic waits before it may go in clear, "3s" or
// "500ms": a tag of ours.
func (a *args) delay(into *time.Duration) {
	v, ok := a.get("cleardelay")
	if !ok {
		return
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		a.fail(fmt.Errorf("cleardelay=%q is not a duration such as 3s", v))
		return
	}
	*into = d
}

func setFilterAction(m *machine, a *args) error {
	o, err := m.target(&m.actions, a)
	if err != nil {
		return err
	}
	act := *o.action
	if err := a.action(&act); err != nil {
		return err
	}
	newName, err := m.newNameOf(&m.actions, o, a)
	if err != nil {
		return err
	}
	*o.action = act
	m.rename(&m.actions, o, newName)
	return nil
}

func deleteAll(m *machine, _ *args) error {
	*m.objects = *takeApart(policy.Store{})
	return nil
}

func setStore(m *machine, a *args) error {
	where := strings.ToLower(a.need("location"))
	if a.err != nil {
		return a.err
	}
	m.elsewhere = where != "local"
	switch {
	case !m.elsewhere && !a.has("domain"):
		return nil
	case where == "domain":
		return errors.New("objects of a directory are not changed line by line; import its LDIF, change that store and export it: ipsecctl import --from ldif, ipsecctl export --to ldif")
	}
	m.elsewhere = true
	return errors.New("only location=local can be chosen; a policy of a directory is imported and exported: ipsecctl import, ipsecctl export")
}

// restoreExamples puts the predefined policies of Windows into the store, over
// those of their names.
func restoreExamples(m *machine, a *args) error {
	switch release := strings.ToLower(a.need("release")); {
	case a.err != nil:
		return a.err
	case release != "win2k" && release != "win2003":
		return fmt.Errorf("release=%q is neither win2k nor win2003", release)
	}
	store := m.store()
	for _, name := range policy.PredefinedNames() {
		p, _ := policy.Original(name)
		store.Policies = slices.DeleteFunc(store.Policies, func(q policy.Policy) bool { return q.Name == p.Name })
		store.Policies = append(store.Policies, *p)
	}
	*m.objects = *takeApart(store)
	return nil
}
