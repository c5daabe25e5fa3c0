package agent

import (
	"encoding/json"
	"errors"
	"net/netip"
	"testing"

	"ipsecagent/auth"
	"ipsecagent/ike"
	"ipsecagent/policy"
	"ipsecagent/policy/file"
	"ipsecagent/sadb"
)

const mixed = `apiVersion: ipsecagent/v1
kind: Policy
name: mixed
filterLists:
  database: [{from: me, to: any, protocol: tcp, sourcePort: 1433}]
  web: [{from: me, to: any, protocol: tcp, destinationPort: 8000-8010}]
  management: [{from: me, to: 192.0.2.3}]
  enemy: [{from: me, to: 192.0.2.66}]
filterActions:
  require: {negotiate: {methods: [esp-aes256gcm]}}
  pfs: {negotiate: {methods: [esp-aes128gcm], sessionKeyPFS: ecp256}}
rules:
  - {name: databases, filterList: database, filterAction: require, authentication: [{psk: {key: strong}}]}
  - {name: web, filterList: web, filterAction: pfs, authentication: [psk]}
  - {name: management, filterList: management, filterAction: permit}
  - {name: enemy, filterList: enemy, filterAction: block}
defaultResponse: {active: true, authentication: [{psk: {key: guests}}]}
`

func compiledFrom(t *testing.T, document string) *snapshot {
	t.Helper()
	p, err := file.Parse("test", []byte(document))
	if err != nil {
		t.Fatal(err)
	}
	c, err := policy.Compile(p, policy.Host{})
	if err != nil {
		t.Fatal(err)
	}
	return newSnapshot(c, nil)
}

func pairOf(remote string, proto uint8, local, peer sadb.Ports) sadb.Selector {
	return sadb.Selector{Local: sadb.Addr(alice()), Remote: sadb.Addr(netip.MustParseAddr(remote)), Proto: proto, LocalPorts: local, RemotePorts: peer}
}

func TestQuickModeIsAnsweredByTheMostSpecificFilter(t *testing.T) {
	s := compiledFrom(t, mixed)
	any := sadb.Ports{}
	cases := []struct {
		name      string
		selector  sadb.Selector
		remote    string
		principal auth.Principal
		mode      sadb.Mode
		rule      string // "" : refused
		notify    uint16
	}{
		{"the stronger rule, proven", pairOf("192.0.2.2", sadb.TCP, sadb.Port(1433), any), "192.0.2.2", "psk:strong", sadb.Transport, "databases", 0},
		{"the stronger rule, by the weaker key", pairOf("192.0.2.2", sadb.TCP, sadb.Port(1433), any), "192.0.2.2", "psk:guests", sadb.Transport, "", notifyAuthFailed},
		{"any key", pairOf("192.0.2.2", sadb.TCP, any, sadb.Port(8004)), "192.0.2.2", "psk:whatever", sadb.Transport, "web", 0},
		{"beyond the port range", pairOf("192.0.2.2", sadb.TCP, any, sadb.Port(8011)), "192.0.2.2", "psk:guests", sadb.Transport, "default response", 0},
		{"wider than any filter", pairOf("192.0.2.2", 0, any, any), "192.0.2.2", "psk:guests", sadb.Transport, "default response", 0},
		{"default response by another key", pairOf("192.0.2.2", 0, any, any), "192.0.2.2", "psk:other", sadb.Transport, "", notifyAuthFailed},
		{"permitted", pairOf("192.0.2.3", sadb.UDP, any, any), "192.0.2.3", "psk:guests", sadb.Transport, "", notifyInvalidID},
		{"blocked", pairOf("192.0.2.66", sadb.UDP, any, any), "192.0.2.66", "psk:guests", sadb.Transport, "", notifyInvalidID},
		{"for another host", pairOf("192.0.2.9", sadb.UDP, any, any), "192.0.2.2", "psk:guests", sadb.Transport, "", notifyInvalidID},
		{"in tunnel mode", pairOf("192.0.2.2", sadb.TCP, sadb.Port(1433), any), "192.0.2.2", "psk:strong", sadb.Tunnel, "", notifyNoProposal},
		{"default response in tunnel mode", pairOf("192.0.2.2", sadb.UDP, any, any), "192.0.2.2", "psk:guests", sadb.Tunnel, "", notifyNoProposal},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			offer, err := s.quick(ike.QuickQuery{Local: alice(), Remote: netip.MustParseAddr(c.remote), Selector: c.selector,
				Mode: c.mode, Proof: auth.Proof{Method: auth.PSK, Principal: c.principal}})
			if c.rule == "" {
				wantRefusal(t, err, c.notify)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			checkOffer(t, s, offer, c.selector, c.rule)
		})
	}
}

