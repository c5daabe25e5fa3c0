package netsh_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"ipsecagent/policy"
	"ipsecagent/policy/netsh"
	"ipsecagent/sadb"
)

// generator makes stores of everything that a script can say, in its words or
// in ours.
type generator struct{ *rand.Rand }

func pick[T any](g generator, values ...T) T { return values[g.IntN(len(values))] }

func (g generator) flip() bool { return g.IntN(2) == 0 }

func (g generator) text() string {
	return pick(g, "", "", "plain", `with "quotes" and \ and 'apostrophes'`, "a=b # no comment", "Büro ^ %X% > nul", `ends with \`, " blanks ")
}

func (g generator) addr(v6 bool) netip.Addr {
	if v6 {
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(1 + g.IntN(200))})
	}
	return netip.AddrFrom4([4]byte{10, byte(g.IntN(256)), byte(g.IntN(256)), byte(1 + g.IntN(200))})
}

func (g generator) endpoint(v6 bool) policy.Endpoint {
	a := g.addr(v6)
	switch kind := policy.EndpointKind(g.IntN(int(policy.DefaultGateway) + 1)); kind {
	case policy.Addresses:
		addrs := sadb.Addr(a)
		switch g.IntN(3) {
		case 0:
			addrs = sadb.Prefix(netip.PrefixFrom(a, g.IntN(a.BitLen()+1)))
		case 1:
			addrs = sadb.Range(a, a.Next().Next())
		}
		return policy.Endpoint{Kind: kind, Addrs: addrs}
	case policy.Name:
		return policy.Endpoint{Kind: kind, Name: pick(g, "db.example.com", "printer-7", "x_1.example")}
	default:
		return policy.Endpoint{Kind: kind}
	}
}

func (g generator) filter() policy.Filter {
	f := policy.Filter{Description: g.text(), Mirrored: g.flip()}
	v6 := g.flip()
	for f.From.Kind == f.To.Kind && (f.From.Kind == policy.Me || f == policy.Filter{Description: f.Description, Mirrored: f.Mirrored}) {
		f.From, f.To = g.endpoint(v6), g.endpoint(v6)
	}
	f.Protocol = pick(g, 0, sadb.TCP, sadb.UDP, sadb.SCTP, 47, 255)
	if g.IntN(6) == 0 {
		f.Protocol = map[bool]uint8{true: sadb.ICMPv6, false: sadb.ICMP}[v6]
		f.ICMPType = sadb.Octets{From: 3, To: uint8(3 + g.IntN(3)), Set: true}
		f.ICMPCode = sadb.Octets{From: 0, To: 4, Set: g.flip()}
		if !f.ICMPCode.Set {
			f.ICMPCode = sadb.Octets{}
		}
	}
	if sadb.HasPorts(f.Protocol) {
		f.FromPorts = pick(g, sadb.Ports{}, sadb.Port(443), sadb.Ports{From: 8000, To: 8100})
		f.ToPorts = pick(g, sadb.Ports{}, sadb.Port(1), sadb.Ports{From: 1, To: 65535})
	}
	return f
}

func (g generator) list(name string) policy.FilterList {
	l := policy.FilterList{Name: name, Description: g.text()}
	for range g.IntN(4) {
		l.Filters = append(l.Filters, g.filter())
	}
	return l
}

func (g generator) methods() []policy.SecurityMethod {
	suites := sadb.Suites()
	var all []policy.SecurityMethod
	for range 1 + g.IntN(4) {
		s := suites[g.IntN(len(suites))]
		m := policy.SecurityMethod{Suites: []sadb.Suite{s}}
		if s.Proto == sadb.ESP && g.IntN(3) == 0 {
			m.Suites = []sadb.Suite{{Proto: sadb.AH, Integrity: pick(g, sadb.HMACSHA1, sadb.HMACMD5, sadb.HMACSHA256)}, s}
		}
		m.Lifetime = pick(g, time.Hour, 900*time.Second, 48*time.Hour)
		m.Bytes = pick[uint64](g, 100_000<<10, 1e9, 4e12, 1_000_001)
		all = append(all, m)
	}
	return all
}

func (g generator) action(name string) policy.FilterAction {
	a := policy.FilterAction{Name: name, Description: g.text(), Kind: pick(g, sadb.Permit, sadb.Block, sadb.Negotiate)}
	if a.Kind != sadb.Negotiate {
		return a
	}
	a.Methods, a.AcceptUnsecured, a.AllowClear, a.SessionKeyPFS = g.methods(), g.flip(), g.flip(), g.flip()
	if a.SessionKeyPFS {
		a.PFSGroup = pick(g, 0, sadb.ECP256, sadb.MODP2048)
	}
	if a.AllowClear {
		a.ClearDelay = pick(g, 0, 3*time.Second, 500*time.Millisecond)
	}
	return a
}

func (g generator) authentication() []policy.AuthMethod {
	all := []policy.AuthMethod{{Kind: policy.Kerberos}}
	if g.flip() {
		all = append(all, policy.AuthMethod{
			Kind: policy.Certificate, CA: pick(g, "C=US,O=Bank,CN=Root", `CN="North, South",O=Bank`, "CN=x certmap y,O=z"),
			ExcludeCAName: g.flip(), MapToAccount: g.flip(), AcceptPrincipals: pick(g, nil, []string{"CN=a", "CN=b"}),
		})
	}
	if g.flip() {
		all = append(all, policy.AuthMethod{Kind: policy.PresharedKey, Key: pick(g, "", "default", "P, R")})
	}
	g.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

func (g generator) keyExchange() policy.KeyExchange {
	k := policy.KeyExchange{
		Lifetime: pick(g, 0, time.Hour, 90*time.Second), Sessions: g.IntN(3), MasterKeyPFS: g.flip(),
	}
	all := []string{"3des-sha1-modp1024", "des-md5-modp768", "3des-sha1-modp2048", "aes256-sha256-ecp256", "des-sha1-ecp384", "aes128-sha1-modp2048"}
	g.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, name := range all[:g.IntN(len(all))] {
		s, err := sadb.ParseISAKMPSuite(name)
		if err != nil {
			panic(err)
		}
		k.Methods = append(k.Methods, s)
	}
	return k
}

func (g generator) response() policy.DefaultResponse {
	switch g.IntN(4) {
	case 0:
		return policy.DefaultResponse{}
	case 1:
		return windowsResponse()
	case 2:
		return policy.DefaultResponse{Active: true, Authentication: g.authentication()}
	}
	return policy.DefaultResponse{Active: g.flip(), Authentication: g.authentication(), Methods: g.methods()}
}

// policy makes a policy whose lists and actions are those its rules name, in
// that order.
func (g generator) policy(name string, lists []policy.FilterList, actions []policy.FilterAction) policy.Policy {
	p := policy.Policy{
		Name: name, Description: g.text(), PollingInterval: pick(g, 0, time.Hour), KeyExchange: g.keyExchange(),
		DefaultResponse: g.response(), Uplift: true,
	}
	usedLists, usedActions := map[string]bool{}, map[string]bool{}
	for i := range g.IntN(5) {
		l, a := pick(g, lists...), pick(g, actions...)
		r := policy.Rule{
			Name: fmt.Sprintf("rule %d", i), Description: g.text(), Disabled: g.flip(), FilterList: l.Name, FilterAction: a.Name,
			Authentication: g.authentication(), Connections: pick(g, sadb.AllConnections, sadb.LAN, sadb.RemoteAccess),
			Tunnel: pick(g, policy.TunnelSetting{}, policy.TunnelSetting{Endpoint: g.addr(g.flip())}, policy.TunnelSetting{Name: "gw.example.com"}),
		}
		if !usedLists[l.Name] {
			p.FilterLists = append(p.FilterLists, l)
		}
		if g.IntN(4) == 0 {
			r.FilterAction, r.Authentication = pick(g, "permit", "block"), nil
		} else if !usedActions[a.Name] {
			p.FilterActions = append(p.FilterActions, a)
			usedActions[a.Name] = true
		}
		usedLists[l.Name] = true
		p.Rules = append(p.Rules, r)
	}
	return p
}

func (g generator) store() policy.Store {
	lists := []policy.FilterList{g.list("lists"), g.list("All IP"), g.list(`a "quoted" list`)}
	actions := []policy.FilterAction{g.action("Require Security"), g.action("Permit?"), g.action("c")}
	s := policy.Store{}
	used := map[string]bool{}
	for _, name := range []string{"First policy", "2nd", `"third" \ policy`}[:g.IntN(4)] {
		p := g.policy(name, lists, actions)
		s.Policies = append(s.Policies, p)
		s.Assigned = pick(g, s.Assigned, p.Name)
		for _, l := range p.FilterLists {
			used["list "+l.Name] = true
		}
		for _, a := range p.FilterActions {
			used["action "+a.Name] = true
		}
	}
	for _, l := range lists {
		if !used["list "+l.Name] {
			s.FilterLists = append(s.FilterLists, l)
		}
	}
	for _, a := range actions {
		if !used["action "+a.Name] {
			s.FilterActions = append(s.FilterActions, a)
		}
	}
	return s
}

// A store that is written and read again is the same store.
func TestRoundTrip(t *testing.T) {
	for seed := range uint64(1000) {
		s := generator{rand.New(rand.NewPCG(seed, 1))}.store()
		script, _ := netsh.Write(s)
		r := netsh.Run(policy.Store{}, script)
		if len(r.Problems) == 0 && reflect.DeepEqual(r.Store, s) {
			continue
		}
		t.Fatalf("seed %d: %v\nscript\n%s\ngot\n%+v\nwant\n%+v", seed, r.Problems, script, r.Store, s)
	}
}

// What Windows cannot read is said to be so: a script without losses has no
// word of ours.
func TestLossesAreSaid(t *testing.T) {
	for seed := range uint64(300) {
		s := generator{rand.New(rand.NewPCG(seed, 2))}.store()
		script, losses := netsh.Write(s)
		own := ownWords().Match(script)
		if own != (len(losses) > 0) {
			t.Fatalf("seed %d: losses %v of\n%s", seed, losses, script)
		}
	}
}
