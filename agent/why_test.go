package agent

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/auth"
	"ipsecagent/ike"
)

func (r *rig) why() control.Why { return r.whyOf(bob()) }

func (r *rig) whyOf(peer netip.Addr) control.Why {
	r.t.Helper()
	w, err := r.agent.Why(r.t.Context(), peer)
	if err != nil {
		r.t.Fatal(err)
	}
	return w
}

func noProposal(in ike.Initiate) ike.Failed {
	return ike.Failed{Request: in.Request, Local: in.Local, Remote: in.Remote, Step: "main mode message 2", Code: ike.FailNoProposal,
		Reason: "nothing in common", Offered: []string{"aes256-sha256-ecp256"}, Received: []string{"3des-sha1-modp1024"}, Differs: "encryption: aes256 against 3des"}
}

func TestWhySaysHowAPeerStands(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		want := func(state string) control.Why {
			t.Helper()
			w := r.why()
			if w.State != state || w.Words == "" || w.Peer != bob().String() {
				t.Fatalf("state %q (%s), want %q", w.State, w.Words, state)
			}
			return w
		}
		want(control.PeerNoRule)
		r.assign("secure-server")
		if w := want(control.PeerNever); len(w.Filters) == 0 || w.Filters[0].Rule == "" {
			t.Errorf("filters %+v", w.Filters)
		}
		r.send(tcp(bob(), 80))
		want(control.PeerNegotiating)
		in := one[ike.Initiate](r)
		r.out(noProposal(in))
		if w := want(control.PeerFailed); w.Since.IsZero() || len(w.Failures) != 1 {
			t.Errorf("failed: %+v", w)
		}
		r.pass(3 * time.Second)
		r.send(tcp(bob(), 80))
		in = one[ike.Initiate](r)
		r.establish(in.Request, pairFor(in.Quick, bob()))
		w := want(control.PeerSecured)
		if len(w.Secured) != 1 || w.Secured[0].Principal != "psk:default" || len(w.Failures) != 1 {
			t.Errorf("secured: %+v", w)
		}
		if s := r.status(); len(s.Failures) != 0 {
			t.Errorf("status lists what was made good: %+v", s.Failures)
		}
	})
}

func TestWhySaysSinceWhenAPeerIsInClear(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("server")
		began := time.Now()
		r.send(tcp(bob(), 80))
		r.out(noProposal(one[ike.Initiate](r)))
		w := r.why()
		if w.State != control.PeerInClear || w.Since.Before(began) || !strings.Contains(w.Words, "nothing in common") {
			t.Errorf("%s since %s: %s", w.State, w.Since, w.Words)
		}
	})
}

func TestFailureRecordHasAllThatIsKnown(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		r.send(tcp(bob(), 80))
		in := one[ike.Initiate](r)
		r.out(noProposal(in))
		f := r.why().Failures[0]
		if f.Peer != bob().String() || f.Local != alice().String() || !f.Own || f.Rule == "" || f.Filter != string(in.Quick.Filter) ||
			f.Step != "main mode message 2" || f.Code != "no-proposal" || f.Reason == "" || f.Hint == "" || f.Times != 1 ||
			!slices.Equal(f.Offered, []string{"aes256-sha256-ecp256"}) || !slices.Equal(f.Received, []string{"3des-sha1-modp1024"}) || f.Differs == "" {
			t.Errorf("record %+v", f)
		}
		e := r.eventOf(control.EventFailed)
		for _, field := range []string{"local", "rule", "filter", "step", "code", "reason", "hint", "offered", "received", "differs", "begunBy"} {
			if e.Fields[field] == "" {
				t.Errorf("the event has no %s: %v", field, e.Fields)
			}
		}
		if e.ID != 404 || e.Windows2000 != 546 || e.Windows != 4653 {
			t.Errorf("numbers %d, %d, %d", e.ID, e.Windows2000, e.Windows)
		}
	})
}

func TestWhyListsABoundedNumberOfFilters(t *testing.T) {
	var document strings.Builder
	document.WriteString("apiVersion: ipsecagent/v1\nkind: Policy\nname: many\nfilterLists:\n  all:\n")
	for port := range 50 {
		line, _ := json.Marshal(map[string]any{"from": "me", "to": "any", "protocol": "tcp", "destinationPort": port + 1})
		document.WriteString("    - " + string(line) + "\n")
	}
	document.WriteString("rules:\n  - {name: closed, filterList: all, filterAction: block}\n")
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assignDocument(dir, "many", document.String())
		if w := r.why(); len(w.Filters) != maxDeciding || w.MoreFilters != 50-maxDeciding || w.State != control.PeerNoRule {
			t.Errorf("%d filters and %d more, %s", len(w.Filters), w.MoreFilters, w.State)
		}
	}, func(c *Config) { c.Library = folder(dir) })
}

func TestAnotherIdentityAtAnAddressIsReported(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		meet := func(m auth.Method, p auth.Principal) int {
			r.out(ike.MainMode{SA: ike.ISAKMPSA{Local: addrPort(alice()), Remote: addrPort(bob()), Method: m, Principal: p}})
			return len(r.events(control.EventIdentityChanged))
		}
		steps := []struct {
			method    auth.Method
			principal auth.Principal
			reports   int
		}{
			{auth.Kerberos, "host/bob@REALM", 0}, {auth.Kerberos, "host/bob@REALM", 0}, {auth.RSA, "CN=bob", 0},
			{auth.RSA, "CN=mallory", 1}, {auth.PSK, "psk:a", 1}, {auth.PSK, "psk:b", 1},
		}
		for _, s := range steps {
			if got := meet(s.method, s.principal); got != s.reports {
				t.Errorf("after %s there are %d reports, want %d", s.principal, got, s.reports)
			}
		}
	})
}

// eventOf returns the last event of a kind.
func (r *rig) eventOf(kind string) control.Event {
	r.t.Helper()
	c, err := r.agent.Events(r.t.Context(), false)
	if err != nil {
		r.t.Fatal(err)
	}
	var found control.Event
	for e := range c {
		if e.Kind == kind {
			found = e
		}
	}
	if found.Kind == "" {
		r.t.Fatalf("no event %s", kind)
	}
	return found
}
