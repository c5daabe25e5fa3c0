package gpipsec

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// maker makes policies that say all the model can say.
type maker struct{ *rand.Rand }

func pick[T any](m maker, all ...T) T { return all[m.IntN(len(all))] }

func several[T any](m maker, least, most int, one func() T) []T {
	var all []T
	for range least + m.IntN(most-least+1) {
		all = append(all, one())
	}
	return all
}

func (m maker) chance() bool { return m.IntN(3) == 0 }

func (m maker) text(s string) string {
	if m.chance() {
		return ""
	}
	return pick(m, s, s+" ü€😀", s+"\nand more", "=: <"+s)
}

func (m maker) addrs() sadb.Addrs {
	a4 := netip.AddrFrom4([4]byte{10, byte(m.IntN(256)), byte(m.IntN(256)), byte(1 + m.IntN(250))})
	a6 := netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", 1+m.IntN(60000)))
	return pick(m, sadb.Addr(a4), sadb.Addr(a6), sadb.Prefix(netip.PrefixFrom(a4, 1+m.IntN(32))), sadb.Prefix(netip.PrefixFrom(a6, 1+m.IntN(128))),
		sadb.Range(a4, netip.MustParseAddr("10.255.255.254")), sadb.Range(a6, netip.MustParseAddr("2001:db8::ffff")),
		sadb.Prefix(netip.MustParsePrefix("::/0")), sadb.Prefix(netip.MustParsePrefix("0.0.0.0/0")))
}

func (m maker) endpoint() policy.Endpoint {
	switch k := policy.EndpointKind(m.IntN(int(policy.DefaultGateway) + 1)); k {
	case policy.Addresses:
		return addresses(m.addrs())
	case policy.Name:
		return policy.Endpoint{Kind: k, Name: pick(m, "db.example", "unknown.example")}
	default:
		return policy.Endpoint{Kind: k}
	}
}

func (m maker) filter() policy.Filter {
	f := policy.Filter{Description: m.text("a filter"), From: m.endpoint(), To: m.endpoint(), Mirrored: m.chance()}
	f.Protocol = pick(m, 0, 1, sadb.TCP, sadb.UDP, 47, 255)
	if sadb.HasPorts(f.Protocol) {
		f.FromPorts = pick(m, sadb.Ports{}, sadb.Port(80), sadb.Ports{From: 1, To: 65535}, sadb.Ports{To: 65535})
		f.ToPorts = pick(m, sadb.Ports{}, sadb.Port(443), sadb.Ports{From: 8000, To: 8100})
	}
	if f.Protocol == 1 && m.chance() {
		f.ICMPType = sadb.Octets{From: 8, To: 8, Set: true}
	}
	if m.chance() {
		f.GUID = m.guid()
	}
	return f
}

func (m maker) guid() string {
	if m.chance() {
		return ""
	}
	g := GUID{}
	for i := range g {
		g[i] = byte(m.IntN(256))
	}
	return pick(m, g.String(), strings.ToLower(g.String()), strings.Trim(g.String(), "{}"))
}

func (m maker) method() policy.SecurityMethod {
	suites := sadb.Suites()
	s := policy.SecurityMethod{Suites: []sadb.Suite{pick(m, suites...)}, Lifetime: pick(m, 0, time.Hour, 61*time.Second), Bytes: pick[uint64](m, 0, 1_000_000, 100_000*1024, 1<<41)}
	if s.Suites[0].Proto == sadb.ESP && m.chance() {
		s.Suites = []sadb.Suite{{Proto: sadb.AH, Integrity: sadb.HMACSHA1}, s.Suites[0]}
	}
	return s
}

func (m maker) auth() policy.AuthMethod {
	a := policy.AuthMethod{Kind: pick(m, policy.Kerberos, policy.Certificate, policy.PresharedKey)}
	switch a.Kind {
	case policy.Certificate:
		a.CA, a.ExcludeCAName, a.MapToAccount = pick(m, "C=US, O=Bänk, CN=Root", "CN=Root,O=Bank"), m.chance(), m.chance()
	case policy.PresharedKey:
		a.Key = pick(m, "", "branch")
	}
	if m.chance() {
		a.AcceptPrincipals = []string{"host/a.example@EXAMPLE"}
	}
	return a
}

func (m maker) action(n, i int) policy.FilterAction {
	a := policy.FilterAction{GUID: m.guid(), Name: fmt.Sprintf("action %d.%d", n, i), Description: m.text("an action"), Kind: pick(m, sadb.Block, sadb.Permit, sadb.Negotiate)}
	if a.Kind == sadb.Negotiate {
		a.Methods = several(m, 1, 4, m.method)
		a.AcceptUnsecured, a.AllowClear, a.SessionKeyPFS = m.chance(), m.chance(), m.chance()
		if a.AllowClear {
			a.ClearDelay = pick(m, 0, 1500*time.Millisecond)
		}
		if a.SessionKeyPFS {
			a.PFSGroup = pick(m, 0, sadb.ECP256, sadb.MODP2048)
		}
	}
	return a
}

