package gpipsec

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// asWindows returns the value without our record: all that Windows reads.
func asWindows(t testing.TB, value []byte) []byte {
	t.Helper()
	b, err := parseBlob(classOf(value), value)
	if err != nil {
		t.Fatal(err)
	}
	id := recordOurs()
	if i := strings.Index(string(value), string(id[:])); i >= 0 {
		return b.Bytes()[:i]
	}
	return value
}

func covers(wide, narrow policy.Endpoint) bool {
	switch {
	case wide.Kind == policy.Any:
		return true
	case narrow.Kind == policy.Any: // in the first version, which knows IPv4 alone
		return wide.Addrs.String() == "0.0.0.0/0"
	case wide.Kind == policy.Addresses && narrow.Kind == policy.Addresses:
		return wide.Addrs.Contains(narrow.Addrs)
	}
	return wide == narrow
}

// What Windows sees of a filter list is never wider than what it says.
func TestWindowsNeverSeesAWiderFilter(t *testing.T) {
	seen := 0
	for seed := range uint64(300) {
		m := maker{rand.New(rand.NewPCG(seed, 2))}
		l := policy.FilterList{Filters: several(m, 1, 4, m.filter)}
		for i := range l.Filters {
			l.Filters[i].GUID = derivedGUID(fmt.Sprint(i)).String()
		}
		r := &report{}
		value := asWindows(t, r.encodeFilters(l, resolved()))
		view := r.filterList(&Object{Data: value})
		if r.failed() {
			t.Fatal(r.problems)
		}
		for _, f := range view.Filters {
			seen++
			covered := slices.ContainsFunc(l.Filters, func(g policy.Filter) bool {
				return covers(g.From, f.From) && covers(g.To, f.To) && g.Protocol == f.Protocol && g.Mirrored == f.Mirrored &&
					g.FromPorts.Contains(f.FromPorts) && g.ToPorts.Contains(f.ToPorts) && g.ICMPType == f.ICMPType && g.GUID == f.GUID
			})
			if !covered {
				t.Errorf("seed %d: Windows sees %+v of\n%+v", seed, f, l.Filters)
			}
		}
	}
	if seen < 300 {
		t.Errorf("only %d filters seen", seen)
	}
}

// Readers before Vista see address ranges as their subnets, and of the rest what
// the first version can say.
func TestTheFirstVersionOfAList(t *testing.T) {
	address := func(s string) policy.Endpoint {
		a, err := parseAddrs(s)
		if err != nil {
			t.Fatal(err)
		}
		return addresses(a)
	}
	me := policy.Endpoint{Kind: policy.Me}
	cases := map[string]struct {
		filter policy.Filter
		want   string
	}{
		"range":        {policy.Filter{From: me, To: address("10.0.0.1-10.0.0.6")}, "10.0.0.1 10.0.0.2/31 10.0.0.4/31 10.0.0.6"},
		"all":          {policy.Filter{From: me, To: address("0.0.0.0-255.255.255.255")}, "any"},
		"IPv6":         {policy.Filter{From: me, To: address("2001:db8::/32")}, ""},
		"ports":        {policy.Filter{From: me, Protocol: sadb.TCP, ToPorts: sadb.Ports{From: 80, To: 90}}, ""},
		"ICMP type":    {policy.Filter{From: me, Protocol: sadb.ICMP, ICMPType: sadb.Octets{From: 8, To: 8, Set: true}}, ""},
		"a known name": {policy.Filter{From: me, To: policy.Endpoint{Kind: policy.Name, Name: "db.example"}}, "10.9.8.7 10.9.8.8"},
		"a new name":   {policy.Filter{From: me, To: policy.Endpoint{Kind: policy.Name, Name: "unknown.example"}}, ""},
		"a set":        {policy.Filter{From: me, To: policy.Endpoint{Kind: policy.DNSServers}}, "me"}, // itself to itself: nothing
		"two sets":     {policy.Filter{From: policy.Endpoint{Kind: policy.DNSServers}, To: policy.Endpoint{Kind: policy.DHCPServers}}, ""},
	}
	for name, c := range cases {
		r := &report{}
		d, err := ParseFilter(r.encodeFilters(policy.FilterList{Filters: []policy.Filter{c.filter}}, resolved()))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range d.Filters {
			e, err := side("", policy.Any, f.To, f.ToMask)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := endpoint(e).MarshalText()
			got = append(got, string(text))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, not %s", name, got, c.want)
		}
		if unseen := len(d.Filters) == 0 && d.V2 == nil; unseen != (len(r.problems) == 1) {
			t.Errorf("%s: warnings %v", name, r.problems)
		}
	}
}

