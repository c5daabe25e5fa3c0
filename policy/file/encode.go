package file

import (
	"fmt"
	"time"

	"go.yaml.in/yaml/v4"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// Marshal writes p as a document, in short forms where they say the same:
// Parse gives an equal policy back. It does not validate.
func Marshal(p *policy.Policy) ([]byte, error) {
	data, err := dump(encodePolicy(p))
	if err != nil {
		return nil, fmt.Errorf("file: write policy %q: %w", p.Name, err)
	}
	return data, nil
}

func encodePolicy(p *policy.Policy) *yaml.Node {
	m := newMapping()
	m.plain("apiVersion", apiVersion)
	m.plain("kind", kind)
	m.text("guid", p.GUID)
	m.text("name", p.Name)
	m.text("description", p.Description)
	if p.PollingInterval != 0 {
		m.plain("pollingInterval", formatDuration(p.PollingInterval))
	}
	m.flag("uplift", p.Uplift)
	m.mode(p.Mode, p.ReportUntil)
	m.put("keyExchange", encodeKeyExchange(p.KeyExchange))
	m.put("filterLists", encodeLists(p.FilterLists))
	m.put("filterActions", encodeActions(p.FilterActions))
	m.put("rules", list(p.Rules, encodeRule))
	m.put("defaultResponse", encodeDefaultResponse(p.DefaultResponse))
	m.put("tests", list(p.Tests, encodeTest))
	return m.node
}

func encodeShared(s *Shared) *yaml.Node {
	m := newMapping()
	m.plain("apiVersion", apiVersion)
	m.plain("kind", sharedKind)
	m.put("filterLists", encodeLists(s.FilterLists))
	m.put("filterActions", encodeActions(s.FilterActions))
	return m.node
}

// mapping builds a mapping node; empty values are left out.
type mapping struct{ node *yaml.Node }

func newMapping() mapping { return mapping{&yaml.Node{Kind: yaml.MappingNode}} }

func (m mapping) put(key string, value *yaml.Node) {
	if value == nil || value.Kind != yaml.ScalarNode && len(value.Content) == 0 {
		return
	}
	m.node.Content = append(m.node.Content, textNode(key), value)
}

// text puts free text, quoted where it needs to be.
func (m mapping) text(key, value string) {
	if value != "" {
		m.put(key, textNode(value))
	}
}

// plain puts a word or number of the language, never quoted.
func (m mapping) plain(key, value string) { m.put(key, plainNode(value)) }

func (m mapping) flag(key string, value bool) {
	if value {
		m.plain(key, "true")
	}
}

// mode puts the mode of a policy or rule, if it says one.
func (m mapping) mode(mode policy.Enforcement, until time.Time) {
	if mode != policy.Unsaid {
		m.plain("mode", mode.String())
	}
	if !until.IsZero() {
		m.plain("reportUntil", policy.FormatDeadline(until))
	}
}

func textNode(s string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
}

func plainNode(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: s} }

// flow puts a node on one line.
func flow(n *yaml.Node) *yaml.Node {
	n.Style = yaml.FlowStyle
	return n
}

func list[T any](values []T, one func(T) *yaml.Node) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode}
	for _, v := range values {
		n.Content = append(n.Content, one(v))
	}
	return n
}

func encodeKeyExchange(k policy.KeyExchange) *yaml.Node {
	m := newMapping()
	m.text("guid", k.GUID)
	m.text("identity", k.Identity)
	m.put("methods", flow(list(k.Methods, func(s sadb.ISAKMPSuite) *yaml.Node { return plainNode(s.String()) })))
	if k.Lifetime != 0 {
		m.plain("lifetime", formatDuration(k.Lifetime))
	}
	if k.Sessions != 0 {
		m.plain("sessions", fmt.Sprint(k.Sessions))
	}
	m.flag("masterKeyPFS", k.MasterKeyPFS)
	return m.node
}

func encodeLists(lists []policy.FilterList) *yaml.Node {
	all := newMapping()
	for _, l := range lists {
		filters := list(l.Filters, encodeFilter)
		if l.GUID == "" && l.Description == "" {
			all.node.Content = append(all.node.Content, textNode(l.Name), filters)
			continue
		}
		m := newMapping()
		m.text("guid", l.GUID)
		m.text("description", l.Description)
		m.put("filters", filters)
		all.put(l.Name, m.node)
	}
	return all.node
}

func encodeFilter(f policy.Filter) *yaml.Node {
	m := newMapping()
	m.text("guid", f.GUID)
	m.text("description", f.Description)
	m.put("from", encodeEndpoint(f.From))
	m.put("to", encodeEndpoint(f.To))
	if f.Protocol != 0 {
		m.plain("protocol", sadb.ProtoName(f.Protocol))
	}
	if f.FromPorts != (sadb.Ports{}) {
		m.plain("sourcePort", formatPorts(f.FromPorts))
	}
	if f.ToPorts != (sadb.Ports{}) {
		m.plain("destinationPort", formatPorts(f.ToPorts))
	}
	if f.ICMPType.Set {
		m.plain("icmpType", f.ICMPType.String())
	}
	if f.ICMPCode.Set {
		m.plain("icmpCode", f.ICMPCode.String())
	}
	if !f.Mirrored {
		m.plain("mirrored", "false")
	}
	return flow(m.node)
}