func (m maker) policy(n int) policy.Policy {
	p := policy.Policy{
		GUID: m.guid(), Name: fmt.Sprintf("policy %d", n), Description: m.text("a policy"), Uplift: m.chance(),
		PollingInterval: pick(m, 0, 3*time.Hour, time.Minute),
		KeyExchange: policy.KeyExchange{GUID: m.guid(), Identity: m.guid(), Lifetime: pick(m, 0, 8*time.Hour, time.Hour),
			Sessions: pick(m, 0, 1, 10), MasterKeyPFS: m.chance()},
		Tests: pick(m, nil, []policy.Test{{Flow: "tcp me -> 10.0.0.1:80", Expect: "permit"}}),
	}
	p.KeyExchange.Methods = unique(several(m, 0, 4, func() sadb.ISAKMPSuite {
		s := sadb.ISAKMPSuite{Encryption: pick(m, sadb.DES, sadb.TripleDES, sadb.AESCBC), Hash: pick(m, sadb.MD5, sadb.SHA1, sadb.SHA256), Group: pick(m, sadb.MODP768, sadb.MODP1024, sadb.MODP2048, sadb.ECP256)}
		if s.Encryption == sadb.AESCBC {
			s.KeyBits = 256
		}
		return s
	}))
	for i := range 1 + m.IntN(3) {
		p.FilterActions = append(p.FilterActions, m.action(n, i))
		p.FilterLists = append(p.FilterLists, policy.FilterList{GUID: m.guid(), Name: fmt.Sprintf("list %d.%d", n, i), Description: m.text("a list"), Filters: several(m, 0, 5, m.filter)})
	}
	for i := range m.IntN(5) {
		r := policy.Rule{GUID: m.guid(), Name: fmt.Sprintf("rule %d", i), Description: m.text("a rule"), Disabled: m.chance(),
			FilterList: pick(m, p.FilterLists...).Name, FilterAction: pick(m, p.FilterActions...).Name, Authentication: several(m, 0, 3, m.auth),
			Connections: pick(m, sadb.AllConnections, sadb.LAN, sadb.RemoteAccess)}
		if m.chance() {
			r.FilterAction = pick(m, "permit", "block")
		}
		if m.chance() {
			r.Tunnel = pick(m, policy.TunnelSetting{Endpoint: netip.MustParseAddr("192.0.2.1")}, policy.TunnelSetting{Endpoint: netip.MustParseAddr("2001:db8::1")},
				policy.TunnelSetting{Name: "db.example"}, policy.TunnelSetting{Name: "unknown.example"})
		}
		p.Rules = append(p.Rules, r)
	}
	if m.chance() {
		p.DefaultResponse = policy.DefaultResponse{GUID: m.guid(), Active: m.chance(), Methods: several(m, 0, 3, m.method), Authentication: several(m, 0, 2, m.auth)}
		p.DefaultResponse.SessionKeyPFS = m.chance()
		if p.DefaultResponse.SessionKeyPFS && m.chance() {
			p.DefaultResponse.PFSGroup = pick(m, sadb.MODP2048, sadb.ECP256)
		}
	}
	return p
}

// resolved are the names that makers use and Windows can be given.
func resolved() map[string][]netip.Addr {
	return map[string][]netip.Addr{"db.example": {netip.MustParseAddr("10.9.8.7"), netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("10.9.8.8")}}
}

// through sends a store through objects and a text form.
func through(t *testing.T, s policy.Store, form func([]Object) []Object) policy.Store {
	t.Helper()
	objects, _, err := Encode(s, Options{Names: resolved(), KeyNames: true})
	if err != nil {
		t.Fatal(err)
	}
	r := Decode(form(objects))
	for _, p := range r.Problems {
		t.Errorf("%v", p)
	}
	return r.Store
}

func asObjects(o []Object) []Object { return o }

func TestGeneratedPoliciesSurvive(t *testing.T) {
	for seed := range uint64(120) {
		m := maker{rand.New(rand.NewPCG(seed, 1))}
		s := policy.Store{Policies: []policy.Policy{m.policy(1), m.policy(2)}}
		s.Assigned = pick(m, "", "policy 1")
		want, problems := complete(s)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		first := through(t, s, asObjects)
		got, _ := complete(first)
		if d := diff(want, got); d != "" {
			t.Fatalf("seed %d: %s", seed, d)
		}
		for _, form := range []func([]Object) []Object{asObjects, func(o []Object) []Object { return readRegBytes(t, utf16File(regFile(o))) }} {
			if d := diff(first, through(t, first, form)); d != "" {
				t.Fatalf("seed %d, second time: %s", seed, d)
			}
		}
		objects, _, _ := Encode(first, Options{Names: resolved(), KeyNames: true})
		sameInLDIF(t, objects)
	}
}

