package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ipsecagent/agent/control"
)

// edits runs command lines on one folder, and returns what its files hold.
func edits(t *testing.T, dir string, lines ...[]string) {
	t.Helper()
	for _, args := range lines {
		if _, stderr, code := ctl(t, "/nowhere", append(args, "--dir", dir)...); code != control.OK || stderr != "" {
			t.Fatalf("%q: exit code %d, %s", args, code, stderr)
		}
	}
}

// words splits a command line; ' keeps words together.
func words(line string) []string {
	var all []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			all = append(all, part)
			continue
		}
		all = append(all, strings.Fields(part)...)
	}
	return all
}

func folderHolds(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got[f.Name()] = string(data)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

const (
	policyHead = "apiVersion: ipsecagent/v1\nkind: Policy\n"
	sharedHead = "apiVersion: ipsecagent/v1\nkind: Shared\n"
)

// A policy from nothing, changed in every way, and taken apart again.
func TestEditingVerbs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "policies.d")
	edits(t, dir,
		words("filteraction add --name require --method esp-aes256gcm --method '{esp: aes128-sha256, lifetime: 1h}' --accept-unsecured"),
		words("filter add --list database --from me --to any --protocol tcp --source-port 1433"),
		words("policy add --name sql --description 'For the databases'"),
		words("rule add --policy sql --name 'db traffic' --list database --action require --auth kerberos --auth 'cert:CN=Bank,O=B'"))
	const filters = "filterLists:\n  database:\n  - {from: me, to: any, protocol: tcp, sourcePort: 1433}\n"
	const action = "filterActions:\n  require:\n    negotiate:\n      methods:\n      - esp-aes256gcm\n      - {esp: esp-aes128-sha256, lifetime: 1h}\n      acceptUnsecured: true\n"
	const rule = "rules:\n- name: db traffic\n  filterList: database\n  filterAction: require\n  authentication: [kerberos, {certificate: {ca: 'CN=Bank,O=B'}}]\n"
	folderHolds(t, dir, map[string]string{
		"shared.yaml": sharedHead + filters + action,
		"sql.yaml":    policyHead + "name: sql\ndescription: For the databases\n" + rule,
	})
	edits(t, dir,
		words("filteraction set --name require --accept-unsecured=false --session-key-pfs ecp384"),
		words("filter add --list database --from me --to name:db.example --description 'the server' --protocol icmp --icmp-type 3 --icmp-code 0-4"),
		words("filter set --list database --number 1 --source-port any --destination-port 1433-1434"),
		words("filter delete --list database --number 2"),
		words("filterlist set --name database --new-name databases --description 'All of them'"),
		words("policy set --name sql --main-mode aes256-sha256-ecp256 --lifetime 4h --sessions 2 --master-key-pfs --polling-interval 1h --default-response --default-auth psk --uplift"),
		words("rule set --policy sql --name 'db traffic' --new-name traffic --auth psk:lab --disabled"),
		words("rule add --policy sql --name gateway --list databases --action block --connections lan"),
		words("policy set --name sql --mode report --report-until 2030-12-01"),
		words("rule set --policy sql --name traffic --mode enforce"),
		words("policy set --name sql --mode enforce --report-until none"))
	const changed = "keyExchange:\n  methods: [aes256-sha256-ecp256]\n  lifetime: 4h\n  sessions: 2\n  masterKeyPFS: true\n"
	folderHolds(t, dir, map[string]string{
		"shared.yaml": sharedHead + "filterLists:\n  databases:\n    description: All of them\n    filters:\n    - {from: me, to: any, protocol: tcp, destinationPort: 1433-1434}\n" +
			strings.Replace(action, "acceptUnsecured: true", "sessionKeyPFS: ecp384", 1),
		"sql.yaml": policyHead + "name: sql\ndescription: For the databases\npollingInterval: 1h\nuplift: true\nmode: enforce\n" + changed +
			"rules:\n- name: traffic\n  disabled: true\n  filterList: databases\n  filterAction: require\n  authentication: [{psk: {key: lab}}]\n  mode: enforce\n" +
			"- name: gateway\n  filterList: databases\n  filterAction: block\n  connections: lan\n" +
			"defaultResponse:\n  active: true\n  authentication: [psk]\n",
	})
	edits(t, dir, words("policy delete --name sql"), words("filterlist delete --name databases"), words("filteraction delete --name require"))
	folderHolds(t, dir, map[string]string{"shared.yaml": sharedHead})
}

