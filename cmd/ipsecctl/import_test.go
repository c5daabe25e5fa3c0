package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ipsecagent/agent/control"
	"ipsecagent/auth/psk"
	"ipsecagent/policy"
	"ipsecagent/policy/file"
	"ipsecagent/sadb"
)

// mustCtl runs a command line that has to succeed and returns what it printed.
func mustCtl(t *testing.T, args ...string) string {
	t.Helper()
	out, stderr, code := ctl(t, "/nowhere", args...)
	if code != control.OK {
		t.Fatalf("%q: exit code %d, %s", args, code, stderr)
	}
	return out
}

func storeOf(t *testing.T, dir string) policy.Store {
	t.Helper()
	f, err := file.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	return f.Store()
}

// sameButIdentity compares stores by what they mean: directories give every
// object a GUID, and tests of a policy stay in its document.
func sameButIdentity() []cmp.Option {
	byName := []cmp.Option{
		cmpopts.SortSlices(func(a, b policy.Policy) bool { return a.Name < b.Name }),
		cmpopts.SortSlices(func(a, b policy.FilterList) bool { return a.Name < b.Name }),
		cmpopts.SortSlices(func(a, b policy.FilterAction) bool { return a.Name < b.Name }),
		cmpopts.SortSlices(func(a, b policy.Rule) bool { return a.Name < b.Name }),
	}
	identity := []cmp.Option{cmpopts.EquateEmpty(), cmpopts.EquateComparable(sadb.Addrs{}),
		cmp.Comparer(func(a, b policy.TunnelSetting) bool { return a == b }),
		cmp.FilterPath(func(p cmp.Path) bool {
			name := p.Last().String()
			return strings.HasSuffix(name, "GUID") || name == ".Identity" || name == ".Tests"
		}, cmp.Ignore())}
	return append(byName, identity...)
}

