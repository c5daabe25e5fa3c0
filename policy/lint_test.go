package policy_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// A policy of the tests is made of lines "NAME ACTION FROM TO [PROTO FROMPORT TOPORT]".
func lines(t *testing.T, text string) *policy.Policy {
	t.Helper()
	gcm := []policy.SecurityMethod{{Suites: []sadb.Suite{{Proto: sadb.ESP, Encryption: sadb.AESGCM, KeyBits: 256}}}}
	p := &policy.Policy{Name: "p", FilterActions: []policy.FilterAction{
		{Name: "secured", Kind: sadb.Negotiate, Methods: gcm},
		{Name: "asked", Kind: sadb.Negotiate, Methods: gcm, AllowClear: true, AcceptUnsecured: true},
	}}
	used := map[string]bool{}
	for line := range strings.Lines(text) {
		w := append(strings.Fields(line), "any", "0", "0")
		if len(w) < 7 {
			continue
		}
		proto, _ := policy.ParseProtocol(w[4])
		f := policy.Filter{From: end(t, w[2]), To: end(t, w[3]), Protocol: proto, FromPorts: portsOf(t, w[5]), ToPorts: portsOf(t, w[6]), Mirrored: true}
		p.FilterLists = append(p.FilterLists, policy.FilterList{Name: w[0], Filters: []policy.Filter{f}})
		p.Rules = append(p.Rules, policy.Rule{Name: w[0], FilterList: w[0], FilterAction: w[1], Authentication: psk()})
		used[w[1]] = true
	}
	p.FilterActions = slices.DeleteFunc(p.FilterActions, func(a policy.FilterAction) bool { return !used[a.Name] })
	return p
}

func end(t *testing.T, text string) policy.Endpoint {
	t.Helper()
	switch text {
	case "me":
		return policy.Endpoint{Kind: policy.Me}
	case "any":
		return policy.Endpoint{Kind: policy.Any}
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		return policy.Endpoint{Kind: policy.Addresses, Addrs: sadb.Prefix(p)}
	}
	return policy.Endpoint{Kind: policy.Addresses, Addrs: sadb.Addr(netip.MustParseAddr(text))}
}

func portsOf(t *testing.T, text string) sadb.Ports {
	t.Helper()
	var p sadb.Ports
	if n, _ := fmt.Sscanf(text, "%d-%d", &p.From, &p.To); n == 1 {
		p.To = p.From
	}
	return p
}

func lint(t *testing.T, p *policy.Policy, env policy.Environment) []policy.Finding {
	t.Helper()
	found, err := policy.Lint(p, env)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if f.Code == "" || f.Severity == 0 || f.Message == "" || f.Object == "" || f.Do == "" || f.Path == "" {
			t.Errorf("finding without a part: %+v", f)
		}
	}
	return found
}

// only returns the findings of one code.
func only(found []policy.Finding, code policy.Code) []policy.Finding {
	return slices.DeleteFunc(slices.Clone(found), func(f policy.Finding) bool { return f.Code != code })
}

func codes(found []policy.Finding) string {
	var all []string
	for _, f := range found {
		all = append(all, string(f.Code))
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), " ")
}

func TestLintFilters(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"nothing", "a permit me 10.0.0.0/8\n b block me 10.0.0.1", ""},
		{"duplicate", "a permit me 10.0.0.1\n b permit me 10.0.0.1", "duplicate"},
		{"conflict", "a permit me 10.0.0.1\n b block me 10.0.0.1", "conflict"},
		{"conflict of methods", "a secured me 10.0.0.1\n b asked me 10.0.0.1", "conflict"},
		{"overlap", "a permit me 10.0.0.1 tcp 80 1-4\n b block me 10.0.0.1 tcp 80 3-6", "overlap"},
		{"no overlap", "a permit me 10.0.0.1 tcp 80 1-4\n b block me 10.0.0.1 tcp 80 5-8", ""},
		{"another protocol", "a permit me 10.0.0.1 tcp\n b block me 10.0.0.1 udp", ""},
		{"shadowed by one", "a block me 10.0.0.1\n b permit 10.0.0.1 any", ""}, // me may be elsewhere
		{"shadowed by two", "a block me 10.0.0.0/25\n b block me 10.0.0.128/25\n c permit me 10.0.0.0/24", "shadowed"},
		{"redundant", "a block me 10.0.0.0/25\n b block me 10.0.0.128/25\n c block me 10.0.0.0/24", "redundant"},
		{"half", "a block me 10.0.0.0/25\n c permit me 10.0.0.0/24", ""},
		{"all protocols", "a block me 10.0.0.1 tcp\n b block me 10.0.0.1 udp\n c permit me 10.0.0.1", ""},
		{"both families", "a block me 0.0.0.0/1\n b block me 128.0.0.0/1\n c permit me any", ""},
		{"everything", "a block me 0.0.0.0/1\n b block me 128.0.0.0/1\n c block me ::/1\n d block me 8000::/1\n e permit me any", "shadowed"},
		{"by ports", "a block me 10.0.0.1 tcp 0 1-32767\n b block me 10.0.0.1 tcp 0 32768-65535\n c permit me 10.0.0.1 tcp 80 0", ""}, // port 0 is left
	} {
		p := lines(t, tc.text)
		found := slices.DeleteFunc(lint(t, p, policy.Environment{}), func(f policy.Finding) bool { return f.Code == policy.FoundCutOffSSH })
		if got := codes(found); got != tc.want {
			t.Errorf("%s: %q, want %q: %v", tc.name, got, tc.want, found)
		}
	}
}