func TestEditingVerbsRefuse(t *testing.T) {
	dir := documents(t, map[string]string{
		"a.yaml": policyHead + "name: a\nfilterLists:\n  l: [{from: me, to: any}]\nrules: [{name: r, filterList: l, filterAction: block}]\n",
		"b.yaml": policyHead + "name: b\nfilterLists:\n  l: [{from: me, to: 10.0.0.1}]\nrules: [{name: r, filterList: l, filterAction: block}]\n",
		"s.yaml": sharedHead + "filterLists:\n  s: [{from: me, to: any}]\nfilterActions:\n  x: {negotiate: {methods: [esp-aes256gcm]}}\n",
	})
	for _, tc := range []struct {
		line string
		code control.Code
		want string
	}{
		{"policy add --name a", control.Invalid, `there is a policy "a" already`},
		{"policy add --name client", control.Invalid, "has the name of a predefined policy"},
		{"policy add", control.Usage, "--name is missing"},
		{"policy set --name client --lifetime 1h", control.Invalid, "is predefined and cannot be changed"},
		{"policy set --name c --lifetime 1h", control.NotFound, `there is no policy "c"; there are: "a", "b"`},
		{"policy set --name a --lifetime 1s", control.Invalid, "a.yaml:5:13: main mode: a lifetime of 1s"},
		{"policy set --name a --new-name b", control.Invalid, "already defined"},
		{"policy delete --name c", control.NotFound, "there is no policy"},
		{"rule add --policy a --name r --list l --action block", control.Invalid, `policy "a" has a rule "r" already`},
		{"rule add --policy a --name q --list lost --action block", control.NotFound, `there is no filter list "lost"; there are: "l", "s"`},
		{"rule add --policy a --name q --list s --action lost", control.NotFound, `there is no filter action "lost"; there are: "x"`},
		{"rule add --policy a --name q --list s --action x", control.Invalid, "authentication"},
		{"rule add --policy a --name q --list s --action x --auth magic", control.Usage, `--auth: unknown authentication method "magic"`},
		{"rule set --policy a --name q --disabled", control.NotFound, `policy "a" has no rule "q"; it has: "r"`},
		{"rule set --policy a --name r --tunnel here", control.Usage, "--tunnel:"},
		{"rule delete --policy a --name q", control.NotFound, `policy "a" has no rule "q"`},
		{"filter add --list l --from me --to 10.0.0.9", control.Usage, `filter list "l" is one thing in policy "a" and another in policy "b"; say which by --policy`},
		{"filter add --list s --from me --to any", control.Invalid, "has that filter already, as number 1"},
		{"filter add --list s --from me --to 10.0.0.1/8", control.Usage, "has bits behind the prefix"},
		{"filter add --list s --from me", control.Usage, "--to is missing"},
		{"filter add --list n --policy c --from me --to any", control.NotFound, `there is no policy "c"`},
		{"filter set --list s --number 2 --to any", control.NotFound, `filter list "s" has no filter number 2; it has 1 filter`},
		{"filter delete --list l --policy a --number 1", control.Invalid, `in use: by rule "r" of policy "a"`},
		{"filterlist add --name l", control.Invalid, `there is a filter list "l" already`},
		{"filterlist set --name s --new-name l", control.Invalid, `there is a filter list "l" already`},
		{"filterlist delete --name l --policy b", control.Invalid, `filter list "l" is in use: by rule "r" of policy "b"`},
		{"filteraction add --name y", control.Invalid, "without any method"},
		{"filteraction add --name permit --action permit", control.Invalid, "built in"},
		{"filteraction set --name block --action permit", control.Invalid, "built in"},
		{"filteraction set --name x --action permit", control.Invalid, "s.yaml"},
		{"filteraction set --name x --session-key-pfs modp1", control.Usage, "--session-key-pfs: unknown Diffie-Hellman group"},
		{"filteraction set --name x --method esp-rot13", control.Usage, "--method:"},
		{"filterlist show lost", control.NotFound, "there is no filter list"},
		{"rule show --policy c", control.NotFound, "there is no policy"},
	} {
		before := contents(t, dir)
		_, stderr, code := ctl(t, "/nowhere", append(words(tc.line), "--dir", dir)...)
		if code != tc.code || !strings.Contains(stderr, tc.want) {
			t.Errorf("%s: exit code %d, %s; want %d, %q", tc.line, code, stderr, tc.code, tc.want)
		}
		if diff := cmp.Diff(before, contents(t, dir)); diff != "" {
			t.Errorf("%s has changed something:\n%s", tc.line, diff)
		}
	}
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all[f] = string(data)
	}
	return all
}

