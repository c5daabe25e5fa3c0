package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/auth"
	"ipsecagent/driver"
	"ipsecagent/driver/drivertest"
	"ipsecagent/ike"
	"ipsecagent/policy"
	"ipsecagent/sadb"
)

const tunnelled = `apiVersion: ipsecagent/v1
kind: Policy
name: tunnelled
filterLists:
  sites: [{from: 10.1.0.0/16, to: 10.2.0.0/16}]
filterActions:
  require: {negotiate: {methods: [esp-aes256gcm]}}
rules:
  - {name: to the other site, filterList: sites, filterAction: require, authentication: [psk], tunnel: 192.0.2.2}
tests:
  - {flow: "tcp 10.1.0.1 -> 10.2.0.1:80", expect: negotiate}
`

// behind is a packet from a host behind alice to one behind bob.
func behind(n byte) sadb.Flow {
	return sadb.Flow{Local: netip.AddrFrom4([4]byte{10, 1, 0, n}), Remote: netip.AddrFrom4([4]byte{10, 2, 0, n}), Proto: sadb.TCP, LocalPort: 40000, RemotePort: 80}
}

func withTunnels(dir string, source func(netip.Addr) (netip.Addr, error)) func(*Config) {
	return func(c *Config) { c.Library, c.Source = folder(dir), source }
}

func fromAlice(netip.Addr) (netip.Addr, error) { return alice(), nil }

func TestTunnelIsNegotiatedForAllBehindTheGateways(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assignDocument(dir, "tunnelled", tunnelled)
		if got := r.send(behind(1)); got != drivertest.Held {
			t.Fatalf("the first packet is %v", got)
		}
		in := one[ike.Initiate](r)
		if in.Local != alice() || in.Remote != bob() || in.Quick.Mode != sadb.Tunnel ||
			in.Quick.Selector.Local.String() != "10.1.0.0/16" || in.Quick.Selector.Remote.String() != "10.2.0.0/16" {
			t.Fatalf("initiate %+v", in)
		}
		if w := r.whyOf(netip.MustParseAddr("10.2.0.9")); w.State != control.PeerNegotiating || w.Filters[0].Tunnel != "192.0.2.1 - 192.0.2.2" {
			t.Errorf("a host behind the gateway: %+v", w)
		}
		r.send(behind(2))
		none[ike.Initiate](r) // the same tunnel serves it
		r.establish(in.Request, pairFor(in.Quick, bob()))
		for n := range byte(3) {
			if got := r.send(behind(n + 1)); got != drivertest.Secured {
				t.Errorf("packet %d is %v", n, got)
			}
		}
		if w := r.whyOf(netip.MustParseAddr("10.2.0.9")); w.State != control.PeerSecured || len(w.Secured) != 1 {
			t.Errorf("a host behind the gateway: %+v", w)
		}
	}, withTunnels(dir, fromAlice))
}

func TestFailedTunnelIsAskedForAgainByEveryHostBehindIt(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.assignDocument(dir, "tunnelled", tunnelled)
		r.send(behind(1))
		r.send(behind(2))
		r.out(failedAuth(one[ike.Initiate](r)))
		if w := r.whyOf(netip.MustParseAddr("10.2.0.9")); len(w.Failures) != 1 {
			t.Errorf("a host behind the gateway: %+v", w)
		}
		r.pass(2 * time.Minute)
		r.send(behind(2)) // it was abandoned too, so it is raised again
		one[ike.Initiate](r)
	}, withTunnels(dir, fromAlice))
}

func TestTunnelFollowsTheRoute(t *testing.T) {
	dir := t.TempDir()
	unreachable := true
	inBubble(t, func(t *testing.T, r *rig) {
		r.assignDocument(dir, "tunnelled", tunnelled)
		if got := r.send(behind(1)); got != drivertest.Dropped {
			t.Fatalf("without a way to the gateway the packet is %v", got)
		}
		none[ike.Initiate](r)
		unreachable = false
		r.pass(2 * tunnelEvery)
		r.send(behind(1))
		one[ike.Initiate](r)
	}, withTunnels(dir, func(netip.Addr) (netip.Addr, error) {
		if unreachable {
			return netip.Addr{}, errors.New("no route")
		}
		return alice(), nil
	}))
}

