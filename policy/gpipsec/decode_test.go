package gpipsec

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

func TestAStoreOfWindowsXP(t *testing.T) {
	r := Decode(readRegBytes(t, utf16File(regFile(xpStore(t)))))
	if len(r.Problems) > 0 {
		t.Fatal(r.Problems)
	}
	if r.Store.Assigned != "L2TP" || len(r.Store.Policies) != 1 {
		t.Fatalf("%+v", r.Store)
	}
	p := r.Store.Policies[0]
	main := func(e sadb.Encryption, h sadb.Hash, g sadb.Group) sadb.ISAKMPSuite {
		return sadb.ISAKMPSuite{Encryption: e, Hash: h, Group: g}
	}
	suite := func(s string) []sadb.Suite {
		v, err := sadb.ParseSuite(s)
		if err != nil {
			t.Fatal(err)
		}
		return []sadb.Suite{v}
	}
	address, _ := parseAddrs("192.0.2.1")
	const keyed = "windows-00000000-1"
	want := policy.Policy{
		GUID: testGUID(1).String(), Name: "L2TP", PollingInterval: 3 * time.Hour, Uplift: true,
		KeyExchange: policy.KeyExchange{
			GUID: testGUID(2).String(), Identity: "{F9F9E6FF-187C-451C-9AF5-180384290492}", Lifetime: 8 * time.Hour,
			Methods: []sadb.ISAKMPSuite{
				main(sadb.TripleDES, sadb.SHA1, sadb.MODP1024), main(sadb.TripleDES, sadb.MD5, sadb.MODP1024),
				main(sadb.DES, sadb.SHA1, sadb.MODP768), main(sadb.DES, sadb.MD5, sadb.MODP768),
			},
		},
		FilterLists: []policy.FilterList{{GUID: testGUID(3).String(), Name: "server", Filters: []policy.Filter{{
			GUID: "{2AA93C48-1CE1-463F-AAA1-60D818AB6878}", To: addresses(address),
			Protocol: sadb.UDP, FromPorts: sadb.Port(1701), Mirrored: true,
		}}}},
		FilterActions: []policy.FilterAction{{
			GUID: testGUID(4).String(), Name: "3DES", Kind: sadb.Negotiate,
			Methods: []policy.SecurityMethod{{Suites: suite("esp-3des-md5"), Lifetime: 5 * time.Minute, Bytes: 100_000 * 1024}},
		}},
		Rules: []policy.Rule{{
			GUID: testGUID(5).String(), Name: "to the \"server\"", FilterList: "server", FilterAction: "3DES",
			Authentication: []policy.AuthMethod{{Kind: policy.PresharedKey, Key: keyed}},
		}},
		DefaultResponse: policy.DefaultResponse{
			GUID: testGUID(7).String(), ActionGUID: testGUID(6).String(),
			Authentication: []policy.AuthMethod{{Kind: policy.Kerberos}},
		},
	}
	for _, name := range []string{"esp-3des-sha1", "esp-3des-md5", "esp-des-sha1", "esp-des-md5", "ah-sha1", "ah-md5"} {
		want.DefaultResponse.Methods = append(want.DefaultResponse.Methods,
			policy.SecurityMethod{Suites: suite(name), Lifetime: time.Hour, Bytes: 100_000 * 1024})
	}
	if d := diff(want, p); d != "" {
		t.Error(d)
	}
	if len(r.Secrets) != 1 || string(r.Secrets[0].Key.Bytes()) != "Open-Sesame" || r.Secrets[0].Name != keyed ||
		r.Secrets[0].Policy != "L2TP" || r.Secrets[0].Rule != p.Rules[0].Name {
		t.Errorf("%d secrets: %+v", len(r.Secrets), r.Secrets)
	}
	if text := fmt.Sprintf("%+v %#v", r, r); strings.Contains(text, "Sesame") {
		t.Error("the key is printed")
	}
}