// elsewhere is a session that no policy of the tests speaks of.
func elsewhere(t *testing.T) *policy.Question {
	q := question(t, "tcp 203.0.113.9:50000 -> me=203.0.113.1:22", "")
	return &q
}

// What lint says never decides, never does; and what never decides over a packet
// of a small world is found.
func TestLintOfRandomPolicies(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	seen := map[policy.Code]int{}
	for range 400 {
		p, c := randomCompiled(t, rng, 8)
		never := map[string]bool{}
		for _, f := range lint(t, p, policy.Environment{}) {
			seen[f.Code]++
			switch f.Code {
			case policy.FoundShadowed, policy.FoundRedundant, policy.FoundDuplicate, policy.FoundConflict:
				never[f.Object] = true
			}
		}
		for range 200 {
			q := randomQuestion(rng)
			x := policy.Explain(c, q)
			if x.Decided == nil {
				continue
			}
			dir := ""
			if x.Decided.Dir != sadb.Both {
				dir = " " + x.Decided.Dir.String()
			}
			name := fmt.Sprintf("filter %s%s (rule %q, list %q)", x.Decided.Selector, dir, x.Decided.Rule, x.Decided.FilterList)
			if never[name] && !twin(c, x.Place-1) {
				t.Fatalf("%s decides about %v, and lint says it never does", name, q)
			}
		}
	}
	for _, code := range []policy.Code{policy.FoundShadowed, policy.FoundDuplicate, policy.FoundConflict, policy.FoundOverlap} {
		if seen[code] < 5 {
			t.Errorf("%s was found %d times", code, seen[code])
		}
	}
}

// twin reports whether the i-th filter has a later one of the same name: a list
// that says the same twice.
func twin(c *policy.Compiled, i int) bool {
	for _, g := range c.Filters[i+1:] {
		f := c.Filters[i]
		if g.Selector == f.Selector && g.Dir == f.Dir && g.Rule == f.Rule {
			return true
		}
	}
	return false
}

