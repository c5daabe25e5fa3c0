package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ipsecagent/agent/control"
	"ipsecagent/policy/directory/dirtest"
)

// runHere has the test's program be ipsecctl itself.
const runHere = "IPSECCTL_TEST_RUN"

func TestMain(m *testing.M) {
	if os.Getenv(runHere) != "" {
		os.Exit(int(run()))
	}
	os.Exit(m.Run())
}

// station is a place in a directory's network namespace from which commands are
// given.
type station struct {
	t      *testing.T
	in     *dirtest.Namespace
	folder string
	flags  []string // of every command
}

func newStation(t *testing.T, in *dirtest.Namespace) *station {
	t.Helper()
	s := &station{t: t, in: in, folder: t.TempDir()}
	s.file("hosts", "127.0.0.1 localhost "+dirtest.DC+"\n")
	s.file("resolv.conf", "nameserver 127.0.0.1\n")
	return s
}

// file writes a file that nobody else may read, and returns its path.
func (s *station) file(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.folder, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// ctl gives one command, as somebody, and expects its exit code; it returns what
// was printed, errors behind it.
func (s *station) ctl(want control.Code, as []string, args ...string) string {
	s.t.Helper()
	const script = `mount --bind "$0/hosts" /etc/hosts && mount --bind "$0/resolv.conf" /etc/resolv.conf && exec "$@"`
	own, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	line := append([]string{"-m", "sh", "-c", script, s.folder, own}, args...)
	cmd := s.in.Command("unshare", append(append(line, s.flags...), as...)...)
	cmd.Env = append(os.Environ(), runHere+"=1", "KRB5CCNAME=")
	out, err := cmd.CombinedOutput()
	var ended *exec.ExitError
	code := control.OK
	if e, ok := err.(*exec.ExitError); ok {
		ended, code = e, control.Code(e.ExitCode())
	}
	if err != nil && ended == nil || code != want {
		s.t.Fatalf("ipsecctl %s: exit code %d, want %d, %v\n%s", strings.Join(args, " "), code, want, err, out)
	}
	return string(out)
}

// says fails the test unless text has all the words.
func says(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("it does not say %q:\n%s", w, text)
		}
	}
}

const databasePolicy = `apiVersion: ipsecagent/v1
kind: Policy
name: database
description: Everything to and from the database servers is encrypted.
filterLists:
  database:
    - {from: me, to: any, protocol: tcp, sourcePort: 1433}
filterActions:
  require: {negotiate: {methods: [esp-aes256gcm], acceptUnsecured: true}}
rules:
  - {name: database traffic, filterList: database, filterAction: require, authentication: [kerberos]}
`

// ldapStation gives commands to an OpenLDAP server that knows nothing of
// policies yet.
type ldapStation struct {
	t                   *testing.T
	flags               []string
	folder              string
	config, admin, host []string // as whom
}

const hostOfTree = "cn=alice,ou=hosts," + dirtest.SlapdBase

