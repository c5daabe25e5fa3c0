package file

import (
	"fmt"

	"go.yaml.in/yaml/v4"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// The header that every document starts with.
const (
	apiVersion = "ipsecagent/v1"
	kind       = "Policy"
)

func (d *decoder) policy(n *yaml.Node) *policy.Policy {
	p := &policy.Policy{}
	var version, what string
	d.mapping(n, "", fields{
		"apiVersion":      d.text(&version),
		"kind":            d.text(&what),
		"guid":            d.text(&p.GUID),
		"name":            d.text(&p.Name),
		"description":     d.text(&p.Description),
		"pollingInterval": value(d, &p.PollingInterval, parseDuration),
		"uplift":          d.bool(&p.Uplift),
		"mode":            value(d, &p.Mode, policy.ParseEnforcement),
		"reportUntil":     value(d, &p.ReportUntil, policy.ParseDeadline),
		"keyExchange":     func(n *yaml.Node, path string) { d.keyExchange(n, path, &p.KeyExchange) },
		"filterLists":     named(d, &p.FilterLists, d.filterList),
		"filterActions":   named(d, &p.FilterActions, d.filterAction),
		"rules":           sequence(d, &p.Rules, d.rule),
		"defaultResponse": func(n *yaml.Node, path string) { d.defaultResponse(n, path, &p.DefaultResponse) },
		"tests":           sequence(d, &p.Tests, d.test),
	})
	d.header(n, "apiVersion", version, apiVersion)
	if what == sharedKind {
		d.fail(d.positions["kind"], "kind", "a document of kind %s holds lists and actions for policies and is none itself", sharedKind)
		return p
	}
	d.header(n, "kind", what, kind)
	return p
}

// header refuses a document of another language or version.
func (d *decoder) header(root *yaml.Node, name, got, want string) {
	if got == want || d.failed[name] {
		return
	}
	n, ok := d.positions[name]
	if !ok {
		d.fail(root, name, "the header is missing: %s: %s", name, want)
		return
	}
	d.fail(n, name, "%s %q is not %s", name, got, want)
}

// named reads a mapping of objects by name into a list, in the order of the
// document.
func named[T any](d *decoder, to *[]T, one func(name string, n *yaml.Node, path string) T) field {
	return func(n *yaml.Node, path string) {
		d.pairs(n, path, func(key, value *yaml.Node) {
			here := fmt.Sprintf("%s[%d]", path, len(*to))
			d.positions[here] = key
			*to = append(*to, one(key.Value, value, here))
		})
	}
}

func (d *decoder) keyExchange(n *yaml.Node, path string, k *policy.KeyExchange) {
	d.mapping(n, path, fields{
		"methods":      sequence(d, &k.Methods, element(d, sadb.ParseISAKMPSuite)),
		"lifetime":     value(d, &k.Lifetime, parseDuration),
		"sessions":     value(d, &k.Sessions, parseCount),
		"masterKeyPFS": d.bool(&k.MasterKeyPFS),
		"guid":         d.text(&k.GUID),
		"identity":     d.text(&k.Identity),
	})
}

// element reads an element of a list by parse.
func element[T any](d *decoder, parse func(string) (T, error)) func(*yaml.Node, string) T {
	return func(n *yaml.Node, path string) (v T) {
		value(d, &v, parse)(n, path)
		return v
	}
}

func (d *decoder) filterList(name string, n *yaml.Node, path string) policy.FilterList {
	l := policy.FilterList{Name: name}
	filters := sequence(d, &l.Filters, d.filter)
	if n.Kind == yaml.SequenceNode {
		filters(n, path+".filters")
		return l
	}
	d.mapping(n, path, fields{
		"guid":        d.text(&l.GUID),
		"description": d.text(&l.Description),
		"filters":     filters,
	})
	return l
}

func (d *decoder) filter(n *yaml.Node, path string) policy.Filter {
	f := policy.Filter{Mirrored: true}
	d.mapping(n, path, fields{
		"guid":            d.text(&f.GUID),
		"description":     d.text(&f.Description),
		"from":            d.endpoint(&f.From),
		"to":              d.endpoint(&f.To),
		"protocol":        value(d, &f.Protocol, parseProtocol),
		"sourcePort":      value(d, &f.FromPorts, parsePorts),
		"destinationPort": value(d, &f.ToPorts, parsePorts),
		"icmpType":        value(d, &f.ICMPType, parseOctets),
		"icmpCode":        value(d, &f.ICMPCode, parseOctets),
		"mirrored":        d.bool(&f.Mirrored),
	})
	for _, side := range []string{"from", "to"} {
		if _, ok := d.positions[path+"."+side]; !ok && n.Kind == yaml.MappingNode {
			d.fail(n, path+"."+side, "%q is missing; write any for every address", side)
		}
	}
	return f
}

// endpoint reads me, any, an address, prefix or range, one of the sets of the
// host's configuration, or {name: a DNS name}.
func (d *decoder) endpoint(to *policy.Endpoint) field {
	return func(n *yaml.Node, path string) {
		if n.Kind == yaml.MappingNode {
			to.Kind = policy.Name
			d.mapping(n, path, fields{"name": d.text(&to.Name)})
			return
		}
		value(d, to, parseEndpoint)(n, path)
	}
}

func (d *decoder) filterAction(name string, n *yaml.Node, path string) policy.FilterAction {
	a := policy.FilterAction{Name: name}
	if n.Kind == yaml.ScalarNode {
		value(d, &a.Kind, parseSimpleAction)(n, path)
		return a
	}
	d.mapping(n, path, fields{
		"guid":        d.text(&a.GUID),
		"description": d.text(&a.Description),
		"action":      value(d, &a.Kind, parseSimpleAction),
		"negotiate":   func(n *yaml.Node, path string) { d.negotiate(n, path, &a) },
	})
	_, simple := d.positions[path+".action"]
	_, negotiate := d.positions[path+".negotiate"]
	switch {
	case negotiate && !simple:
		a.Kind = sadb.Negotiate
	case !negotiate && !simple && n.Kind == yaml.MappingNode:
		d.fail(n, path, "filter action %q says neither action: permit, action: block nor negotiate: …", name)
	}
	return a
}

func (d *decoder) negotiate(n *yaml.Node, path string, a *policy.FilterAction) {
	d.mapping(n, path, fields{
		"methods":         sequence(d, &a.Methods, d.method),
		"acceptUnsecured": d.bool(&a.AcceptUnsecured),
		"allowClear":      d.bool(&a.AllowClear),
		"clearDelay":      value(d, &a.ClearDelay, parseDuration),
		"sessionKeyPFS":   d.sessionKeyPFS(&a.SessionKeyPFS, &a.PFSGroup),
	})
}

// sessionKeyPFS reads true (the group of the main mode), false or a group.
func (d *decoder) sessionKeyPFS(on *bool, group *sadb.Group) field {
	return func(n *yaml.Node, path string) {
		if n.Tag == "!!bool" {
			d.bool(on)(n, path)
			return
		}
		value(d, group, sadb.ParseGroup)(n, path)
		*on = *group != 0
	}
}

// method reads the name of a suite, or {esp: …, ah: …, lifetime: …, bytes: …}.
func (d *decoder) method(n *yaml.Node, path string) policy.SecurityMethod {
	var m policy.SecurityMethod
	if n.Kind != yaml.MappingNode {
		var s sadb.Suite
		value(d, &s, sadb.ParseSuite)(n, path)
		m.Suites = []sadb.Suite{s}
		return m
	}
	var esp, ah sadb.Suite
	d.mapping(n, path, fields{
		"esp":      value(d, &esp, suiteOf("esp-")),
		"ah":       value(d, &ah, suiteOf("ah-")),
		"lifetime": value(d, &m.Lifetime, parseDuration),
		"bytes":    value(d, &m.Bytes, parseSize),
	})
	for _, s := range []sadb.Suite{ah, esp} {
		if s != (sadb.Suite{}) {
			m.Suites = append(m.Suites, s)
		}
	}
	return m
}

func (d *decoder) rule(n *yaml.Node, path string) policy.Rule {
	var r policy.Rule
	d.mapping(n, path, fields{
		"guid":           d.text(&r.GUID),
		"name":           d.text(&r.Name),
		"description":    d.text(&r.Description),
		"disabled":       d.bool(&r.Disabled),
		"filterList":     d.text(&r.FilterList),
		"filterAction":   d.text(&r.FilterAction),
		"authentication": sequence(d, &r.Authentication, d.authentication),
		"tunnel":         d.tunnel(&r.Tunnel),
		"connections":    value(d, &r.Connections, parseConnections),
		"mode":           value(d, &r.Mode, policy.ParseEnforcement),
		"reportUntil":    value(d, &r.ReportUntil, policy.ParseDeadline),
	})
	return r
}

// authentication reads kerberos, psk, or one of {kerberos: …},
// {certificate: …}, {psk: …}.
func (d *decoder) authentication(n *yaml.Node, path string) policy.AuthMethod {
	var m policy.AuthMethod
	if n.Kind != yaml.MappingNode {
		value(d, &m.Kind, parseAuthentication)(n, path)
		return m
	}
	principals := sequence(d, &m.AcceptPrincipals, element(d, parseText))
	method := func(k policy.AuthKind, known fields) field {
		return func(n *yaml.Node, path string) {
			m.Kind = k
			d.mapping(n, path, known)
		}
	}
	d.mapping(n, path, fields{
		"kerberos": method(policy.Kerberos, fields{"acceptPrincipals": principals}),
		"psk":      method(policy.PresharedKey, fields{"key": d.text(&m.Key), "acceptPrincipals": principals}),
		"certificate": method(policy.Certificate, fields{
			"ca": d.text(&m.CA), "acceptPrincipals": principals,
			"excludeCAName": d.bool(&m.ExcludeCAName), "mapToAccount": d.bool(&m.MapToAccount),
		}),
	})
	if len(n.Content) != 2 {
		d.fail(n, path, "exactly one of kerberos, certificate and psk is expected")
	}
	return m
}

// tunnel reads an address or {name: a DNS name}.
func (d *decoder) tunnel(to *policy.TunnelSetting) field {
	return func(n *yaml.Node, path string) {
		if n.Kind == yaml.MappingNode {
			d.mapping(n, path, fields{"name": d.text(&to.Name)})
			return
		}
		value(d, &to.Endpoint, parseAddr)(n, path)
	}
}

func (d *decoder) defaultResponse(n *yaml.Node, path string, r *policy.DefaultResponse) {
	d.mapping(n, path, fields{
		"guid":           d.text(&r.GUID),
		"actionGuid":     d.text(&r.ActionGUID),
		"active":         d.bool(&r.Active),
		"methods":        sequence(d, &r.Methods, d.method),
		"authentication": sequence(d, &r.Authentication, d.authentication),
		"sessionKeyPFS":  d.sessionKeyPFS(&r.SessionKeyPFS, &r.PFSGroup),
	})
}

func (d *decoder) test(n *yaml.Node, path string) policy.Test {
	var t policy.Test
	d.mapping(n, path, fields{"flow": d.text(&t.Flow), "expect": d.text(&t.Expect)})
	return t
}
