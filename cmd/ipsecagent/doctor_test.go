package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/agent"
	"ipsecagent/agent/control"
	"ipsecagent/agent/doctor"
	"ipsecagent/auth"
	"ipsecagent/auth/kerberos"
	"ipsecagent/driver/xfrm"
	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// expectChecks compares checks with "state name: part of what is said".
func expectChecks(t *testing.T, got []control.Check, want ...string) {
	t.Helper()
	ok := len(got) == len(want)
	for i := 0; ok && i < len(got); i++ {
		head, says, _ := strings.Cut(want[i], ": ")
		ok = got[i].State+" "+got[i].Name == head && strings.Contains(got[i].Says, says) && (got[i].Do != "") == (got[i].State != control.CheckFine)
	}
	if !ok {
		t.Errorf("found\n%+v, want\n%s", got, strings.Join(want, "\n"))
	}
}

func TestDoctorOnTheKernel(t *testing.T) {
	some := suitesNamed(t, "esp-aes256gcm")
	expectChecks(t, xfrmChecks(sadb.Suites(), nil, true), "ok XFRM: there", "ok ESP: carries esp-aes256gcm, ", "ok AH: carries ah-sha512")
	expectChecks(t, xfrmChecks(some, nil, true), "ok XFRM: there", "ok ESP: carries esp-aes256gcm; not esp-aes192gcm", "ok AH: can do without")
	expectChecks(t, xfrmChecks(nil, nil, true), "ok XFRM: there", "problem ESP: none of its suites", "ok AH: can do without")
	expectChecks(t, xfrmChecks(nil, nil, false), "ok XFRM: there", "ok ESP: can do without", "ok AH: can do without")
	expectChecks(t, xfrmChecks(nil, errors.New("no XFRM"), true), "problem XFRM: no XFRM")
	expectChecks(t, xfrmChecks(nil, errors.New("no XFRM"), false), "ok XFRM: not needed")
}

// One cause has one line, with one advice.
func TestDoctorOnADriverThatCannotBe(t *testing.T) {
	_, err := choose(driverKernel, func() ([]sadb.Suite, error) { return nil, nil }, nothingLeft)
	c := refusedCheck(err)
	expectChecks(t, []control.Check{c}, "problem driver: would not start: driver: kernel: the kernel has neither ESP nor AH")
	if strings.Contains(c.Says, "modprobe") || !strings.Contains(c.Do, "modprobe -a ") || !strings.Contains(c.Do, "set driver: user") {
		t.Errorf("says %q, do %q", c.Says, c.Do)
	}
	p := &patient{driver: driverKernel, refused: true}
	for _, c := range p.kernel() {
		if c.State == control.CheckProblem && (c.Name == "ESP" || c.Name == "XFRM") {
			t.Errorf("said again: %+v", c)
		}
	}
}

func TestDoctorOnTheDriverOfTheNextStart(t *testing.T) {
	expectChecks(t, nextDriver(driverAuto, driverUser, nil))
	expectChecks(t, nextDriver(driverUser, driverUser, nil))
	expectChecks(t, nextDriver(driverUser, driverKernel, nil), "warning driver: the settings say driver: user, and the agent runs with driver kernel")
	expectChecks(t, nextDriver(driverKernel, driverUser, nil), "warning driver: the settings say driver: kernel")
	_, refused := choose(driverKernel, func() ([]sadb.Suite, error) { return nil, nil }, nothingLeft)
	expectChecks(t, nextDriver(driverKernel, driverUser, refused), "problem driver: its next start fails: driver: kernel: the kernel has neither")
}

func TestDoctorOnKeysThatAreNotThere(t *testing.T) {
	s := defaults()
	s.SecretsDir = t.TempDir()
	p := &patient{settings: &s}
	if why := p.unusable(&identities{})(auth.Requirement{Method: auth.PSK}); !strings.Contains(why, "holds no preshared key") {
		t.Errorf("of an empty folder: %q", why)
	}
	write(t, filepath.Join(s.SecretsDir, "assigned.yaml"), "")
	if why := p.unusable(&identities{})(auth.Requirement{Method: auth.PSK}); why != "" {
		t.Errorf("of an empty file, which is said by itself: %q", why)
	}
	write(t, filepath.Join(s.SecretsDir, "assigned.yaml"), aKey+"\n")
	if why := p.unusable(&identities{})(auth.Requirement{Method: auth.PSK}); why != "" {
		t.Errorf("of a key: %q", why)
	}
}

