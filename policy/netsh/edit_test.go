package netsh_test

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ipsecagent/policy"
	"ipsecagent/policy/netsh"
	"ipsecagent/sadb"
)

func exec(t *testing.T, s policy.Store, line string) policy.Store {
	t.Helper()
	r, err := netsh.Exec(s, line)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return r.Store
}

func policyIn(t *testing.T, s policy.Store, name string) policy.Policy {
	t.Helper()
	for _, p := range s.Policies {
		if p.Name == name {
			return p
		}
	}
	t.Fatalf("no policy %q in %+v", name, s)
	return policy.Policy{}
}

// A list is one object, whichever policies use it.
func TestListsAreShared(t *testing.T) {
	s := exec(t, base(t), "add filter filterlist=WEB srcaddr=me dstaddr=any protocol=tcp srcport=8080")
	for _, name := range []string{"first", "second"} {
		if l := policyIn(t, s, name).FilterLists; len(l) != 1 || len(l[0].Filters) != 3 {
			t.Errorf("policy %s: %+v", name, l)
		}
	}
}

func TestRename(t *testing.T) {
	s := exec(t, base(t), `set filterlist name=web newname="the web" description=d`)
	s = exec(t, s, "set filteraction name=secure newname=secured")
	s = exec(t, s, "set policy name=first newname=1st")
	s = exec(t, s, `set rule name="the web" policy=1st newname=r`)
	p := policyIn(t, s, "1st")
	r := p.Rules[0]
	if r.Name != "r" || r.FilterList != "the web" || r.FilterAction != "secured" || s.Assigned != "1st" {
		t.Errorf("%+v, assigned %q", r, s.Assigned)
	}
	if p.FilterLists[0].Name != "the web" || p.FilterLists[0].Description != "d" || p.FilterActions[0].Name != "secured" {
		t.Errorf("%+v", p)
	}
	if q := policyIn(t, s, "second"); q.Rules[0].FilterList != "the web" || q.Rules[0].FilterAction != "open" {
		t.Errorf("%+v", q)
	}
}

// Set changes what the line gives, and nothing else.
func TestSetKeepsTheRest(t *testing.T) {
	s := run(t, base(t),
		"set filteraction name=secure qmpfs=yes soft=yes",
		"set policy name=second mmlifetime=60 pollinginterval=30 mmpfs=yes qmpermm=5 description=d assign=yes",
		`set rule id=1 policy=first conntype=dialup activate=no rootca="CN=Root,O=Bank" kerberos=yes description=x`,
		"set defaultrule policy=first activate=no",
	).Store
	a := policyIn(t, s, "first").FilterActions[0]
	if !a.SessionKeyPFS || !a.AllowClear || !a.AcceptUnsecured || len(a.Methods) != 4 {
		t.Errorf("%+v", a)
	}
	p := policyIn(t, s, "second")
	if p.PollingInterval != 30*time.Minute || p.KeyExchange.Lifetime != time.Hour || p.KeyExchange.Sessions != 5 ||
		!p.KeyExchange.MasterKeyPFS || len(p.KeyExchange.Methods) != 2 || !p.DefaultResponse.Active || s.Assigned != "second" {
		t.Errorf("%+v, assigned %q", p, s.Assigned)
	}
	first := policyIn(t, s, "first")
	same(t, first.Rules, []policy.Rule{{
		Name: "the web", Description: "x", Disabled: true, FilterList: "web", FilterAction: "secure", Connections: sadb.RemoteAccess,
		Authentication: []policy.AuthMethod{{Kind: policy.Certificate, CA: "CN=Root,O=Bank"}, {Kind: policy.Kerberos}},
	}})
	if d := first.DefaultResponse; d.Active || len(d.Methods) != 6 {
		t.Errorf("%+v", d)
	}
	s = exec(t, s, "set filteraction name=secure action=block")
	same(t, policyIn(t, s, "first").FilterActions, []policy.FilterAction{{Name: "secure", Kind: sadb.Block}})
	s = exec(t, s, "set policy name=second assign=no")
	if s.Assigned != "" {
		t.Errorf("assigned %q", s.Assigned)
	}
}

