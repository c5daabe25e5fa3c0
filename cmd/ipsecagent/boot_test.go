package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ipsecagent/agent"
	"ipsecagent/agent/control"
	"ipsecagent/driver/nft"
	"ipsecagent/policy"
)

func TestBootExemptions(t *testing.T) {
	for text, want := range map[string]nft.BootExemption{
		"udp:0:53:outbound":   {Protocol: 17, Destination: 53},
		"TCP:1024:22:Inbound": {Protocol: 6, Source: 1024, Destination: 22, Inbound: true},
		"icmp:0:0:inbound":    {Protocol: 1, Inbound: true},
		"icmpv6:0:0:outbound": {Protocol: 58},
		"47:0:0:outbound":     {Protocol: 47},
		"6:0:65535:outbound":  {Protocol: 6, Destination: 65535},
	} {
		got, err := parseBootExemption(text)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"":                        "as in udp:0:53:outbound",
		"udp:0:53":                "as in udp:0:53:outbound",
		"udp:0:53:outbound:":      "as in udp:0:53:outbound",
		"dns:0:53:outbound":       "none of tcp, udp",
		"0:0:0:outbound":          "none of tcp, udp",
		"256:0:0:outbound":        "none of tcp, udp",
		"udp:-1:53:outbound":      `the port "-1"`,
		"udp:0:65536:outbound":    `the port "65536"`,
		"udp:0:domain:outbound":   `the port "domain"`,
		"udp::53:outbound":        `the port ""`,
		"udp:0:53:both":           "neither inbound nor outbound",
		"icmp:0:8:inbound":        "has no ports",
		"udp:0:53:outbound\x00":   "neither inbound",
		"udp: 0:53:outbound":      `the port " 0"`,
		strings.Repeat("u", 9999): "as in udp",
	} {
		if _, err := parseBootExemption(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
	const whole = "udp:0:53:outbound"
	for n := range len(whole) {
		if _, err := parseBootExemption(whole[:n]); err == nil {
			t.Errorf("%q is taken", whole[:n])
		}
	}
}

func FuzzBootExemption(f *testing.F) {
	for _, s := range []string{"udp:0:53:outbound", "tcp:1:22:INBOUND", "47:0:0:inbound", ":::", "6:0:0x10:outbound"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		x, err := parseBootExemption(text)
		if err != nil {
			return
		}
		direction := "outbound"
		if x.Inbound {
			direction = "inbound"
		}
		again, err := parseBootExemption(fmt.Sprintf("%d:%d:%d:%s", x.Protocol, x.Source, x.Destination, direction))
		if err != nil || again != x || x.Validate() != nil {
			t.Errorf("%q is %+v, read again %+v, %v", text, x, again, err)
		}
	})
}

func TestBootSettingsAreChecked(t *testing.T) {
	_, err := loadSettings(write(t, filepath.Join(t.TempDir(), "agent.yaml"), "boot: {mode: blok, exempt: [\"udp:0:53:outbound\"]}\n"), unchanged)
	if err == nil || !strings.Contains(err.Error(), `boot.mode "blok": auto, permit, block or stateful`) {
		t.Errorf("a mode that is none: %v", err)
	}
	_, err = loadSettings(write(t, filepath.Join(t.TempDir(), "agent.yaml"), "boot: {exempt: [a, b]}\n"), unchanged)
	if err == nil || !strings.Contains(err.Error(), `boot.exempt "a"`) || !strings.Contains(err.Error(), `boot.exempt "b"`) {
		t.Errorf("two exemptions that are none: %v", err)
	}
}

// TestBootModeFollowsTheLastPolicy, unless the settings name one.
func TestBootModeFollowsTheLastPolicy(t *testing.T) {
	s := defaults()
	s.StateDir = t.TempDir()
	mode := func() string {
		m, _ := s.Boot.bootMode(s.recall())
		return m
	}
	expect := func(what, want string) {
		t.Helper()
		if got := mode(); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	put := func(e agent.Enforcement) {
		t.Helper()
		if err := s.remember(e); err != nil {
			t.Fatal(err)
		}
	}
	expect("a new host", bootPermit)
	put(agent.Enforcement{State: policy.Assigned, Policy: "client"})
	expect("after a policy that lets all pass in clear", bootStateful)
	put(agent.Enforcement{State: policy.Assigned, Policy: "secure", Strict: true})
	expect("after a policy that does not", bootBlock)
	put(agent.Enforcement{State: policy.Assigned, Policy: "secure", Strict: true})
	expect("the same again", bootBlock)
	s.Boot.Mode = bootPermit
	expect("a setting", bootPermit)
	s.Boot.Mode = bootAuto

	write(t, s.bootMemory(), `{"policy": "secu`)
	expect("a memory that is damaged", bootBlock)
	write(t, s.bootMemory(), strings.Repeat(" ", maxMemory)+`{"policy": "a"}`)
	expect("a memory that is too large", bootBlock)
	if err := os.Remove(s.bootMemory()); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(s.bootMemory(), "in the way"), "")
	expect("a memory that cannot be read", bootBlock)
	if err := os.RemoveAll(s.bootMemory()); err != nil {
		t.Fatal(err)
	}

	put(agent.Enforcement{State: policy.Assigned, Policy: "secure", Strict: true})
	put(agent.Enforcement{State: policy.None})
	put(agent.Enforcement{State: policy.None})
	expect("after it was unassigned", bootPermit)
	if left, _ := os.ReadDir(s.StateDir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestNewestNeverWaits(t *testing.T) {
	c := make(chan int, 1)
	put := newest(c)
	for i := range 3 {
		put(i)
	}
	if got := <-c; got != 2 {
		t.Errorf("got %d, want the newest", got)
	}
	put(3)
	if got := <-c; got != 3 {
		t.Errorf("got %d", got)
	}
}

func (h *hostUnderTest) boot(args ...string) string {
	h.t.Helper()
	return h.inside(slices.Concat([]string{h.agent, "boot"}, args, folders(h.dir))...)
}

// bootMode returns the mode of the boot filters as the kernel has it.
func (h *hostUnderTest) bootMode() string {
	h.t.Helper()
	_, mode, _ := strings.Cut(h.shown(), "In force now: ")
	mode, _, _ = strings.Cut(mode, "\n")
	return mode
}

// shown is what --show says, with settings that load or do not.
func (h *hostUnderTest) shown() string {
	out, _ := exec.Command("ip", slices.Concat([]string{"netns", "exec", h.ns, h.agent, "boot", "--show"}, folders(h.dir))...).CombinedOutput()
	return string(out)
}

// assignStrict assigns a policy that requires security, and takes everything out
// of force then, as a start of the host does.
func (h *hostUnderTest) assignStrict() {
	h.t.Helper()
	agent, _ := h.start()
	if _, err := h.client().Assign(h.t.Context(), control.AssignRequest{Policy: "secure-server", Auth: control.AuthPSKFile, Keys: aKey + "\n"}); err != nil {
		h.t.Fatal(err)
	}
	h.eventually("the policy is remembered for the next start", func() bool {
		_, err := os.Stat(filepath.Join(h.dir, "state", "boot.json"))
		return err == nil
	})
	h.stop(agent)
	h.stopDataPath()
}

// TestBootFiltersHoldUntilAPolicyIsInForce: from the second start of a host with
// a policy; an agent that is killed before does not open them, and one that has
// none to put in force says so; the policy takes their place, and nothing puts
// them in force again beside it.
func TestBootFiltersHoldUntilAPolicyIsInForce(t *testing.T) {
	h := newHost(t, "boo-life")
	if out := h.boot(); !strings.Contains(out, "permit") || h.bootMode() != "no boot filters." {
		t.Errorf("on a new host: %s%s", out, h.bootMode())
	}
	h.assignStrict()
	if out := h.boot(); !strings.Contains(out, `Boot mode block (policy "secure-server" was in force`) {
		t.Errorf("it does not say mode and reason: %s", out)
	}
	h.inside("nft", "flush", "ruleset")

	// An agent that is killed while it starts, at different moments.
	for i := range 6 {
		agent := h.startOnly()
		time.Sleep(time.Duration(i) * 20 * time.Millisecond) // wherever it is then
		agent.Process.Kill()
		agent.Wait()
		if in, mode := strings.Contains(h.inForce(), "table inet ipsecagent\n"), h.bootMode(); !in && !strings.Contains(mode, "block") {
			t.Fatalf("neither policy nor boot filters: %s", mode)
		}
	}
	h.start()
	h.eventually("the policy has taken their place", func() bool { return h.bootMode() == "no boot filters." })
	h.eventually("their holder has ended", func() bool { return !strings.Contains(h.commands(), "holder") })
	if out := h.boot(); !strings.Contains(out, "nothing was changed") || h.bootMode() != "no boot filters." || !strings.Contains(h.shown(), "A policy's filters are in force.") {
		t.Errorf("beside a policy: %s%s", out, h.shown())
	}
	s, err := h.client().Status(t.Context())
	if err != nil || len(s.Problems) > 0 || s.Policy.Name != "secure-server" {
		t.Errorf("status: %+v, %v", s, err)
	}
}

// TestBootFiltersStayWhereThePolicyIsNotKnown: the state file is lost, so that
// the agent has nothing to put in force: it opens nothing by itself.
func TestBootFiltersStayWhereThePolicyIsNotKnown(t *testing.T) {
	h := newHost(t, "boo-lost")
	h.assignStrict()
	h.boot()
	if err := os.WriteFile(filepath.Join(h.dir, "state", "state.db"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	agent, _ := h.start()
	h.eventually("the status says that the boot filters hold", func() bool {
		s, err := h.client().Status(t.Context())
		return err == nil && s.Policy.State == "held" && strings.Contains(strings.Join(s.Problems, "\n"), "the boot filters (block) hold")
	})
	agent.Process.Signal(syscall.SIGTERM)
	agent.Wait()
	h.start() // the second one knows no more
	if mode := h.bootMode(); !strings.Contains(mode, "block") {
		t.Fatalf("in force: %s", mode)
	}
	if _, err := h.client().Unassign(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.eventually("the administrator has said that there is none", func() bool {
		s, err := h.client().Status(t.Context())
		return err == nil && !strings.Contains(strings.Join(s.Problems, "\n"), "boot") && h.bootMode() == "no boot filters."
	})
}

// TestBootFiltersAreCleared by their own command and with everything else.
func TestBootFiltersAreCleared(t *testing.T) {
	h := newHost(t, "boo-clear")
	write(t, filepath.Join(h.dir, "agent.yaml"), "boot: {mode: stateful}\n")
	if out := h.boot("--clear"); !strings.Contains(out, "nothing was changed") {
		t.Errorf("nothing to clear: %s", out)
	}
	h.boot()
	if out := h.boot("--clear"); !strings.Contains(out, "of mode stateful") || !strings.Contains(out, "NOT PROTECTED") {
		t.Errorf("clear: %s", out)
	}
	h.boot()
	if out := h.stopDataPath(); !strings.Contains(out, "boot filters") || !strings.Contains(out, "NOT PROTECTED") {
		t.Errorf("datapath --stop: %s", out)
	}
	if left := h.bootMode() + h.commands(); strings.Contains(left, "stateful") || strings.Contains(left, "holder") {
		t.Errorf("left: %s", left)
	}
	h.boot()
	h.killHolder()
	if out := h.boot("--clear"); h.bootMode() != "no boot filters." {
		t.Errorf("after their holder was killed: %s", out)
	}
}

// bootFails runs boot where it is to exit with a code, and returns what it said.
func (h *hostUnderTest) bootFails(code int, args ...string) string {
	h.t.Helper()
	cmd := exec.Command("ip", slices.Concat([]string{"netns", "exec", h.ns, h.agent, "boot"}, args, folders(h.dir))...)
	out, err := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != code {
		h.t.Errorf("boot %v: exit code %d (%v), want %d\n%s", args, got, err, code, out)
	}
	return string(out)
}

// TestBootSaysWhatItDoes: nothing of it is left to be taken for granted.
func TestBootSaysWhatItDoes(t *testing.T) {
	h := newHost(t, "boo-says")
	file := filepath.Join(h.dir, "agent.yaml")
	write(t, file, "boot:\n  mode: blok\n")
	if out := h.bootFails(6, "--show"); !strings.Contains(out, `boot.mode "blok"`) || !strings.Contains(out, "no boot filters") || strings.Contains(out, "A policy's") || !strings.Contains(out, "At the next start: block (") {
		t.Errorf("show, of settings that do not load: %s", out)
	}
	if out := h.boot(); !strings.Contains(out, `boot.mode "blok"`) || !strings.Contains(out, "Boot mode block (") || !strings.Contains(h.bootMode(), "block") {
		t.Errorf("boot, with settings that do not load: %s", out)
	}
	write(t, file, "boot: {mode: permit}\n")
	if out := h.boot(); strings.Contains(out, "passes") || !strings.Contains(out, "mode block are in force and stay") || !strings.Contains(h.bootMode(), "block") {
		t.Errorf("permit, while boot filters hold: %s", out)
	}
	if out := h.bootFails(2, "--clear", "--show"); !strings.Contains(out, "give one of them") || !strings.Contains(h.bootMode(), "block") {
		t.Errorf("clear and show: %s", out)
	}
	write(t, file, "boot: {mode: block\n")
	if out := h.boot("--clear"); !strings.Contains(out, "out of force") || h.bootMode() != "no boot filters." {
		t.Errorf("clear, with settings that do not load: %s", out)
	}
}

// startOnly starts the agent and does not wait for it.
func (h *hostUnderTest) startOnly() *exec.Cmd {
	h.t.Helper()
	cmd := exec.Command("ip", append([]string{"netns", "exec", h.ns, h.agent}, folders(h.dir)...)...)
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	return cmd
}

// commands returns the command lines of the namespace's processes.
func (h *hostUnderTest) commands() string {
	var all strings.Builder
	for _, pid := range h.pids() {
		line, _ := os.ReadFile("/proc/" + pid + "/cmdline")
		all.Write(line)
	}
	return all.String()
}

func (h *hostUnderTest) killHolder() {
	h.t.Helper()
	pid, err := control.Listener(h.t.Context(), filepath.Join(h.dir, "run", "boot", "holder.sock"))
	if err != nil {
		h.t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		h.t.Fatal(err)
	}
	h.eventually("the holder is gone", func() bool { return !strings.Contains(h.commands(), "holder") })
}

// TestTheDataPathSaysWhenAgentsCanCome: the unit of the agent waits for that, so
// that its first attempt puts the policy in force before the network is there.
func TestTheDataPathSaysWhenAgentsCanCome(t *testing.T) {
	h := newHost(t, "boo-ready")
	address := &net.UnixAddr{Name: filepath.Join(h.dir, "notify"), Net: "unixgram"}
	manager, err := net.ListenUnixgram("unixgram", address)
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	wanted := exec.Command("ip", append([]string{"netns", "exec", h.ns, h.agent, "datapath", "--wanted"}, folders(h.dir)...)...)
	if out, err := wanted.CombinedOutput(); err != nil {
		t.Errorf("it is not wanted with the setting driver: user: %v %s", err, out)
	}
	cmd := exec.Command("ip", append([]string{"netns", "exec", h.ns, h.agent, "datapath"}, folders(h.dir)...)...)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+address.Name)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h.processes = append(h.processes, cmd)
	manager.SetReadDeadline(time.Now().Add(20 * time.Second))
	said := make([]byte, 100)
	n, err := manager.Read(said)
	if err != nil || string(said[:n]) != "READY=1" {
		t.Fatalf("it said %q: %v", said[:n], err)
	}
	if _, err := control.Listener(t.Context(), filepath.Join(h.dir, "run", "datapath.sock")); err != nil {
		t.Errorf("it is not there yet: %v", err)
	}
}