func TestDoctorOnSettingsThatOthersMayChange(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: a file of root's")
	}
	path := write(t, filepath.Join(t.TempDir(), "agent.yaml"), "")
	expectChecks(t, openSettings(path))
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	expectChecks(t, openSettings(path), "warning settings: others than root may change "+path+" (owner 0, mode 0666)")
}

// modprobe takes one module and its options, unless it is told that there are
// more: without -a the others are not loaded, and nothing says so.
func TestModulesAreLoadedByOneCommandThatLoadsThemAll(t *testing.T) {
	const command = "modprobe -a xfrm_user esp4 esp6 ah4 ah6"
	if got := loadWords(t.TempDir()); got != command {
		t.Errorf("%q", got)
	}
	if got := loadWords("/nowhere/6.1"); !strings.Contains(got, "no modules of this kernel here (/nowhere/6.1)") || !strings.Contains(got, command) {
		t.Errorf("without modules: %q", got)
	}
}

func TestDoctorOnForeignXFRM(t *testing.T) {
	expectChecks(t, foreignChecks(xfrm.Foreign{OurPolicies: 3, OurStates: 2}, driverKernel), "ok foreign XFRM: no other program")
	expectChecks(t, foreignChecks(xfrm.Foreign{OurPolicies: 3}, driverUser), "problem foreign XFRM: left 3 policies and 0 associations")
	states := xfrm.Foreign{States: []string{"ESP a", "ESP b", "ESP c", "ESP d", "ESP e"}}
	expectChecks(t, foreignChecks(states, driverKernel), "warning foreign XFRM: 5 associations in the kernel: ESP a; ESP b; ESP c; ESP d; and 1 more")
	expectChecks(t, foreignChecks(states, driverUser), "problem foreign XFRM: 5 associations")
	expectChecks(t, foreignChecks(xfrm.Foreign{Marked: []string{"the policy p"}}, driverKernel), "warning foreign XFRM: exempt mark is another program's, too: the policy p")
	policies := xfrm.Foreign{Policies: []xfrm.ForeignPolicy{{Words: "out x", Before: true}, {Words: "in y"}}}
	expectChecks(t, foreignChecks(policies, driverKernel), "warning foreign XFRM: 1 policy before", "warning foreign XFRM: after the agent's: in y")
}

func TestDoctorOnTheAgentsOwnWords(t *testing.T) {
	expectChecks(t, policyChecks(control.Status{Policy: control.PolicyStatus{State: "none"}}), "warning policy: none is assigned")
	s := control.Status{Policy: control.PolicyStatus{State: "assigned", Name: "server", Filters: 2}, Problems: []string{"broken"}, Warnings: []string{"weak"}}
	expectChecks(t, policyChecks(s), "ok policy: server () is in force, 2 filters", "problem policy: broken", "warning policy: weak")
	expectChecks(t, capabilities(os.Getpid()), map[bool]string{true: "ok capabilities: has those", false: "problem capabilities: CAP_NET_ADMIN"}[os.Geteuid() == 0])
}

func TestDoctorOnKerberos(t *testing.T) {
	good := kerberos.Checkup{Principal: "HOST1$@X", Realm: "X", Version: 3, Etype: "aes256", Timed: true, Ahead: 2 * time.Second}
	expectChecks(t, kdcChecks(good, nil), "ok Kerberos: HOST1$@X logs in at X; its key there is version 3 (aes256)")
	good.Ahead = -3 * time.Minute
	expectChecks(t, kdcChecks(good, nil), "warning clock: 3m0s behind this host", "ok Kerberos: logs in")
	expectChecks(t, kdcChecks(kerberos.Checkup{}, &auth.Error{Reason: "no KDC", Hint: "start it"}), "problem Kerberos: no KDC")

	path := filepath.Join(t.TempDir(), "krb5.keytab")
	expectChecks(t, keytabChecks(path), "ok key table: there is none")
	for _, tt := range []struct {
		text string
		mode os.FileMode
		want string
	}{{"nonsense", 0o600, "problem key table: not a keytab"}, {"\x05\x02", 0o600, "problem key table: holds no key"}} {
		if err := os.WriteFile(path, []byte(tt.text), tt.mode); err != nil {
			t.Fatal(err)
		}
		expectChecks(t, keytabChecks(path), tt.want)
	}
}

func TestDoctorOnRules(t *testing.T) {
	p := &policy.Policy{Name: "server"}
	expectChecks(t, ruleChecks("authentication", p, nil), "ok authentication: every rule")
	expectChecks(t, ruleChecks("authentication", p, []agent.Unprovable{{Rule: "rule \"a\"", Why: []string{"no key table"}}, {Rule: "rule \"b\"", Why: []string{"none"}, All: true}}),
		"warning authentication: cannot use all", "problem authentication: can secure nothing")
}

