package policy_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// objects returns the changes of what is written, one text for each.
func objects(t *testing.T, p, q *policy.Policy) (all []string) {
	t.Helper()
	d := policy.Diff(policy.Side{Policy: p, Compiled: compile(t, p)}, policy.Side{Policy: q, Compiled: compile(t, q)})
	for _, o := range d.Objects {
		if len(o.Fields) == 0 {
			all = append(all, fmt.Sprintf("%s %s", o.Object, o.Change))
		}
		for _, f := range o.Fields {
			all = append(all, fmt.Sprintf("%s %s: %s: %q -> %q", o.Object, o.Change, f.Field, f.Before, f.After))
		}
	}
	return all
}

func TestDiffSaysWhatIsWrittenDifferently(t *testing.T) {
	base := func() *policy.Policy { return lines(t, "a secured me 10.0.0.1\n b permit me 10.0.0.2") }
	for name, tc := range map[string]struct {
		edit func(p *policy.Policy)
		want []string
	}{
		"nothing": {func(*policy.Policy) {}, nil},
		"defaults": {func(p *policy.Policy) {
			p.PollingInterval, p.KeyExchange.Lifetime = 3*time.Hour, 8*time.Hour
			m := &p.FilterActions[0].Methods[0]
			m.Lifetime, m.Bytes = time.Hour, 100_000_000_000
		}, nil},
		"tests": {func(p *policy.Policy) { p.Tests = []policy.Test{{Flow: "tcp me -> 10.0.0.2", Expect: "permit"}} }, nil},
		"policy": {func(p *policy.Policy) { p.Description, p.PollingInterval, p.Uplift = "new", time.Hour, true },
			[]string{`policy changed: description: "" -> "new"`, `policy changed: pollingInterval: "3h0m0s" -> "1h0m0s"`, `policy changed: uplift: "" -> "true"`}},
		"key exchange": {func(p *policy.Policy) {
			p.KeyExchange = policy.KeyExchange{Methods: []sadb.ISAKMPSuite{mainMode(t, "aes256-sha256-ecp256")}, MasterKeyPFS: true, Lifetime: time.Hour}
		}, []string{`key exchange changed: methods: "aes256-sha256-ecp256, aes256-sha256-ecp384, aes128-sha256-ecp256, aes256-sha256-modp2048, aes128-sha256-modp2048" -> "aes256-sha256-ecp256"`,
			`key exchange changed: lifetime: "8h0m0s" -> "1h0m0s"`, `key exchange changed: sessions: "" -> "1"`, `key exchange changed: masterKeyPFS: "" -> "true"`}},
		"rule": {func(p *policy.Policy) {
			r := &p.Rules[0]
			r.FilterAction, r.FilterList, r.Disabled, r.Description = "block", "b", true, "off"
			r.Authentication = []policy.AuthMethod{{Kind: policy.Certificate, CA: "CN=x", MapToAccount: true, AcceptPrincipals: []string{"y"}}}
		}, []string{`rule "a" changed: description: "" -> "off"`, `rule "a" changed: disabled: "" -> "true"`, `rule "a" changed: filterList: "a" -> "b"`,
			`rule "a" changed: filterAction: "secured" -> "block"`, `rule "a" changed: authentication: "psk" -> "certificate of \"CN=x\", mapped to an account of y"`}},
		"tunnel": {func(p *policy.Policy) { p.Rules[0].Tunnel.Name = "gw.example" }, []string{`rule "a" changed: tunnel: "" -> "gw.example"`}},
		"action": {func(p *policy.Policy) {
			a := &p.FilterActions[0]
			a.AllowClear, a.ClearDelay, a.SessionKeyPFS, a.PFSGroup, a.AcceptUnsecured = true, time.Second, true, mainMode(t, "aes256-sha256-ecp256").Group, true
			a.Methods = append(a.Methods, policy.SecurityMethod{Suites: a.Methods[0].Suites, Bytes: 1_000_000, Lifetime: 30 * time.Minute})
		}, []string{`filter action "secured" changed: methods: "esp-aes256gcm" -> "esp-aes256gcm, esp-aes256gcm (30m0s, 1MB)"`,
			`filter action "secured" changed: acceptUnsecured: "" -> "true"`, `filter action "secured" changed: allowClear: "" -> "true"`,
			`filter action "secured" changed: clearDelay: "" -> "1s"`, `filter action "secured" changed: sessionKeyPFS: "" -> "ecp256"`}},
		"filters": {func(p *policy.Policy) {
			l := &p.FilterLists[1]
			same := l.Filters[0]
			l.Filters = []policy.Filter{{From: same.To, To: same.From, Protocol: sadb.TCP, FromPorts: sadb.Port(80), ToPorts: sadb.Ports{From: 1, To: 9}}, same, same}
		}, []string{`filter list "b" changed: filter: "" -> "from 10.0.0.2, to me, protocol tcp, sourcePort 80, destinationPort 1-9, mirrored false"`,
			`filter list "b" changed: filter: "" -> "from me, to 10.0.0.2"`}},
		"a filter less": {func(p *policy.Policy) {
			p.FilterLists[1].Filters[0].To.Addrs = sadb.Range(netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("10.0.0.4"))
		},
			[]string{`filter list "b" changed: filter: "" -> "from me, to 10.0.0.3-10.0.0.4"`, `filter list "b" changed: filter: "from me, to 10.0.0.2" -> ""`}},
		"objects": {func(p *policy.Policy) {
			p.Rules[1].Name, p.Rules[1].FilterList, p.FilterLists[1].Name = "c", "c", "c"
		}, []string{`rule "b" removed`, `filter list "b" removed`, `rule "c" added: filterList: "" -> "c"`,
			`rule "c" added: filterAction: "" -> "permit"`, `rule "c" added: authentication: "" -> "psk"`,
			`filter list "c" added: filter: "" -> "from me, to 10.0.0.2"`}},
		"default response": {func(p *policy.Policy) {
			p.DefaultResponse = policy.DefaultResponse{Active: true, Authentication: psk()}
		},
			[]string{`default response rule changed: active: "" -> "true"`, `default response rule changed: methods: "" -> "esp-aes256gcm, esp-aes128gcm, esp-aes128-sha256"`,
				`default response rule changed: authentication: "" -> "psk"`}},
	} {
		p, q := base(), base()
		tc.edit(q)
		if got := objects(t, p, q); !slices.Equal(got, tc.want) {
			t.Errorf("%s:\n got %q\nwant %q", name, got, tc.want)
		}
	}
}

func TestDiffIsEmptyForTheSamePolicy(t *testing.T) {
	for _, name := range policy.PredefinedNames() {
		p, _ := policy.Predefined(name)
		side := policy.Side{Policy: p, Compiled: compile(t, p)}
		if d := policy.Diff(side, side); !d.Empty() {
			t.Errorf("%s differs from itself: %+v", name, d)
		}
	}
	a, b := policy.Server(), policy.SecureServer()
	if d := policy.Diff(policy.Side{Policy: a, Compiled: compile(t, a)}, policy.Side{Policy: b, Compiled: compile(t, b)}); d.Empty() || len(d.Flows) != 1 || !d.Whole {
		t.Errorf("server and secure-server: %+v", d)
	}
}
