package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ipsecagent/policy"
	"ipsecagent/policy/file"
	"ipsecagent/sadb"
)

// option is a flag that sets one property of an object. Only flags that are
// given change anything.
type option[T any] struct {
	name, usage string
	kind        optionKind
	set         func(object *T, values []string) error
}

type optionKind uint8

const (
	single optionKind = iota
	several
	onOff
)

// one makes an option of a parser.
func one[T, V any](name, usage string, field func(*T) *V, parse func(string) (V, error)) option[T] {
	return option[T]{name, usage, single, func(o *T, values []string) error {
		v, err := parse(values[0])
		if err == nil {
			*field(o) = v
		}
		return err
	}}
}

// many makes an option that can be given several times, in order.
func many[T, V any](name, usage string, field func(*T) *[]V, parse func(string) (V, error)) option[T] {
	return option[T]{name, usage, several, func(o *T, values []string) error {
		var all []V
		for _, text := range values {
			v, err := parse(text)
			if err != nil {
				return err
			}
			all = append(all, v)
		}
		*field(o) = all
		return nil
	}}
}

// toggle makes an option that is on when given; --name=false switches it off.
func toggle[T any](name, usage string, field func(*T) *bool) option[T] {
	o := one(name, usage, field, strconv.ParseBool)
	o.kind = onOff
	return o
}

func plainText(s string) (string, error) { return s, nil }

// addOptions gives a command the flags.
func addOptions[T any](c *cobra.Command, options []option[T]) {
	for _, o := range options {
		switch o.kind {
		case single:
			c.Flags().String(o.name, "", o.usage)
		case several:
			c.Flags().StringArray(o.name, nil, o.usage)
		case onOff:
			c.Flags().Bool(o.name, false, o.usage)
		}
	}
}

// applyOptions changes an object by the flags that were given.
func applyOptions[T any](c *cobra.Command, options []option[T], object *T) error {
	for _, o := range options {
		f := c.Flags().Lookup(o.name)
		if !f.Changed {
			continue
		}
		values := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values = list.GetSlice()
		}
		if err := o.set(object, values); err != nil {
			return usage("--%s: %v", o.name, err)
		}
	}
	return nil
}

func filterOptions() []option[policy.Filter] {
	const side = "any, me, an address, a prefix, a range a-b, name:HOST, dns-servers, wins-servers, dhcp-servers or default-gateway"
	return []option[policy.Filter]{
		one("from", "source: "+side, func(f *policy.Filter) *policy.Endpoint { return &f.From }, file.ParseEndpoint),
		one("to", "destination: as --from", func(f *policy.Filter) *policy.Endpoint { return &f.To }, file.ParseEndpoint),
		one("protocol", "any, tcp, udp, sctp, dccp, icmp, icmpv6 or a number", func(f *policy.Filter) *uint8 { return &f.Protocol }, file.ParseProtocol),
		one("source-port", "a port, a range or any", func(f *policy.Filter) *sadb.Ports { return &f.FromPorts }, file.ParsePorts),
		one("destination-port", "a port, a range or any", func(f *policy.Filter) *sadb.Ports { return &f.ToPorts }, file.ParsePorts),
		one("icmp-type", "a number, a range or any", func(f *policy.Filter) *sadb.Octets { return &f.ICMPType }, file.ParseOctets),
		one("icmp-code", "a number, a range or any", func(f *policy.Filter) *sadb.Octets { return &f.ICMPCode }, file.ParseOctets),
		toggle("mirrored", "also the other direction; on unless --mirrored=false", func(f *policy.Filter) *bool { return &f.Mirrored }),
		one("description", "free text", func(f *policy.Filter) *string { return &f.Description }, plainText),
	}
}

func listOptions() []option[policy.FilterList] {
	return []option[policy.FilterList]{
		one("description", "free text", func(l *policy.FilterList) *string { return &l.Description }, plainText),
	}
}

func actionOptions() []option[policy.FilterAction] {
	type action = policy.FilterAction
	return []option[action]{
		one("action", "permit, block or negotiate", func(a *action) *sadb.ActionKind { return &a.Kind }, parseAction),
		many("method", "security method, in order of preference: a suite such as esp-aes256gcm, or {esp: aes128-sha256, lifetime: 1h}; repeat it", func(a *action) *[]policy.SecurityMethod { return &a.Methods }, file.ParseMethod),
		toggle("accept-unsecured", "accept unsecured communication, but always respond using IPsec", func(a *action) *bool { return &a.AcceptUnsecured }),
		toggle("allow-clear", "allow unsecured communication with computers that are not IPsec-aware", func(a *action) *bool { return &a.AllowClear }),
		one("clear-delay", "how long traffic waits before it may go in clear, for example 3s", func(a *action) *time.Duration { return &a.ClearDelay }, file.ParseDuration),
		{"session-key-pfs", "true (in the group of the main mode), a group such as ecp256, or false", single, setSessionKeyPFS},
		one("description", "free text", func(a *action) *string { return &a.Description }, plainText),
	}
}

