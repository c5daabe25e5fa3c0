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
	client, _ := policy.Original(policy.ClientName)
	same(t, p.DefaultResponse, client.DefaultResponse)
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

// Lines that say something wrong, and the reason given.
func refused() map[string]string {
	return map[string]string{
		"add filter filterlist=web srcaddr=me":                                                    "dstaddr= is missing",
		"add filter filterlist=web srcaddr=me dstaddr=":                                           "nothing follows",
		"add filter srcaddr=me dstaddr=any":                                                       "filterlist= is missing",
		"add filter filterlist=web srcaddr=me dstaddr=10.0.0.300":                                 "or a DNS name",
		"add filter filterlist=web srcaddr=me dstaddr=10.0.0":                                     "or a DNS name",
		"add filter filterlist=web srcaddr=me dstaddr=-x-":                                        "or a DNS name",
		"add filter filterlist=web srcaddr=me dstaddr=10.0.0.9-10.0.0.1":                          "not a range",
		"add filter filterlist=web srcaddr=me dstaddr=10.0.0.9-2001:db8::":                        "not a range",
		"add filter filterlist=web srcaddr=me dstaddr=10.0.0.0 dstmask=255.0.255.0":               "has gaps",
		"add filter filterlist=web srcaddr=me dstaddr=10.0.0.0 dstmask=33":                        "neither the length",
		"add filter filterlist=web srcaddr=me dstaddr=2001:db8:: dstmask=255.255.0.0":             "neither the length",
		"add filter filterlist=web srcaddr=me dstaddr=any dstmask=24":                             "a mask belongs to",
		"add filter filterlist=web srcaddr=me dstaddr=fe80::1%eth0":                               "no zone",
		"add filter filterlist=web srcaddr=me dstaddr=::ffff:10.0.0.1":                            "no zone, and IPv4 is",
		"add filter filterlist=web srcaddr=me dstaddr=me":                                         "from me to me",
		"add filter filterlist=web srcaddr=me dstaddr=0.0.0.0":                                    "not an address of a host",
		"add filter filterlist=web srcaddr=10.0.0.1 dstaddr=2001:db8::1":                          "no packet matches",
		"add filter filterlist=web srcaddr=me dstaddr=any srcport=80":                             "ports need protocol",
		"add filter filterlist=web srcaddr=me dstaddr=any protocol=tcp srcport=80000":             "not a port",
		"add filter filterlist=web srcaddr=me dstaddr=any protocol=tcp srcport=9-8":               "not a port",
		"add filter filterlist=web srcaddr=me dstaddr=any protocol=tpc":                           "is not any, icmp",
		"add filter filterlist=web srcaddr=me dstaddr=any protocol=256":                           "is not any, icmp",
		"add filter filterlist=web srcaddr=me dstaddr=any mirrored=maybe":                         "neither yes nor no",
		"add filter filterlist=web srcaddr=me dstaddr=any icmptype=8":                             "need protocol icmp",
		"add filter filterlist=web srcaddr=me dstaddr=any srcaddr=any":                            "given twice",
		"add filter filterlist=web srcaddr=me dstaddr=any tunnel=10.0.0.1":                        "unknown tag tunnel=",
		"add filter filterlist=web sr=me dstaddr=any":                                             "may mean srcaddr= or srcmask=",
		"add filter filterlist=all srcaddr=me dstaddr=any":                                        "is no name",
		"add filterlist name=web":                                                                 "already",
		"add filterlist name=ALL":                                                                 "is no name",
		"add filterlist name=\"\"":                                                                "name= is missing",
		"add filterlist":                                                                          "name= is missing",
		"add filterlist name=" + strings.Repeat("x", 256):                                         "more than 255",
		"add filteraction name=open":                                                              "already",
		"add filteraction name=a action=allow":                                                    "is not permit",
		"add filteraction name=permit action=block":                                               "is built in",
		"add filteraction name=a qmsecmethods=\"\"":                                               "lists 0 methods",
		"add filteraction name=a qmsecmethods=ESP[3DES,None]":                                     "without integrity",
		"add filteraction name=a qmsecmethods=ESP[None,None]":                                     "without integrity",
		"add filteraction name=a qmsecmethods=ESP[AES,SHA1]":                                      "3DES, DES or None",
		"add filteraction name=a qmsecmethods=ESP[3DES,SHA256]":                                   "MD5 or SHA1",
		"add filteraction name=a qmsecmethods=ESP[3DES]":                                          "not of the form",
		"add filteraction name=a qmsecmethods=ESP[3DES,SHA1":                                      "not of the form",
		"add filteraction name=a qmsecmethods=AH[SHA1,MD5]":                                       "not of the form",
		"add filteraction name=a qmsecmethods=esp-rot13":                                          "unknown suite",
		"add filteraction name=a qmsecmethods=ESP[3DES,SHA1]+ESP[DES,MD5]":                        "nor one of each",
		"add filteraction name=a qmsecmethods=ESP[3DES,SHA1]:10k/3600s":                           "10240 bytes",
		"add filteraction name=a qmsecmethods=ESP[3DES,SHA1]:100000k/1s":                          "lifetime of 1s",
		"add filteraction name=a qmsecmethods=ESP[3DES,SHA1]:100000":                              "not a number of kilobytes",
		"add filteraction name=a qmsecmethods=ESP[3DES,SHA1]:/3600s":                              "missing beside the slash",
		"add filteraction name=a qmpfs=perhaps":                                                   "neither yes nor no",
		"add filteraction name=a cleardelay=3":                                                    "not a duration",
		"add filteraction name=a cleardelay=3s":                                                   "needs allowClear",
		"add policy name=first":                                                                   "already",
		"add policy name=p mmsecmethods=3DES-SHA1-4":                                              "the groups of netsh",
		"add policy name=p mmsecmethods=3DES-SHA1":                                                "not of the form",
		"add policy name=p mmsecmethods=RC4-SHA1-2":                                               "unknown main-mode cipher",
		"add policy name=p mmsecmethods=\"3DES-SHA1-2 3DES-SHA-2\"":                               "listed twice",
		"add policy name=p mmlifetime=1h":                                                         "not a number of minutes",
		"add policy name=p mmlifetime=9999":                                                       "not between 1m and 48h",
		"add policy name=p pollinginterval=99999":                                                 "not between 1m and 7d",
		"add policy name=p qmpermm=-1":                                                            "not a number",
		"add rule name=r policy=none filterlist=web filteraction=open":                            "no policy",
		"add rule name=r policy=first filterlist=none filteraction=open":                          "no filter list",
		"add rule name=r policy=first filterlist=web filteraction=none":                           "no filter action",
		"add rule name=r policy=first filterlist=web":                                             "filteraction= is missing",
		`add rule name="the web" policy=first filterlist=web filteraction=open`:                   "has a rule",
		"add rule name=r policy=first filterlist=web filteraction=secure kerberos=no":             "needs an authentication method",
		"add rule name=r policy=first filterlist=web filteraction=open conntype=wlan":             "is not lan",
		"add rule name=r policy=first filterlist=web filteraction=open tunnel=me!":                "neither an IP address",
		"add rule name=r policy=first filterlist=web filteraction=open tunnel=0.0.0.0":            "cannot be the address",
		"add rule name=r policy=first filterlist=web filteraction=open rootca=Root":               "no distinguished name",
		"add rule name=r policy=first filterlist=web filteraction=open rootca=\"\"":               "names its authority",
		"add rule name=r policy=first filterlist=web filteraction=open psk=short":                 "not 8 to 1024",
		"add rule name=r policy=first filterlist=web filteraction=open acceptprincipal":           "not of the form",
		"add rule name=r policy=first filterlist=web filteraction=open acceptp=x":                 "behind the authentication method",
		"add rule name=r policy=first filterlist=web filteraction=open kerberos=yes kerberos=yes": "twice",
		"set filter filterlist=web":                                                               "delete it and add it",
		"set filterlist name=none newname=x":                                                      "no filter list",
		"set filterlist name=web newname=empty":                                                   "already",
		"set filterlist guid={1} newname=x":                                                       "with the GUID",
		"set filteraction name=open newname=secure":                                               "already",
		"set filteraction name=open newname=block":                                                "is built in",
		"set filteraction name=secure qmsecmethods=x":                                             "unknown suite",
		"set policy name=first newname=second":                                                    "already",
		"set policy name=none assign=yes":                                                         "no policy",
		"set policy name=first gponame=x":                                                         "done in the directory",
		"set rule name=none policy=first activate=no":                                             "has no rule",
		"set rule id=2 policy=first activate=no":                                                  "no rule with the id",
		"set rule id=0 policy=first activate=no":                                                  "no rule with the id",
		`set rule name="the web" activate=no`:                                                     "policy= is missing",
		"set defaultrule policy=first qmpfs=yes":                                                  "as the peer proposes",
		"set defaultrule policy=first kerberos=no":                                                "needs an authentication method",
		"set defaultrule policy=none activate=no":                                                 "no policy",
		"set store location=domain domain=example.com":                                            "ipsecctl import",
		"set store location=persistent":                                                           "location=local",
		"delete filter filterlist=web srcaddr=me dstaddr=10.0.0.1":                                "no filter of filter list",
		"delete filterlist name=web":                                                              `used by rule "the web" of policy "first"`,
		"delete filterlist all":                                                                   "used by rule",
		"delete filteraction name=all":                                                            "used by rule",
		"delete policy name=none":                                                                 "no policy",
		"delete rule all":                                                                         "policy= is missing",
		"delete rule name=none policy=first":                                                      "has no rule",
		"delete everything":                                                                       "no command",
		"exportpolicy file=c:\\x.ipsec":                                                           "ipsecctl export",
		"importpolicy file=c:\\x.ipsec":                                                           "ipsecctl import",
		"restorepolicyexamples":                                                                   "release= is missing",
		"restorepolicyexamples release=vista":                                                     "neither win2k",
		"show filterlist name=none":                                                               "no filter list",
		"show filterlist all resolvedns=yes":                                                      "policy show --effective",
		"show policy name=first level=loud":                                                       "neither verbose nor normal",
		"show rule all":                                                                           "policy= is missing",
		"show gpoassignedpolicy":                                                                  "ipsecctl status",
		"show":                                                                                    "show filterlist",
		"add f name=x":                                                                            "write it out",
		"add filterlist name=x y":                                                                 "not of the form",
		"add filterlist x":                                                                        "not expected here",
		"add filterlist name=\"x":                                                                 "not closed",
		"add filterlist description= name=x":                                                      "another tag follows",
		"add filterlist name=\"x\x07\"":                                                           "control character",
		"add filterlist name=\xff":                                                                "not UTF-8",
		"netsh ipsec dynamic show all":                                                            "say it with the static ones",
		"netsh advfirewall show allprofiles":                                                      "no command of ipsec static",
		"add filterlist name=" + strings.Repeat("x", 70000):                                       "longer than",
		"add filterlist " + strings.Repeat("name=x ", 300):                                        "more than 256 words",
	}
}

func TestRefused(t *testing.T) {
	for line, want := range refused() {
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