func TestLintFindsWhatCutsOffTheAdministrator(t *testing.T) {
	mine := question(t, "tcp 10.0.8.5:50000 -> me=10.0.0.1:22", "")
	unsecured := func(netip.Addr) bool { return false }
	secured := func(netip.Addr) bool { return true }
	for _, tc := range []struct {
		name, text string
		env        policy.Environment
		want       string
	}{
		{"blocked", "a block me any", policy.Environment{SSH: &mine}, "cut-off-ssh"},
		{"blocked though secured", "a block me any", policy.Environment{SSH: &mine, Secured: secured}, "cut-off-ssh"},
		{"required", "a secured me any", policy.Environment{SSH: &mine}, "ssh-secured"},
		{"required and not secured", "a secured me any", policy.Environment{SSH: &mine, Secured: unsecured}, "cut-off-ssh"},
		{"required and secured", "a secured me any", policy.Environment{SSH: &mine, Secured: secured}, ""},
		{"requested", "a asked me any", policy.Environment{SSH: &mine}, ""},
		{"permitted", "a block me any\n b permit me 10.0.8.0/24", policy.Environment{SSH: &mine}, ""},
		{"others permitted", "a block me any\n b permit me 10.0.9.0/24", policy.Environment{SSH: &mine}, "cut-off-ssh"},
		{"another port", "a block me any tcp 80 0", policy.Environment{SSH: &mine}, ""},
		{"anybody: blocked", "a block me any", policy.Environment{}, "cut-off-ssh"},
		{"anybody: required", "a secured me any", policy.Environment{}, "ssh-secured"},
		{"anybody: some admitted", "a block me any\n b permit me 10.0.9.0/24 tcp 22 0", policy.Environment{}, ""},
		{"anybody: not asked", "a block me 10.0.0.1", policy.Environment{}, ""},
	} {
		if got := codes(lint(t, lines(t, tc.text), tc.env)); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestLintFindsServersThatAreCutOff(t *testing.T) {
	dns := policy.NeededServer{Role: "DNS server", Addr: netip.MustParseAddr("10.0.0.53"), Proto: sadb.UDP, Port: 53}
	for text, want := range map[string]string{
		"a block me any\n b permit me any tcp 22 0":   "cut-off-server",
		"a secured me any\n b permit me any tcp 22 0": "server-secured",
		"a asked me any": "",
		"a secured me any\n b permit me any tcp 22 0\n c permit me 10.0.0.53 udp 0 53": "",
	} {
		env := policy.Environment{SSH: elsewhere(t), Servers: []policy.NeededServer{dns}}
		found := slices.DeleteFunc(lint(t, lines(t, text), env), func(f policy.Finding) bool { return f.Code == policy.FoundSourcePort })
		if got := codes(found); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	env := policy.Environment{SSH: elsewhere(t), Servers: []policy.NeededServer{dns}, Secured: func(netip.Addr) bool { return true }}
	if found := lint(t, lines(t, "a secured me any\n b permit me any tcp 22 0"), env); len(found) > 0 {
		t.Errorf("a server that is secured: %v", found)
	}
}

func TestLintFindsWhatThisHostCannotDo(t *testing.T) {
	p := lines(t, "a secured me 10.0.0.1")
	p.Rules[0].Authentication = []policy.AuthMethod{{Kind: policy.Kerberos}, {Kind: policy.PresharedKey}}
	usable := func(kinds ...policy.AuthKind) func(policy.AuthMethod) string {
		return func(m policy.AuthMethod) string {
			if slices.Contains(kinds, m.Kind) {
				return ""
			}
			return "there is none"
		}
	}
	found := lint(t, p, policy.Environment{Unusable: usable()})
	if len(found) != 1 || found[0].Code != policy.FoundNoIdentity || found[0].Severity != policy.ErrorSeverity || found[0].Path != "rules[0].authentication" {
		t.Errorf("no identity: %v", found)
	}
	found = lint(t, p, policy.Environment{Unusable: usable(policy.PresharedKey)})
	if len(found) != 1 || found[0].Severity != policy.NoteSeverity {
		t.Errorf("one of two: %v", found)
	}
	if found = lint(t, p, policy.Environment{Unusable: usable(policy.PresharedKey, policy.Kerberos), Suites: sadb.Suites()}); len(found) != 0 {
		t.Errorf("all: %v", found)
	}
	if found = lint(t, p, policy.Environment{Suites: []sadb.Suite{}}); codes(found) != "not-carried" {
		t.Errorf("no suites: %v", found)
	}
	p.Rules[0].Tunnel.Endpoint = netip.MustParseAddr("192.0.2.9")
	if found = lint(t, p, policy.Environment{NoTunnels: true}); codes(found) != "not-carried" {
		t.Errorf("no tunnels: %v", found)
	}
	if found = lint(t, p, policy.Environment{Host: &policy.Host{}}); codes(found) != "no-route" {
		t.Errorf("no route: %v", found)
	}
	p = lines(t, "a block me 10.0.0.1")
	p.FilterLists[0].Filters[0].To = policy.Endpoint{Kind: policy.DNSServers}
	if found = lint(t, p, policy.Environment{Host: &policy.Host{}}); codes(found) != "no-address" {
		t.Errorf("no servers: %v", found)
	}
}

func TestLintOfMethodsAndNames(t *testing.T) {
	p := lines(t, "a secured me 10.0.0.1")
	p.FilterActions[0].Name, p.Rules[0].FilterAction = "Require Encryption", "Require Encryption"
	a := &p.FilterActions[0]
	a.AllowClear = true
	a.Methods = append(a.Methods, policy.SecurityMethod{Suites: []sadb.Suite{{Proto: sadb.AH, Integrity: sadb.HMACSHA256}}})
	found := lint(t, p, policy.Environment{})
	if len(only(found, policy.FoundMisleading)) != 2 || len(found) != 2 {
		t.Errorf("names: %v", found)
	}
	p = lines(t, "a secured me 10.0.0.1")
	p.KeyExchange.Methods = []sadb.ISAKMPSuite{mainMode(t, "3des-sha1-modp1024"), mainMode(t, "des-md5-modp768")}
	p.FilterActions[0].Methods = []policy.SecurityMethod{{Suites: []sadb.Suite{{Proto: sadb.ESP, Encryption: sadb.TripleDES, Integrity: sadb.HMACSHA1}}, Bytes: 100_000_000_000}}
	p.FilterLists = append(p.FilterLists, policy.FilterList{Name: "spare", Filters: p.FilterLists[0].Filters})
	p.Rules = append(p.Rules, policy.Rule{Name: "off", Disabled: true, FilterList: "a", FilterAction: "permit"})
	if got, want := codes(lint(t, p, policy.Environment{})), "disabled-rule long-key old-main-mode unused-list weak-main-mode weak-method"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	p.Uplift = true
	if found := only(lint(t, p, policy.Environment{}), policy.FoundOldMainMode); len(found) > 0 {
		t.Errorf("uplifted: %v", found)
	}
}

func mainMode(t *testing.T, text string) sadb.ISAKMPSuite {
	t.Helper()
	s, err := sadb.ParseISAKMPSuite(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLintFindsPermitsBySourcePort(t *testing.T) {
	for text, want := range map[string]int{
		"a secured me any\n b permit me any tcp 0 80":              1,
		"a secured me any\n b permit me 10.0.0.1 tcp 0 80":         0,
		"b permit me any tcp 0 80":                                 0,
		"a secured me any\n b permit me any tcp 80 0":              0,
		"a secured me any\n b permit me any tcp 1024-65535 80":     0,
		"a block me 10.0.0.0/8\n b permit me 10.1.0.0/16 tcp 0 80": 1,
	} {
		if found := only(lint(t, lines(t, text), policy.Environment{}), policy.FoundSourcePort); len(found) != want {
			t.Errorf("%q: %v, want %d", text, found, want)
		}
	}
}

func TestLintOfThePredefinedPolicies(t *testing.T) {
	for _, name := range policy.PredefinedNames() {
		p, _ := policy.Predefined(name)
		for _, f := range lint(t, p, policy.Environment{}) {
			if f.Severity != policy.NoteSeverity {
				t.Errorf("%s: %+v", name, f)
			}
		}
	}
}

// Lint of many filters ends: it says what it did not compare.
func TestLintOfManyFiltersEnds(t *testing.T) {
	var text strings.Builder
	for i := range 9000 {
		fmt.Fprintf(&text, "r%d block me 10.%d.%d.0/24\n", i, i/256, i%256)
	}
	began := time.Now()
	found := lint(t, lines(t, text.String()), policy.Environment{SSH: elsewhere(t)})
	if codes(found) != "not-compared" {
		t.Errorf("%v", found)
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it takes %v", took)
	}
}

func TestParseServer(t *testing.T) {
	for text, want := range map[string]string{
		"dns=10.0.0.53":   "[{DNS server 10.0.0.53 17 53} {DNS server 10.0.0.53 6 53}]",
		"kdc=2001:db8::1": "[{KDC 2001:db8::1 17 88} {KDC 2001:db8::1 6 88}]",
		"ldap=10.0.0.1":   "[{directory server 10.0.0.1 6 389} {directory server 10.0.0.1 6 636}]",
	} {
		if got, err := policy.ParseServer(text); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s: %v %v", text, got, err)
		}
	}
	for _, text := range []string{"", "dns", "dns=", "dns=x", "wins=10.0.0.1", "dns=fe80::1%eth0", "10.0.0.1"} {
		if got, err := policy.ParseServer(text); err == nil {
			t.Errorf("%q is taken: %v", text, got)
		}
	}
}

// The reference explains every code.
func TestTheReferenceListsTheCodes(t *testing.T) {
	source, err := os.ReadFile("lint.go")
	if err != nil {
		t.Fatal(err)
	}
	reference, err := os.ReadFile(filepath.Join("..", "docs", "policy.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`Code = "([a-z-]+)"`).FindAllSubmatch(source, -1)
	if len(found) < 20 {
		t.Fatalf("%d codes", len(found))
	}
	for _, m := range found {
		if !bytes.Contains(reference, []byte("| `"+string(m[1])+"` |")) {
			t.Errorf("code %s is not in docs/policy.md", m[1])
		}
	}
}

func FuzzParseServer(f *testing.F) {
	f.Add("dns=10.0.0.53")
	f.Add("ldap=[::1]")
	f.Fuzz(func(t *testing.T, text string) {
		servers, err := policy.ParseServer(text)
		for _, s := range servers {
			if err != nil || !s.Addr.IsValid() || s.Port == 0 || s.Proto == 0 || s.Role == "" {
				t.Errorf("%q: %+v, %v", text, s, err)
			}
		}
	})
}