func TestDelete(t *testing.T) {
	s := exec(t, base(t), "delete filter filterlist=web srcaddr=me dstaddr=any protocol=tcp srcport=80")
	if l := policyIn(t, s, "first").FilterLists[0]; len(l.Filters) != 1 || l.Filters[0].FromPorts != sadb.Port(443) {
		t.Errorf("%+v", l)
	}
	s = exec(t, base(t), "delete filter filterlist=web srcaddr=me dstaddr=any")
	if l := policyIn(t, s, "first").FilterLists[0]; len(l.Filters) != 0 {
		t.Errorf("not all that match: %+v", l)
	}
	for _, other := range []string{"mirrored=no", "srcport=81", "protocol=udp srcport=80"} {
		if _, err := netsh.Exec(base(t), "delete filter filterlist=web srcaddr=me dstaddr=any "+other); err == nil {
			t.Errorf("%s: filters that are not like that are deleted", other)
		}
	}
	s = exec(t, base(t), "delete filterlist name=empty")
	if len(s.FilterLists) != 0 {
		t.Errorf("%+v", s.FilterLists)
	}
	// The list stays while another policy carries it, and in the store after.
	s = exec(t, base(t), "delete policy name=first")
	if s.Assigned != "" || len(s.Policies) != 1 || len(s.FilterLists) != 1 || len(s.FilterActions) != 1 {
		t.Errorf("%+v", s)
	}
	s = exec(t, s, "delete policy all")
	if len(s.Policies) != 0 || len(s.FilterLists) != 2 || len(s.FilterActions) != 2 {
		t.Errorf("%+v", s)
	}
	s = exec(t, base(t), "delete rule all policy=first")
	if len(policyIn(t, s, "first").Rules) != 0 || len(policyIn(t, s, "second").Rules) != 1 {
		t.Errorf("%+v", s)
	}
	same(t, exec(t, base(t), "delete all"), policy.Store{})
}

// What a documents folder may hold and Windows never does: two lists of one
// name. What is meant must be clear before anything is changed.
func TestTwoListsOfOneName(t *testing.T) {
	s := base(t)
	s.Policies[1].FilterLists = []policy.FilterList{{Name: "web", Filters: s.Policies[1].FilterLists[0].Filters[:1]}}
	_, err := netsh.Exec(s, "add filter filterlist=web srcaddr=me dstaddr=10.0.0.1")
	if err == nil || !strings.Contains(err.Error(), `policy "first"; policy "second"`) {
		t.Errorf("%v", err)
	}
	after := exec(t, s, "add rule name=another policy=second filterlist=web filteraction=secure")
	if p := policyIn(t, after, "second"); len(p.FilterLists) != 1 || len(p.FilterLists[0].Filters) != 1 || len(p.FilterActions) != 2 {
		t.Errorf("not its own list: %+v", p)
	}
	got, losses := again(t, s)
	if p := policyIn(t, got, "second"); p.Rules[0].FilterList != "web 2" || len(p.FilterLists[0].Filters) != 1 {
		t.Errorf("%+v", p)
	}
	if len(losses) != 1 || !strings.Contains(losses[0].String(), `"web 2"`) {
		t.Errorf("%v", losses)
	}
}

// The store given is the caller's: nothing of it changes.
func TestTheStoreGivenStays(t *testing.T) {
	s, before := base(t), base(t)
	run(t, s, "add filter filterlist=web srcaddr=me dstaddr=10.0.0.1", "set filteraction name=secure soft=yes newname=x",
		`set rule name="the web" policy=first activate=no`, "set policy name=first description=x", "delete rule all policy=first",
		"delete filter filterlist=web srcaddr=me dstaddr=any", "delete all")
	exec(t, s, "delete filter filterlist=web srcaddr=me dstaddr=any srcport=443")
	same(t, s, before)
}