func TestAStoreOfWindows10(t *testing.T) {
	r := Decode(win10Store(t))
	if len(r.Problems) > 0 {
		t.Fatal(r.Problems)
	}
	p := r.Store.Policies[0]
	if len(p.FilterLists) != 2 || len(p.FilterLists[0].Filters) != 32 || len(p.FilterActions) != 1 || p.FilterActions[0].Kind != sadb.Block {
		t.Errorf("%+v", p)
	}
	if p.Rules[0].Connections != sadb.AllConnections || p.Rules[1].Connections != sadb.RemoteAccess {
		t.Errorf("connection types %v and %v", p.Rules[0].Connections, p.Rules[1].Connections)
	}
	if p.DefaultResponse.Active || p.Rules[0].Disabled {
		t.Error("what is active is not")
	}
	if f := p.FilterLists[0].Filters[0]; f.Protocol != sadb.TCP || f.FromPorts != sadb.Port(22) || f.From.Kind != policy.Any || f.To.Kind != policy.Any {
		t.Errorf("first filter %+v", f)
	}
	if len(r.Store.FilterLists) != 1 || r.Store.FilterLists[0].Name != "tcp 8080" || r.Store.Assigned != "" {
		t.Errorf("beside the policies: %+v", r.Store.FilterLists)
	}
}

func TestGroup14IsReadInBothForms(t *testing.T) {
	d, err := ParseISAKMP(readHex(t, "testdata/netsh-written/ipsecISAKMPPolicy_group2_plus_dh14.hex"))
	if err != nil {
		t.Fatal(err)
	}
	methods := func() string { return fmt.Sprint((&report{}).mainMethods(d)) }
	if got := methods(); got != "[3des-sha1-modp1024 3des-sha1-modp2048]" {
		t.Error(got)
	}
	d.Header.NewDH = [4]uint8{1, 0, 9, 3}
	if got := methods(); got != "[des-md5-modp2048 3des-md5-modp2048 3des-sha1-modp1024 3des-sha1-modp2048]" {
		t.Error(got)
	}
	d.Header.NewDH, d.Methods[1].Group14, d.Methods[1].Group = [4]uint8{}, 0, group2048
	if got := methods(); got != "[3des-sha1-modp1024 3des-sha1-modp2048]" {
		t.Error(got)
	}
	d.Methods[1].Group14, d.Methods[1].Encryption = 0xcd, 9
	if got := methods(); got != "[3des-sha1-modp1024]" {
		t.Error(got)
	}
}

