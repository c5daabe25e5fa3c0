package agent

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/driver"
	"ipsecagent/ike"
	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// Policies lists what can be assigned: the predefined policies and those of
// the library.
func (a *Agent) Policies(ctx context.Context) ([]control.PolicyInfo, error) {
	return ask(ctx, a, func(time.Time) ([]control.PolicyInfo, error) { return a.policies() })
}

func (a *Agent) policies() ([]control.PolicyInfo, error) {
	var list []control.PolicyInfo
	for _, name := range []string{"client", "server", "secure-server"} {
		if p, ok := policy.Predefined(name); ok {
			list = append(list, control.PolicyInfo{Name: name, Description: p.Description, Origin: "predefined", Assigned: name == a.inForce.name})
		}
	}
	if a.cfg.Library.List == nil {
		return list, nil
	}
	entries, err := a.cfg.Library.List()
	for _, e := range entries {
		info := control.PolicyInfo{Name: e.Name, Description: e.Description, Origin: e.Origin, Assigned: e.Name == a.inForce.name}
		if e.Err != nil {
			info.Error = e.Err.Error()
		}
		list = append(list, info)
	}
	return list, err
}

// Policy shows one policy; "" is the one in force.
func (a *Agent) Policy(ctx context.Context, name string, effective bool) (control.PolicyView, error) {
	return ask(ctx, a, func(now time.Time) (control.PolicyView, error) { return a.view(now, name, effective) })
}

func (a *Agent) view(now time.Time, name string, effective bool) (control.PolicyView, error) {
	c, err := a.viewed(name)
	if err != nil {
		return control.PolicyView{}, err
	}
	v := control.PolicyView{SchemaVersion: control.SchemaVersion, Name: c.as.Name, Origin: c.origin, Assigned: c.as.Name == a.inForce.name}
	if a.cfg.Library.Marshal != nil {
		document, err := a.cfg.Library.Marshal(c.policy)
		if err != nil {
			return control.PolicyView{}, fmt.Errorf("agent: show policy %q: %w", c.as.Name, err)
		}
		v.Document = string(document)
	}
	if !effective {
		return v, nil
	}
	if !v.Assigned {
		if err := a.compile(&c); err != nil {
			return v, refused(fmt.Sprintf("policy %q is not valid", c.as.Name), err)
		}
	}
	return a.effective(now, v, c.compiled)
}

// viewed returns the policy to show, the one in force as it is in force.
func (a *Agent) viewed(name string) (candidate, error) {
	f := a.inForce
	if name == "" || name == f.name {
		if f.state != policy.Assigned {
			return candidate{}, &control.Error{Code: control.NotFound, Message: "no policy is assigned: ipsecctl policy list shows what can be"}
		}
		return candidate{as: f.as(), origin: f.origin, policy: f.policy, compiled: f.compiled}, nil
	}
	p, origin, err := a.source.find(name)
	if err != nil {
		return candidate{}, unreadable(name, err)
	}
	return candidate{as: assignment{Name: name}, origin: origin, policy: p}, nil
}

// effective adds the compiled order to a view; of the policy in force with its
// overlays and counters.
func (a *Agent) effective(now time.Time, v control.PolicyView, c *policy.Compiled) (control.PolicyView, error) {
	state, err := a.driverState()
	if err != nil {
		return v, fmt.Errorf("agent: show policy %q: %w", v.Name, err)
	}
	v.Exempt, v.MainMode = state.Exempt, mainMethods(c)
	if a.cfg.Exempt != nil {
		v.Exempt = slices.Concat(v.Exempt, a.cfg.Exempt())
	}
	for _, u := range c.Unresolved {
		v.Unresolved = append(v.Unresolved, u.String())
	}
	byID := make(map[sadb.FilterID]policy.CompiledFilter, len(c.Filters))
	for _, f := range c.Filters {
		byID[f.ID] = f
	}
	if !v.Assigned {
		for _, f := range c.Filters {
			a.show(now, &v, f, driver.FilterStat{Filter: f.Filter})
		}
		return v, nil
	}
	for _, s := range state.Filters {
		f, ok := byID[s.Filter.ID]
		if !ok {
			f = a.overlayView(s.Filter, byID)
		}
		a.show(now, &v, f, s)
	}
	return v, nil
}