// formatPorts keeps a range as it was written, where Ports.String would call
// the whole range any.
func formatPorts(p sadb.Ports) string {
	if p.From == p.To {
		return fmt.Sprint(p.From)
	}
	return fmt.Sprintf("%d-%d", p.From, p.To)
}

func encodeEndpoint(e policy.Endpoint) *yaml.Node {
	switch e.Kind {
	case policy.Addresses:
		return textNode(e.Addrs.String())
	case policy.Name:
		m := newMapping()
		m.text("name", e.Name)
		return flow(m.node)
	}
	return plainNode(e.Kind.String())
}

func encodeActions(actions []policy.FilterAction) *yaml.Node {
	all := newMapping()
	for _, a := range actions {
		all.put(a.Name, encodeAction(a))
	}
	return all.node
}

func encodeAction(a policy.FilterAction) *yaml.Node {
	negotiate := encodeNegotiate(a)
	if a.Kind != sadb.Negotiate && a.GUID == "" && a.Description == "" && len(negotiate.Content) == 0 {
		return plainNode(a.Kind.String())
	}
	m := newMapping()
	m.text("guid", a.GUID)
	m.text("description", a.Description)
	if a.Kind != sadb.Negotiate {
		m.plain("action", a.Kind.String())
	}
	if a.Kind == sadb.Negotiate { // without any setting, too: it says what the action is
		m.node.Content = append(m.node.Content, textNode("negotiate"), negotiate)
		return m.node
	}
	m.put("negotiate", negotiate)
	return m.node
}

func encodeNegotiate(a policy.FilterAction) *yaml.Node {
	m := newMapping()
	m.put("methods", list(a.Methods, encodeMethod))
	m.flag("acceptUnsecured", a.AcceptUnsecured)
	m.flag("allowClear", a.AllowClear)
	if a.ClearDelay != 0 {
		m.plain("clearDelay", formatDuration(a.ClearDelay))
	}
	m.sessionKeyPFS(a.SessionKeyPFS, a.PFSGroup)
	return m.node
}

func (m mapping) sessionKeyPFS(on bool, group sadb.Group) {
	switch {
	case group != 0:
		m.plain("sessionKeyPFS", group.String())
	case on:
		m.plain("sessionKeyPFS", "true")
	}
}

func encodeMethod(s policy.SecurityMethod) *yaml.Node {
	if len(s.Suites) == 1 && s.Lifetime == 0 && s.Bytes == 0 {
		return plainNode(s.Suites[0].String())
	}
	m := newMapping()
	for _, suite := range s.Suites {
		key := "esp"
		if suite.Proto == sadb.AH {
			key = "ah"
		}
		m.plain(key, suite.String())
	}
	if s.Lifetime != 0 {
		m.plain("lifetime", formatDuration(s.Lifetime))
	}
	if s.Bytes != 0 {
		m.plain("bytes", formatSize(s.Bytes))
	}
	return flow(m.node)
}

func encodeRule(r policy.Rule) *yaml.Node {
	m := newMapping()
	m.text("guid", r.GUID)
	m.text("name", r.Name)
	m.text("description", r.Description)
	m.flag("disabled", r.Disabled)
	m.text("filterList", r.FilterList)
	m.text("filterAction", r.FilterAction)
	m.put("authentication", flow(list(r.Authentication, encodeAuthentication)))
	m.put("tunnel", encodeTunnel(r.Tunnel))
	if r.Connections != sadb.AllConnections {
		m.plain("connections", r.Connections.String())
	}
	m.mode(r.Mode, r.ReportUntil)
	return m.node
}

func encodeTunnel(t policy.TunnelSetting) *yaml.Node {
	if t.Endpoint.IsValid() {
		return textNode(t.Endpoint.String())
	}
	m := newMapping()
	m.text("name", t.Name)
	return flow(m.node)
}

func encodeAuthentication(a policy.AuthMethod) *yaml.Node {
	options := newMapping()
	options.text("key", a.Key)
	options.text("ca", a.CA)
	options.flag("excludeCAName", a.ExcludeCAName)
	options.flag("mapToAccount", a.MapToAccount)
	options.put("acceptPrincipals", list(a.AcceptPrincipals, textNode))
	name := map[policy.AuthKind]string{policy.Kerberos: "kerberos", policy.Certificate: "certificate", policy.PresharedKey: "psk"}[a.Kind]
	if len(options.node.Content) == 0 {
		return plainNode(name)
	}
	m := newMapping()
	m.put(name, options.node)
	return m.node
}

func encodeDefaultResponse(d policy.DefaultResponse) *yaml.Node {
	m := newMapping()
	m.text("guid", d.GUID)
	m.text("actionGuid", d.ActionGUID)
	m.flag("active", d.Active)
	m.put("methods", list(d.Methods, encodeMethod))
	m.put("authentication", flow(list(d.Authentication, encodeAuthentication)))
	m.sessionKeyPFS(d.SessionKeyPFS, d.PFSGroup)
	return m.node
}

func encodeTest(t policy.Test) *yaml.Node {
	m := newMapping()
	m.text("flow", t.Flow)
	m.plain("expect", t.Expect)
	return flow(m.node)
}