// Windows reads modern methods as the nearest it can compute, and nothing weaker
// than 3DES, SHA-1 and 2048 bits stands for them.
func TestWindowsSeesTheNearestMethods(t *testing.T) {
	objects, warnings, err := Encode(policy.Store{Policies: []policy.Policy{*policy.Server()}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range objects {
		objects[i].Data = asWindows(t, objects[i].Data)
	}
	p := Decode(objects).Store.Policies[0]
	if got := fmt.Sprint(p.KeyExchange.Methods); got != "[3des-sha1-modp2048]" {
		t.Error(got)
	}
	request := p.FilterActions[slices.IndexFunc(p.FilterActions, func(a policy.FilterAction) bool { return a.Kind == sadb.Negotiate })]
	if got := suitesOf(request); got != "esp-3des-sha1" || !request.AllowClear || !request.AcceptUnsecured {
		t.Errorf("%s %+v", got, request)
	}
	if !p.Uplift || !p.DefaultResponse.Active {
		t.Errorf("%+v", p)
	}
	text := fmt.Sprint(warnings)
	for _, want := range []string{`policy "server": Windows sees the main-mode methods 3des-sha1-modp2048 instead`, "Windows sees the security methods esp-3des-sha1 instead"} {
		if !strings.Contains(text, want) {
			t.Errorf("%s\nlacks %q", text, want)
		}
	}
}

func TestATunnelOfTwoRules(t *testing.T) {
	here, there := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::1")
	a, _ := parseAddrs("10.1.0.0/16")
	b, _ := parseAddrs("10.2.0.0/16")
	p := *policy.SecureServer()
	p.FilterLists = append(p.FilterLists,
		policy.FilterList{Name: "out", Filters: []policy.Filter{{From: addresses(a), To: addresses(b)}}},
		policy.FilterList{Name: "in", Filters: []policy.Filter{{From: addresses(b), To: addresses(a)}}})
	kerberos := []policy.AuthMethod{{Kind: policy.Kerberos}}
	p.Rules = append(p.Rules,
		policy.Rule{Name: "out", FilterList: "out", FilterAction: "Require Security", Tunnel: policy.TunnelSetting{Endpoint: there}, Authentication: kerberos},
		policy.Rule{Name: "in", FilterList: "in", FilterAction: "Require Security", Tunnel: policy.TunnelSetting{Endpoint: here}, Authentication: kerberos})
	objects, warnings, err := Encode(policy.Store{Policies: []policy.Policy{p}}, Options{})
	if err != nil || strings.Contains(fmt.Sprint(warnings), "tunnel") {
		t.Fatal(err, warnings)
	}
	for _, o := range objects {
		if o.Class != ClassNFA || o.Name != "out" && o.Name != "in" {
			continue
		}
		d, err := ParseNFA(o.Data)
		if err != nil || d.IsTunnel != 1 || (o.Name == "in" && d.Tunnel != here.As4()) || (o.Name == "out" && (d.Tunnel6 == nil || *d.Tunnel6 != there.As16())) {
			t.Errorf("%s: %+v %v", o.Name, d, err)
		}
	}
	got := Decode(objects).Store.Policies[0].Rules
	if got[2].Tunnel.Endpoint != there || got[3].Tunnel.Endpoint != here {
		t.Errorf("%+v", got)
	}
	p.FilterLists[2].Filters[0].Mirrored = true
	if _, warnings, _ = Encode(policy.Store{Policies: []policy.Policy{p}}, Options{}); !strings.Contains(fmt.Sprint(warnings), "it needs two rules") {
		t.Errorf("a mirrored tunnel: %v", warnings)
	}
}

func TestAuthoritiesStandInTheOrderOfWindows(t *testing.T) {
	for name, want := range map[string]string{
		"CN=Root, O=Bank,C=US":        "C=US, O=Bank, CN=Root",
		"CN=CA,DC=corp,DC=example":    "DC=example, DC=corp, CN=CA",
		"cn=Root,o=Bank":              "o=Bank, cn=Root",
		"C=US, O=Bank, CN=Root":       "C=US, O=Bank, CN=Root",
		"DC=example, DC=corp, CN=CA":  "DC=example, DC=corp, CN=CA",
		"CN=Root":                     "CN=Root",
		"O=Bank":                      "O=Bank",
		`CN=Root,O=Sue\, Grabbit`:     "",
		`CN=Root,O="Sue, Grabbit"`:    "",
		`O="Sue, Grabbit", CN="Root"`: `O="Sue, Grabbit", CN="Root"`,
	} {
		r := &report{}
		auth := []policy.AuthMethod{{Kind: policy.Certificate, CA: name}}
		value := r.encodeNFA(nfa{auth: auth, keys: []string{""}}, nil)
		d, err := ParseNFA(value)
		if err != nil {
			t.Fatal(err)
		}
		if want == "" {
			want = name
			if len(r.problems) != 1 {
				t.Errorf("%s: %v", name, r.problems)
			}
		}
		if got := d.Auth[0].Text.text(); got != want {
			t.Errorf("%s: %s, not %s", name, got, want)
		}
		if back := r.nfa(&Object{Data: value}); back.auth[0].CA != name {
			t.Errorf("%s comes back as %s", name, back.auth[0].CA)
		}
	}
}