// sameInLDIF: LDIF keeps the objects themselves, whatever their order.
func sameInLDIF(t *testing.T, objects []Object) {
	t.Helper()
	var text bytes.Buffer
	if err := WriteLDIF(&text, DefaultBaseDN+",DC=example,DC=test", objects); err != nil {
		t.Fatal(err)
	}
	back, err := ReadLDIF(strings.NewReader(strings.ReplaceAll(text.String(), "\n", "\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	byRef := map[Ref]Object{}
	for _, o := range back {
		byRef[o.Ref] = o
	}
	for _, o := range objects {
		if o.Class == ClassAssignment {
			continue
		}
		if d := diff(o, byRef[o.Ref]); d != "" {
			t.Fatal(d)
		}
	}
}

func TestImportedStoresSurviveExport(t *testing.T) {
	for name, objects := range map[string][]Object{"XP": xpStore(t), "10": win10Store(t)} {
		first := Decode(objects)
		keys := map[string]sadb.Secret{}
		for _, s := range first.Secrets {
			keys[s.Name] = s.Key
		}
		again, _, err := Encode(first.Store, Options{Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		second := Decode(again)
		if d := diff(first, second); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestPresharedKeysLeaveWhenForced(t *testing.T) {
	p := *policy.SecureServer()
	p.Rules[1].Authentication = []policy.AuthMethod{{Kind: policy.PresharedKey, Key: "branch"}}
	s := policy.Store{Policies: []policy.Policy{p}}
	_, _, err := Encode(s, Options{})
	var problem *Problem
	if err == nil || !errors.As(err, &problem) || !strings.Contains(err.Error(), `rule "Require Security"`) || !strings.Contains(err.Error(), `preshared key "branch"`) {
		t.Errorf("without force: %v", err)
	}
	objects, _, err := Encode(s, Options{KeyNames: true})
	if err != nil || len(Decode(objects).Secrets) != 0 {
		t.Errorf("by name: %v", err)
	}
	objects, warnings, err := Encode(s, Options{Keys: map[string]sadb.Secret{"branch": sadb.NewSecret([]byte("Sesame ü"))}})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(fmt.Sprint(warnings), `preshared key "branch" stands in it in clear`) || strings.Contains(fmt.Sprint(warnings), "Sesame") {
		t.Error(warnings)
	}
	r := Decode(objects)
	if len(r.Secrets) != 1 || string(r.Secrets[0].Key.Bytes()) != "Sesame ü" || r.Store.Policies[0].Rules[1].Authentication[0].Key != "branch" {
		t.Errorf("%+v", r.Store.Policies[0].Rules[1])
	}
}

func TestEncodeRefuses(t *testing.T) {
	copied := func(f func(s *policy.Store)) policy.Store {
		s := originals(t)
		f(&s)
		return s
	}
	cases := map[string]struct {
		store policy.Store
		want  string
	}{
		"two policies of one GUID": {copied(func(s *policy.Store) { s.Policies[1].GUID = s.Policies[0].GUID }), "another policy has the same GUID"},
		"two rules of one GUID":    {copied(func(s *policy.Store) { s.Policies[1].Rules[0].GUID = s.Policies[1].Rules[1].GUID }), "another rule has the same GUID"},
		"a list that differs":      {copied(func(s *policy.Store) { s.Policies[1].FilterLists[1].Name, s.Policies[1].Rules[1].FilterList = "x", "x" }), `filter list "All IP Traffic" {7238523A-70FA-11D1-864C-14A300000000}: another one has the same GUID`},
		"no GUID":                  {copied(func(s *policy.Store) { s.Policies[0].GUID = "mine" }), `policy "Client (Respond Only)": "mine" is not a GUID`},
		"a rule of nothing":        {copied(func(s *policy.Store) { s.Policies[1].Rules[1].FilterList = "gone" }), `rule "Request Security (Optional) Rule" {72385232-70FA-11D1-864C-14A300000000}: filter list "gone"`},
		"an assigned stranger":     {copied(func(s *policy.Store) { s.Assigned = "gone" }), `policy "gone" is assigned and not among`},
	}
	for name, c := range cases {
		objects, _, err := Encode(c.store, Options{})
		if err == nil || objects != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v does not say %q", name, err, c.want)
		}
	}
}