func TestAnEditOfOnePolicyLeavesTheOthers(t *testing.T) {
	const b = policyHead + "name: b\nfilterLists:\n  l: [{from: me, to: 10.0.0.1}]\n"
	dir := documents(t, map[string]string{"a.yaml": policyHead + "name: a\nfilterLists:\n  l:\n  - {from: me, to: any} # all\n", "b.yaml": b})
	edits(t, dir, words("filter add --policy a --list l --from me --to 10.9.0.0/16"))
	folderHolds(t, dir, map[string]string{
		"a.yaml": policyHead + "name: a\nfilterLists:\n  l:\n  - {from: me, to: any} # all\n  - {from: me, to: 10.9.0.0/16}\n", "b.yaml": b})
}

func TestDryRunChangesNothing(t *testing.T) {
	dir := documents(t, map[string]string{"a.yaml": document})
	out, stderr, code := ctl(t, "/nowhere", words("filter add --list spare --from me --to 10.9.0.0/16 --dry-run --dir "+dir)...)
	if code != control.OK || stderr != "" || !strings.Contains(out, "+   - {from: me, to: 10.9.0.0/16}") && !strings.Contains(out, "+   spare:") {
		t.Errorf("%d %s %s", code, stderr, out)
	}
	folderHolds(t, dir, map[string]string{"a.yaml": document})
}

func TestAFolderWithMistakesIsNotEdited(t *testing.T) {
	dir := documents(t, map[string]string{"a.yaml": document, "b.yaml": "x: 1\n"})
	_, stderr, code := ctl(t, "/nowhere", words("policy add --name n --dir "+dir)...)
	if code != control.Invalid || !strings.Contains(stderr, "b.yaml:1:1") {
		t.Errorf("%d %s", code, stderr)
	}
}

func TestTheAssignedPolicyIsKept(t *testing.T) {
	socket := serve(t, newBackend()) // server is assigned there
	if _, stderr, code := ctl(t, socket, "policy", "delete", "--name", "web", "--dir", documents(t, map[string]string{"a.yaml": document})); code != control.OK {
		t.Errorf("%d %s", code, stderr)
	}
	out, stderr, code := ctl(t, socket, words("policy set --name web --description x --reload --dir "+documents(t, map[string]string{"a.yaml": document}))...)
	if code != control.OK || stderr != "" || !strings.Contains(out, `Policy "server" (predefined) is in force`) {
		t.Errorf("%d %s %s", code, stderr, out)
	}
}

func TestShowCommandsNeedTheFolderThatIsNamed(t *testing.T) {
	for _, line := range []string{"filterlist show", "filter show --list l", "filteraction show", "rule show", "export --to yaml client"} {
		_, stderr, code := ctl(t, "/nowhere", append(words(line), "--dir", "/no/such/folder")...)
		if code != control.NotFound || !strings.Contains(stderr, "there is no folder /no/such/folder") {
			t.Errorf("%s: %d %s", line, code, stderr)
		}
	}
}

func TestShowCommandsOfTheFolder(t *testing.T) {
	dir := documents(t, map[string]string{"a.yaml": document, "s.yaml": sharedHead + "filterActions: {x: {negotiate: {methods: [esp-aes256gcm]}}, y: permit}\n"})
	for _, line := range []string{"filterlist show", "filterlist show web", "filter show --list web -o json", "filteraction show", "filteraction show x", "filteraction show y", "rule show", "rule show -o yaml"} {
		out, stderr, code := ctl(t, "/nowhere", append(words(line), "--dir", dir)...)
		if code != control.OK || stderr != "" {
			t.Fatalf("%s: %d %s", line, code, stderr)
		}
		golden(t, line, strings.ReplaceAll(out, dir, "DIR"))
	}
}