func newLDAPStation(t *testing.T) *ldapStation {
	t.Helper()
	l, err := dirtest.StartSlapd(t.TempDir(), dirtest.SlapdConfig{
		LDIF: "dn: ou=hosts," + dirtest.SlapdBase + "\nobjectClass: organizationalUnit\nou: hosts\n\n" +
			"dn: " + hostOfTree + "\nobjectClass: applicationProcess\nobjectClass: simpleSecurityObject\ncn: alice\nuserPassword: secret\n\n",
		Options: []string{"database config", `rootdn "cn=admin,cn=config"`, "rootpw secret"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	s := &ldapStation{t: t, folder: t.TempDir()}
	password := s.file("password", "secret\n")
	as := func(dn string) []string { return []string{"--bind-dn", dn, "--password-file", password} }
	s.config, s.admin, s.host = as("cn=admin,cn=config"), as(dirtest.SlapdAdmin), as(hostOfTree)
	s.flags = []string{"--config", s.file("agent.yaml", fmt.Sprintf("directory:\n  kind: ldap\n  servers: [\"%s:%d\"]\n  base: %s\n  ca: %s\n",
		dirtest.SlapdName, l.Port, dirtest.SlapdBase, l.CA))}
	return s
}

// file writes a file that nobody else may read, and returns its path.
func (s *ldapStation) file(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.folder, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// ctl gives one command, as somebody, and expects its exit code; it returns what
// was printed, errors behind it.
func (s *ldapStation) ctl(want control.Code, as []string, args ...string) string {
	s.t.Helper()
	out, errs, code := ctl(s.t, "", append(append(args, s.flags...), as...)...)
	if code != want {
		s.t.Fatalf("ipsecctl %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), code, want, out, errs)
	}
	return out + errs
}

// All that an administrator does with the policies of an OpenLDAP server, from
// an empty one.
func TestDirectoryCommands(t *testing.T) {
	s := newLDAPStation(t)
	config, admin, host := s.config, s.admin, s.host
	doc := s.file("database.yaml", databasePolicy)

	says(t, s.ctl(control.OK, nil, "directory", "init"), "cn=schema,cn=config", "dn: CN=IP Security,CN=System,"+dirtest.SlapdBase)
	says(t, s.ctl(control.OK, nil, "directory", "init", "--schema"), "attributetype ( 1.2.840.113556.1.4.517")
	says(t, s.ctl(control.NotPermitted, admin, "directory", "init", "--apply"), "ldapi:///")
	s.ctl(control.NotPermitted, config, "directory", "init", "--apply") // the schema is there now, the tree is not its own
	says(t, s.ctl(control.OK, admin, "directory", "init", "--apply"), "Added")
	says(t, s.ctl(control.OK, admin, "directory", "init", "--apply"), "Nothing to do")

	report := s.file("report.yaml", strings.Replace(databasePolicy, "description:", "mode: report\nreportUntil: 2099-01-01\ndescription:", 1))
	says(t, s.ctl(control.Invalid, admin, "directory", "publish", report), "report mode")
	says(t, s.ctl(control.OK, admin, "directory", "publish", doc, "--dry-run"), `add filter list "database"`, "from here on it counts")
	says(t, s.ctl(control.NotFound, admin, "directory", "show", "database"), "there are: none")
	says(t, s.ctl(control.NotPermitted, host, "directory", "publish", doc), "Insufficient Access Rights")
	says(t, s.ctl(control.OK, admin, "directory", "publish", doc, "client"), `Published: policy "database"`, `Published: policy "client"`)
	says(t, s.ctl(control.OK, admin, "directory", "publish", doc), "Nothing to do")
	s.ctl(control.OK, admin, "directory", "diff", doc)
	other := s.file("other.yaml", strings.Replace(databasePolicy, "1433", "1434", 1))
	says(t, s.ctl(control.Differs, admin, "directory", "diff", other), "sourcePort 1434", "me:1434 <-> any tcp")
	says(t, s.ctl(control.OK, admin, "directory", "show", "database"), "name: database traffic")

	says(t, s.ctl(control.Usage, admin, "directory", "assign", "database"), "name one target")
	says(t, s.ctl(control.NotFound, admin, "directory", "assign", "databse", "--host", "alice"), `there are: "client", "database"`)
	says(t, s.ctl(control.NotFound, admin, "directory", "assign", "database", "--host", "bob"), "bob")
	s.ctl(control.OK, admin, "directory", "assign", "client", "--ou", "hosts")
	says(t, s.ctl(control.OK, host, "rsop"), "Policy:    client", "it points to no policy")
	s.ctl(control.OK, admin, "directory", "assign", "database", "--host", "alice")
	says(t, s.ctl(control.OK, admin, "rsop", "--host", "alice"), "Policy:    database", "decides before it")
	says(t, s.ctl(control.OK, admin, "directory", "show"), "database is assigned by", hostOfTree)
	says(t, s.ctl(control.Invalid, admin, "directory", "delete", "database"), `"alice" assigns it`)
	says(t, s.ctl(control.NotFound, admin, "rsop", "--host", "carol"), `"carol"`)
	s.ctl(control.OK, admin, "directory", "unassign", "--host", "alice")
	says(t, s.ctl(control.NotFound, admin, "directory", "unassign", "--host", "alice"), "nothing is assigned there")

	says(t, s.ctl(control.OK, admin, "directory", "delete", "database"), "used by no rule any more")
	says(t, s.ctl(control.OK, admin, "directory", "delete", "--filter-list", "database"), "Deleted")
	says(t, s.ctl(control.Usage, admin, "directory", "delete"), "name one thing")
	says(t, s.ctl(control.OK, admin, "directory", "fsck"), "Nothing is wrong")
}

// Preshared keys are refused, named, or written in clear, as is asked for.
func TestPublishingPresharedKeys(t *testing.T) {
	s := newLDAPStation(t)
	s.ctl(control.NotPermitted, s.config, "directory", "init", "--apply")
	s.ctl(control.OK, s.admin, "directory", "init", "--apply")
	doc := s.file("keys.yaml", strings.Replace(databasePolicy, "[kerberos]", "[{psk: {key: branch}}]", 1))
	const key = "not-for-everyone-to-read"
	says(t, s.ctl(control.Invalid, s.admin, "directory", "publish", doc, "client"), `preshared key "branch"`, "--key-names", `nor are those behind it: "client"`)
	says(t, s.ctl(control.OK, s.admin, "directory", "publish", doc, "--key-names"), "Windows cannot use it")
	says(t, s.ctl(control.OK, s.admin, "directory", "fsck"), "Nothing is wrong")
	out := s.ctl(control.OK, s.admin, "directory", "publish", doc, "--publish-key", "branch="+s.file("key", key+"\n"))
	says(t, out, "in clear")
	out += s.ctl(control.OK, s.admin, "directory", "show", "database") + s.ctl(control.OK, s.admin, "directory", "fsck", "-o", "json")
	if strings.Contains(out, key) {
		t.Errorf("the key is printed:\n%s", out)
	}
	says(t, out, "holds a preshared key in clear")
	says(t, s.ctl(control.Usage, s.admin, "directory", "publish", doc, "--publish-key", "branch"), "NAME=FILE")
}

// Settings and flags that make no sense are refused before anything is asked.
func TestHowTheDirectoryIsReached(t *testing.T) {
	folder := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	password := write("password", "x")
	for _, c := range []struct {
		args string
		code control.Code
		says string
	}{
		{"--config " + filepath.Join(folder, "none"), control.NotFound, "there is no file"},
		{"--config " + write("bad.yaml", "directory: [1]"), control.Invalid, "bad.yaml"},
		{"--kind openldap", control.Invalid, "ldap"},
		{"--kind ldap --bind-dn cn=x --password-file " + password, control.Invalid, "servers"},
		{"--kind ldap --server 192.0.2.1 --bind-dn cn=x --password-file " + password, control.Invalid, "DNS name"},
		{"--bind-dn cn=x", control.Usage, "go together"},
		{"--bind-dn cn=x --password-file " + password, control.Usage, "domain"},
		{"--keytab a --ccache b", control.Usage, "give one"},
		{"--domain example.test --ccache KEYRING:persistent:0", control.Invalid, "kinit -c FILE"},
		{"--domain example.test --ccache " + password, control.Invalid, "no credential cache"},
		{"--domain example.test --keytab " + filepath.Join(folder, "none"), control.Invalid, "there is no keytab"},
	} {
		args := append([]string{"rsop"}, strings.Fields(c.args)...)
		if !strings.Contains(c.args, "--config") {
			args = append(args, "--config", write("empty.yaml", ""))
		}
		_, stderr, code := ctl(t, "", args...)
		if code != c.code || !strings.Contains(stderr, c.says) {
			t.Errorf("%s: exit code %d, want %d; %s", c.args, code, c.code, stderr)
		}
	}
}

// Output in JSON names what a script needs.
func TestDirectoryJSON(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: a domain controller listens on the port of LDAP, in a network namespace")
	}
	ad, err := dirtest.StartAD(t.TempDir(), dirtest.Loopback)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ad.Close)
	if _, err := ad.Host("sql1", dirtest.Base); err != nil {
		t.Fatal(err)
	}
	if err := ad.Do("ldif", "dn: OU=Empty,"+dirtest.Base+"\nchangetype: add\nobjectClass: organizationalUnit\n"); err != nil {
		t.Fatal(err)
	}
	s := newStation(t, ad.Net)
	s.flags = []string{"-o", "json", "--config", s.file("agent.yaml", ""), "--krb5-conf", ad.Conf}
	admin := []string{"--keytab", ad.Administrator(), "--principal", "Administrator"}
	var shown directoryView
	if err := json.Unmarshal([]byte(s.ctl(control.OK, admin, "directory", "show")), &shown); err != nil {
		t.Fatal(err)
	}
	if len(shown.Policies) != 3 || shown.Server != dirtest.DC || shown.Unreadable != 0 || len(shown.Problems) != 0 {
		t.Errorf("%+v", shown)
	}
	var rsop rsopView
	if err := json.Unmarshal([]byte(s.ctl(control.OK, admin, "rsop", "--host", "sql1")), &rsop); err != nil {
		t.Fatal(err)
	}
	if rsop.Account != "SQL1$" || rsop.Policy != "" || len(rsop.Considered) != 1 || rsop.Considered[0].Why == "" {
		t.Errorf("%+v", rsop)
	}
	checked := s.ctl(control.Invalid, admin, "directory", "fsck", "--host", "sql1")
	says(t, checked, "computer SQL1$ may not read them", "(A;CI;RPLCLORC;;;DC)", `"warning": false`)
	says(t, s.ctl(control.NotFound, admin, "rsop", "--host", "nobody"), `there is no computer "nobody"`)
	s.flags = s.flags[2:]
	named := s.file("named.yaml", strings.Replace(databasePolicy, "to: any", "to: {name: nowhere."+dirtest.Domain+"}", 1))
	says(t, s.ctl(control.OK, admin, "directory", "publish", named, "--dry-run"), "no address for the name nowhere."+dirtest.Domain)
	says(t, s.ctl(control.NotFound, admin, "directory", "assign", "Client (Respond Only)", "--ou", "Empty"), "New-GPLink", "gpo setlink")
	says(t, s.ctl(control.OK, admin, "directory", "assign", "Client (Respond Only)", "--gpo", "Default Domain Policy"), "may not read them", "directory fsck")
	s.flags = append([]string{"-o", "json"}, s.flags...)
	says(t, s.ctl(control.OK, admin, "rsop", "--host", "sql1"), `"policyName": "Client (Respond Only)"`, `"wins": true`)
	own := []string{"--keytab", filepath.Join(ad.Dir, "sql1.keytab")}
	says(t, s.ctl(control.OK, own, "directory", "show"), `"unreadable": 22`)
	says(t, s.ctl(control.OK, own, "rsop"), `"site": "Default-First-Site-Name"`)
}
