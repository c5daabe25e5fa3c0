package netsh_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"ipsecagent/policy"
	"ipsecagent/policy/file"
	"ipsecagent/policy/netsh"
	"ipsecagent/sadb"
)

var update = flag.Bool("update", false, "write the golden files")

// run executes lines that must all succeed.
func run(t *testing.T, s policy.Store, lines ...string) netsh.Result {
	t.Helper()
	r := netsh.Run(s, []byte(strings.Join(lines, "\n")))
	for _, p := range r.Problems {
		t.Errorf("%v: %s", p, lines[p.Line-1])
	}
	return r
}

// dump is a store in the language of policy documents.
func dump(t *testing.T, r netsh.Result) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, p := range append(r.Store.Policies, policy.Policy{
		Name: "(unused)", FilterLists: r.Store.FilterLists, FilterActions: r.Store.FilterActions,
	}) {
		doc, err := file.Marshal(&p)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "---\n%s", doc)
	}
	fmt.Fprintf(&b, "--- assigned: %q\n", r.Store.Assigned)
	for _, s := range r.Secrets {
		fmt.Fprintf(&b, "key %q, first of policy %q, rule %q: %d bytes\n", s.Name, s.Policy, s.Rule, s.Key.Len())
	}
	for _, p := range r.Problems {
		fmt.Fprintln(&b, p)
	}
	return b.Bytes()
}