func wantRefusal(t *testing.T, err error, notify uint16) {
	t.Helper()
	var r *ike.Refusal
	if !errors.As(err, &r) || r.Notify != notify || r.Reason == "" {
		t.Errorf("answer %v, want a refusal with notify %d", err, notify)
	}
}

func checkOffer(t *testing.T, s *snapshot, offer ike.QuickOffer, sel sadb.Selector, rule string) {
	t.Helper()
	got := defaultResponseTag
	if f, ok := s.filter(offer.Filter); ok {
		got = f.Rule
	}
	if got != rule || offer.DefaultResponse != (rule == defaultResponseTag) {
		t.Errorf("answered by %q, want %q", got, rule)
	}
	if offer.Selector != sel || len(offer.Proposals) == 0 {
		t.Errorf("offer %+v", offer)
	}
	if wantPFS := rule == "web"; (offer.PFS == sadb.ECP256) != wantPFS {
		t.Errorf("PFS %v", offer.PFS)
	}
}

func TestQuickModeOnlyByAcceptedMethod(t *testing.T) {
	s := compiledFrom(t, mixed)
	_, err := s.quick(ike.QuickQuery{Local: alice(), Remote: bob(), Selector: pairOf("192.0.2.2", sadb.TCP, sadb.Ports{}, sadb.Port(8004)),
		Proof: auth.Proof{Method: auth.Kerberos, Principal: "host/bob"}})
	wantRefusal(t, err, notifyAuthFailed)
}

func TestMainModeOffersWhatAnyRuleForThePeerAccepts(t *testing.T) {
	s := compiledFrom(t, mixed)
	offer, err := s.main(ike.MainQuery{Local: alice(), Remote: bob()})
	if err != nil || len(offer.Suites) == 0 || offer.Lifetime == 0 {
		t.Fatalf("%+v, %v", offer, err)
	}
	keys := map[string]bool{}
	for _, r := range offer.Auth {
		keys[r.Key] = true
	}
	if len(offer.Auth) != 3 || !keys["strong"] || !keys[""] || !keys["guests"] {
		t.Errorf("accepted %+v", offer.Auth)
	}
}

// TestMainModeOffersAreShared: a flood of strangers is answered without a copy
// of what the rule accepts for each.
func TestMainModeOffersAreShared(t *testing.T) {
	s := compiledFrom(t, `apiVersion: ipsecagent/v1
kind: Policy
name: one rule
filterLists: {all: [{from: me, to: any}]}
filterActions: {require: {negotiate: {methods: [esp-aes256gcm]}}}
rules: [{name: all, filterList: all, filterAction: require, authentication: [{certificate: {ca: "CN=Root"}}, psk]}]
`)
	if n := testing.AllocsPerRun(100, func() { s.main(ike.MainQuery{Local: alice(), Remote: bob()}) }); n != 0 {
		t.Errorf("%v allocations for an offer", n)
	}
}

// TestNamedPeers: which addresses have a place kept for them among half-open
// exchanges.
func TestNamedPeers(t *testing.T) {
	for to, want := range map[string]bool{
		"192.0.2.2": true, "192.0.2.0/24": true, "192.0.2.1-192.0.2.9": true,
		"any": false, "192.0.2.0/23": false, "192.0.1.250-192.0.2.9": false,
	} {
		s := compiledFrom(t, `apiVersion: ipsecagent/v1
kind: Policy
name: one rule
filterLists: {peers: [{from: me, to: `+to+`}]}
filterActions: {require: {negotiate: {methods: [esp-aes256gcm]}}}
rules: [{name: peers, filterList: peers, filterAction: require, authentication: [psk]}]
defaultResponse: {active: true, authentication: [psk]}
`)
		offer, err := s.main(ike.MainQuery{Local: alice(), Remote: bob()})
		if err != nil || offer.Named != want {
			t.Errorf("to %s: %t, %v", to, offer.Named, err)
		}
		if offer, err = s.main(ike.MainQuery{Local: alice(), Remote: netip.MustParseAddr("198.51.100.1")}); err != nil || offer.Named {
			t.Errorf("to %s, somebody else: %t, %v", to, offer.Named, err)
		}
	}
}

func TestMainModeIsRefusedToStrangers(t *testing.T) {
	narrow := compiledFrom(t, `apiVersion: ipsecagent/v1
kind: Policy
name: narrow
filterLists: {fleet: [{from: me, to: 10.0.0.0/8}]}
filterActions: {require: {negotiate: {methods: [esp-aes256gcm]}}}
rules: [{name: fleet, filterList: fleet, filterAction: require, authentication: [psk]}]
`)
	if _, err := narrow.main(ike.MainQuery{Local: alice(), Remote: bob()}); err == nil {
		t.Error("a stranger is offered main mode")
	}
	if _, err := narrow.main(ike.MainQuery{Local: alice(), Remote: netip.MustParseAddr("10.1.2.3")}); err != nil {
		t.Error(err)
	}
	_, err := narrow.quick(ike.QuickQuery{Local: alice(), Remote: bob(), Selector: pairOf("192.0.2.2", 0, sadb.Ports{}, sadb.Ports{}), Proof: auth.Proof{Method: auth.PSK}})
	wantRefusal(t, err, notifyInvalidID)
}