// Whatever stands wrong in the objects, the policy that needs it is left out
// whole, its neighbour is taken, and the message names the object.
func TestWhatIsWrongLeavesOutThePolicy(t *testing.T) {
	at := func(objects []Object, c Class, n byte) *Object {
		for i := range objects {
			if objects[i].Ref == (Ref{c, testGUID(n)}) {
				return &objects[i]
			}
		}
		t.Fatal("no such object")
		return nil
	}
	drop := func(c Class, n byte) func([]Object) []Object {
		return func(all []Object) []Object {
			*at(all, c, n) = Object{}
			return all
		}
	}
	change := func(c Class, n byte, f func(o *Object)) func([]Object) []Object {
		return func(all []Object) []Object {
			f(at(all, c, n))
			return all
		}
	}
	cases := map[string]struct {
		damage func([]Object) []Object
		want   string
	}{
		"no settings":      {drop(ClassISAKMP, 2), "refers to ipsecISAKMPPolicy{00000000-0000-0000-0000-000000000002}, which is not there"},
		"no list":          {drop(ClassFilter, 3), `rule "to the \"server\"" {00000000-0000-0000-0000-000000000005} refers to ipsecFilter{00000000-0000-0000-0000-000000000003}, which is not there`},
		"no action":        {drop(ClassNegotiation, 4), "refers to ipsecNegotiationPolicy{00000000-0000-0000-0000-000000000004}, which is not there"},
		"no rule":          {drop(ClassNFA, 5), "refers to ipsecNFA{00000000-0000-0000-0000-000000000005}, which is not there"},
		"no data":          {change(ClassFilter, 3, func(o *Object) { o.Data = nil }), `filter list "server" {00000000-0000-0000-0000-000000000003}: it has no ipsecData`},
		"cut":              {change(ClassFilter, 3, func(o *Object) { o.Data = o.Data[:60] }), "ipsecData, offset 20: 1 filters need at least 64 bytes, 36 left"},
		"another class":    {change(ClassNFA, 5, func(o *Object) { o.Data = at(xpStore(t), ClassFilter, 3).Data }), "ipsecData, offset 0: class id"},
		"no such action":   {change(ClassNegotiation, 4, func(o *Object) { o.Action = testGUID(99) }), "neither permit, block nor negotiate"},
		"action unread":    {change(ClassNegotiation, 4, func(o *Object) { o.Action = GUID{} }), "iPSECNegotiationPolicyAction is missing"},
		"cycle":            {change(ClassPolicy, 1, func(o *Object) { o.Refs = append(o.Refs, o.Ref) }), "refers to ipsecPolicy{00000000-0000-0000-0000-000000000001}, which is neither a rule nor key exchange settings"},
		"rule of itself":   {change(ClassNFA, 5, func(o *Object) { o.Refs = append(o.Refs, o.Ref) }), "3 objects in all"},
		"no list named":    {change(ClassNFA, 5, func(o *Object) { o.Refs = o.Refs[:1] }), "refers to no filter list"},
		"two settings":     {change(ClassPolicy, 1, func(o *Object) { o.Refs = o.Refs[1:] }), "refers to 0 key exchange settings"},
		"a wrong mask":     {change(ClassFilter, 3, func(o *Object) { o.Data[74] = 1 }), "is not that of a subnet"},
		"an odd string":    {change(ClassFilter, 3, func(o *Object) { o.Data[24] = 1 }), "offset 24: source name has an odd length of 1 bytes"},
		"ports of any":     {change(ClassFilter, 3, func(o *Object) { o.Data[82] = 0 }), "names ports and protocol 0"},
		"no method":        {change(ClassNegotiation, 4, func(o *Object) { o.Data[44] = 2 }), "none of its security methods is known here"},
		"too many slots":   {change(ClassNegotiation, 4, func(o *Object) { o.Data[40] = 4 }), "offset 40: security method 1 has 4 algorithms"},
		"no main mode":     {change(ClassISAKMP, 2, func(o *Object) { o.Data = (&ISAKMPData{}).Bytes() }), "none of its main-mode methods is known"},
		"no authenticator": {change(ClassNFA, 5, func(o *Object) { o.Data[24] = 4 }), "none of its authentication methods is known"},
		"an interface":     {change(ClassNFA, 5, func(o *Object) { d, _ := ParseNFA(o.Data); d.InterfaceName = NewWide("eth0"); o.Data = d.Bytes() }), `network interface "eth0" alone`},
		"connection type":  {change(ClassNFA, 5, func(o *Object) { d, _ := ParseNFA(o.Data); d.Interface = 7; o.Data = d.Bytes() }), "connection type 0x7"},
		"tunnel to zero":   {change(ClassNFA, 5, func(o *Object) { d, _ := ParseNFA(o.Data); d.IsTunnel = 1; o.Data = d.Bytes() }), "tunnel without an endpoint"},
		"twice":            {func(all []Object) []Object { return append(all, *at(all, ClassFilter, 3)) }, "it is there twice"},
		"a namesake": {func(all []Object) []Object {
			o := *at(all, ClassPolicy, 1)
			o.GUID = testGUID(77)
			return append(all, o)
		}, "another policy has the same name"},
	}
	for name, c := range cases {
		objects := xpStore(t)
		good, _, err := Encode(originals(t), Options{})
		if err != nil {
			t.Fatal(err)
		}
		r := Decode(append(c.damage(objects), good...))
		if len(r.Store.Policies) != 3 {
			t.Errorf("%s: %d policies, not the three others", name, len(r.Store.Policies))
		}
		if len(r.Secrets) != 0 {
			t.Errorf("%s: a secret of a policy that was left out", name)
		}
		found := false
		for _, p := range r.Problems {
			found = found || !p.Warning && strings.Contains(p.Error(), c.want)
		}
		if !found {
			t.Errorf("%s: no problem says %q:\n%v", name, c.want, r.Problems)
		}
		if text := fmt.Sprint(r.Problems); strings.Contains(text, "Sesame") {
			t.Errorf("%s: the key is printed: %s", name, text)
		}
	}
}

