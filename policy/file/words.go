package file

import (
	"errors"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// The values of the language one by one, for tools that take them from a
// command line. What has a long form in a document has it here, too, as
// {field: value}.

// ParseEndpoint reads a from or to of a filter: me, any, an address, a prefix,
// a range, a set of the host's configuration, {name: db.example} or
// name:db.example.
func ParseEndpoint(s string) (policy.Endpoint, error) {
	if name, ok := strings.CutPrefix(s, "name:"); ok {
		return policy.Endpoint{Kind: policy.Name, Name: name}, nil
	}
	return fragment(s, func(d *decoder, n *yaml.Node) (e policy.Endpoint) {
		d.endpoint(&e)(n, "")
		return e
	})
}

// ParseProtocol reads any, a name such as tcp, or a number.
func ParseProtocol(s string) (uint8, error) { return parseProtocol(s) }

// ParsePorts reads any, 443 or 8000-8100.
func ParsePorts(s string) (sadb.Ports, error) { return parsePorts(s) }

// ParseOctets reads an ICMP type or code: any, 8 or 0-8.
func ParseOctets(s string) (sadb.Octets, error) { return parseOctets(s) }

// ParseDuration reads 8h, 30m, 90s, 1d.
func ParseDuration(s string) (time.Duration, error) { return parseDuration(s) }

// ParseConnections reads all, lan or remote-access.
func ParseConnections(s string) (sadb.ConnectionType, error) { return parseConnections(s) }

// ParseMethod reads a security method: a suite, or {esp: …, lifetime: …}.
func ParseMethod(s string) (policy.SecurityMethod, error) {
	return fragment(s, func(d *decoder, n *yaml.Node) policy.SecurityMethod { return d.method(n, "") })
}

// ParseAuthentication reads an authentication method: kerberos, psk, psk:NAME,
// cert:CA-NAME, or the long form of a document.
func ParseAuthentication(s string) (policy.AuthMethod, error) {
	if key, ok := strings.CutPrefix(s, "psk:"); ok && key != "" {
		return policy.AuthMethod{Kind: policy.PresharedKey, Key: key}, nil
	}
	if ca, ok := strings.CutPrefix(s, "cert:"); ok && ca != "" {
		return policy.AuthMethod{Kind: policy.Certificate, CA: ca}, nil
	}
	return fragment(s, func(d *decoder, n *yaml.Node) policy.AuthMethod { return d.authentication(n, "") })
}

// ParseTunnel reads the other gateway of a tunnel: an address, {name: …}, or
// none.
func ParseTunnel(s string) (policy.TunnelSetting, error) {
	if s == "none" {
		return policy.TunnelSetting{}, nil
	}
	return fragment(s, func(d *decoder, n *yaml.Node) (t policy.TunnelSetting) {
		d.tunnel(&t)(n, "")
		return t
	})
}

// fragment reads one value of a document.
func fragment[T any](s string, read func(d *decoder, n *yaml.Node) T) (v T, err error) {
	src := newSource("", []byte(s))
	n := textNode(s)
	if strings.HasPrefix(s, "{") {
		if n, err = src.nodes(); err != nil {
			return v, messages(err)
		}
	}
	d := newDecoder(src)
	if d.walk(n); len(d.errs) == 0 {
		v = read(d, n)
	}
	return v, messages(d.err())
}

// messages leaves out the places, which mean nothing in one value.
func messages(err error) error {
	var all []error
	for _, e := range Errors(err) {
		all = append(all, errors.New(e.Message))
	}
	return errors.Join(all...)
}

// FilterText returns a filter as a document has it, on one line.
func FilterText(f policy.Filter) string { return line(encodeFilter(f)) }

// ActionText returns what a filter action says, as a document has it under the
// action's name.
func ActionText(a policy.FilterAction) string { return lines(encodeAction(a)) }

// RuleText returns a rule as a document has it, without the dash.
func RuleText(r policy.Rule) string { return lines(encodeRule(r)) }

func line(n *yaml.Node) string { return lines(flow(n)) }

func lines(n *yaml.Node) string {
	data, err := dump(n)
	if err != nil { // text that YAML cannot carry, which no document has
		return err.Error()
	}
	return strings.TrimSuffix(string(data), "\n")
}