func parseAction(s string) (sadb.ActionKind, error) {
	for _, k := range []sadb.ActionKind{sadb.Permit, sadb.Block, sadb.Negotiate} {
		if k.String() == s {
			return k, nil
		}
	}
	return 0, fmt.Errorf("%q is not permit, block or negotiate", s)
}

func setSessionKeyPFS(a *policy.FilterAction, values []string) error {
	a.PFSGroup = 0
	on, err := strconv.ParseBool(values[0])
	if err == nil {
		a.SessionKeyPFS = on
		return nil
	}
	a.PFSGroup, err = sadb.ParseGroup(values[0])
	a.SessionKeyPFS = err == nil
	return err
}

func ruleOptions() []option[policy.Rule] {
	type rule = policy.Rule
	return []option[rule]{
		one("list", "filter list", func(r *rule) *string { return &r.FilterList }, plainText),
		one("action", "filter action; permit and block are built in", func(r *rule) *string { return &r.FilterAction }, plainText),
		many("auth", "authentication method, in order of preference: kerberos, psk, psk:KEY-NAME or cert:CA-NAME; repeat it", func(r *rule) *[]policy.AuthMethod { return &r.Authentication }, file.ParseAuthentication),
		one("tunnel", "address of the other gateway, or none", func(r *rule) *policy.TunnelSetting { return &r.Tunnel }, file.ParseTunnel),
		one("connections", "all, lan or remote-access", func(r *rule) *sadb.ConnectionType { return &r.Connections }, file.ParseConnections),
		one("mode", "enforce or report; as the policy if neither was ever said", func(r *rule) *policy.Enforcement { return &r.Mode }, policy.ParseEnforcement),
		one("report-until", "when report mode ends: a date, a time as 2030-12-01T08:00:00Z, or none", func(r *rule) *time.Time { return &r.ReportUntil }, parseDeadline),
		toggle("disabled", "keep the rule and do not enforce it", func(r *rule) *bool { return &r.Disabled }),
		one("description", "free text", func(r *rule) *string { return &r.Description }, plainText),
	}
}

// parseDeadline reads the end of report mode; none takes it away.
func parseDeadline(s string) (time.Time, error) {
	if s == "none" {
		return time.Time{}, nil
	}
	return policy.ParseDeadline(s)
}

func policyOptions() []option[policy.Policy] {
	type p = policy.Policy
	return []option[p]{
		one("description", "free text", func(o *p) *string { return &o.Description }, plainText),
		one("polling-interval", "how often the source is asked for changes, for example 3h", func(o *p) *time.Duration { return &o.PollingInterval }, file.ParseDuration),
		many("main-mode", "main-mode method, in order of preference, for example aes256-sha256-ecp256; repeat it", func(o *p) *[]sadb.ISAKMPSuite { return &o.KeyExchange.Methods }, sadb.ParseISAKMPSuite),
		one("lifetime", "of a main mode, for example 8h", func(o *p) *time.Duration { return &o.KeyExchange.Lifetime }, file.ParseDuration),
		one("sessions", "quick modes under one main mode; 0: no limit", func(o *p) *int { return &o.KeyExchange.Sessions }, strconv.Atoi),
		toggle("master-key-pfs", "one quick mode for each main mode", func(o *p) *bool { return &o.KeyExchange.MasterKeyPFS }),
		one("mode", "enforce or report", func(o *p) *policy.Enforcement { return &o.Mode }, policy.ParseEnforcement),
		one("report-until", "when report mode ends: a date, a time as 2030-12-01T08:00:00Z, or none", func(o *p) *time.Time { return &o.ReportUntil }, parseDeadline),
		toggle("uplift", "offer modern methods before old ones", func(o *p) *bool { return &o.Uplift }),
		toggle("default-response", "answer peers that ask for security where no rule speaks", func(o *p) *bool { return &o.DefaultResponse.Active }),
		many("default-auth", "authentication of the default response rule; as --auth of a rule; repeat it", func(o *p) *[]policy.AuthMethod { return &o.DefaultResponse.Authentication }, file.ParseAuthentication),
		many("default-method", "security method of the default response rule; repeat it", func(o *p) *[]policy.SecurityMethod { return &o.DefaultResponse.Methods }, file.ParseMethod),
	}
}