func TestTunnelIsForItsTwoGatewaysAlone(t *testing.T) {
	f := policy.CompiledFilter{Filter: sadb.Filter{ID: "t", Dir: sadb.Both, Mode: sadb.Tunnel, TunnelLocal: alice(), TunnelRemote: bob(),
		Selector: sadb.Selector{Local: sadb.Prefix(netip.MustParsePrefix("10.1.0.0/16")), Remote: sadb.Prefix(netip.MustParsePrefix("10.2.0.0/16"))},
		Action:   sadb.Action{Kind: sadb.Negotiate}}, Negotiation: &policy.Negotiation{Authentication: []policy.AuthMethod{{Kind: policy.PresharedKey}}}}
	s := newSnapshot(&policy.Compiled{Filters: []policy.CompiledFilter{f}}, nil)
	q := ike.QuickQuery{Local: alice(), Remote: bob(), Selector: f.Selector, Mode: sadb.Tunnel, Proof: auth.Proof{Method: auth.PSK, Principal: "psk:default"}}
	if _, err := s.quick(q); err != nil {
		t.Fatal(err)
	}
	q.Remote = carol()
	if _, err := s.quick(q); err == nil {
		t.Error("carol gets bob's tunnel")
	}
}

// listing is a policy that lists methods.
func listing(methods string) string {
	return `apiVersion: ipsecagent/v1
kind: Policy
name: listing
filterLists:
  all: [{from: me, to: 10.0.0.0/8}]
filterActions:
  require: {negotiate: {methods: [` + methods + `]}}
rules:
  - {name: guard, filterList: all, filterAction: require, authentication: [psk]}
`
}

func TestWhatTheDataPathDoesNotCarryIsNotOffered(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, r *rig) {
		r.write(dir, "listing", listing("esp-des-md5, esp-aes256gcm, {ah: sha1, esp: aes256gcm}"))
		const want = `rule "guard": the data path (fake) does not carry esp-des-md5, ah-sha1+esp-aes256gcm: not offered`
		if result := r.assign("listing"); !slices.Contains(result.Warnings, want) {
			t.Errorf("warnings of assign: %q", result.Warnings)
		}
		if got := r.status().Warnings; !slices.Contains(got, want) {
			t.Errorf("warnings of status: %q", got)
		}
		r.send(tcp(netip.MustParseAddr("10.1.1.1"), 80))
		if got := one[ike.Initiate](r).Quick.Proposals; len(got) != 1 || got[0].String() != "esp-aes256gcm" {
			t.Errorf("offered %v", got)
		}
		if v := r.lint(control.LintRequest{}); !has(v, policy.FoundNotCarried, policy.WarningSeverity) {
			t.Errorf("lint: %+v", v.Findings)
		}
		view, err := r.agent.Policy(t.Context(), "", true)
		if err != nil || !slices.Contains(view.Filters[0].Methods, "esp-des-md5 (not offered: the data path does not carry it)") {
			t.Errorf("effective %+v, %v", view.Filters, err)
		}

		r.write(dir, "listing", listing("esp-des-md5"))
		_, err = r.agent.Assign(t.Context(), control.AssignRequest{Policy: "listing"})
		wantCode(t, err, control.Invalid)
		if !strings.Contains(err.Error(), "does not carry esp-des-md5, and the rule has no other method") {
			t.Errorf("refused with %v", err)
		}
		if v := r.lint(control.LintRequest{Document: listing("esp-des-md5")}); !has(v, policy.FoundNotCarried, policy.ErrorSeverity) {
			t.Errorf("lint: %+v", v.Findings)
		}
	}, func(c *Config) { c.Library = folder(dir) })
}