// Keys are handed beside, under the name that the rule gives; nothing else
// shows them.
func TestPresharedKeys(t *testing.T) {
	const one, two = "the first key, with blanks", "zweiter-Schluessel"
	script := `add rule name=a policy=first filterlist=web filteraction=secure psk="` + one + `" kerberos=yes
add rule name=b policy=second filterlist=web filteraction=secure psk="` + one + `"
add rule name=c policy=second filterlist=web filteraction=secure psk=` + two + `
add rule name=d policy=none filterlist=web filteraction=secure psk=` + two + `
set defaultrule policy=first psk=` + two + `
add rule name=e policy=first filterlist=web filteraction=secure psk=` + two + ` mirrored=yes
add rule name=f policy=first filterlist=web filteraction=secure psk=` + two + ` and more
add rule name=g policy=first filterlist=web filteraction=secure psk="` + two + `
add rule name=h policy=first filterlist=web filteraction=secure psk=zweiter Schluessel=x
show all
show rule all policy=first level=verbose`
	r := netsh.Run(base(t), []byte(script))
	if len(r.Problems) != 5 {
		t.Errorf("%v", r.Problems)
	}
	var names []string
	for _, s := range r.Secrets {
		names = append(names, s.Name)
	}
	same(t, names, []string{"first, a", "second, c"})
	if !r.Secrets[0].Key.Equal(sadb.NewSecret([]byte(one))) || !r.Secrets[1].Key.Equal(sadb.NewSecret([]byte(two))) {
		t.Error("other keys")
	}
	first := policyIn(t, r.Store, "first")
	same(t, first.Rules[1].Authentication, []policy.AuthMethod{{Kind: policy.PresharedKey, Key: "first, a"}, {Kind: policy.Kerberos}})
	same(t, first.DefaultResponse.Authentication, []policy.AuthMethod{{Kind: policy.PresharedKey, Key: "second, c"}})
	same(t, policyIn(t, r.Store, "second").Rules[1].Authentication[0].Key, "first, a")

	written, losses := netsh.Write(r.Store)
	shown := bytes.Join([][]byte{dump(t, r), []byte(r.Output), written}, nil)
	for _, l := range losses {
		shown = append(shown, l.String()...)
	}
	for _, key := range []string{one, two, "first key", "Schluessel", "schluessel"} {
		if bytes.Contains(shown, []byte(key)) {
			t.Errorf("%q is shown", key)
		}
	}
	if !strings.Contains(r.Output, `psk "first, a"`) {
		t.Errorf("its name is not shown:\n%s", r.Output)
	}
}

// A key whose rule is gone at the end of the script is not handed over, and
// two keys do not get one name.
func TestPresharedKeysThatChange(t *testing.T) {
	r := run(t, base(t),
		"add rule name=a policy=first filterlist=web filteraction=secure psk=key-number-one",
		"set rule name=a policy=first psk=key-number-two",
		"add rule name=b policy=first filterlist=web filteraction=secure psk=key-number-3 psk=key-number-4",
		"delete rule name=b policy=first")
	if len(r.Secrets) != 1 || !r.Secrets[0].Key.Equal(sadb.NewSecret([]byte("key-number-two"))) ||
		policyIn(t, r.Store, "first").Rules[1].Authentication[0].Key != r.Secrets[0].Name {
		t.Errorf("%+v", r.Secrets)
	}
}

// Settings of authorities, as Windows writes them.
func TestAuthorities(t *testing.T) {
	s := run(t, base(t), `set rule name="the web" policy=first rootca="C=US,O=Bank,CN=\'North, South\' certmap:yes excludecaname:yes" `+
		`rootca="CN=Second Root, O=Bank" kerberos=no acceptprincipal="CN=db" acceptprincipal="CN=web"`).Store
	same(t, policyIn(t, s, "first").Rules[0].Authentication, []policy.AuthMethod{
		{Kind: policy.Certificate, CA: `C=US,O=Bank,CN="North, South"`, MapToAccount: true, ExcludeCAName: true},
		{Kind: policy.Certificate, CA: "CN=Second Root, O=Bank", AcceptPrincipals: []string{"CN=db", "CN=web"}},
	})
}

// The built-in actions need no definition, and a script may define them all
// the same.
func TestBuiltinActions(t *testing.T) {
	s := run(t, base(t), "add filteraction name=block action=block", "add rule name=r policy=first filterlist=empty filteraction=block kerberos=no").Store
	p := policyIn(t, s, "first")
	if len(p.FilterActions) != 1 || p.Rules[1].FilterAction != "block" || p.Rules[1].Authentication != nil {
		t.Errorf("%+v", p)
	}
	s = exec(t, s, "add filteraction name=Permit action=block")
	if _, err := netsh.Exec(s, "add rule name=x policy=first filterlist=empty filteraction=permit"); err == nil {
		t.Error("Windows would block here")
	}
}

func TestRestoreExamples(t *testing.T) {
	s := run(t, base(t), "restorepolicyexamples release=win2k",
		`set filteraction name="Require Security" soft=yes`, "restorepolicyexamples release=win2003").Store
	if len(s.Policies) != 5 || s.Assigned != "first" {
		t.Errorf("%+v", s)
	}
	for _, name := range policy.PredefinedNames() {
		want, _ := policy.Original(name)
		same(t, policyIn(t, s, want.Name), *want)
	}
}

