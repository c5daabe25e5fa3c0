package agent

import (
	"net/netip"
	"testing"
	"testing/synctest"

	"ipsecagent/agent/control"
	"ipsecagent/driver/drivertest"
	"ipsecagent/host"
	"ipsecagent/ike"
	"ipsecagent/sadb"
)

const toTheGateway = `apiVersion: ipsecagent/v1
kind: Policy
name: site
filterLists:
  site: [{from: 10.1.0.0/16, to: 10.2.0.0/16}]
filterActions:
  require: {negotiate: {methods: [esp-aes256gcm]}}
rules:
  - {name: site, filterList: site, filterAction: require, authentication: [psk], tunnel: {name: gw.example.com}}
tests:
  - {flow: "tcp 10.1.0.1 -> 10.2.0.1", expect: negotiate}
`

// A tunnel follows the name of its gateway: nothing passes before the name is
// known, and nothing goes to a gateway that the name no longer is.
func TestATunnelFollowsTheNameOfItsGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &nameService{dir: t.TempDir(), answers: map[string]host.Answer{}, changed: make(chan struct{}, 1)}
		r := newRig(t, func(c *Config) {
			c.Library, c.Names = folder(s.dir), s.names()
			c.Source = func(netip.Addr) (netip.Addr, error) { return alice(), nil }
		})
		defer func() {
			if err := r.stop(); err != nil {
				t.Error(err)
			}
		}()
		r.write(s.dir, "site", toTheGateway)
		if _, err := r.agent.Assign(t.Context(), control.AssignRequest{Policy: "site", Auth: "psk-file", Keys: "a key for tests"}); err != nil {
			t.Fatal(err)
		}
		flow := sadb.Flow{Local: netip.MustParseAddr("10.1.0.1"), Remote: netip.MustParseAddr("10.2.0.1"), Proto: sadb.TCP, LocalPort: 1, RemotePort: 2}
		if got := r.send(flow); got != drivertest.Dropped {
			t.Errorf("before the name is known a packet is %v", got)
		}
		r.expectProblem(`rule "site": its tunnel endpoint gw.example.com stands for no address of another gateway now: its traffic is blocked`)
		s.answer("gw.example.com", resolved(bob()))
		r.send(flow)
		in := one[ike.Initiate](r)
		if in.Remote != bob() || in.Local != alice() {
			t.Fatalf("negotiates with %v from %v", in.Remote, in.Local)
		}
		p := pairFor(in.Quick, bob())
		r.establish(in.Request, p)
		s.answer("gw.example.com", resolved(carol()))
		if got := r.status().Secured; len(got) != 0 {
			t.Errorf("the pair with the former gateway stays: %+v", got)
		}
		flow.Remote = netip.MustParseAddr("10.2.0.2")
		r.send(flow)
		if in := last[ike.Initiate](r); in.Remote != carol() {
			t.Errorf("negotiates with %v", in.Remote)
		}
	})
}