func TestAssignByOtherMeans(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		for _, tt := range []struct {
			how    string
			method auth.Method
			ca     string
		}{{"", auth.Kerberos, ""}, {control.AuthKerberos, auth.Kerberos, ""}, {"cert:CN=Root,O=Bank", auth.RSA, "CN=Root,O=Bank"}} {
			if _, err := r.agent.Assign(t.Context(), control.AssignRequest{Policy: "secure-server", Auth: tt.how}); err != nil {
				t.Fatal(err)
			}
			p := last[ike.SetPolicy](r)
			offer, err := p.Policy.Main(ike.MainQuery{Local: alice(), Remote: bob()})
			if err != nil {
				t.Fatal(err)
			}
			if got := offer.Auth[len(offer.Auth)-1]; got.Method != tt.method || got.CA != tt.ca {
				t.Errorf("--auth %q: %+v", tt.how, got)
			}
		}
		_, err := r.agent.Assign(t.Context(), control.AssignRequest{Policy: "secure-server", Auth: "cert: "})
		wantCode(t, err, control.Usage)
		_, err = r.agent.Assign(t.Context(), control.AssignRequest{Policy: "nowhere", Compat: control.CompatWindows2000})
		wantCode(t, err, control.NotFound)
	})
}

// versatile is a data path that carries everything.
type versatile struct{ *drivertest.Fake }

func (v versatile) State(ctx context.Context) (driver.State, error) {
	s, err := v.Fake.State(ctx)
	for _, name := range []string{"esp-3des-md5", "esp-des-sha1", "esp-des-md5", "ah-sha256", "ah-sha1", "ah-md5"} {
		suite, errName := sadb.ParseSuite(name)
		s.Suites, err = append(s.Suites, suite), errors.Join(err, errName)
	}
	return s, err
}

func TestOriginalsAreAssignedAndSurviveARestart(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		if _, err := r.agent.Assign(t.Context(), control.AssignRequest{Policy: "server", Compat: control.CompatWindows2000}); err != nil {
			t.Fatal(err)
		}
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		r.fake.Close()
		r.fake = r.fake.Reopen()
		r.cfg.Driver = versatile{r.fake}
		r.run()
		p := last[ike.SetPolicy](r)
		offer, err := p.Policy.Main(ike.MainQuery{Local: alice(), Remote: bob()})
		if err != nil || offer.Suites[len(offer.Suites)-1].Encryption != sadb.DES {
			t.Errorf("%v, %v", offer.Suites, err)
		}
		v, err := r.agent.Policy(t.Context(), "", true)
		if err != nil || !strings.Contains(v.Origin, "Windows 2000") {
			t.Errorf("view %+v, %v", v, err)
		}
		methods := v.Filters[len(v.Filters)-1].Methods
		if methods[0] != "esp-aes256gcm (uplifted)" || methods[3] != "esp-3des-sha1" || v.MainMode[0] != "aes256-sha256-ecp256 (uplifted)" {
			t.Errorf("methods %q, main mode %q", methods, v.MainMode)
		}
	}, func(c *Config) { c.Driver = versatile{c.Driver.(*drivertest.Fake)} })
}

func TestAnAuthorityCountsForItsRuleAlone(t *testing.T) {
	r := auth.Requirement{Method: auth.RSA, CA: "CN=Bank"}
	q := ike.QuickQuery{Proof: auth.Proof{Method: auth.RSA, Principal: "CN=teller", CA: "CN=Bank"}}
	if !q.Satisfies(r) {
		t.Error("the authority of the rule is refused")
	}
	q.CA = "CN=Other"
	if q.Satisfies(r) {
		t.Error("what another authority vouches for is accepted")
	}
}

const byCertificate = `apiVersion: ipsecagent/v1
kind: Policy
name: certified
filterLists:
  all: [{from: me, to: any}]
filterActions:
  require: {negotiate: {methods: [esp-aes256gcm]}}
rules:
  - {name: all, filterList: all, filterAction: require, authentication: [{certificate: {ca: "CN=Bank"}}, kerberos]}
`