// Objects of the store that Windows made are found by their GUIDs.
func TestGUIDs(t *testing.T) {
	s := run(t, policy.Store{}, "restorepolicyexamples release=win2k",
		"set filterlist guid={7238523a-70fa-11d1-864c-14a300000000} newname=everything",
		"set policy guid={72385236-70FA-11D1-864C-14A300000000} assign=yes").Store
	if s.Assigned != "Client (Respond Only)" || policyIn(t, s, "Server (Request Security)").Rules[1].FilterList != "everything" {
		t.Errorf("%+v", s)
	}
}

func TestShow(t *testing.T) {
	s := run(t, base(t), "add filter filterlist=empty srcaddr=me dstaddr=gateway protocol=icmp description=ping mirrored=no").Store
	for line, want := range map[string][]string{
		"show policy all":                           {"first ", "rules: 1", "assigned: yes", "second ", "Policies: 2"},
		"show policy name=first":                    {"Polling interval          : 180 minutes", "3DES-SHA1-2 3DES-SHA1-3", "Rule name                 : the web", "ESP[3DES,SHA1]:100000k/3600s", "AH[MD5]"},
		"show rule all policy=first":                {"1  the web ", "web: secure", "Default response rule     : active"},
		"show rule id=1 policy=first":               {"Filter action             : secure", "Authentication            : kerberos"},
		"show rule default policy=second":           {"Default response rule     : active"},
		"show rule all policy=first type=tunnel":    {"Default response rule"},
		"show filterlist all":                       {"empty ", "filters: 1", "Filter lists: 2"},
		"show filterlist name=empty":                {"me -> default-gateway, protocol icmp (ping)"},
		"show filterlist name=web level=verbose":    {`rule "the web" of policy "first", rule "the web" of policy "second"`, "me <-> any, protocol tcp, source port 443, destination port any"},
		"show filteraction name=secure format=list": {"Accept unsecured          : yes", "Security methods          : 4"},
		"show filteraction all wide=yes":            {"open ", "permit", "Filter actions: 2"},
		"show all":                                  {"Policies: 2, filter lists: 2, filter actions: 2"},
		"show store":                                {"Assigned policy           : first"},
	} {
		r, err := netsh.Exec(s, line)
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
		same(t, r.Store, s)
		for _, w := range want {
			if !strings.Contains(r.Output, w) {
				t.Errorf("%s: no %q in\n%s", line, w, r.Output)
			}
		}
	}
	r, _ := netsh.Exec(s, "show rule all policy=first type=tunnel")
	if strings.Contains(r.Output, "the web") {
		t.Errorf("a transport rule among tunnels:\n%s", r.Output)
	}
}

// Words of ours say what those of Windows cannot.
func TestOwnWords(t *testing.T) {
	s := run(t, policy.Store{},
		`add filteraction name=a soft=yes qmpfs=ecp256 cleardelay=500ms qmsecmethods="esp-aes256gcm:97656250k/3600s ESP-AES128-SHA256+ah-sha256 esp-3des-sha1:100000001b"`,
		"add filteraction name=b qmsecmethods=modern",
		"add filter filterlist=l srcaddr=me dstaddr=any protocol=icmp icmptype=8 icmpcode=0",
		"add policy name=p mmlifetime=90s uplift=no mmsecmethods=\"aes256-sha256-ecp256 3DES-SHA1-3\"",
		"add policy name=q mmsecmethods=modern",
	).Store
	a := s.FilterActions[0]
	if a.PFSGroup != sadb.ECP256 || !a.SessionKeyPFS || a.ClearDelay != 500*time.Millisecond {
		t.Errorf("%+v", a)
	}
	if m := a.Methods; m[0].Bytes != 100e9 || m[0].Suites[0].Encryption != sadb.AESGCM || m[1].Suites[0].Proto != sadb.AH ||
		m[1].Suites[1].Proto != sadb.ESP || m[1].Lifetime != 0 || m[1].Bytes != 0 || m[2].Bytes != 100_000_001 {
		t.Errorf("%+v", m)
	}
	same(t, s.FilterActions[1].Methods, policy.Client().DefaultResponse.Methods)
	if f := s.FilterLists[0].Filters[0]; f.ICMPType != (sadb.Octets{From: 8, To: 8, Set: true}) || !f.ICMPCode.Set {
		t.Errorf("%+v", f)
	}
	if p := s.Policies[0]; p.Uplift || p.KeyExchange.Lifetime != 90*time.Second || p.KeyExchange.Methods[0].Group != sadb.ECP256 {
		t.Errorf("%+v", p)
	}
	if s.Policies[1].KeyExchange.Methods != nil {
		t.Errorf("%+v", s.Policies[1])
	}
	_, losses := netsh.Write(s)
	if !slices.ContainsFunc(losses, func(l netsh.Loss) bool { return strings.Contains(l.Reason, "icmptype=8-8 icmpcode=0-0") }) {
		t.Errorf("%v", losses)
	}
}