// Scripts in the style of those that administrators keep, and what they mean
// in the language of policy documents.
func TestScripts(t *testing.T) {
	scripts, _ := filepath.Glob("testdata/*.script")
	if len(scripts) < 3 {
		t.Fatalf("only %d scripts", len(scripts))
	}
	for _, path := range scripts {
		t.Run(filepath.Base(path), func(t *testing.T) {
			script, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := dump(t, netsh.Run(policy.Store{}, script))
			golden := strings.TrimSuffix(path, ".script") + ".golden"
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// What netsh takes where a line says nothing.
func TestDefaults(t *testing.T) {
	s := run(t, policy.Store{},
		"add filter filterlist=L srcaddr=me dstaddr=10.0.0.1",
		"add filteraction name=A",
		"add policy name=P",
		"add rule name=R policy=P filterlist=L filteraction=A",
	).Store
	p := s.Policies[0]
	same(t, p.DefaultResponse, windowsResponse())
	same(t, p.Rules, []policy.Rule{{Name: "R", FilterList: "L", FilterAction: "A", Authentication: []policy.AuthMethod{{Kind: policy.Kerberos}}}})
	same(t, p.KeyExchange, policy.KeyExchange{Methods: []sadb.ISAKMPSuite{
		{Encryption: sadb.TripleDES, Hash: sadb.SHA1, Group: sadb.MODP1024}, {Encryption: sadb.TripleDES, Hash: sadb.SHA1, Group: sadb.MODP2048},
	}})
	if p.PollingInterval != 0 || !p.Uplift || s.Assigned != "" {
		t.Errorf("polling %v, uplift %v, assigned %q", p.PollingInterval, p.Uplift, s.Assigned)
	}
	a := p.FilterActions[0]
	if a.Kind != sadb.Negotiate || a.AcceptUnsecured || a.AllowClear || a.SessionKeyPFS || len(a.Methods) != 4 {
		t.Errorf("filter action %+v", a)
	}
	for _, m := range a.Methods {
		if m.Lifetime != time.Hour || m.Bytes != 100_000*1024 {
			t.Errorf("method %+v", m)
		}
	}
	if f := p.FilterLists[0].Filters[0]; !f.Mirrored || f.Protocol != 0 {
		t.Errorf("filter %+v", f)
	}
}

// Every kind of address, and every way to write it.
func TestAddresses(t *testing.T) {
	for line, want := range map[string]string{
		"srcaddr=Me dstaddr=ANY":                             "me any",
		"srcaddr=any dstaddr=me":                             "any me",
		"srcaddr=me dstaddr=10.1.2.3":                        "me 10.1.2.3",
		"srcaddr=me dstaddr=10.1.2.3 dstmask=255.255.255.0":  "me 10.1.2.0/24",
		"srcaddr=me dstaddr=10.1.2.3 dstmask=8":              "me 10.0.0.0/8",
		"srcaddr=me dstaddr=10.1.0.0/16":                     "me 10.1.0.0/16",
		"srcaddr=me dstaddr=0.0.0.0 dstmask=0.0.0.0":         "me 0.0.0.0/0",
		"srcaddr=me dstaddr=10.0.0.1-10.0.0.9":               "me 10.0.0.1-10.0.0.9",
		"srcaddr=me dstaddr=2001:db8::1":                     "me 2001:db8::1",
		"srcaddr=me dstaddr=2001:db8:: dstmask=32":           "me 2001:db8::/32",
		"srcaddr=me dstaddr=2001:db8::1-2001:db8::9":         "me 2001:db8::1-2001:db8::9",
		"srcaddr=10.9.0.0 srcmask=255.255.0.0 dstaddr=wins":  "10.9.0.0/16 wins-servers",
		"srcaddr=me dstaddr=dns":                             "me dns-servers",
		"srcaddr=me dstaddr=dhcp":                            "me dhcp-servers",
		"srcaddr=me dstaddr=gateway":                         "me default-gateway",
		"srcaddr=me dstaddr=dc1.example.com":                 "me dc1.example.com",
		"srcaddr=me dstaddr=printer-7":                       "me printer-7",
		"srcaddr = me   dstaddr = \"10.1.2.3\" dstmask = 16": "me 10.1.0.0/16",
	} {
		f := run(t, policy.Store{}, "add filter filterlist=L "+line).Store.FilterLists[0].Filters[0]
		if got := word(f.From) + " " + word(f.To); got != want {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
}

func word(e policy.Endpoint) string {
	switch e.Kind {
	case policy.Addresses:
		return e.Addrs.String()
	case policy.Name:
		return e.Name
	}
	return e.Kind.String()
}

// base is a store for lines to work on.
func base(t *testing.T) policy.Store {
	t.Helper()
	return run(t, policy.Store{},
		"add filter filterlist=web srcaddr=me dstaddr=any protocol=tcp srcport=443",
		"add filter filterlist=web srcaddr=me dstaddr=any protocol=tcp srcport=80",
		"add filterlist name=empty",
		"add filteraction name=secure inpass=yes",
		"add filteraction name=open action=permit",
		"add policy name=first assign=yes",
		"add policy name=second",
		`add rule name="the web" policy=first filterlist=web filteraction=secure`,
		`add rule name="the web" policy=second filterlist=web filteraction=open`,
	).Store
}

// refused returns lines that say something wrong, and what the reason says.
func refused(t testing.TB) map[string]string {
	t.Helper()
	data, err := os.ReadFile("testdata/refused.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]string{
		"add filterlist name=" + strings.Repeat("x", 256):   "more than 255",
		"exportpolicy file=c:\\x.ipsec":                     "ipsecctl export",
		"importpolicy file=c:\\x.ipsec":                     "ipsecctl import",
		"add filterlist name=\"x\x07\"":                     "control character",
		"add filterlist name=\xff":                          "not UTF-8",
		"add filterlist name=" + strings.Repeat("x", 70000): "longer than",
		"add filterlist " + strings.Repeat("name=x ", 300):  "more than 256 words",
	}
	for _, row := range strings.Split(string(data), "\n") {
		if line, reason, ok := strings.Cut(row, " => "); ok {
			lines[line] = reason
		}
	}
	if len(lines) < 100 {
		t.Fatalf("only %d lines", len(lines))
	}
	return lines
}

func TestRefused(t *testing.T) {
	for line, want := range refused(t) {
		s := base(t)
		r, err := netsh.Exec(s, line)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n\t%v, want …%s…", line, err, want)
		}
		same(t, r.Store, base(t))
		same(t, s, base(t))
	}
}

// A line that fails is listed by its number, the others are executed.
func TestProblemsAreNumbered(t *testing.T) {
	r := netsh.Run(policy.Store{}, []byte("# a comment\nadd filterlist name=one\nadd nonsense\nadd filterlist ^\nname=two ^\n x\n\nadd filterlist name=three"))
	var lines []int
	for _, p := range r.Problems {
		lines = append(lines, p.Line)
	}
	same(t, lines, []int{3, 4})
	if len(r.Store.FilterLists) != 2 {
		t.Errorf("lists %+v", r.Store.FilterLists)
	}
}

// After a line that chose another store, none is executed on this one.
func TestOtherStore(t *testing.T) {
	r := netsh.Run(base(t), []byte("set store location=domain\ndelete all\nset store location=local\nadd filterlist name=x"))
	if len(r.Problems) != 2 || r.Problems[1].Line != 2 || len(r.Store.Policies) != 2 || len(r.Store.FilterLists) != 2 {
		t.Errorf("%v, %+v", r.Problems, r.Store)
	}
}

func TestScriptEncodings(t *testing.T) {
	const text = "add filterlist name=\"Büro\"\r\nadd filterlist name=zwei"
	units := utf16.Encode([]rune(text))
	little, big := []byte{0xff, 0xfe}, []byte{0xfe, 0xff}
	for _, u := range units {
		little, big = append(little, byte(u), byte(u>>8)), append(big, byte(u>>8), byte(u))
	}
	for name, script := range map[string][]byte{"UTF-8": []byte(text), "with mark": []byte("\ufeff" + text), "little": little, "big": big} {
		r := netsh.Run(policy.Store{}, script)
		if len(r.Problems) > 0 || len(r.Store.FilterLists) != 2 || r.Store.FilterLists[0].Name != "Büro" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if r := netsh.Run(policy.Store{}, little[:len(little)-1]); len(r.Problems) != 1 {
		t.Errorf("half a character: %+v", r)
	}
	if r := netsh.Run(base(t), make([]byte, 17<<20)); len(r.Problems) != 1 || len(r.Store.Policies) != 2 {
		t.Errorf("too large: %+v", r.Problems)
	}
}

// What may stand before and around a command.
func TestWaysToWriteALine(t *testing.T) {
	for _, line := range []string{
		"netsh ipsec static add filterlist name=x", "ipsec static add filterlist name=x", "static add filterlist name=x",
		"NETSH.EXE IPSEC STATIC ADD FILTERLIST NAME=x", "@netsh ipsec static add filterlist name=x >nul 2>&1",
		"add filterl name=x", "a filterlist n=x", "\tadd  filterlist\tname = x ", "add filterlist name=\"x\"", "add filterlist name=\"\"x",
	} {
		r, err := netsh.Exec(policy.Store{}, line)
		if err != nil || len(r.Store.FilterLists) != 1 || r.Store.FilterLists[0].Name != "x" {
			t.Errorf("%s: %v, %+v", line, err, r.Store)
		}
	}
	for _, line := range []string{"", "  ", "# x", "rem x", "REM", ":: x", "@echo off", "pushd ipsec static", "popd", "ipsec static", "set batch mode=enable"} {
		if r, err := netsh.Exec(base(t), line); err != nil {
			t.Errorf("%q: %v", line, err)
		} else {
			same(t, r.Store, base(t))
		}
	}
	if _, err := netsh.Exec(policy.Store{}, "add filterlist name=x\nadd filterlist name=y"); err == nil {
		t.Error("two lines are one")
	}
}

// What a shell makes of a line is the line again.
func TestJoin(t *testing.T) {
	for want, words := range map[string][]string{
		`static add rule name="a b" policy=p description="" psk=x`: {"static", "add", "rule", "name=a b", "policy=p", "description=", "psk=x"},
		`static add rule name="a b"`:                               {`static add rule name="a b"`},
		`add filterlist name="a b" description="c \'d\'"`:          {"add", "filterlist", `name="a b"`, `description=c \'d\'`},
		`add policy name=p mmsecmethods="3DES-SHA1-2 3DES-SHA1-3"`: {"add policy", "name=p", "mmsecmethods=3DES-SHA1-2 3DES-SHA1-3"},
	} {
		if got := netsh.Join(words); got != want {
			t.Errorf("%q is %s, want %s", words, got, want)
		}
	}
}
