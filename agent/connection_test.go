package agent

import (
	"net/netip"
	"testing"

	"ipsecagent/agent/control"
	"ipsecagent/auth"
	"ipsecagent/host"
	"ipsecagent/ike"
	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// byConnection is a policy of two filters that differ in their type of connection.
func byConnection() *snapshot {
	methods := []policy.AuthMethod{{Kind: policy.PresharedKey}}
	filter := func(id sadb.FilterID, c sadb.ConnectionType) policy.CompiledFilter {
		return policy.CompiledFilter{Negotiation: &policy.Negotiation{Authentication: methods}, Filter: sadb.Filter{
			ID: id, Dir: sadb.Both, Selector: sadb.Selector{Local: sadb.Me()}, Connections: c, Action: sadb.Action{Kind: sadb.Negotiate}}}
	}
	dial := filter("dial-up", sadb.RemoteAccess)
	dial.Negotiation = &policy.Negotiation{Authentication: []policy.AuthMethod{{Kind: policy.Kerberos}}}
	return newSnapshot(&policy.Compiled{Filters: []policy.CompiledFilter{dial, filter("lan", sadb.LAN)}}, nil).at(host.Facts{
		Interfaces: []host.Interface{{Name: "eth0", Kind: host.LAN, Addresses: []netip.Addr{alice()}}, {Name: "ppp0", Kind: host.RemoteAccess, Addresses: []netip.Addr{carol()}}}})
}

// A peer that asks is answered by the rule of the connection it asks on.
func TestTheConnectionThatAPeerUsesDecides(t *testing.T) {
	s := byConnection()
	for local, want := range map[netip.Addr]struct {
		filter sadb.FilterID
		method auth.Method
	}{alice(): {"lan", auth.PSK}, carol(): {"dial-up", auth.Kerberos}} {
		main, err := s.main(ike.MainQuery{Local: local, Remote: bob()})
		if err != nil || len(main.Auth) != 1 || main.Auth[0].Method != want.method {
			t.Errorf("main mode at %s: %+v, %v", local, main.Auth, err)
		}
		q := ike.QuickQuery{Local: local, Remote: bob(), Selector: sadb.Selector{Local: sadb.Addr(local), Remote: sadb.Addr(bob())}}
		if f, ok := s.decide(q, sadb.In); !ok || f.ID != want.filter {
			t.Errorf("quick mode at %s: %+v", local, f)
		}
	}
}

// An administrator who asks about a packet means the connection it really uses.
func TestExplainGoesByTheConnectionOfTheAddress(t *testing.T) {
	const document = `apiVersion: ipsecagent/v1
kind: Policy
name: conn
filterLists: {all: [{from: me, to: any}]}
rules:
  - {name: closed, filterList: all, filterAction: block, connections: remote-access}
  - {name: open, filterList: all, filterAction: permit, connections: lan}
`
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.write(dir, "conn", document)
		if _, err := r.agent.Assign(t.Context(), control.AssignRequest{Policy: "conn"}); err != nil {
			t.Fatal(err)
		}
		for kind, want := range map[host.Kind]string{host.LAN: "open", host.RemoteAccess: "closed"} {
			r.facts.put(host.Facts{Addresses: []netip.Addr{alice()}, Interfaces: []host.Interface{{Name: "x0", Kind: kind, Addresses: []netip.Addr{alice()}}}})
			r.pass(2 * hostDelay)
			for connection, want := range map[string]string{"": want, "lan": "open", "remote-access": "closed"} {
				x, err := r.agent.Explain(t.Context(), control.ExplainRequest{Flow: "tcp me=192.0.2.1 -> 192.0.2.2:80", Connection: connection})
				if err != nil || x.Decided == nil || x.Decided.Rule != want {
					t.Errorf("on %s, asked for %q: %+v, %v", kind, connection, x.Decided, err)
				}
			}
		}
	}, func(c *Config) { c.Library = folder(dir) })
}