// What is wrong and harmless is a warning, and the policy is taken.
func TestWarnings(t *testing.T) {
	cases := map[string]struct {
		n    byte
		c    Class
		f    func(o *Object)
		want string
	}{
		"data type":      {3, ClassFilter, func(o *Object) { o.DataType = 7 }, "ipsecDataType is 7"},
		"back reference": {3, ClassFilter, func(o *Object) { o.Owners = nil }, "does not refer back to ipsecNFA{00000000-0000-0000-0000-000000000005}"},
		"unknown record": {3, ClassFilter, func(o *Object) { o.Data = append(o.Data, bytes.Repeat([]byte{7}, 20)...) }, "20 bytes behind its data are of another program"},
		"40-bit DES":     {6, ClassNegotiation, func(o *Object) { o.Data[44] = 2 }, "security method 1 is left out"},
		"smart card": {7, ClassNFA, func(o *Object) {
			d, _ := ParseNFA(o.Data)
			d.Auth = append(d.Auth, NFAAuth{9, nil})
			o.Data = d.Bytes()
		}, "authentication method 2 is of kind 9"},
		"an empty key":    {5, ClassNFA, func(o *Object) { d, _ := ParseNFA(o.Data); d.Auth[0].Text = NewWide(""); o.Data = d.Bytes() }, "preshared key without its text"},
		"a tunnel filter": {3, ClassFilter, func(o *Object) { d, _ := ParseFilter(o.Data); d.Filters[0].IsTunnel = 1; o.Data = d.Bytes() }, "names a tunnel of its own"},
		"no name":         {1, ClassPolicy, func(o *Object) { o.Name = "" }, "it has no name"},
	}
	for name, c := range cases {
		objects := xpStore(t)
		for i := range objects {
			if objects[i].Ref == (Ref{c.c, testGUID(c.n)}) {
				c.f(&objects[i])
			}
		}
		r := Decode(objects)
		found := false
		for _, p := range r.Problems {
			found = found || p.Warning && strings.Contains(p.Error(), c.want)
		}
		if !found || len(r.Store.Policies) != 1 {
			t.Errorf("%s: %d policies, and no warning says %q:\n%v", name, len(r.Store.Policies), c.want, r.Problems)
		}
	}
}

// edited is the store of XP in which f has changed the objects.
func edited(t *testing.T, f func(o *Object)) Result {
	t.Helper()
	objects := xpStore(t)
	for i := range objects {
		f(&objects[i])
	}
	return Decode(objects)
}