func TestNarrowNeverCoversMoreThanTheFilter(t *testing.T) {
	flow := sadb.Flow{Local: alice(), Remote: bob(), Proto: sadb.TCP, LocalPort: 40000, RemotePort: 8003}
	filters := []sadb.Selector{
		{Local: sadb.Me()},
		{Local: sadb.Me(), Proto: sadb.TCP, RemotePorts: sadb.Ports{From: 8000, To: 8010}},
		{Local: sadb.Me(), Proto: sadb.TCP, RemotePorts: sadb.Port(8003)},
		{Local: sadb.Me(), Proto: sadb.TCP, LocalPorts: sadb.Ports{From: 39000, To: 41000}},
	}
	for _, f := range filters {
		s := narrow(f, flow)
		if !holds(f, s) || !s.Matches(flow) {
			t.Errorf("%s narrowed is %s", f, s)
		}
		if s.RemotePorts.From != s.RemotePorts.To && !s.RemotePorts.IsAny() {
			t.Errorf("%s: an identity cannot say the ports of %s", f, s)
		}
	}
}

func TestPairsArePolicysWhileItWouldMakeThem(t *testing.T) {
	s := compiledFrom(t, mixed)
	offer, err := s.quick(ike.QuickQuery{Local: alice(), Remote: bob(), Selector: pairOf("192.0.2.2", sadb.TCP, sadb.Port(1433), sadb.Ports{}),
		Proof: auth.Proof{Method: auth.PSK, Principal: "psk:strong"}})
	if err != nil {
		t.Fatal(err)
	}
	p := pairFor(offer, bob())
	p.Principal = "psk:strong"
	if _, _, ok := s.offersFor(p, methodOf(p)); !ok {
		t.Error("a pair just made is not wanted")
	}
	spoil := map[string]func(*sadb.Pair){
		"another principal": func(p *sadb.Pair) { p.Principal = "psk:guests" },
		"another filter":    func(p *sadb.Pair) { p.Filter = "gone" },
		"another suite": func(p *sadb.Pair) {
			p.Suites = []sadb.Suite{{Proto: sadb.ESP, Encryption: sadb.TripleDES, Integrity: sadb.HMACSHA1}}
		},
		"another method": func(p *sadb.Pair) { p.Method = "guesswork" },
	}
	for name, f := range spoil {
		q := p
		f(&q)
		if _, _, ok := s.offersFor(q, methodOf(q)); ok {
			t.Errorf("%s: still wanted", name)
		}
	}
}

// TestHowAPairWasProvenIsKept: a fresh agent judges a pair by what its peer has
// proven, as the one before it did.
func TestHowAPairWasProvenIsKept(t *testing.T) {
	p := sadb.Pair{Principal: "a$@R", Method: auth.RSA.String(), CA: "CN=Root", Mapped: true, Subject: "CN=a", Named: true, Listed: true}
	data, err := json.Marshal(recordOf(p))
	if err != nil {
		t.Fatal(err)
	}
	var r pairRecord
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	want := auth.Proof{Method: auth.RSA, Principal: "a$@R", CA: "CN=Root", Mapped: true, Subject: "CN=a", Named: true, Listed: true}
	if got := queryFor(r.Pair, auth.RSA).Proof; got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestPolicyNamesNoMoreWaysThanAreTried: what compiles is not cut later.
func TestPolicyNamesNoMoreWaysThanAreTried(t *testing.T) {
	for m, n := range map[auth.Method]int{auth.PSK: policy.MaxKeys, auth.RSA: policy.MaxAuthorities, auth.ECDSA256: policy.MaxAuthorities} {
		if auth.MaxWays(m) != n {
			t.Errorf("%s: %d are tried, %d may be named", m, auth.MaxWays(m), n)
		}
	}
}

func TestDefaultResponseAsksForPFS(t *testing.T) {
	for _, c := range []struct {
		group sadb.Group
		any   bool
	}{{sadb.ECP256, false}, {0, true}} {
		offer := responseOffer(&policy.Negotiation{PFS: true, PFSGroup: c.group}, sadb.Selector{})
		if offer.PFS != c.group || offer.PFSAny != c.any {
			t.Errorf("group %v: PFS %v, any %v", c.group, offer.PFS, offer.PFSAny)
		}
	}
}
