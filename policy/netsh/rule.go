package netsh

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

func addRule(m *machine, a *args) error {
	r := policy.Rule{Name: a.newName("name")}
	policyName := a.need("policy")
	a.need("filterlist")
	a.need("filteraction")
	if a.err != nil {
		return a.err
	}
	h, err := m.policyNamed(policyName)
	if err != nil {
		return err
	}
	if len(h.Rules) >= maxObjects {
		return fmt.Errorf("policy %q has %d rules already", h.Name, maxObjects)
	}
	if err := h.free(r.Name); err != nil {
		return err
	}
	change, err := m.rule(h, &r, a)
	if err != nil {
		return err
	}
	if !change.auth.given {
		r.Authentication = kerberosOnly()
	}
	h.Rules = append(h.Rules, r)
	m.commit(h, change)
	return nil
}

// free refuses a name that a rule of the policy has.
func (h *held) free(name string) error {
	for _, r := range h.Rules {
		if r.Name == name {
			return fmt.Errorf("policy %q has a rule %q already", h.Name, name)
		}
	}
	return nil
}

// ruleChange is what a line does to a rule besides its own fields.
type ruleChange struct {
	list, action *object // that the policy is to carry; nil: nothing new
	auth         authentication
	secrets      []Secret
}

func (m *machine) commit(h *held, c ruleChange) {
	h.carry(c.list, c.action)
	m.handOver(c.secrets)
}

// rule sets what the tags of a rule give, and changes nothing else.
func (m *machine) rule(h *held, r *policy.Rule, a *args) (ruleChange, error) {
	a.text("description", &r.Description)
	active := !r.Disabled
	a.flag("activate", &active)
	r.Disabled = !active
	a.connections(&r.Connections)
	a.tunnel(&r.Tunnel)
	c := ruleChange{auth: a.authentication()}
	if a.err != nil {
		return c, a.err
	}
	err := m.references(h, r, a, &c)
	if err != nil {
		return c, err
	}
	c.auth, c.secrets, err = m.named(c.auth, h.Name, r.Name)
	if err != nil {
		return c, err
	}
	if c.auth.given {
		r.Authentication = c.auth.methods
	}
	if c.auth.given && len(c.auth.methods) == 0 && h.negotiates(r, c.action) {
		return c, errors.New("the rule negotiates security and needs an authentication method")
	}
	return c, nil
}

func (h *held) negotiates(r *policy.Rule, action *object) bool {
	if action == nil {
		action = h.action(r.FilterAction)
	}
	return action != nil && action.action.Kind == sadb.Negotiate
}

// references looks up the list and the action that a line names.
func (m *machine) references(h *held, r *policy.Rule, a *args, c *ruleChange) error {
	var err error
	if name, ok := a.get("filterlist"); ok {
		if c.list, err = m.reference(h, h.lists, &m.lists, name); err != nil {
			return err
		}
		r.FilterList = c.list.name()
	}
	name, ok := a.get("filteraction")
	if !ok {
		return nil
	}
	if builtin(name) && h.action(name) == nil && !m.actions.has(name) {
		r.FilterAction = name
		return m.checkBuiltin(name)
	}
	if c.action, err = m.reference(h, h.actions, &m.actions, name); err != nil {
		return err
	}
	r.FilterAction = c.action.name()
	return nil
}

// checkBuiltin refuses the name of a built-in action where an action that does
// something else differs from it in case only: Windows would take that one.
func (m *machine) checkBuiltin(name string) error {
	for _, o := range m.actions.named(name) {
		if o.action.Kind.String() != name {
			return fmt.Errorf("%q may mean the built-in action, or filter action %q, which is %v; rename that one", name, o.name(), o.action.Kind)
		}
	}
	return nil
}

// reference returns the object of a name: the policy's own one first.
func (m *machine) reference(h *held, own []*object, s *shelf, name string) (*object, error) {
	if o := carriedBy(own, name); o != nil {
		return o, nil
	}
	o, err := m.find(s, name)
	if err != nil {
		return nil, err
	}
	if other := carriedBy(own, o.name()); other != nil && other != o {
		return nil, fmt.Errorf("policy %q carries another %s %q", h.Name, s.kind, o.name())
	}
	return o, nil
}

func (a *args) connections(into *sadb.ConnectionType) {
	v, ok := a.get("conntype")
	if !ok {
		return
	}
	switch strings.ToLower(v) {
	case "all":
		*into = sadb.AllConnections
	case "lan":
		*into = sadb.LAN
	case "dialup":
		*into = sadb.RemoteAccess
	default:
		a.fail(fmt.Errorf("conntype=%q is not lan, dialup or all", v))
	}
}

// tunnel sets the endpoint of a tunnel; "" takes it away.
func (a *args) tunnel(into *policy.TunnelSetting) {
	v, ok := a.get("tunnel")
	if !ok {
		return
	}
	addr, err := netip.ParseAddr(v)
	switch {
	case v == "":
		*into = policy.TunnelSetting{}
	case err == nil && (plainAddr(addr) != nil || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback()):
		a.fail(fmt.Errorf("tunnel=%q cannot be the address of a gateway", v))
	case err == nil:
		*into = policy.TunnelSetting{Endpoint: addr}
	case dnsName(v):
		*into = policy.TunnelSetting{Name: v}
	default:
		a.fail(fmt.Errorf("tunnel=%q is neither an IP address nor a DNS name", v))
	}
}

func setRule(m *machine, a *args) error {
	h, i, err := m.ruleOf(a)
	if err != nil {
		return err
	}
	r := &h.Rules[i]
	changed := *r
	if a.has("newname") {
		changed.Name = a.newName("newname")
	}
	if err := h.free(changed.Name); changed.Name != r.Name && err != nil {
		return err
	}
	c, err := m.rule(h, &changed, a)
	if err != nil {
		return err
	}
	if h.negotiates(&changed, c.action) && len(changed.Authentication) == 0 {
		changed.Authentication = kerberosOnly()
	}
	*r = changed
	m.commit(h, c)
	return nil
}

// ruleOf returns the rule that name= or id= means, in the policy of policy=.
// id= is the number that show rule prints.
func (m *machine) ruleOf(a *args) (*held, int, error) {
	policyName := a.need("policy")
	if a.err != nil {
		return nil, 0, a.err
	}
	h, err := m.policyNamed(policyName)
	if err != nil {
		return nil, 0, err
	}
	if id, ok := a.get("id"); ok && !a.has("name") {
		n, err := strconv.Atoi(id)
		if err != nil || n < 1 || n > len(h.Rules) {
			return nil, 0, fmt.Errorf("policy %q has no rule with the id %q; show rule name=all policy=… lists them", h.Name, id)
		}
		return h, n - 1, nil
	}
	name := a.need("name")
	if a.err != nil {
		return nil, 0, a.err
	}
	folded := -1
	for i, r := range h.Rules {
		if r.Name == name {
			return h, i, nil
		}
		if strings.EqualFold(r.Name, name) {
			folded = i
		}
	}
	if folded < 0 {
		return nil, 0, fmt.Errorf("policy %q has no rule %q", h.Name, name)
	}
	return h, folded, nil
}

func deleteRule(m *machine, a *args) error {
	if a.every() {
		name := a.need("policy")
		if a.err != nil {
			return a.err
		}
		h, err := m.policyNamed(name)
		if err != nil {
			return err
		}
		h.Rules = nil
		return nil
	}
	h, i, err := m.ruleOf(a)
	if err != nil {
		return err
	}
	h.Rules = slices.Delete(h.Rules, i, i+1)
	return nil
}