func TestWhatTheModelSaysInAnotherWay(t *testing.T) {
	main := func(f func(d *ISAKMPData)) func(o *Object) {
		return func(o *Object) {
			if d, err := ParseISAKMP(o.Data); err == nil {
				f(d)
				o.Data = d.Bytes()
			}
		}
	}
	rule := func(f func(d *NFAData)) func(o *Object) {
		return func(o *Object) {
			if d, err := ParseNFA(o.Data); err == nil && o.GUID == testGUID(5) {
				f(d)
				o.Data = d.Bytes()
			}
		}
	}
	offers := func(n byte, f func(d *NegotiationData)) func(o *Object) {
		return func(o *Object) {
			if d, err := ParseNegotiation(o.Data); err == nil && o.GUID == testGUID(n) {
				f(d)
				o.Data = d.Bytes()
			}
		}
	}
	certificate := NFAAuth{authCertificate, NewWide("C=US, CN=Root")}
	cases := map[string]struct {
		f    func(o *Object)
		want func(p policy.Policy) bool
		note string
	}{
		"main mode of 100 hours": {main(func(d *ISAKMPData) { d.Header.Seconds = 360000 }),
			func(p policy.Policy) bool { return p.KeyExchange.Lifetime == 48*time.Hour }, "its lifetime is 100h0m0s; 48h0m0s is taken"},
		"the shortest of the methods": {main(func(d *ISAKMPData) { d.Methods[2].Seconds, d.Methods[1].QuickModes = 600, 7 }),
			func(p policy.Policy) bool {
				return p.KeyExchange.Lifetime == 10*time.Minute && p.KeyExchange.Sessions == 7
			}, ""},
		"master key PFS": {main(func(d *ISAKMPData) { d.Header.MasterPFS = 1 }),
			func(p policy.Policy) bool { return p.KeyExchange.MasterKeyPFS }, ""},
		"seldom polled": {func(o *Object) {
			if o.Class == ClassPolicy {
				o.Data = (&PolicyData{Polling: 99999 * 60}).Bytes()
			}
		}, func(p policy.Policy) bool { return p.PollingInterval == 7*24*time.Hour }, "its polling interval is"},
		"never polled": {func(o *Object) {
			if o.Class == ClassPolicy {
				o.Data = (&PolicyData{}).Bytes()
			}
		}, func(p policy.Policy) bool { return p.PollingInterval == 3*time.Hour }, ""},
		"soft": {offers(4, func(d *NegotiationData) { d.Offers = append(d.Offers, Offer{Options: 9}) }),
			func(p policy.Policy) bool {
				return p.FilterActions[0].AllowClear && len(p.FilterActions[0].Methods) == 1
			}, ""},
		"pass-through": {func(o *Object) {
			if o.GUID == testGUID(4) {
				o.Action = actionPass()
			}
		}, func(p policy.Policy) bool {
			return p.FilterActions[0].AcceptUnsecured && p.FilterActions[0].Kind == sadb.Negotiate
		}, ""},
		"PFS of one method": {offers(4, func(d *NegotiationData) { d.Offers = append(d.Offers, d.Offers[0]); d.Offers[0].PFS = 1 }),
			func(p policy.Policy) bool { return p.FilterActions[0].SessionKeyPFS }, "1 of its 2 security methods use session key"},
		"ESP before AH": {offers(4, func(d *NegotiationData) {
			d.Offers[0].Count, d.Offers[0].Transforms[1] = 2, Transform{Algorithm: algSHA1, Protocol: protocolAH}
		}), func(p policy.Policy) bool { return suitesOf(p.FilterActions[0]) == "ah-sha1+esp-3des-md5" }, ""},
		"integrity alone": {offers(4, func(d *NegotiationData) { d.Offers[0].Transforms[0].Algorithm = 0 }),
			func(p policy.Policy) bool { return suitesOf(p.FilterActions[0]) == "esp-null-md5" }, ""},
		"twice ESP": {offers(4, func(d *NegotiationData) {
			d.Offers = append(d.Offers, d.Offers[0])
			d.Offers[0].Count, d.Offers[0].Transforms[1] = 2, d.Offers[0].Transforms[0]
		}), func(p policy.Policy) bool { return suitesOf(p.FilterActions[0]) == "esp-3des-md5" }, "it is not AH, ESP or one of each"},
		"4 TB": {offers(4, func(d *NegotiationData) { d.Offers[0].Kilobytes = ^uint32(0) }),
			func(p policy.Policy) bool { return p.FilterActions[0].Methods[0].Bytes == maxBytes }, "its lifetime in bytes is"},
		"methods of a permit": {func(o *Object) {
			if o.GUID == testGUID(4) {
				o.Action = actionPermit()
			}
		}, func(p policy.Policy) bool {
			return p.FilterActions[0].Kind == sadb.Permit && p.FilterActions[0].Methods == nil
		}, "it does not negotiate, and its 1 security methods are left out"},
		"certificates mapped": {func(o *Object) {
			rule(func(d *NFAData) { d.Auth = append(d.Auth, certificate) })(o)
			main(func(d *ISAKMPData) { d.Header.Options = optionMapping | optionNoRequest })(o)
		}, func(p policy.Policy) bool {
			m := p.Rules[0].Authentication[1]
			return m.CA == "C=US, CN=Root" && m.MapToAccount && m.ExcludeCAName && !p.Rules[0].Authentication[0].MapToAccount
		}, ""},
		"one certificate mapped": {rule(func(d *NFAData) { d.Auth, d.Flags = append(d.Auth, certificate), []uint32{3, 1} }),
			func(p policy.Policy) bool {
				m := p.Rules[0].Authentication[1]
				return m.MapToAccount && !m.ExcludeCAName
			}, ""},
		"another list of Vista": {rule(func(d *NFAData) { d.Auth2 = []NFAAuth2{{authKerberos, nil}} }),
			func(p policy.Policy) bool { return p.Rules[0].Authentication[0].Kind == policy.PresharedKey }, "authentication methods of Windows Vista and later are others"},
		"a tunnel by name": {rule(func(d *NFAData) { d.IsTunnel, d.Tunnel, d.TunnelName = 1, [4]byte{192, 0, 2, 9}, NewWide("gw.example") }),
			func(p policy.Policy) bool { return p.Rules[0].Tunnel == policy.TunnelSetting{Name: "gw.example"} }, ""},
		"a tunnel switched off": {rule(func(d *NFAData) { d.Tunnel = [4]byte{192, 0, 2, 9} }),
			func(p policy.Policy) bool { return p.Rules[0].Tunnel.IsZero() }, ""},
		"a rule switched off": {rule(func(d *NFAData) { d.Active = 0 }),
			func(p policy.Policy) bool { return p.Rules[0].Disabled }, ""},
		"PFS of a response that is off": {offers(6, func(d *NegotiationData) {
			for i := range d.Offers {
				d.Offers[i].PFS = 1
			}
		}), func(p policy.Policy) bool { return !p.DefaultResponse.Active }, ""},
		"an action called permit": {func(o *Object) {
			if o.GUID == testGUID(4) {
				o.Name, o.Action, o.Data = "permit", actionPermit(), readHex(t, "testdata/windows10/negpol_block.hex")
			}
		}, func(p policy.Policy) bool { return p.Rules[0].FilterAction == "permit" && len(p.FilterActions) == 0 }, ""},
		"a negotiation called permit": {func(o *Object) {
			if o.GUID == testGUID(4) {
				o.Name = "permit"
			}
		}, func(p policy.Policy) bool { return p.Rules[0].FilterAction == "permit "+testGUID(4).String() }, "it is called"},
		"lines of Windows": {func(o *Object) { o.Description = "one\r\ntwo" },
			func(p policy.Policy) bool {
				return p.Description == "one\ntwo" && p.FilterLists[0].Description == "one\ntwo" && p.Rules[0].Description == "one\ntwo"
			}, ""},
	}
	for name, c := range cases {
		r := edited(t, c.f)
		if len(r.Store.Policies) != 1 || !c.want(r.Store.Policies[0]) {
			t.Errorf("%s: %+v\n%v", name, r.Store.Policies, r.Problems)
		}
		if text := fmt.Sprint(r.Problems); c.note == "" && len(r.Problems) > 0 || !strings.Contains(text, c.note) {
			t.Errorf("%s: %s does not say %q", name, text, c.note)
		}
	}
	r := edited(t, func(o *Object) {
		offers(6, func(d *NegotiationData) { d.Offers[0].PFS = 1 })(o)
		if d, err := ParseNFA(o.Data); err == nil && o.GUID == testGUID(7) {
			d.Active = 1
			o.Data = d.Bytes()
		}
	})
	if len(r.Store.Policies) != 1 || !r.Store.Policies[0].DefaultResponse.SessionKeyPFS {
		t.Errorf("the default response rule has no PFS: %v", r.Problems)
	}
}

