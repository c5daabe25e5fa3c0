package netsh

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

func addPolicy(m *machine, a *args) error {
	h := &held{Policy: policy.Policy{Name: a.newName("name"), Uplift: true, DefaultResponse: defaultResponse()}}
	h.KeyExchange.Methods = defaultMainModes()
	if err := a.policy(&h.Policy); err != nil {
		return err
	}
	if !h.DefaultResponse.Active {
		h.DefaultResponse = policy.DefaultResponse{}
	}
	for _, other := range m.policies {
		if other.Name == h.Name {
			return fmt.Errorf("there is a policy %q already", h.Name)
		}
	}
	if len(m.policies) >= maxObjects {
		return fmt.Errorf("the store holds %d policies already", maxObjects)
	}
	m.policies = append(m.policies, h)
	m.assign(h, a)
	return nil
}

// defaultMainModes is the main-mode methods that netsh gives a policy.
func defaultMainModes() []sadb.ISAKMPSuite {
	return []sadb.ISAKMPSuite{
		{Encryption: sadb.TripleDES, Hash: sadb.SHA1, Group: sadb.MODP1024},
		{Encryption: sadb.TripleDES, Hash: sadb.SHA1, Group: sadb.MODP2048},
	}
}

// policy sets what the tags of a policy give, and checks the whole.
func (a *args) policy(p *policy.Policy) error {
	a.text("description", &p.Description)
	a.minutes("pollinginterval", &p.PollingInterval)
	a.flag("mmpfs", &p.KeyExchange.MasterKeyPFS)
	a.count("qmpermm", &p.KeyExchange.Sessions)
	a.minutes("mmlifetime", &p.KeyExchange.Lifetime)
	a.mainModes(&p.KeyExchange.Methods)
	a.flag("uplift", &p.Uplift)
	was := p.DefaultResponse
	a.flag("activatedefaultrule", &p.DefaultResponse.Active)
	var assign bool
	if a.flag("assign", &assign); a.err != nil {
		return a.err
	}
	p.DefaultResponse = a.activated(p, was)
	check := scratch()
	check.PollingInterval, check.KeyExchange = p.PollingInterval, p.KeyExchange
	return firstProblem(check)
}

// activated returns the default response rule of p. If the line made it
// active, and neither it nor an earlier one says how, it is Windows' own:
// Kerberos, and for a policy of Windows its methods.
func (a *args) activated(p *policy.Policy, was policy.DefaultResponse) policy.DefaultResponse {
	d := p.DefaultResponse
	if !d.Active || was.Active {
		return d
	}
	if len(d.Authentication) == 0 {
		d.Authentication = kerberosOnly()
	}
	if len(d.Methods) == 0 && p.Uplift && !a.has("qmsecmethods") {
		d.Methods = defaultResponse().Methods
	}
	return d
}

// assign does what assign= says: one policy is assigned at most.
func (m *machine) assign(h *held, a *args) {
	var yes bool
	a.flag("assign", &yes)
	switch {
	case yes:
		m.assigned = h.Name
	case a.has("assign") && m.assigned == h.Name:
		m.assigned = ""
	}
}

func setPolicy(m *machine, a *args) error {
	if a.has("gponame") {
		return errors.New("gponame= assigns a policy to a group policy object, which is done in the directory")
	}
	h, err := m.policyOf(a)
	if err != nil {
		return err
	}
	p, name := h.Policy, h.Name
	if a.has("newname") {
		name = a.newName("newname")
	}
	if err := a.policy(&p); err != nil {
		return err
	}
	for _, other := range m.policies {
		if other != h && other.Name == name {
			return fmt.Errorf("there is a policy %q already", name)
		}
	}
	if m.assigned == h.Name {
		m.assigned = name
	}
	h.Policy = p
	h.Name = name
	m.assign(h, a)
	return nil
}

// policyOf returns the policy that name= or guid= means.
func (m *machine) policyOf(a *args) (*held, error) {
	guid, ok := a.get("guid")
	if !ok || a.has("name") {
		name := a.need("name")
		if a.err != nil {
			return nil, a.err
		}
		return m.policyNamed(name)
	}
	for _, h := range m.policies {
		if guid != "" && strings.EqualFold(h.GUID, guid) {
			return h, nil
		}
	}
	return nil, fmt.Errorf("there is no policy with the GUID %q", guid)
}

// deletePolicy deletes a policy with its rules. Its lists and actions stay in
// the store.
func deletePolicy(m *machine, a *args) error {
	if a.every() {
		m.policies, m.assigned = nil, ""
		return nil
	}
	h, err := m.policyOf(a)
	if err != nil {
		return err
	}
	m.policies = slices.DeleteFunc(m.policies, func(other *held) bool { return other == h })
	if m.assigned == h.Name {
		m.assigned = ""
	}
	return nil
}

func setDefaultRule(m *machine, a *args) error {
	name := a.need("policy")
	if a.err != nil {
		return a.err
	}
	h, err := m.policyNamed(name)
	if err != nil {
		return err
	}
	got, secrets, err := m.named(a.authentication(), h.Name, "")
	if err != nil {
		return err
	}
	p := h.Policy
	if got.given {
		p.DefaultResponse.Authentication = got.methods
	}
	d, err := a.defaultRule(&p, h.DefaultResponse, got)
	if err != nil {
		return err
	}
	h.DefaultResponse = d
	m.handOver(secrets)
	return nil
}

// defaultRule returns the default response rule of p as the line changes it.
func (a *args) defaultRule(p *policy.Policy, was policy.DefaultResponse, got authentication) (policy.DefaultResponse, error) {
	a.pfs(&p.DefaultResponse.SessionKeyPFS, &p.DefaultResponse.PFSGroup)
	a.flag("activate", &p.DefaultResponse.Active)
	a.quickModes(&p.DefaultResponse.Methods)
	switch {
	case a.err != nil:
		return was, a.err
	case got.given && p.DefaultResponse.Active && len(got.methods) == 0:
		return was, errors.New("an active default response rule needs an authentication method")
	}
	check := scratch()
	check.DefaultResponse = a.activated(p, was)
	return check.DefaultResponse, firstProblem(check)
}