// A host as administrators find them: another IKE daemon has the port, somebody
// has written XFRM policies by hand, the firewall drops ESP, the settings ask for
// a driver that cannot be; and then, all that is gone and the agent runs.
func TestDoctorOfAWholeHost(t *testing.T) {
	h := newHost(t, "doc-whole")
	ctl := filepath.Join(h.dir, "ipsecctl")
	build := exec.Command("go", "build", "-o", ctl, "../ipsecctl")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	examine := func(flags ...string) (control.Doctor, int) {
		args := append([]string{"netns", "exec", h.ns, ctl, "--socket", h.dir + "/run/agent.sock", "doctor", "-o", "json"}, flags...)
		cmd := exec.Command("ip", args...)
		out, err := cmd.Output()
		var v control.Doctor
		if jsonErr := json.Unmarshal(out, &v); jsonErr != nil {
			t.Fatalf("%v, %v\n%s", err, jsonErr, out)
		}
		return v, cmd.ProcessState.ExitCode()
	}
	has := func(v control.Doctor, state, name, says string) {
		t.Helper()
		if !slices.ContainsFunc(v.Checks, func(c control.Check) bool {
			return c.State == state && c.Name == name && strings.Contains(c.Says, says)
		}) {
			t.Errorf("no %s of %s says %q:\n%+v", state, name, says, v.Checks)
		}
	}

	h.inside("nft", "add table inet filter")
	h.inside("nft", "add chain inet filter input { type filter hook input priority 0; policy accept; }")
	h.inside("nft", "add rule inet filter input meta l4proto esp drop")
	h.inside("ip", "xfrm", "policy", "add", "dir", "out", "src", "10.0.0.0/8", "dst", "10.1.0.0/16", "action", "block", "priority", "7")
	other := takePort(t, h.ns, 500)
	settings := filepath.Join(h.dir, "other.yaml")
	if err := os.WriteFile(settings, []byte("driver: user\nrunDir: "+h.dir+"/run\nstateDir: "+h.dir+"/state\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	v, code := examine("--config", settings)
	if code != int(control.Degraded) {
		t.Errorf("exit code %d", code)
	}
	has(v, control.CheckProblem, "agent", "it does not run")
	has(v, control.CheckProblem, "other IKE daemons", "has UDP port 500")
	has(v, control.CheckProblem, "firewall", "drops ESP in")
	has(v, control.CheckWarning, "foreign XFRM", "out 10.0.0.0/8 -> 10.1.0.0/16, priority 7")
	has(v, control.CheckFine, "directory", "none is configured")
	for _, c := range v.Checks {
		if strings.Contains(c.Do, "systemctl start") && !doctor.UnderSystemd() {
			t.Errorf("advises systemctl where there is no systemd: %+v", c)
		}
	}

	if err := unix.Close(other); err != nil {
		t.Fatal(err)
	}
	h.inside("nft", "flush chain inet filter input")
	h.inside("ip", "xfrm", "policy", "flush")
	agent, _ := h.start()
	v, _ = examine() // with the settings of the agent that runs
	for _, name := range []string{"agent", "other IKE daemons", "firewall", "foreign XFRM", "capabilities", "driver"} {
		if i := slices.IndexFunc(v.Checks, func(c control.Check) bool { return c.Name == name }); i < 0 || v.Checks[i].State != control.CheckFine {
			t.Errorf("%s is not fine: %+v", name, v.Checks)
		}
	}
	has(v, control.CheckWarning, "policy", "none is assigned")

	if _, err := h.client().Assign(t.Context(), control.AssignRequest{Policy: "secure-server", Auth: control.AuthPSKFile, Keys: aKey + "\n"}); err != nil {
		t.Fatal(err)
	}
	// What the next start will meet is said while the agent runs.
	own := filepath.Join(h.dir, "agent.yaml")
	write(t, own, "driver: auto\n")
	v, _ = examine()
	has(v, control.CheckWarning, "settings", "changed since the agent was started, and not read since: "+own)
	reload := func(warning string, problem bool) {
		t.Helper()
		r, err := h.client().Reload(t.Context())
		s, errStatus := h.client().Status(t.Context())
		if err != nil || errStatus != nil || !strings.Contains(strings.Join(r.Warnings, "\n"), warning) || strings.Contains(strings.Join(s.Problems, "\n"), "the settings do not load") != problem {
			t.Errorf("reload: %+v, %v; problems %q, %v; want %q", r.Warnings, err, s.Problems, errStatus, warning)
		}
	}
	reload("count from its next start on", false)
	write(t, own, "driver: usr\n")
	reload("its next start fails", true)
	write(t, own, "driver: user\n")
	reload("", false)

	h.stop(agent)
	v, _ = examine("--config", settings) // with the agent stopped the data path goes on
	has(v, control.CheckWarning, "policy", "stays as it is: the nftables table, the userspace data path (process ")
	has(v, control.CheckFine, "other IKE daemons", "none runs")
	h.killDataPath()
	h.eventually("nobody listens for the agent", func() bool {
		_, err := control.Listener(t.Context(), filepath.Join(h.dir, "run", "datapath.sock"))
		return err != nil
	})
	v, _ = examine("--config", settings)
	has(v, control.CheckProblem, "policy", "no data path runs: what it wants secured is dropped")

	// Settings that do not load hide nothing that does not need them.
	write(t, settings, "driver: usr\nrunDir: "+h.dir+"/run\nstateDir: "+h.dir+"/state\n")
	v, _ = examine("--config", settings)
	has(v, control.CheckProblem, "settings", "usr")
	has(v, control.CheckProblem, "policy", "no data path runs: what it wants secured is dropped")
	for _, name := range []string{"agent", "driver", "nftables", "other IKE daemons", "firewall", "sysctls", "rp_filter", "boot filters", "clock", "MTU", "systemd", "key table"} {
		if !slices.ContainsFunc(v.Checks, func(c control.Check) bool { return c.Name == name }) {
			t.Errorf("%s is not looked at where the settings do not load", name)
		}
	}
	h.stopDataPath()
	v, _ = examine("--config", settings)
	has(v, control.CheckProblem, "policy", "secure-server is assigned and NOTHING enforces it: traffic passes in clear")
	h.inside(append([]string{h.agent, "boot", "--config", ""}, folders(h.dir)...)...)
	v, _ = examine("--config", settings)
	has(v, control.CheckWarning, "boot filters", "block")
	has(v, control.CheckWarning, "policy", "not in force: the boot filters hold")
}

// takePort has this process take a UDP port in a network namespace, as another
// key exchange does.
func takePort(t *testing.T, ns string, port int) int {
	t.Helper()
	s := -1
	onThreadOfItsOwn(func() {
		f, err := os.Open("/run/netns/" + ns)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		if err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err == nil {
			s, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		}
		if err == nil {
			err = unix.Bind(s, &unix.SockaddrInet4{Port: port})
		}
		if err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	return s
}

// onThreadOfItsOwn runs f on a thread that ends with it. The thread of main does
// not end: a process whose it is counts as one of the namespace that it entered.
func onThreadOfItsOwn(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			onThreadOfItsOwn(f) // this thread is taken
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}

// TestOneCauseIsOneProblem: what the agent says of itself and a check says, too,
// is said by the check, which knows what to do.
func TestOneCauseIsOneProblem(t *testing.T) {
	said := func(words string) control.Check { return doctor.Problem(policyName, "mend it", "%s", words) }
	keys := doctor.Problem("preshared keys", "correct", "auth/psk: refuse x.yaml: its mode")
	lacking := ruleChecks("authentication", &policy.Policy{Name: "k"}, []agent.Unprovable{
		{Rule: `rule "one"`, All: true, Why: []string{"there is no keytab"}}, {Rule: `rule "two"`, All: true, Why: []string{"there is no certificate"}}, {Rule: `rule "three"`, All: true, Why: []string{"there is no keytab"}}})
	expectChecks(t, lacking, `problem authentication: rule "one" and rule "three" can secure nothing on this host: there is no keytab`, `problem authentication: rule "two"`)

	expectChecks(t, once([]control.Check{said(keysStay + keys.Says), keys}), "problem preshared keys: its mode")
	one := lacking[1:]
	expectChecks(t, once(append(one, said(`rule "two" can secure nothing: there is no certificate`))), `problem authentication: rule "two"`)
	expectChecks(t, once(append(one, said(`rule "two" can secure nothing: there is no certificate; rule "four" can secure nothing: x`))), `problem authentication: rule "two"`, `problem policy: rule "four"`)
	expectChecks(t, once([]control.Check{said("the data path is gone"), keys}), "problem policy: the data path", "problem preshared keys: its mode")
	expectChecks(t, once([]control.Check{said("a"), said("a")}), "problem policy: a", "problem policy: a")
}

func TestWarningsThatOthersRepeat(t *testing.T) {
	got := fullest([]string{"there is no keytab", "rule one can secure nothing: there is no keytab", "x", "x"})
	if !slices.Equal(got, []string{"rule one can secure nothing: there is no keytab", "x"}) {
		t.Errorf("%q", got)
	}
}
