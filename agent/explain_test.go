package agent

import (
	"net/netip"
	"strings"
	"testing"

	"ipsecagent/agent/control"
	"ipsecagent/ike"
)

func (r *rig) explain(flow string) control.Explanation {
	r.t.Helper()
	v, err := r.agent.Explain(r.t.Context(), control.ExplainRequest{Flow: flow})
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

const toBob = "tcp 192.0.2.1:40000 -> 192.0.2.2:80" // alice's address, not said to be hers

func TestExplainFollowsWhatIsInForce(t *testing.T) {
	source := func(c *Config) {
		c.Source = func(netip.Addr) (netip.Addr, error) { return alice(), nil }
	}
	inBubble(t, func(t *testing.T, r *rig) {
		if v := r.explain(toBob); v.Decision != "none" || v.Policy != "" || v.Flow != "tcp me=192.0.2.1:40000 -> 192.0.2.2:80" {
			t.Errorf("without a policy: %+v", v)
		}
		r.assign("server")
		v := r.explain("tcp me:40000 -> 192.0.2.2:80")
		if v.Flow != "tcp me=192.0.2.1:40000 -> 192.0.2.2:80" {
			t.Errorf("me without an address is %s", v.Flow)
		}
		if v.Decision != "negotiate" || v.Decided.Rule == "" || v.Offer == nil || len(v.Offer.Methods) == 0 || v.Live.State != control.PeerNever {
			t.Errorf("assigned: %+v", v)
		}
		r.send(tcp(bob(), 80))
		if v = r.explain(toBob); len(v.Live.Negotiating) != 1 || len(v.Live.InClear) != 1 {
			t.Errorf("negotiating: %+v", v.Live)
		}
		if other := r.explain("tcp me:1 -> 192.0.2.3:80"); len(other.Live.Negotiating) != 0 {
			t.Errorf("what goes to another host: %+v", other.Live)
		}
		in := one[ike.Initiate](r)
		p := pairFor(in.Quick, bob())
		r.establish(in.Request, p)
		v = r.explain(toBob)
		if len(v.Live.Secured) != 1 || v.Live.Secured[0].SPIIn != p.In[0].SPI.String() {
			t.Errorf("secured: %+v", v.Live)
		}
		if !v.Decided.Overlay || v.Decided.Action != "require security" || v.Offer == nil {
			t.Errorf("secured once, so required: %+v, offer %+v", v.Decided, v.Offer)
		}
		if v.Next == nil || !strings.Contains(v.Next.Action, "request security") {
			t.Errorf("below it: %+v", v.Next)
		}
		if ping := r.explain("icmp me -> 192.0.2.2"); ping.Decision != "permit" || ping.Live == nil {
			t.Errorf("ping: %+v", ping)
		}
	}, source)
}

func TestExplainShowsTheFallBackAndTheFailure(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		r.send(tcp(bob(), 80))
		r.out(noProposal(one[ike.Initiate](r)))
		r.send(tcp(bob(), 80))
		v := r.explain(toBob)
		if v.Decision != "negotiate" || v.Live.State != control.PeerInClear || len(v.Live.InClear) != 1 || len(v.Live.Failures) != 1 {
			t.Errorf("%+v, live %+v", v, v.Live)
		}
		if v.Live.Failures[0].Differs == "" {
			t.Errorf("failure %+v", v.Live.Failures[0])
		}
	})
}

func TestExplainRefusesWhatIsNoFlow(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		_, err := r.agent.Explain(t.Context(), control.ExplainRequest{Flow: "tcp"})
		if e, ok := err.(*control.Error); !ok || e.Code != control.Invalid {
			t.Errorf("%v", err)
		}
	})
}