// Lists of one name that differ are told apart, in a policy and beside them.
func TestListsOfOneName(t *testing.T) {
	objects := xpStore(t)
	rule, list := objects[4], objects[2]
	rule.GUID, list.GUID = testGUID(20), testGUID(21)
	rule.Refs = []Ref{rule.Refs[0], list.Ref}
	objects[0].Refs = append(objects[0].Refs, rule.Ref)
	spare := list
	spare.GUID = testGUID(22)
	other := list
	other.GUID = testGUID(23)
	r := Decode(linked(append(objects, rule, list, spare, other)))
	if len(r.Store.Policies) != 1 {
		t.Fatal(r.Problems)
	}
	p := r.Store.Policies[0]
	unique := "server " + testGUID(21).String()
	if p.Rules[0].FilterList != "server" || p.Rules[1].FilterList != unique || p.FilterLists[1].Name != unique {
		t.Errorf("%+v", p.FilterLists)
	}
	if l := r.Store.FilterLists; len(l) != 2 || l[0].Name != "server" || l[1].Name != "server "+testGUID(23).String() {
		t.Errorf("%+v", l)
	}
}

// To an ordinary user a directory shows the names of the objects and nothing else.
func TestNamesAlone(t *testing.T) {
	var text strings.Builder
	for _, o := range xpStore(t)[:7] {
		fmt.Fprintf(&text, "dn: CN=%s,CN=IP Security,CN=System,DC=x\n\n", o.Ref)
	}
	objects, err := ReadLDIF(strings.NewReader(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	r := Decode(objects)
	if len(r.Store.Policies) != 0 || len(r.Problems) != 7 {
		t.Errorf("%v", r.Problems)
	}
	for _, p := range r.Problems {
		if p.Warning || !strings.Contains(p.Message, "may not be permitted to read more than its name") {
			t.Error(p)
		}
	}
}