// show adds a filter to a view, with where its addresses come from.
func (a *Agent) show(now time.Time, v *control.PolicyView, f policy.CompiledFilter, s driver.FilterStat) {
	shown := filterView(f, s)
	shown.Origins = a.origins(now, f)
	v.Filters = append(v.Filters, shown)
}

// overlayView describes a temporary filter like a compiled one.
func (a *Agent) overlayView(f sadb.Filter, byID map[sadb.FilterID]policy.CompiledFilter) policy.CompiledFilter {
	parent := byID[f.Parent]
	v := policy.CompiledFilter{Filter: f, Rule: parent.Rule, FilterList: parent.FilterList, Weight: parent.Weight}
	v.Reason = "temporary"
	if o, ok := a.overlays[f.ID]; ok {
		v.Reason = fmt.Sprintf("temporary: %s", o.kind)
		if o.kind == responseOverlay {
			v.Rule = defaultResponseTag
		}
	}
	return v
}

func filterView(f policy.CompiledFilter, s driver.FilterStat) control.FilterView {
	v := control.FilterView{ID: string(f.ID), Weight: f.Weight, Reason: f.Reason, Rule: f.Rule, List: f.FilterList,
		Selector: f.Selector.String(), Direction: f.Dir.String(), Action: f.ActionWords(), Packets: s.Packets, Dropped: s.Dropped,
		Overlay: s.Filter.Overlay() || !s.Filter.Expires.IsZero(), Parent: string(s.Filter.Parent), Expires: s.Filter.Expires}
	if f.Connections != sadb.AllConnections {
		v.Connections = f.Connections.String()
	}
	if f.Mode == sadb.Tunnel {
		v.Tunnel = f.TunnelLocal.String() + " - " + f.TunnelRemote.String()
	}
	if f.Negotiation == nil {
		return v
	}
	for i, p := range f.Negotiation.Proposals {
		v.Methods = append(v.Methods, marked(p.String(), f.Negotiation.Uplifted != nil && f.Negotiation.Uplifted[i]))
	}
	for _, p := range f.Negotiation.Left {
		v.Methods = append(v.Methods, p.String()+" (not offered: the data path does not carry it)")
	}
	for _, r := range requirements(f.Negotiation.Authentication) {
		v.Auth = append(v.Auth, authWords(r.Method.String(), r.Key, r.CA))
	}
	return v
}

// mainMethods returns the main-mode methods of a compiled policy.
func mainMethods(c *policy.Compiled) []string {
	var names []string
	for i, m := range c.KeyExchange.Methods {
		names = append(names, marked(m.String(), i < c.UpliftedMain))
	}
	return names
}

// marked says of a method that the policy does not list that uplift offers it.
func marked(method string, uplifted bool) string {
	if uplifted {
		return method + " (uplifted)"
	}
	return method
}

func authWords(method, key, ca string) string {
	for _, detail := range []string{key, ca} {
		if detail != "" {
			method += " " + detail
		}
	}
	return method
}

// methodsText names a rule's authentication methods, with who may stand there.
func methodsText(methods []policy.AuthMethod) string {
	var words []string
	for _, m := range methods {
		w := m.String()
		if len(m.AcceptPrincipals) > 0 {
			w += " of " + strings.Join(m.AcceptPrincipals, " or ")
		}
		words = append(words, w)
	}
	return strings.Join(words, ", ")
}

func cookies(s ike.ISAKMPSA) string {
	return hex.EncodeToString(s.ICookie[:]) + ":" + hex.EncodeToString(s.RCookie[:])
}