// An active default response rule of which nothing is said is Windows' own, one
// of which something is said is what that says.
func TestActivation(t *testing.T) {
	windows := windowsResponse()
	s := run(t, policy.Store{}, "add policy name=p activatedefaultrule=no", "set defaultrule policy=p activate=yes").Store
	same(t, s.Policies[0].DefaultResponse, windows)
	s = run(t, policy.Store{}, "add policy name=p activatedefaultrule=no", "set policy name=p activatedefaultrule=yes").Store
	same(t, s.Policies[0].DefaultResponse, windows)
	ca := []policy.AuthMethod{{Kind: policy.Certificate, CA: "CN=x,O=y"}}
	s = run(t, policy.Store{}, "add policy name=p activatedefaultrule=no", `set defaultrule policy=p activate=yes rootca="CN=x,O=y"`).Store
	same(t, s.Policies[0].DefaultResponse, policy.DefaultResponse{Active: true, Methods: windows.Methods, Authentication: ca})
	s = run(t, policy.Store{}, "add policy name=p", `set defaultrule policy=p qmsecmethods=modern rootca="CN=x,O=y"`, "set policy name=p description=d").Store
	same(t, s.Policies[0].DefaultResponse, policy.DefaultResponse{Active: true, Authentication: ca})
	s = run(t, policy.Store{}, "add policy name=p", "set defaultrule policy=p qmpfs=ecp256").Store
	if d := s.Policies[0].DefaultResponse; !d.SessionKeyPFS || d.PFSGroup != sadb.ECP256 {
		t.Errorf("with qmpfs= the default response rule is %+v", d)
	}
	s = run(t, s, "set defaultrule policy=p qmpfs=no").Store
	same(t, s.Policies[0].DefaultResponse, windows)
	modern := policy.Store{Policies: []policy.Policy{{Name: "p"}}}
	s = run(t, modern, "set defaultrule policy=p activate=yes").Store
	same(t, s.Policies[0].DefaultResponse, policy.DefaultResponse{Active: true, Authentication: []policy.AuthMethod{{Kind: policy.Kerberos}}})
}

// A store does not grow without bound.
func TestBounds(t *testing.T) {
	full := policy.Store{FilterLists: []policy.FilterList{{Name: "l", Filters: make([]policy.Filter, 99_999)}}}
	r := netsh.Run(full, []byte(strings.Repeat("add filter filterlist=l srcaddr=me dstaddr=any\n", 2)))
	if len(r.Problems) != 1 || len(r.Store.FilterLists[0].Filters) != 100_000 {
		t.Errorf("%v", r.Problems)
	}
	full = policy.Store{FilterLists: make([]policy.FilterList, 10_000), FilterActions: make([]policy.FilterAction, 10_000), Policies: make([]policy.Policy, 10_000)}
	for i := range full.FilterLists {
		name := strconv.Itoa(i)
		full.FilterLists[i].Name, full.FilterActions[i].Name, full.Policies[i].Name = name, name, name
	}
	full.Policies[0].Rules = make([]policy.Rule, 10_000)
	full.Policies[0].FilterLists, full.Policies[0].FilterActions = full.FilterLists[:1], full.FilterActions[:1]
	for _, line := range []string{
		"add filterlist name=x", "add filter filterlist=x srcaddr=me dstaddr=any", "add filteraction name=x action=permit",
		"add policy name=x", "add rule name=x policy=0 filterlist=0 filteraction=0",
	} {
		if _, err := netsh.Exec(full, line); err == nil || !strings.Contains(err.Error(), "10000") {
			t.Errorf("%s: %v", line, err)
		}
	}
}