// methods returns the methods that this host offers to bob.
func offeredMethods(t *testing.T, set ike.SetPolicy) string {
	t.Helper()
	offer, err := set.Policy.Main(ike.MainQuery{Local: alice(), Remote: bob()})
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, r := range offer.Auth {
		words = append(words, fmt.Sprint(uint16(r.Method)))
	}
	return strings.Join(words, " ")
}

func TestOnlyWhatThisHostCanProveIsOffered(t *testing.T) {
	dir := t.TempDir()
	var changed chan struct{}
	able := map[auth.Method]bool{auth.RSA: true}
	inBubble(t, func(t *testing.T, r *rig) {
		r.write(dir, "certified", byCertificate)
		result, err := r.agent.Assign(t.Context(), control.AssignRequest{Policy: "certified"})
		if err != nil {
			t.Fatal(err)
		}
		if len(result.Warnings) != 1 || !strings.Contains(result.Warnings[0], "no Kerberos") {
			t.Errorf("warnings %q", result.Warnings)
		}
		if got := offeredMethods(t, last[ike.SetPolicy](r)); got != "3" {
			t.Errorf("offered: %s", got)
		}
		able[auth.Kerberos], able[auth.ECDSA384] = true, true
		changed <- struct{}{}
		if got := offeredMethods(t, last[ike.SetPolicy](r)); got != "10 3 65001" {
			t.Errorf("after a change offered: %s", got)
		}
		clear(able)
		changed <- struct{}{}
		if got := offeredMethods(t, last[ike.SetPolicy](r)); got != "9 10 11 3 65001" {
			t.Errorf("with nothing to prove, offered: %s", got)
		}
		if got := fmt.Sprint(r.status().Problems); !strings.Contains(got, "can secure nothing") {
			t.Errorf("with nothing to prove, the problems are: %s", got)
		}
		able[auth.RSA] = true
		changed <- struct{}{}
		synctest.Wait()
		if got := r.status().Problems; len(got) != 0 {
			t.Errorf("with a certificate again, the problems are: %s", got)
		}
	}, func(c *Config) {
		changed = make(chan struct{}, 1) // of the bubble
		c.Library, c.IdentitiesChanged = folder(dir), changed
		c.Unusable = func(r auth.Requirement) string {
			if able[r.Method] {
				return ""
			}
			return "no " + r.Method.String()
		}
	})
}

func TestARequirementIsTriedOnce(t *testing.T) {
	p := policy.SecureServer()
	for range 50 {
		p.Rules = append(p.Rules, p.Rules[1])
	}
	calls := 0
	a := &Agent{cfg: Config{Unusable: func(auth.Requirement) string { calls++; return "no" }}}
	if got := a.unusable(p); len(got) != 52 || calls != 1 {
		t.Errorf("%d rules are not usable, %d questions", len(got), calls)
	}
}

// A policy may come before its keys: it is put in force, which is a problem
// until they are there.
func TestAMissingPresharedKeyIsAProblem(t *testing.T) {
	dir := t.TempDir()
	there := false
	inBubble(t, func(t *testing.T, r *rig) {
		r.write(dir, "keyed", strings.NewReplacer("certified", "keyed", `[{certificate: {ca: "CN=Bank"}}, kerberos]`, "[{psk: {key: site}}]").Replace(byCertificate))
		result, err := r.agent.Assign(t.Context(), control.AssignRequest{Policy: "keyed"})
		if err != nil {
			t.Fatal(err)
		}
		const want = `rule "all" can secure nothing: no key "site"`
		if len(result.Warnings) != 1 || result.Warnings[0] != want {
			t.Errorf("warnings %q", result.Warnings)
		}
		if got := r.status().Problems; len(got) != 1 || !strings.Contains(got[0], want) {
			t.Errorf("problems %q", got)
		}
		there = true
		if _, err := r.agent.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := r.status().Problems; len(got) != 0 {
			t.Errorf("with the key there, the problems are %q", got)
		}
	}, func(c *Config) {
		c.Library = folder(dir)
		c.NoKey = func(name string) string {
			if there {
				return ""
			}
			return fmt.Sprintf("no key %q", name)
		}
	})
}