// originals writes the policies of Windows into a folder, under names of ours.
func originals(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range policy.PredefinedNames() {
		p, _ := policy.Original(name)
		p.Name = "Windows " + name
		data, err := file.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Policies that go out in a format and come in again are the same, in every
// format, as often as one likes.
func TestImportExportImportIsTheSame(t *testing.T) {
	examples := filepath.Join("..", "..", "examples")
	for name, dir := range map[string]string{"examples": examples, "bank": filepath.Join(examples, "bank"), "Windows 2000": originals(t)} {
		for _, format := range []string{fromLDIF, fromNetsh} {
			t.Run(name+" "+format, func(t *testing.T) {
				work := t.TempDir()
				first, second := filepath.Join(work, "first"), filepath.Join(work, "second")
				carry(t, format, dir, first)
				if diff := cmp.Diff(storeOf(t, dir), storeOf(t, first), sameButIdentity()...); diff != "" {
					t.Errorf("imported (-want +got):\n%s", diff)
				}
				carry(t, format, first, second)
				if diff := cmp.Diff(storeOf(t, first), storeOf(t, second), sameButIdentity()...); diff != "" {
					t.Errorf("imported again (-want +got):\n%s", diff)
				}
				mustCtl(t, "export", "--to", "yaml", "--dir", first, "--to-dir", filepath.Join(work, "yaml"))
				if diff := cmp.Diff(storeOf(t, first), storeOf(t, filepath.Join(work, "yaml")), sameButIdentity()...); diff != "" {
					t.Errorf("as YAML (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// carry exports each policy of a folder and imports it into another.
func carry(t *testing.T, format, from, to string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "exported")
	for _, p := range storeOf(t, from).Policies {
		args := []string{"export", "--to", format, "--dir", from, p.Name}
		if format == fromLDIF {
			args = append(args, "--base-dn", "CN=IP Security,CN=System,DC=bank,DC=example")
		}
		if err := os.WriteFile(path, []byte(mustCtl(t, args...)), 0o600); err != nil {
			t.Fatal(err)
		}
		mustCtl(t, "import", path, "--dir", to)
	}
}

const script = `pushd ipsec static
add policy name=branch assign=yes
add filterlist name=ten
add filter filterlist=ten srcaddr=me dstaddr=10.0.0.0 dstmask=8
add filteraction name=secure action=negotiate qmsecmethods="ESP[3DES,SHA1]"
add rule name="to all" policy=branch filterlist=ten filteraction=secure kerberos=no psk="horse battery staple 77 X"
popd
`

func TestImportStoresKeysWhereRootAloneReadsThem(t *testing.T) {
	dir := t.TempDir()
	secrets := filepath.Join(dir, "secrets.d")
	source := filepath.Join(dir, "branch.txt")
	if err := os.WriteFile(source, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "policies.d")
	out := mustCtl(t, "import", source, "--dir", to, "--secrets", secrets)
	if strings.Contains(out, "horse") || !strings.Contains(out, `There "branch" is assigned; here: ipsecctl assign 'branch'`) {
		t.Error(out)
	}
	for path, text := range contents(t, to) {
		if strings.Contains(text, "horse") {
			t.Errorf("%s holds the key", path)
		}
	}
	ring, err := psk.Load(secrets) // refuses what others can read
	if err != nil {
		t.Fatal(err)
	}
	name := storeOf(t, to).Policies[0].Rules[0].Authentication[0].Key
	if name == "" || !ring.Has(name) {
		t.Errorf("the rule names %q, the secrets have %q", name, ring.Names())
	}
	mustCtl(t, "import", source, "--dir", to, "--secrets", secrets, "--replace")
	if again, err := psk.Load(secrets); err != nil || len(again.Names()) != 1 {
		t.Errorf("after another import: %v, %v", again, err)
	}
	if err := os.WriteFile(source, []byte(strings.Replace(script, "77 X", "78 Y", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	mustCtl(t, "import", source, "--dir", to, "--secrets", secrets, "--replace")
	other := storeOf(t, to).Policies[0].Rules[0].Authentication[0].Key
	if again, err := psk.Load(secrets); err != nil || other == name || !again.Holds(other, []byte("horse battery staple 78 Y")) || !again.Holds(name, []byte("horse battery staple 77 X")) {
		t.Errorf("another key of the same rule is called %q (the first %q) in %q, %v", other, name, again.Names(), err)
	}
	out = mustCtl(t, "import", source, "--dir", filepath.Join(dir, "elsewhere"))
	if strings.Contains(out, "horse") || !strings.Contains(out, "Preshared keys, to be stored") {
		t.Error(out)
	}
}

func TestImportRefuses(t *testing.T) {
	dir := documents(t, map[string]string{
		"bad.netsh":   script + "ipsec static add filter filterlist=ten srcaddr=nonsense! dstaddr=me\n",
		"short.netsh": strings.Replace(script, "horse battery staple 77 X", "short", 1),
		"good.netsh":  script,
		"unknown":     "What is this?\n",
		"empty.ldif":  "dn: CN=x\nobjectClass: top\n\n",
		"bad.ldif":    "dn: CN=x\n!!\n",
		"two.netsh":   "ipsec static add policy name=one\nipsec static add policy name=two\n",
		"report.yaml": strings.Replace(document, "name: web", "name: web\nmode: report\nreportUntil: 2030-12-01", 1),
		"client.yaml": strings.Replace(document, "name: web", "name: client", 1),
	})
	there := documents(t, map[string]string{"branch.yaml": policyHead + "name: branch\n", "s.yaml": sharedHead + "filterLists: {ten: [{from: me, to: 10.9.0.0/16}]}\n"})
	if err := os.Mkdir(filepath.Join(dir, "nothing"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args string
		code control.Code
		want string
	}{
		{"missing", control.NotFound, "there is no file"},
		{"unknown", control.Usage, "say so: --from ldif|reg|netsh|groups|yaml"},
		{"good.netsh --from doc", control.Usage, `--from "doc": the formats are`},
		{"bad.netsh", control.Invalid, "line 8:"},
		{"good.netsh", control.Invalid, `there is a policy "branch" already; --replace`},
		{"good.netsh --replace", control.Invalid, `filter list "ten"`},
		{"good.netsh --policy lost", control.NotFound, `there is no policy "lost"; there are: "branch"`},
		{"two.netsh --as other", control.Usage, "--as names one policy, and here are 2"},
		{"short.netsh --dir DIR --secrets DIR/secrets", control.Invalid, "preshared key has not 8 to 1024 bytes"},
		{"empty.ldif", control.Invalid, "holds no IPSec policy objects"},
		{"bad.ldif", control.Invalid, "line 2: not LDIF"},
		{"good.netsh --from reg", control.Invalid, "registry"},
		{"client.yaml", control.Invalid, "has the name of a predefined policy"},
		{"report.yaml", control.Invalid, `policy "web": report mode cannot be imported`},
		{"nothing --from yaml", control.Invalid, "holds no policy, filter list or filter action"},
		{". --from groups --policy p", control.NotFound, "has none of the policy groups"},
		{". --from groups", control.Usage, "name it with --policy"},
	} {
		before := contents(t, there)
		work := t.TempDir()
		args := strings.Fields(strings.ReplaceAll(tc.args, "DIR", work))
		args = append([]string{"import", filepath.Join(dir, args[0])}, args[1:]...)
		if !strings.Contains(tc.args, "--dir") {
			args = append(args, "--dir", there)
		}
		_, stderr, code := ctl(t, "/nowhere", args...)
		if code != tc.code || !strings.Contains(stderr, tc.want) || strings.Contains(stderr, "horse") {
			t.Errorf("%s: exit code %d, %s; want %d, %q", tc.args, code, stderr, tc.code, tc.want)
		}
		if diff := cmp.Diff(before, contents(t, there)); diff != "" {
			t.Errorf("%s has changed something:\n%s", tc.args, diff)
		}
		if left, _ := os.ReadDir(work); len(left) > 0 {
			t.Errorf("%s has left %v", tc.args, left)
		}
	}
}

func TestPartialImportListsWhatWasLeftOut(t *testing.T) {
	dir := documents(t, map[string]string{"a": script + "ipsec static add filter filterlist=ten srcaddr=nonsense! dstaddr=me\n"})
	out := mustCtl(t, "import", filepath.Join(dir, "a"), "--partial", "--dir", filepath.Join(dir, "to"))
	if !strings.Contains(out, "Left out:\n") || !strings.Contains(out, "line 8:") || len(storeOf(t, filepath.Join(dir, "to")).Policies) != 1 {
		t.Error(out)
	}
}

func TestImportGroups(t *testing.T) {
	dir := documents(t, map[string]string{"private": "10.1.0.0/16\n", "clear": "10.1.0.1/32 # gateway\n", "block": "10.2.0.0/16\n"})
	to := filepath.Join(dir, "to")
	mustCtl(t, "import", dir, "--policy", "fleet", "--auth", "psk:lab", "--dir", to)
	s := storeOf(t, to)
	if len(s.Policies) != 1 || s.Policies[0].Name != "fleet" || len(s.Policies[0].Rules) != 3 {
		t.Fatalf("%+v", s)
	}
	for _, r := range s.Policies[0].Rules {
		if s.Policies[0].Negotiates(r) && (len(r.Authentication) != 1 || r.Authentication[0].Key != "lab") {
			t.Errorf("%+v", r)
		}
	}
}

func TestExportOfAPredefinedPolicyBecomesOnesOwn(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "mine.yaml")
	text := mustCtl(t, "export", "--to", "yaml", "secure-server", "--dir", dir)
	if err := os.WriteFile(path, []byte(strings.Replace(text, "name: secure-server", "name: mine", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	mustCtl(t, "import", path, "--as", "ours", "--dir", filepath.Join(dir, "to"))
	if s := storeOf(t, filepath.Join(dir, "to")); len(s.Policies) != 1 || s.Policies[0].Name != "ours" {
		t.Errorf("%+v", s.Policies)
	}
}

func TestExportRefuses(t *testing.T) {
	dir := documents(t, map[string]string{"a.yaml": document, "b.yaml": strings.Replace(document, "name: web", "name: b", 1)})
	for args, want := range map[string]string{
		"":                          "--to is missing",
		"--to doc":                  `--to "doc": the formats are`,
		"--to yaml":                 "a document holds one policy and here are 2",
		"--to yaml lost":            `there is no policy "lost"`,
		"--to ldif":                 "--base-dn is missing",
		"--to ldif --base-dn bank":  "is not a distinguished name",
		"--to yaml --to-dir " + dir: `there is a policy "web" already`,
	} {
		_, stderr, code := ctl(t, "/nowhere", append([]string{"export", "--dir", dir}, strings.Fields(args)...)...)
		if code == control.OK || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit code %d, %s; want %q", args, code, stderr, want)
		}
	}
}

func TestNetsh(t *testing.T) {
	dir := t.TempDir()
	to := filepath.Join(dir, "to")
	line := func(text string) string { return mustCtl(t, "netsh", text, "--dir", to) }
	line("static add filterlist name=web")
	line("netsh ipsec static add filter filterlist=web srcaddr=me dstaddr=any protocol=tcp srcport=80")
	line("static add policy name=p")
	line("static add rule name=r policy=p filterlist=web filteraction=block")
	if out := line("static show filterlist name=web"); !strings.Contains(out, "port 80") {
		t.Error(out)
	}
	if out := line("static show policy all"); !strings.Contains(out, "p") || strings.Contains(out, "Changed") {
		t.Error(out)
	}
	all := contents(t, to)
	if got := all[filepath.Join(to, "p.yaml")]; !strings.Contains(got, "uplift: true\n") || !strings.Contains(got, "- name: r\n  filterList: web\n  filterAction: block\n") {
		t.Error(got)
	}
	if got := all[filepath.Join(to, "shared.yaml")]; got != sharedHead+"filterLists:\n  web:\n  - {from: me, to: any, protocol: tcp, sourcePort: 80}\n" {
		t.Error(got)
	}
	path := filepath.Join(dir, "script")
	for i, tc := range []struct {
		line, script string
		code         control.Code
		want         string
	}{
		{line: "static add nonsense", code: control.Invalid, want: "nonsense"},
		{line: "static add rule name=k policy=p filterlist=web filteraction=block psk=secretsecret", code: control.Usage, want: "never stands on a command line"},
		{script: script + "ipsec static add nonsense\n", code: control.Invalid, want: "line 8:"},
		{script: " \n", code: control.Failed, want: "empty"},
		{code: control.Usage, want: "takes one line, or a script"},
	} {
		args := []string{"netsh", "--dir", to}
		if tc.line != "" {
			args = append(args, tc.line)
		}
		if tc.script != "" {
			if err := os.WriteFile(path, []byte(tc.script), 0o600); err != nil {
				t.Fatal(err)
			}
			args = append(args, "-f", path)
		}
		before := contents(t, to)
		_, stderr, code := ctl(t, "/nowhere", args...)
		if code != tc.code || !strings.Contains(stderr, tc.want) || strings.Contains(stderr, "horse") || strings.Contains(stderr, "secretsecret") {
			t.Errorf("%d: exit code %d, %s; want %d, %q", i, code, stderr, tc.code, tc.want)
		}
		if diff := cmp.Diff(before, contents(t, to)); diff != "" {
			t.Errorf("%d has changed something:\n%s", i, diff)
		}
	}
}

// What a script assigns the agent is told to assign.
func TestNetshAssigns(t *testing.T) {
	b := newBackend()
	socket := serve(t, b)
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	out, stderr, code := ctl(t, socket, "netsh", "-f", path, "--dir", t.TempDir())
	if code != control.OK {
		t.Fatal(stderr)
	}
	if r := <-b.assigned; r.Policy != "branch" || !strings.Contains(out, `Policy "branch"`) {
		t.Errorf("%+v, %s", r, out)
	}
}

func TestGuessFormat(t *testing.T) {
	dir := documents(t, map[string]string{
		"a": "Windows Registry Editor Version 5.00\r\n", "b": "REGEDIT4\n", "c": "\xff\xfeW\x00i\x00n\x00d\x00o\x00w\x00s\x00 \x00R\x00e\x00g\x00i\x00s\x00t\x00r\x00y\x00 \x00E\x00d\x00i\x00t\x00o\x00r\x00",
		"d": "# by ldapsearch\n\ndn: CN=x\n", "e": "dn: CN=x\n", "f": script, "g": "netsh ipsec static add policy name=x\n", "h": document, "private": "10.0.0.0/8\n",
	})
	for name, want := range map[string]string{"a": fromReg, "b": fromReg, "c": fromReg, "d": fromLDIF, "e": fromLDIF, "f": fromNetsh, "g": fromNetsh, "h": fromYAML, "private": fromGroups, ".": fromGroups} {
		if got, err := guessFormat(filepath.Join(dir, name)); got != want || err != nil {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
}

func TestKeyWordsAreNamesOfKeys(t *testing.T) {
	taken := map[string]string{}
	for _, name := range []string{"branch, to all", "branch  to all", "", "ключ", strings.Repeat("é", 100), "../../etc", "\"\n: x"} {
		taken[name] = keyWord(name, func(word string) bool { return slices.Contains(slices.Collect(maps.Values(taken)), word) })
		doc := fmt.Sprintf("apiVersion: ipsecagent/v1\nkind: PresharedKeys\nkeys: [{name: %q, keys: [\"a good long key 123456\"]}]\n", taken[name])
		if _, err := psk.Parse("keys", []byte(doc)); err != nil {
			t.Errorf("%q became %q: %v", name, taken[name], err)
		}
	}
	if taken["branch, to all"] == taken["branch  to all"] {
		t.Errorf("two keys of one name: %q", taken)
	}
}
